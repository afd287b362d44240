"""A network of three layers in place of a detector, a small detector, and runs of them."""

import os
from collections import OrderedDict
from datetime import timedelta

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins.environments import TorchElasticEnvironment
from torch import distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, Subset

from detector.core.run_folder import RunFolder
from detector.core.structures import ClassMap, Target
from detector.data.loading.dataset import collate
from detector.finetune.pace import Pace
from detector.finetune.schedule import Schedule
from detector.finetune.unfreezing import StagedFinetuning
from detector.models.faster_rcnn import build_faster_rcnn
from detector.models.options import HeadOptions, ModelOptions
from detector.models.weights.load import find_pretrained, load_pretrained
from detector.training.module import DetectionTask
from detector.training.options import OptimiserOptions
from detector.training.run_checkpoints import RunCheckpoints

GROUPS = ("stem", "top", "head")
SGD, ADAMW = (
    OptimiserOptions(name="sgd", momentum=0.9, weight_decay=0.0),
    OptimiserOptions(name="adamw", momentum=0.9, weight_decay=0.0),
)


class ToyNetwork(nn.Module):
    """Three layers as three groups."""

    def __init__(self, width=8):
        super().__init__()
        self.stem, self.top = nn.Linear(4, width), nn.Linear(width, width)
        self.head = nn.Linear(width, 1)

    def forward(self, x):
        return self.head(torch.tanh(self.top(torch.tanh(self.stem(x)))))

    def groups(self):
        return OrderedDict((name, [getattr(self, name)]) for name in GROUPS)

    def set_trainable(self, names):
        for name in GROUPS:
            getattr(self, name).requires_grad_(name in names)


class ToyTask(DetectionTask):
    """Fits numbers, and logs scores that were written down before, its own in every process."""

    def __init__(self, scores, optimiser=SGD, width=8, sanity=0.0):
        torch.manual_seed(0)
        super().__init__(ToyNetwork(width), ClassMap.from_names(["a"]), optimiser, {}, 0)
        self.scores = scores
        self.sanity = sanity

    def training_step(self, batch, index):
        x = torch.stack(
            [torch.randn(4, generator=torch.Generator().manual_seed(int(i))) for i in batch]
        )
        y = batch[:, None] / 10
        return (self.network(x) - y).square().mean()

    def validation_step(self, batch, index):
        pass

    def on_validation_epoch_end(self):
        score = self.scores[self.global_rank][self.current_epoch]
        self.log("val/map", self.sanity if self.trainer.sanity_checking else score)


class Images(Dataset):
    """Noise with two objects."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        image = torch.randint(0, 256, (3, 64, 64), generator=generator, dtype=torch.uint8)
        boxes = torch.tensor([[5.0, 5, 40, 40], [10, 20, 60, 60]]) - index
        no = torch.zeros(2, dtype=torch.bool)
        return image, Target(boxes, torch.tensor([1, 2]), no, torch.tensor(index), torch.ones(2))


def small_detector(backbone="efficientnet_lite0", norm="frozen", optimiser=SGD):
    """With few channels; only the backbone whose weights come in a package has any."""
    torch.manual_seed(0)
    small = ModelOptions(fpn_channels=8, head=HeadOptions(hidden=(16,)), rpn_top_n_train=50)
    network = build_faster_rcnn(backbone, 2, norm=norm, options=small)
    if backbone == "efficientnet_lite0":
        load_pretrained(network, find_pretrained("imagenet", backbone, network))
    return DetectionTask(network, ClassMap.from_names(["a", "b"]), optimiser, {}, 0)


class Records(pl.Callback):
    """Records a run as plain data; must come after `StagedFinetuning` among the callbacks.

    Attributes:
        started: Before the first epoch, what is trained and what the wrapper knows.
        begun: The same at every epoch's start, with weights and the optimiser's state.
        steps: At every step the rates, and the gradients that the optimiser gets.
        ended: At every epoch's end weights and the optimiser's state.
    """

    def __init__(self):
        self.started, self.begun, self.steps, self.ended = {}, [], [], []

    def on_train_start(self, trainer, module):
        self.started = wiring(trainer, module)

    def on_train_epoch_start(self, trainer, module):
        self.begun.append(wiring(trainer, module) | contents(trainer, module))

    def on_before_optimizer_step(self, trainer, module, optimizer):
        names = [(n, p) for n, p in module.network.named_parameters() if p.grad is not None]
        self.steps.append(
            {
                "epoch": trainer.current_epoch,
                "rates": {g["group"]: g["lr"] for g in optimizer.param_groups},
                "gradients": {name: parameter.grad.clone() for name, parameter in names},
            }
        )

    def on_train_epoch_end(self, trainer, module):
        self.ended.append(contents(trainer, module))

    def plain(self):
        return {k: getattr(self, k) for k in ("started", "begun", "steps", "ended")}


def wiring(trainer, module):
    """What is trained, and what the wrapper of several processes reduces."""
    named = list(module.network.named_parameters())
    found = {
        "trained": [name for name, parameter in named if parameter.requires_grad],
        "gradients": [name for name, parameter in named if parameter.grad is not None],
    }
    if isinstance(trainer.strategy.model, DistributedDataParallel):
        facts = trainer.strategy.model._get_ddp_logging_data()
        found["reduced"] = facts["num_parameter_tensors"]
        found["find_unused"] = bool(facts["find_unused_parameters"])
    return found


def contents(trainer, module):
    """Copies of the weights, and of the optimiser's state by parameter."""
    names = {id(parameter): name for name, parameter in module.network.named_parameters()}
    (optimiser,) = trainer.optimizers
    return {
        "weights": {k: v.clone() for k, v in module.network.state_dict().items()},
        "optimiser": {
            names[id(parameter)]: {k: v.clone() for k, v in state.items() if v is not None}
            for parameter, state in optimiser.state.items()
        },
        "groups": [(g["group"], len(g["params"])) for g in optimiser.param_groups],
    }


def staged(phases, folder, groups=GROUPS, *, lr=0.1, reference=None, epochs=None, minutes=None):
    """The callback alone, for batches of 4."""
    schedule = Schedule(phases, groups, epochs, minutes)
    best = RunFolder(folder).best_checkpoint
    return StagedFinetuning(schedule, lr, 4, reference, "val/map", best, Pace())


def fit(task, callbacks, loader, *, ckpt=None, **options):
    """Train with the callbacks; with several processes if there are."""
    if distributed.is_initialized():
        options |= {"strategy": "ddp", "devices": distributed.get_world_size()}
        options |= {"plugins": [TorchElasticEnvironment()]}
    settings = {"max_epochs": -1, "num_sanity_val_steps": 0} | options
    (pace,) = (c.pace for c in callbacks if isinstance(c, StagedFinetuning))
    trainer = pl.Trainer(
        callbacks=[pace, *callbacks],
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(c, RunCheckpoints) for c in callbacks),
        use_distributed_sampler=False,
        **settings,
    )
    trainer.fit(task, loader, loader, ckpt_path=ckpt, weights_only=True)
    return trainer


def numbers(batch_size=4):
    """Four steps an epoch, of other numbers in every process."""
    rank, count = rank_and_count()
    return DataLoader(range(rank, 4 * batch_size * count, count), batch_size)


def pictures(total):
    """One step in each epoch with all images, split between the processes."""
    rank, count = rank_and_count()
    return DataLoader(Subset(Images(total), range(rank, total, count)), total, collate_fn=collate)


def rank_and_count():
    """Which process this is, of how many."""
    if distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def run_toy(task, phases, folder, *callbacks, reference=None, epochs=None, minutes=None, **options):
    """Train the toy with checkpoints, the callbacks ordered as `build_callbacks` does."""
    tuning = staged(phases, folder, reference=reference, epochs=epochs, minutes=minutes)
    records = Records()
    kept = RunCheckpoints(tuning, RunFolder(folder))
    trainer = fit(task, [tuning, *callbacks, records, kept], numbers(), **options)
    return trainer, tuning, records


def in_processes(count, job, folder, *arguments):
    """What `job(*arguments)` returns in each of several processes that reach each other."""
    multiprocessing.start_processes(
        _process, (count, job, folder, arguments), count, start_method="forkserver"
    )
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(count)]


def _process(rank, count, job, folder, arguments):
    os.environ |= {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "WORLD_SIZE": f"{count}"}
    os.environ |= {"GROUP_RANK": "0", "LOCAL_WORLD_SIZE": f"{count}"}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "0"}  # known, and not used
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=count,
        timeout=timedelta(seconds=60),
    )
    torch.save(job(*arguments), folder / f"{rank}.pt")
    # A process that exits while its peer still holds the connection aborts now and then.
    distributed.barrier()
    distributed.destroy_process_group()
