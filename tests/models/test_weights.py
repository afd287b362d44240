import pytest
import torch
from torch import nn
from torchvision.models import ResNet50_Weights, resnet50

from detector.models.weights import efficientnet_lite0_imagenet, torchvision_imagenet
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
    model = resnet50(weights=None)
    torchvision_imagenet(ResNet50_Weights.IMAGENET1K_V1)(model)
    for name, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)


def test_without_network_the_file_and_its_folder_are_named(torch_home, monkeypatch):
    def no_network(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "urlopen", no_network)
    with pytest.raises(RequestError, match=rf"cannot fetch {FILE}.*{torch_home}"):
        torchvision_imagenet(ResNet50_Weights.IMAGENET1K_V1)(resnet50(weights=None))


def test_a_network_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="needs"):
        efficientnet_lite0_imagenet(nn.Sequential(nn.Conv2d(3, 8, 3)))
