"""Files of weights: read as data, whatever nest the tensors are in."""

import hashlib
import pickle
from pathlib import Path

import pytest
import torch
import torchvision.models.detection as tv
from safetensors.torch import save_file

from detector.core.errors import RequestError
from detector.models.options import STANDARD_ANCHORS
from detector.models.weights import files
from detector.models.weights.files import WITHOUT_EPS, read_weights

STATE = {"a.weight": torch.arange(3.0), "a.bias": torch.zeros(1)}


def read(path, content, **options):
    torch.save(content, path, **options)
    return read_weights(path)


@pytest.mark.parametrize(
    "nest",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model_state_dict": state, "loss": torch.ones(1)},
        lambda state: {"model": {"state_dict": state}},
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_are_found_in_the_usual_nests(tmp_path, nest, zipped):
    found = read(tmp_path / "a.pth", nest(STATE), _use_new_zipfile_serialization=zipped)
    assert list(found.state) == list(STATE)
    assert torch.equal(found.state["a.weight"], STATE["a.weight"])
    assert found.classes is None
    assert found.norm_eps is None


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
def test_safetensors_are_read_whatever_they_are_called(tmp_path, name):
    save_file(STATE, tmp_path / name)
    found = read_weights(tmp_path / name)
    assert torch.equal(found.state["a.weight"], STATE["a.weight"])


def test_arrays_of_numpys_are_called_so(tmp_path):
    with pytest.raises(RequestError, match="holds numpy's arrays; save tensors"):
        read(tmp_path / "a.pth", {name: tensor.numpy() for name, tensor in STATE.items()})


def test_a_checkpoint_of_ours_knows_its_classes(tmp_path):
    ours = {"classes": {"names": ["disc", "square"], "ids": [0, 1]}, "config": {}}
    found = read(tmp_path / "a.ckpt", {"state_dict": STATE, "detector": ours})
    assert found.classes == ("disc", "square")


def test_a_checkpoint_of_ours_knows_its_anchors(tmp_path):
    ours = {"config": {"model": {"anchor_scales": [4, 8], "anchor_ratios": [1]}}}
    found = read(tmp_path / "a.ckpt", {"state_dict": STATE, "detector": ours})
    assert found.anchors == ((4.0, 8.0), (1.0,))


@pytest.mark.parametrize(("number", "expected"), [(3, STANDARD_ANCHORS), (15, None)])
@pytest.mark.parametrize("save", [torch.save, lambda state, file: save_file(state, file)])
def test_a_detector_with_as_many_anchors_as_torchvisions_counts_as_having_them(
    tmp_path, save, number, expected
):
    output = {"module.rpn.head.cls_logits.weight": torch.zeros(number, 4, 1, 1)}
    save(STATE, tmp_path / "a.pth")
    assert read_weights(tmp_path / "a.pth").anchors is None
    save(STATE | output, tmp_path / "b.pth")
    assert read_weights(tmp_path / "b.pth").anchors == expected


def test_torchvisions_first_coco_files_are_known_by_name(tmp_path):
    assert read(tmp_path / "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth", STATE).norm_eps == 0
    assert read(tmp_path / "fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth", STATE).norm_eps is None
    for weights in (
        tv.FasterRCNN_ResNet50_FPN_Weights,
        tv.MaskRCNN_ResNet50_FPN_Weights,
        tv.KeypointRCNN_ResNet50_FPN_Weights,
    ):
        file = weights.COCO_V1.url.rpartition("/")[2]
        assert f"-{WITHOUT_EPS[file]}.pth" in file


def test_and_by_their_content_under_another_name(tmp_path, monkeypatch):
    state = STATE | {"roi_heads.box_predictor.cls_score.weight": torch.zeros(91, 4)}
    file = tmp_path / "mine.pth"
    assert read(file, state).norm_eps is None
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setitem(files.WITHOUT_EPS, "theirs", digest[:8])
    assert read_weights(file).norm_eps == 0


class Touch:
    """Pickles to an instruction that makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_would_run_code_is_refused(tmp_path, zipped):
    trap = tmp_path / "executed"
    content = STATE | {"b": Touch(trap)}
    with pytest.raises(RequestError, match=r"a.pth: refused: reading it would run code \(getattr"):
        read(tmp_path / "a.pth", content, _use_new_zipfile_serialization=zipped)
    assert not trap.exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.pth", b""),
        ("a.pth", b"not weights"),
        ("a.pth", bytes(range(256))),
        ("a.pth", b"PK\x05\x06" + bytes(18)),
        ("a.pth", pickle.dumps([1, 2], protocol=2)),
        ("a.safetensors", b"not weights"),
        ("a.safetensors", b""),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RequestError, match=rf"model.weights={tmp_path / name}: n"):
        read_weights(tmp_path / name)


def test_a_file_without_tensors_is_refused(tmp_path):
    for content in ({}, {"epoch": 3}, [torch.zeros(2)], torch.zeros(2)):
        with pytest.raises(RequestError, match="no tensors by name are in it"):
            read(tmp_path / "a.pth", content)
