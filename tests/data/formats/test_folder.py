import errno
import os
import unicodedata

import pytest
from conftest import read_set, write_image, write_voc, write_xml

from detector.core.errors import RequestError
from detector.data.formats.folder import Folder
from detector.data.formats.paths import SUFFIXES, UNREAD, split_of
from detector.data.images.headers import FORMATS

NFC, NFD = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))


def touch(root, *files):
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return Folder(root)


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("a.jpg", "a.txt"),
        ("IMG_1.JPG", "img_1.txt"),
        ("images/a.jpg", "labels/a.txt"),
        ("images/a.jpg", "labels/a.jpg.txt"),
        ("images/a.JPG", "labels/a.jpg.TXT"),
        ("Images/a.jpg", "Labels/a.txt"),
        ("images/train/a.jpg", "labels/train/a.txt"),
        ("train/images/a.jpg", "train/labels/a.txt"),
        ("Train/IMAGES/a.jpg", "Train/Labels/A.txt"),
        ("set/train_images/a.jpg", "set/train_labels/a.txt"),
        ("images_train/a.jpg", "labels_train/a.txt"),
        ("JPEGImages/a.jpg", "Annotations/a.txt"),
        ("img/a.jpg", "txt/a.txt"),
        ("pics/a.jpg", "boxes by Ann/a.txt"),
        (f"images/{NFC}.jpg", f"labels/{NFD}.txt"),
        (f"{NFD}/images/a.jpg", f"{NFC}/labels/a.txt"),
        ("images/a.b.jpg", "labels/a.b.txt"),
    ],
)
@pytest.mark.parametrize("suffix", [".txt", ".xml"])
def test_an_annotation_belongs_to_the_image_of_its_name(tmp_path, image, label, suffix):
    label = label[:-4] + (suffix if label.endswith("txt") else suffix.upper())
    folder = touch(tmp_path, image, label, "images2/b.jpg", "notes.txt")
    assert folder.annotations_for(image, suffix) == [label]
    assert folder.image_for(label) == image


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("train/images/a.jpg", "val/labels/a.txt"),
        ("set/day1/a.jpg", "set/day2/a.txt"),
        ("set/images/a.jpg", "set/labels_old/a.txt"),
        ("images/a.jpg", "labels/ab.txt"),
        ("images/a.b.jpg", "labels/a.txt"),
    ],
)
def test_labels_of_other_folders_or_names_are_not_taken(tmp_path, image, label):
    assert touch(tmp_path, image, label).annotations_for(image, ".txt") == []


def test_names_spelt_alike_go_together_where_others_differ_in_case_only(tmp_path):
    folder = touch(tmp_path, "a.jpg", "A.jpg", "a.txt", "A.txt", "b.jpg", "B.jpg", "b.txt")
    assert folder.annotations_for("a.jpg", ".txt") == ["a.txt"]
    assert folder.annotations_for("A.jpg", ".txt") == ["A.txt"]
    assert folder.annotations_for("B.jpg", ".txt") == []


def test_a_folder_for_labels_comes_before_other_places(tmp_path):
    folder = touch(tmp_path, "images/a.jpg", "images/a.txt", "labels/a.txt", "labels_old/a.txt")
    assert folder.annotations_for("images/a.jpg", ".txt") == ["labels/a.txt", "images/a.txt"]


def test_a_path_is_looked_up_whatever_its_case_if_only_one_file_is_meant(tmp_path):
    folder = touch(tmp_path, f"Sub/{NFC}.jpg", "b.jpg", "B.jpg")
    assert folder.find(f"sub/{NFD}.JPG") == f"Sub/{NFC}.jpg"
    assert folder.find("b.jpg") == "b.jpg"
    assert folder.find("b.JPG") is None
    assert folder.below("sub") == [f"Sub/{NFC}.jpg"]


def test_a_link_to_itself_is_no_file_and_no_folder(tmp_path):
    (tmp_path / "self").symlink_to("self")
    (tmp_path / "nowhere.jpg").symlink_to("gone")
    (tmp_path / "long.jpg").symlink_to("x" * 255 + "/" + "y" * 255)
    (tmp_path / "loop").symlink_to(tmp_path)
    assert touch(tmp_path, "a.jpg").files == ["a.jpg"]


def test_a_folder_that_cannot_be_looked_into_is_named(tmp_path, monkeypatch):
    touch(tmp_path, "sub/a.jpg")
    scan = os.scandir

    def refuse(path):
        if str(path).rstrip("/").endswith("sub"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(RequestError, match=r"/sub/: Permission denied"):
        _ = Folder(tmp_path).files


def test_a_folder_keeps_its_own_name_where_a_link_leads_to_it_too(tmp_path):
    folder = touch(tmp_path, "train/a.jpg")
    (tmp_path / "again").symlink_to("train")
    assert folder.files == ["train/a.jpg"]
    assert folder.again == ["again"]


def test_a_linked_folder_elsewhere_is_read_and_a_hidden_one_is_not(tmp_path):
    touch(tmp_path / "far", "a.jpg")
    folder = touch(tmp_path / "root", "b.jpg", ".hidden/c.jpg", "._b.jpg")
    (tmp_path / "root/linked").symlink_to(tmp_path / "far")
    assert folder.files == ["b.jpg", "linked/a.jpg"]


@pytest.mark.parametrize(
    ("file", "meant"),
    [("data.yaml", ""), ("annotations/instances.json", ""), ("train/a.xml", "/train")],
)
def test_a_file_as_the_root_says_which_folder_to_name(tmp_path, file, meant):
    touch(tmp_path, file)
    with pytest.raises(
        RequestError, match=rf"data\.root=.*: a file, .*data\.root={tmp_path}{meant}$"
    ):
        Folder(tmp_path / file)


@pytest.mark.parametrize("name", ["x" * 300, "gone"])
def test_a_root_that_cannot_be_is_refused(tmp_path, name):
    with pytest.raises(RequestError, match=r"data\.root=.*: (no such folder|File name too long)"):
        Folder(tmp_path / name)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_text_of_another_encoding_is_named_as_that(tmp_path, encoding):
    (tmp_path / "a.txt").write_bytes("0 1".encode(encoding))
    said = "UTF-32" if encoding == "utf-32" else "UTF-16"
    with pytest.raises(RequestError, match=f"{said} text, expected UTF-8"):
        Folder(tmp_path).read_text("a.txt")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_may_end_as_on_any_system(tmp_path, end):
    (tmp_path / "a.txt").write_bytes(f"a{end}b".encode())
    assert Folder(tmp_path).read_text("a.txt") == "a\nb"


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".gif", ".avif", ".mpo", ".dib", ".TIF"])
def test_images_of_any_suffix_that_is_read_are_found(tmp_path, suffix):
    kind = {".gif": "GIF", ".avif": "AVIF", ".dib": "BMP", ".TIF": "TIFF"}.get(suffix, "JPEG")
    assert kind in FORMATS
    root = write_voc(tmp_path, {"train": {"a": [("square", (1, 1, 9, 9))]}}, ".png")
    from PIL import Image

    with Image.open(root / "JPEGImages/a.png") as picture:
        picture.save(root / f"JPEGImages/a{suffix}", format=kind)
    (root / "JPEGImages/a.png").unlink()
    data = read_set(root, "voc", "train")
    assert not data.issues.of("error")
    assert len(data.splits["train"]) == 1


def test_what_is_read_and_what_is_not_have_no_suffix_in_common():
    assert not UNREAD & set(SUFFIXES)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("Train", "train"),
        ("Validation", "val"),
        ("TEST", "test"),
        ("eval", "val"),
        ("hold_out", None),
        ("holdout", "test"),
        ("train_and_val", None),
        ("bus", None),
    ],
)
def test_names_speak_of_splits(name, split):
    assert split_of(name) == split


def test_a_link_to_a_folder_that_is_read_already_is_named(tmp_path):
    for name in "ab":
        write_xml(tmp_path / f"train/{name}.xml", [("square", (1, 1, 9, 9))])
        write_image(tmp_path / f"train/{name * ord(name)}.jpg", [])  # noise by the name's length
        (tmp_path / f"train/{name * ord(name)}.jpg").rename(tmp_path / f"train/{name}.jpg")
    (tmp_path / "test").symlink_to("train")
    (issue,) = [f for f in read_set(tmp_path).issues if f.kind == "folder read once"]
    assert [str(item) for item in issue.items] == [
        "test: a link to a folder that is read by its own name"
    ]
