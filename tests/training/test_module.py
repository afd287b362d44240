"""What is added to the loss and taken from the weights: L1, L2 by kind, clipping, averaging."""

import json
import shutil
from collections import OrderedDict

import pytest
import torch
from conftest import TINY, ask, in_force
from hydra.core.hydra_config import HydraConfig
from killable import run
from torch import nn

from detector.cli import call
from detector.config.schedules import read_schedule
from detector.config.schema import conf_folder
from detector.core.errors import RequestError
from detector.core.structures import ClassMap
from detector.finetune.options import Plateau
from detector.models.faster_rcnn import build_faster_rcnn
from detector.models.options import HeadOptions, ModelOptions
from detector.pipeline import build
from detector.training.module import DetectionTask
from detector.training.options import OptimiserOptions

ONE = ClassMap.from_names(["a"])


class Squares(nn.Module):
    """The sum of squares of two layers' outputs as the loss; one of the layers is frozen."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(3, 4), nn.Linear(4, 2)
        self.stem.requires_grad_(False)

    def forward(self, images, targets):
        return {"loss_square": self.head(self.stem(torch.stack(images))).square().sum()}

    def groups(self):
        return OrderedDict(stem=[self.stem], head=[self.head])


def test_l1_adds_the_sizes_of_the_trained_weights_to_the_loss(monkeypatch):
    monkeypatch.setattr(DetectionTask, "log_dict", lambda *_, **__: None)
    torch.manual_seed(0)
    network, images = Squares(), [torch.randn(3), torch.randn(3)]
    plain = DetectionTask(
        network, ONE, OptimiserOptions(name="sgd", momentum=0.9, weight_decay=0.0), {}, 0
    )
    sparse = DetectionTask(
        network, ONE, OptimiserOptions(name="sgd", momentum=0.9, weight_decay=0.0, l1=0.01), {}, 0
    )
    weight, bias = network.head.weight, network.head.bias
    gradients = []
    for task in (plain, sparse):
        network.zero_grad()
        losses = task.training_step((images, []), 0)
        losses["loss"].backward()
        gradients.append((weight.grad.clone(), bias.grad.clone()))
    assert losses["loss_l1"].item() == pytest.approx(0.01 * weight.abs().sum().item())
    assert losses["loss"].item() == pytest.approx(
        (losses["loss_square"] + losses["loss_l1"]).item()
    )
    torch.testing.assert_close(gradients[1][0] - gradients[0][0], 0.01 * weight.detach().sign())
    assert torch.equal(gradients[1][1], gradients[0][1])
    assert network.stem.weight.grad is None


def test_l2_sp_adds_half_the_squared_distance_from_the_pretrained_weights(monkeypatch):
    monkeypatch.setattr(DetectionTask, "log_dict", lambda *_, **__: None)
    torch.manual_seed(0)
    network, images = Squares(), [torch.randn(3), torch.randn(3)]
    options = OptimiserOptions(name="sgd", momentum=0.9, weight_decay=0.3, l2_sp=0.2)
    task = DetectionTask(network, ONE, options, {}, 0)
    task.remember_pretrained({"stem.weight", "head.weight", "head.bias"})
    weight, start = network.head.weight, network.head.weight.detach().clone()
    with torch.no_grad():
        network.stem.weight += 1  # frozen: no part of the distance
        network.head.bias += 1  # neither is a bias
        weight += torch.tensor([[0.5], [-1.0]])  # of two rows with four columns each
    losses = task.training_step((images, []), 0)
    assert losses["loss_l2_sp"].item() == pytest.approx(0.2 / 2 * 4 * (0.25 + 1.0))
    assert losses["loss"].item() == pytest.approx(
        (losses["loss_square"] + losses["loss_l2_sp"]).item()
    )
    losses["loss_l2_sp"].backward()
    torch.testing.assert_close(weight.grad, 0.2 * (weight.detach() - start))
    network.head.requires_grad_(False)
    assert task.training_step((images, []), 0)["loss_l2_sp"] == 0
    # The pull takes the place of the pull towards zero.
    decays = {
        id(p): group["weight_decay"]
        for group in task.configure_optimizers().param_groups
        for p in group["params"]
    }
    assert {decays[id(m.weight)] for m in (network.stem, network.head)} == {0.0}


@pytest.mark.parametrize("backbone", ["efficientnet_lite0", "swin_t", "convnext_tiny"])
def test_weight_decay_is_that_of_the_parameters_kind(backbone):
    options = ModelOptions(fpn_channels=8, head=HeadOptions(hidden=(8,)))
    with torch.device("meta"):
        network = build_faster_rcnn(backbone, 1, options=options)
    decays = OptimiserOptions(
        name="sgd", momentum=0.9, weight_decay=0.3, weight_decay_norm=0.2, weight_decay_bias=0.1
    )
    optimiser = DetectionTask(network, ONE, decays, {}, 0).configure_optimizers()
    found = {id(p): g["weight_decay"] for g in optimiser.param_groups for p in g["params"]}
    kinds = set()
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            plain = isinstance(module, nn.Conv2d | nn.Linear)
            kind = name if plain else "norm"  # and scales and tables that are like them
            kinds.add(kind)
            assert found[id(parameter)] == {"weight": 0.3, "norm": 0.2, "bias": 0.1}[kind]
    assert kinds == {"weight", "norm", "bias"}


def settings(*overrides):
    HydraConfig.instance().cfg = None
    return in_force(ask("train", *TINY, *overrides))


def test_gradients_are_clipped_to_the_norm_or_not_at_all(tmp_path):
    for value, expected in (("null", None), ("0.5", 0.5)):
        trainer = build.build_trainer(settings(f"optim.clip_norm={value}"), tmp_path)
        assert trainer.gradient_clip_val == expected


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("optim.l1=-1", r"optim\.l1=-1: expected at least 0"),
        ("optim.weight_decay=nan", r"optim\.weight_decay=nan"),
        ("optim.weight_decay_bias=-1", r"optim\.weight_decay_bias=-1"),
        ("optim.ema=1", r"optim\.ema=1: expected null or 0 < x < 1"),
        ("optim.clip_norm=0", r"optim\.clip_norm=0: expected null or a number above 0"),
        ("finetune.early_stopping.patience=0", r"early_stopping\.patience=0"),
        ("finetune.early_stopping.min_delta=-1", r"early_stopping\.min_delta=-1"),
        ("finetune.phases=auto", r"finetune\.phases=auto: needs finetune\.auto"),
        ("finetune.phases=[3]", r"finetune\.phases\[0\]=3: expected the keys name, train"),
        (
            "finetune.phases=[{name: a, train: [head], until: 2}]",
            r"finetune\.phases\[0\]\.until=2: expected the keys share, max_epochs, plateau",
        ),
        ("finetune.phases=[{name: a}]", r"finetune\.phases\[0\]\.train: missing"),
        (
            "finetune.phases=[{name: a, train: [head], until: {plateau: {patience: 1}}}]",
            r"finetune\.phases\[0\]\.until: expected one of the keys share and max_epochs",
        ),
        (
            "finetune.phases=[{name: a, train: [head], until: {max_epochs: 1}, lr: {default: 1}}]",
            r"finetune\.phases\[0\]\.lr: no such key; there are name, train, until, lr_factor",
        ),
    ],
)
def test_options_that_cannot_be_meant_are_refused_by_their_key(typed, said):
    with pytest.raises(RequestError, match=said):
        read_schedule(settings(typed))


def test_auto_refuses_numbers_by_their_own_keys():
    with pytest.raises(RequestError, match=r"finetune\.auto\.patience=0: expected"):
        settings("finetune=auto", "finetune.auto.patience=0")


def test_early_stopping_is_a_plateau_of_the_last_phase():
    stopping = ["finetune.early_stopping.patience=3", "finetune.early_stopping.min_delta=0.01"]
    phases = read_schedule(settings("finetune=staged", *stopping)).phases
    assert [p.plateau is None for p in phases] == [True, True, False]
    assert (phases[-1].plateau.patience, phases[-1].plateau.min_delta) == (3, 0.01)
    with pytest.raises(RequestError, match=r"patience=3: the last phase has a plateau"):
        read_schedule(settings("finetune=plateau", *stopping))


def test_the_average_of_the_weights_is_what_is_kept_and_evaluated(voc_root, tmp_path):
    out = tmp_path / "out"
    asked = [*TINY, f"data.root={voc_root}", "trainer.max_epochs=1", "optim.ema=0.8"]
    assert run(asked, out) == 0
    best = torch.load(out / "checkpoints/best.ckpt", weights_only=True)
    key = "network.roi_heads.box_head.fc6.weight"
    assert not torch.equal(best["state_dict"][key], best["current_model_state"][key])
    HydraConfig.instance().cfg = None
    call("evaluate", [f"ckpt={out}"], tmp_path / "again")
    first, again = (
        json.loads((folder / "metrics.json").read_text()) for folder in (out, tmp_path / "again")
    )
    assert first["coco"] == again["coco"]


def test_a_schedule_of_ones_own_may_stop_early(tmp_path, monkeypatch):
    shutil.copytree(conf_folder(), tmp_path / "conf")
    mine = (conf_folder() / "finetune/staged.yaml").read_text()
    mine += "early_stopping: {patience: 3, min_delta: 0.01}\n"
    (tmp_path / "conf/finetune/mine.yaml").write_text(mine)
    monkeypatch.setattr("detector.cli.conf_folder", lambda: tmp_path / "conf")
    assert read_schedule(settings("finetune=mine")).phases[-1].plateau == Plateau(3, 0.01)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("finetune.auto.warmup.steps=-1", r"finetune\.auto\.warmup\.steps=-1: expected at least"),
        ("finetune.auto.decay.type=step", r"finetune\.auto\.decay\.type=step: expected one of"),
    ],
)
def test_the_course_of_auto_is_refused_by_the_key_that_was_typed(typed, said):
    with pytest.raises(RequestError, match=said):
        read_schedule(settings("finetune=auto", typed))
