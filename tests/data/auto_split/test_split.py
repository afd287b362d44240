import json

import cv2
import numpy as np
import pytest
from conftest import found, read_set, write_image, write_xml

from detector.core.errors import RequestError
from detector.data.auto_split import groups
from detector.data.auto_split.stratify import divide, stratified_split
from detector.data.validation.duplicates import NEAR

RATIOS = {"train": 0.7, "val": 0.15, "test": 0.15}


def sizes(parts):
    return {name: len(rows) for name, rows in parts.items()}


def test_every_split_gets_its_share_of_every_class():
    rare = np.random.default_rng(0).permutation(200)[:20]
    owners = np.concatenate((np.arange(200), np.arange(200), rare))
    classes = np.concatenate((np.zeros(400, int), np.ones(20, int)))
    ratios = {"train": 0.7, "val": 0.2, "test": 0.1}
    parts = stratified_split(np.arange(200), owners, classes, ratios, seed=0)
    assert sizes(parts) == {"train": 140, "val": 40, "test": 20}
    has_rare = {name: len(np.intersect1d(rows, rare)) for name, rows in parts.items()}
    assert has_rare == {"train": 14, "val": 4, "test": 2}


def test_units_stay_whole_and_the_classes_in_proportion():
    rng = np.random.default_rng(1)
    units = rng.integers(0, 100, 1000)  # about ten images each
    classes = rng.random(1000) < 0.1 + 0.4 * (units < 30)
    parts = stratified_split(units, np.arange(1000), classes.astype(int), RATIOS, seed=0)
    for name, rows in parts.items():
        assert not np.isin(np.delete(units, rows), units[rows]).any()
        assert len(rows) == pytest.approx(1000 * RATIOS[name], abs=10)
        share = classes[rows].sum() / classes.sum()
        assert share == pytest.approx(RATIOS[name], abs=0.04)


def test_units_that_fit_nowhere_leave_no_split_empty():
    none = np.zeros(0, int)
    units = np.repeat([0, 1, 2], [40, 35, 25])
    assert sorted(sizes(stratified_split(units, none, none, RATIOS, 0)).values()) == [25, 35, 40]


def numbers(lengths, start=0):
    """Groups of such lengths, numbered by their first image."""
    firsts = start + np.cumsum([0, *lengths[:-1]])
    return np.repeat(firsts, lengths)


def test_near_copies_are_kept_together_while_every_split_gets_half_its_share():
    none = np.zeros(0, int)
    alike = numbers([60, 20, *[1] * 20])
    parts, divided = divide(np.arange(100), alike, none, none, RATIOS, 0)
    assert divided == []
    assert all(len(np.unique(alike[rows])) >= 1 for rows in parts.values())
    for group in (0, 60):
        assert sum(group in alike[rows] for rows in parts.values()) == 1
    assert sizes(parts)["train"] >= 35


def test_the_largest_group_of_near_copies_is_divided_if_it_takes_too_much():
    none = np.zeros(0, int)
    alike = numbers([95, 2, 2, 1])
    copies = np.arange(100)
    copies[:5] = 0  # of the largest, five are one picture
    parts, divided = divide(copies, alike, none, none, RATIOS, 0)
    assert divided == [95]
    assert sizes(parts) == {"train": 70, "val": 15, "test": 15}
    for group in ([0, 1, 2, 3, 4], [95, 96], [97, 98]):
        assert sum(bool(np.isin(group, rows).any()) for rows in parts.values()) == 1


def picture(seed):
    """Unlike those of other seeds, as photographs are."""
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return cv2.resize(coarse, (80, 60), interpolation=cv2.INTER_CUBIC)


def write_set(root, images):
    """A flat VOC folder: name -> picture, class."""
    for name, (pixels, kind) in images.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(root / f"{name}.png"), pixels)
        write_xml(root / f"{name}.xml", [(kind, (5, 5, 30, 30))])
    return root


def homes(data):
    return {
        path.rpartition("/")[2].rpartition(".")[0]: name
        for name, images in data.splits.items()
        for path in images.paths.tolist()
    }


def test_copies_of_one_picture_are_in_one_split(tmp_path):
    images = {f"a{i:02}": (picture(i), "cell") for i in range(30)}
    for i in range(0, 20, 2):
        brighter = np.clip(images[f"a{i:02}"][0] * 0.9 + 12, 0, 255).astype(np.uint8)
        images[f"b{i:02}"] = (brighter, "cell")
    images["z00"] = images["a01"]
    data = read_set(write_set(tmp_path, images))
    home = homes(data)
    for i in range(0, 20, 2):
        assert home[f"a{i:02}"] == home[f"b{i:02}"]
    assert home["z00"] == home["a01"]
    assert sorted(map(len, data.splits.values())) == [8, 8, 25]
    assert not data.issues.of("leakage")
    assert data.division == (
        "divided by ratio with data.auto_split.seed=0",
        "22 images are copies or near copies of others, in 11 groups; each group in one split",
    )


def test_one_picture_alone_cannot_be_divided(tmp_path):
    images = dict.fromkeys("abcdef", (picture(0), "cell"))
    with pytest.raises(RequestError, match=r"data\.root=.*6 images in 1 group that stay together"):
        read_set(write_set(tmp_path, images))


def frames(count):
    """One scene that changes by some bits of the hash from frame to frame."""
    rng = np.random.default_rng(0)
    scene = picture(0).astype(float)
    return [
        np.clip(scene + rng.normal(0, 4, scene.shape), 0, 255).astype(np.uint8)
        for _ in range(count)
    ]


def test_one_scene_alone_is_divided_and_that_is_said(tmp_path):
    images = {f"f{i:02}": (pixels, "cell") for i, pixels in enumerate(frames(20))}
    data = read_set(write_set(tmp_path, images))
    assert {name: len(s) for name, s in data.splits.items()} == {"train": 12, "val": 4, "test": 4}
    assert data.division[1] == (
        "20 images are copies or near copies of others, in 1 group; but 1, of up to 20 images, "
        "too large to be kept in one split"
    )
    lines = found(data)["similar pictures in two splits"]
    assert {line.split(".")[0] for line in lines} == {
        name for name, split in homes(data).items() if split != "train"
    }
    assert int(lines[0].split("(")[1].split()[0]) <= NEAR


CLASSES = ("zebra", "ant", "mouse")


def drawn(count=42):
    """Images with one box or two, all classes in equally many: no order of them by number."""
    images = {}
    for i in range(count):
        kinds = [CLASSES[i % 3], *([CLASSES[(i + 1 + i // 6 % 2) % 3]] if i % 2 else [])]
        boxes = [(kind, (5 + 3 * j, 5, 40 + j, 30)) for j, kind in enumerate(kinds)]
        images[f"p{i:02}"] = boxes
    return images


def as_voc(root, images):
    for name, boxes in images.items():
        cv2.imwrite(str(_made(root / f"JPEGImages/{name}.png")), picture(int(name[1:])))
        write_xml(_made(root / f"Annotations/{name}.xml"), boxes)


def as_coco(root, images, order, in_folder):
    """COCO's JSON with its categories and images in another order, and other ids."""
    ids = {name: 900 - 7 * k for k, name in enumerate(order)}
    content = {"images": [], "annotations": [], "categories": []}
    content["categories"] = [{"id": ids[name], "name": name} for name in order]
    for number, (name, boxes) in enumerate(reversed(images.items())):
        cv2.imwrite(str(_made(root / f"{in_folder(name)}/{name}.png")), picture(int(name[1:])))
        entry = {"id": 5000 - number, "file_name": f"{in_folder(name)}/{name}.png"}
        content["images"].append({**entry, "height": 60, "width": 80})
        for kind, (x1, y1, x2, y2) in boxes:
            box = [x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1]
            note = {"id": len(content["annotations"]) + 1, "image_id": 5000 - number}
            note |= {"category_id": ids[kind], "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            content["annotations"].append(note)
    (root / "labels.json").write_text(json.dumps(content))


def as_yolo(root, images):
    names = ["mouse", "zebra", "ant"]
    for name, boxes in images.items():
        cv2.imwrite(str(_made(root / f"images/{name}.png")), picture(int(name[1:])))
        lines = [
            f"{names.index(kind)} {(x1 + x2 - 1) / 160} {(y1 + y2 - 1) / 120} "
            f"{(x2 - x1 + 1) / 80} {(y2 - y1 + 1) / 60}"
            for kind, (x1, y1, x2, y2) in boxes
        ]
        _made(root / f"labels/{name}.txt").write_text("\n".join(lines))
    (root / "data.yaml").write_text(f"names: {names}\n")


def _made(file):
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def test_a_set_is_divided_alike_in_any_format(tmp_path):
    images = drawn()
    as_voc(tmp_path / "voc", images)
    for place, order in (("one", ("mouse", "zebra", "ant")), ("two", ("zebra", "mouse", "ant"))):
        folders = place == "two"  # several folders, which sort otherwise than the names
        as_coco(
            tmp_path / place,
            images,
            order,
            lambda name, folders=folders: f"part{9 - int(name[-1])}" if folders else "photos",
        )
    as_yolo(tmp_path / "yolo", images)
    sets = [read_set(tmp_path / name) for name in ("voc", "one", "two", "yolo")]
    assert [data.format for data in sets] == ["voc", "coco", "coco", "yolo"]
    assert len(homes(sets[0])) == 42
    for data in sets[1:]:
        assert homes(data) == homes(sets[0])
        for name in data.splits:  # and in the same order, so that a training is the same too
            stems = [[p.stem for p, *_ in map(_fields, s.splits[name])] for s in (data, sets[0])]
            assert stems[0] == stems[1]


def _fields(image):
    return image.path, image.size


def test_boxes_that_are_ignored_do_not_matter_to_the_division(tmp_path):
    images = drawn()
    as_voc(tmp_path, images)
    before = homes(read_set(tmp_path))
    for name, boxes in images.items():
        more = [*boxes, ("yak", (1, 1, 20, 20))] if int(name[1:]) % 3 else boxes
        write_xml(tmp_path / f"Annotations/{name}.xml", more, difficult="yak")
    data = read_set(tmp_path)
    assert "yak" in data.classes.names
    assert homes(data) == before


def grouped(tmp_path, group, **options):
    """Six images of each of five patients, and two of nobody."""
    names = [f"patient{k}_{i}" for k in range(5) for i in range(6)] + ["x", "y"]
    for name in names:
        write_image(tmp_path / f"set/{name}.jpg", [])
        cv2.imwrite(str(tmp_path / f"set/{name}.jpg"), picture(len(name) * 1000 + hash_of(name)))
        write_xml(tmp_path / f"set/{name}.xml", [("cell", (5, 5, 30, 30))])
    return read_set(tmp_path / "set", group=group, **options)


def hash_of(name):
    return sum(ord(c) * 31**i for i, c in enumerate(name)) % 100_000


def patients(data):
    """The splits that each patient's images are in."""
    found_in = {}
    for name, split in homes(data).items():
        found_in.setdefault(name.split("_")[0], set()).add(split)
    return found_in


def test_an_expression_keeps_together_what_belongs_together(tmp_path):
    data = grouped(tmp_path, r"^(patient\d+)_")
    assert all(len(splits) == 1 for splits in patients(data).values())
    assert all(map(len, data.splits.values()))
    assert data.division[1] == r"data.auto_split.group=^(patient\d+)_: 5 groups, 2 images in none"
    assert any(len(splits) > 1 for splits in patients(grouped(tmp_path, None)).values())


def test_without_brackets_all_of_the_match_is_the_group(tmp_path):
    data = grouped(tmp_path, r"patient\d")
    assert patients(data) == patients(grouped(tmp_path, r"^(patient\d+)_"))


@pytest.mark.parametrize(
    ("group", "said"),
    [
        ("(", r"data\.auto_split\.group=\(: .*unterminated.*expected a regular expression"),
        ("nobody", r"found in none of the 32 images, such as patient0_0\.jpg"),
        (r"\.jpg", r"all 32 images are in one group, '\.jpg'"),
        (r"patient|\.jpg$", r"32 images in 2 groups that stay together.* few for train, val, test"),
    ],
)
def test_an_expression_that_cannot_be_meant_is_refused(tmp_path, group, said):
    with pytest.raises(RequestError, match=said):
        grouped(tmp_path, group)


def test_an_expression_that_takes_for_ever_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(groups, "PATIENCE", 0.05)
    with pytest.raises(RequestError, match=r"data\.auto_split\.group=.*may never end"):
        groups.read_groups(r"^(\w+\w+)+$", ["a" * 60 + "."])


def test_an_expression_is_about_names_or_if_none_has_it_about_paths():
    files = ["x/a1_0.jpg", "x/a2_0.jpg", "y/b1_0.jpg"]
    assert groups.read_groups(r"^([ab])\d", files)[0] == ["a", "a", "b"]
    assert groups.read_groups(r"([^/]+)/[^/]+$", files)[0] == ["x", "x", "y"]
    assert groups.read_groups("x", files)[0] == ["x", "x", ""]


FILES = ["one/a.jpg", "two/a.jpg", "two/b.png", "c d.jpg"]


@pytest.mark.parametrize(
    ("table", "keys"),
    [
        ("image,group\none/a.jpg,p\ntwo/a.jpg,q\nb.png,p\n", ["p", "q", "p", ""]),
        ("one/a.jpg,p\ntwo/a.jpg,q\n\n", ["p", "q", "", ""]),
        ("\ufeffFile;Patient\r\nb;7\r\nc d;8\r\n", ["", "", "7", "8"]),
        ('two\\b.png\t"x, y"\n./c d.jpg\tz', ["", "", "x, y", "z"]),
        ("b.png,\nc d.jpg,z", ["", "", "", "z"]),
    ],
)
def test_a_table_names_images_by_path_or_name_with_a_heading_or_without(tmp_path, table, keys):
    (tmp_path / "groups.csv").write_bytes(table.encode())
    assert groups.read_groups(str(tmp_path / "groups.csv"), FILES)[0] == keys


def test_names_in_a_table_that_no_image_has_are_counted(tmp_path):
    (tmp_path / "g.csv").write_text("b.png,p\n" + "".join(f"no{i}.jpg,q\n" for i in range(5)))
    _, (first, second) = groups.read_groups(str(tmp_path / "g.csv"), FILES)
    assert first == f"data.auto_split.group={tmp_path}/g.csv: 1 group, 3 images in none"
    assert second == "5 names in it are of no image: no0.jpg, no1.jpg, no2.jpg, ..."


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("a.jpg,p\n", r"line 1: 'a.jpg' may be one/a.jpg or two/a.jpg; write the path"),
        ("x.jpg,p\ny,q\n", r"none of its names is an image's: x.jpg, y"),
        ("b.png,p\ntwo/b.png,q\n", r"line 2: 'two/b.png' is in 'q', but before in 'p'"),
        ("b.png,p,3\n", r"line 1 has 3 columns; expected two, image and group"),
        ("b.png\n", r"line 1 has 1 columns"),
        ("", r"it is found in none of the 4 images, such as one/a.jpg"),
        ("caf\xe9,p\n", r"not UTF-8 text"),
        (None, r"No such file"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused(tmp_path, table, said):
    file = tmp_path / "g.csv"
    if table is not None:
        file.write_bytes(table.encode("latin-1"))
    with pytest.raises(RequestError, match=rf"data\.auto_split\.group=.*g\.csv: {said}"):
        groups.read_groups(str(file), FILES)


def test_a_group_for_data_with_splits_of_their_own_is_refused(voc_root):
    with pytest.raises(RequestError, match=r"data\.auto_split\.group=x: .* has splits of its own"):
        read_set(voc_root, group="x")


def test_groups_do_not_matter_where_a_file_divides(tmp_path):
    data = grouped(tmp_path, None)
    (tmp_path / "splits.json").write_text(json.dumps({"splits": data.files()}))
    again = grouped(tmp_path, "nobody", split_file=tmp_path / "splits.json")
    assert homes(again) == homes(data)
    assert again.division == (f"divided as {tmp_path}/splits.json says",)


def test_a_table_under_another_suffix_is_not_taken_for_an_expression(tmp_path):
    (tmp_path / "groups.tsv").write_text("a.png\tp\n")
    with pytest.raises(RequestError, match=r"groups\.tsv: a file whose name does not end in \.csv"):
        groups.read_groups(str(tmp_path / "groups.tsv"), FILES)
