"""The schedule applied: on the real network for freezing, on a toy in two processes for DDP."""

from collections import OrderedDict
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from detector.data.dataset import collate
from detector.finetune.callback import StagedFinetuning
from detector.finetune.schedule import Phase, Schedule
from detector.models.faster_rcnn import FasterRCNNOptions, build_faster_rcnn
from detector.task import DetectionTask, OptimiserOptions
from detector.types import ClassMap, Target

PHASES = [
    Phase("heads", ("neck", "head"), {"default": 1.0}, 1),
    Phase("top", ("layer4", "head"), {"default": 1.0, "layer4": 0.5}, 1),
]
GROUPS = ("stem", "layer1", "layer2", "layer3", "layer4", "neck", "head")


class Images(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        image = torch.randint(0, 256, (3, 64, 64), generator=generator, dtype=torch.uint8)
        boxes = torch.tensor([[5.0, 5, 40, 40], [10, 20, 60, 60]])
        no = torch.zeros(2, dtype=torch.bool)
        return image, Target(boxes, torch.tensor([1, 2]), no, torch.tensor(index), torch.ones(2))


class Snapshots(pl.Callback):
    """Copies of the weights after every epoch."""

    def __init__(self):
        self.taken = []

    def on_train_start(self, trainer, module):
        self._take(module)

    def on_train_epoch_end(self, trainer, module):
        self._take(module)

    def _take(self, module):
        self.taken.append({k: v.clone() for k, v in module.network.state_dict().items()})


def fit(task, callbacks, epochs=2, **kwargs):
    trainer = pl.Trainer(
        max_epochs=epochs,
        callbacks=callbacks,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        **kwargs,
    )
    loader = DataLoader(Images(), 2, collate_fn=collate)
    trainer.fit(task, loader, loader)
    return trainer


@pytest.mark.parametrize("norm", ["frozen", "eval_when_frozen"])
@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_frozen_groups_do_not_change_by_a_bit_and_trained_groups_all_change(norm, optimiser):
    torch.manual_seed(0)
    options = FasterRCNNOptions(fpn_channels=8, head_channels=16, rpn_top_n_train=50)
    network = build_faster_rcnn("efficientnet_lite0", 2, imagenet=True, norm=norm, options=options)
    task = DetectionTask(
        network, ClassMap.from_names(["a", "b"]), OptimiserOptions(optimiser, 0.9, 0.01), {}, 0
    )
    snapshots = Snapshots()
    staged = StagedFinetuning(Schedule(PHASES, GROUPS), 0.01, 2, None)
    fit(task, [staged, snapshots])
    names = {id(v): k for k, v in network.state_dict(keep_vars=True).items()}
    assert len(snapshots.taken) == len(PHASES) + 1
    for phase, before, after in zip(PHASES, snapshots.taken, snapshots.taken[1:], strict=False):
        for group, modules in network.groups().items():
            keys = [names[id(v)] for m in modules for v in m.state_dict(keep_vars=True).values()]
            changed = [key for key in keys if not torch.equal(before[key], after[key])]
            assert bool(changed) == (group in phase.train), (phase.name, group, changed)


def test_rates_reach_the_optimiser_scaled_to_the_effective_batch():
    options = FasterRCNNOptions(fpn_channels=8, head_channels=16, rpn_top_n_train=50)
    network = build_faster_rcnn("efficientnet_lite0", 2, imagenet=False, options=options)
    task = DetectionTask(
        network, ClassMap.from_names(["a", "b"]), OptimiserOptions("sgd", 0.9, 0.01), {}, 0
    )
    trainer = fit(task, [StagedFinetuning(Schedule(PHASES, GROUPS), 0.016, 2, 16)])
    rates = {g["group"]: g["lr"] for g in trainer.optimizers[0].param_groups}
    assert rates["head"] == pytest.approx(0.002)
    assert rates["layer4"] == pytest.approx(0.001)
    assert rates["neck"] == rates["stem"] == 0.0
    decays = {(g["group"], g["weight_decay"]) for g in trainer.optimizers[0].param_groups}
    assert {("head", 0.01), ("head", 0.0)} <= decays


class ToyNetwork(nn.Module):
    """Three layers as three groups."""

    def __init__(self):
        super().__init__()
        self.stem, self.top, self.head = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 1)

    def forward(self, x):
        return self.head(torch.relu(self.top(torch.relu(self.stem(x)))))

    def groups(self):
        return OrderedDict(stem=[self.stem], top=[self.top], head=[self.head])

    def set_trainable(self, names):
        for name, (module,) in self.groups().items():
            for parameter in module.parameters():
                parameter.requires_grad = name in names


class Toy(pl.LightningModule):
    """Sees other data on every rank, and reports how far the ranks' weights are apart."""

    def __init__(self, report):
        super().__init__()
        self.network = ToyNetwork()
        self.report = report

    def training_step(self, batch, index):
        x = torch.randn(
            8, 4, generator=torch.Generator().manual_seed(10 * self.global_rank + index)
        )
        return (self.network(x) - self.global_rank).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(
            [
                {"params": list(m.parameters()), "group": name, "lr": 0.0}
                for name, (m,) in self.network.groups().items()
            ],
            lr=0.0,
        )

    def on_train_epoch_end(self):
        flat = torch.cat([p.detach().flatten() for p in self.parameters()])
        ranks = self.all_gather(flat)
        spread = float((ranks[0] - ranks[1]).abs().max())
        if self.global_rank == 0:
            with Path(self.report).open("a") as stream:
                stream.write(f"{spread}\n")

    def teardown(self, stage):
        # A process that exits while its peer still holds the connection aborts now and then.
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
            torch.distributed.destroy_process_group()


TOY_PHASES = [
    Phase("head", ("head",), {}, 1),
    Phase("top", ("top", "head"), {}, 1),
    Phase("all", ("stem", "top", "head"), {}, 1),
]


def run_toy(report):
    torch.manual_seed(0)
    schedule = Schedule(TOY_PHASES, ("stem", "top", "head"))
    trainer = pl.Trainer(
        max_epochs=3,
        accelerator="cpu",
        devices=2,
        strategy="ddp_spawn",
        callbacks=[StagedFinetuning(schedule, 0.1, 1, None)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(Toy(str(report)), DataLoader(range(8), 2))
    return [float(line) for line in report.read_text().split()]


@pytest.mark.filterwarnings("ignore")
def test_thawed_groups_are_reduced_across_processes(tmp_path):
    assert run_toy(tmp_path / "report") == [0.0, 0.0, 0.0]
