"""COCO's JSON as ground truth: what is refused, what is left out, where images are found."""

import json

import pytest
from conftest import write_image

from detector.core.errors import RequestError
from detector.data.external.ground_truth import read_coco_ground_truth


def content(**changes):
    whole = {
        "images": [{"id": 3, "file_name": "a.jpg", "height": 60, "width": 80}],
        "categories": [{"id": 7, "name": "cat"}],
        "annotations": [{"id": 1, "image_id": 3, "category_id": 7, "bbox": [1, 2, 8, 9]}],
    }
    return {**whole, **changes}


def read(folder, root=None, **changes):
    file = folder / "truth.json"
    file.write_text(json.dumps(content(**changes)))
    return read_coco_ground_truth(file, root)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"categories": []}, "categories is empty, expected the classes by id and name"),
        (
            {"categories": [{"id": 7, "name": "cat"}, {"id": 7, "name": "dog"}]},
            "categories: 7 is there 2 x, expected every category with an id of its own",
        ),
        (
            {"images": [{"id": 3, "file_name": "a.jpg", "height": -1, "width": 80}]},
            r"images\[0\]: 80x-1 is no size",
        ),
    ],
)
def test_what_cannot_be_scored_against_is_refused(tmp_path, changes, said):
    with pytest.raises(RequestError, match=said):
        read(tmp_path, **changes)


def test_an_image_that_is_there_twice_is_an_issue(tmp_path):
    image = {"id": 3, "file_name": "a.jpg", "height": 60, "width": 80}
    found = read(tmp_path, images=[image, image])
    assert len(found.images) == 1
    assert "images[1]: the id 3 is there twice" in found.issues


def test_images_are_found_anywhere_below_a_root_by_their_only_name(tmp_path):
    root = tmp_path / "pictures"
    write_image(root / "deep" / "down" / "a.jpg", [])
    (path,) = read(tmp_path, root).images.paths.tolist()
    assert path == str(root / "deep/down/a.jpg")
    (nowhere,) = read(tmp_path).images.paths.tolist()
    assert nowhere == ""
