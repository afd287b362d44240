from pathlib import Path

import numpy as np

from detector.core.structures import AnnotatedImage, AnnotatedImages, ClassMap


def image(name: str, boxes: int) -> AnnotatedImage:
    return AnnotatedImage(
        Path(name),
        (10, 20),
        np.arange(4 * boxes, dtype=np.float32).reshape(-1, 4),
        np.arange(1, boxes + 1),
        np.zeros(boxes, bool),
    )


def test_packing_and_indexing_are_inverse():
    packed = AnnotatedImages.pack([image("a.jpg", 2), image("b.jpg", 0), image("c.jpg", 1)])
    assert [len(i.labels) for i in packed] == [2, 0, 1]
    assert packed[0].path == Path("a.jpg")
    assert packed[2].boxes.tolist() == [[0, 1, 2, 3]]
    assert packed[1].boxes.shape == (0, 4)
    assert packed[0].size == (10, 20)


def test_nothing_can_be_packed():
    packed = AnnotatedImages.pack([])
    assert len(packed) == 0
    assert packed.boxes.shape == (0, 4)


def test_a_subset_keeps_each_images_own_boxes():
    packed = AnnotatedImages.pack([image("a.jpg", 2), image("b.jpg", 0), image("c.jpg", 1)])
    subset = packed.subset([2, 0])
    assert [str(i.path) for i in subset] == ["c.jpg", "a.jpg"]
    assert [len(i.labels) for i in subset] == [1, 2]


def test_class_map_converts_both_ways_and_keeps_the_data_sets_ids():
    classes = ClassMap(("cat", "dog"), (7, 90))
    assert [classes.label("dog"), classes.name(2), classes.category_id(2)] == [2, "dog", 90]
    assert "cow" not in classes
    assert ClassMap.from_names(["x", "y"]).ids == (1, 2)
