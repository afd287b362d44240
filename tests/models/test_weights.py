import pytest
import torch
from torch import nn
from torchvision.models import ResNet50_Weights, resnet50

from detector.models.backbones import build_backbone
from detector.models.weights import load_in_order, torchvision_imagenet
from detector.types import RequestError

FILE = "resnet50-0676ba61.pth"


@pytest.fixture
def torch_home(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path / "hub" / "checkpoints"


def test_a_file_in_torchs_cache_is_used(torch_home):
    torch_home.mkdir(parents=True)
    source = resnet50(weights=None)
    torch.save(source.state_dict(), torch_home / FILE)
    body = build_backbone("resnet50", imagenet=True).body
    assert len(body.state_dict()) == len(source.state_dict()) - 2  # all but the classifier
    for name, value in body.state_dict().items():
        assert torch.equal(source.state_dict()[name], value)


def test_without_network_the_file_and_its_folder_are_named(torch_home, monkeypatch):
    def no_network(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "urlopen", no_network)
    with pytest.raises(RequestError, match=rf"cannot fetch {FILE}.*{torch_home}"):
        torchvision_imagenet(ResNet50_Weights.IMAGENET1K_V1)()


def test_weights_are_matched_in_order_and_by_shape():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    other = nn.ModuleDict({"b": nn.Linear(2, 3), "a": nn.Linear(3, 1)})
    load_in_order(model, other.state_dict())
    assert torch.equal(model[0].weight, other["b"].weight)
    assert torch.equal(model[1].bias, other["a"].bias)
    with pytest.raises(ValueError, match=r"0.weight is \(3, 3\), but 0.weight needs \(3, 2\)"):
        load_in_order(model, nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1)).state_dict())
    with pytest.raises(ValueError, match="shorter"):
        load_in_order(model, nn.Linear(2, 3).state_dict())
