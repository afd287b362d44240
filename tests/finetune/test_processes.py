"""The schedule applied in several processes: what is reduced, restored, decided and kept."""

import gc

import lightning.pytorch as pl
import psutil
import pytest
import torch
from conftest import assert_same
from torch.nn.parallel import DistributedDataParallel
from toys import (
    Records,
    ToyTask,
    fit,
    in_processes,
    numbers,
    pictures,
    rank_and_count,
    run_toy,
    small_detector,
    staged,
)

from detector.core.run_folder import RunFolder
from detector.finetune.options import Plateau
from detector.finetune.phases import Phase
from detector.training.options import OptimiserOptions

# The last phase freezes the head again and begins with the best weights.
PHASES = [
    Phase("heads", ("head",), 2),
    Phase("top", ("top", "head"), 6, Plateau(2)),
    Phase("low", ("stem", "top"), 2, restore_best=True, optimizer_state="checkpoint"),
]
# By the first process's scores epoch 2 is the best and the second phase ends after epoch 4; by the
# second one's every epoch is better than the one before.
SCORES = [[0.1, 0.2, 0.5, 0.3, 0.4, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]]
EPOCHS = [0, 0, 1, 1, 1, 2, 2]  # the phase of each
TRAINED = [2, 4, 4]  # parameters, by phase


def whole_and_resumed(folder):
    """A run in one go, and runs that were cut off and resumed."""
    found = {}
    _, tuning, records = run_toy(ToyTask(SCORES), PHASES, folder / "whole", reference=16)
    found["whole"] = records.plain() | {"progress": tuning.progress.to_plain()}
    for cut in (5, 6):  # before the last phase begins, and within it
        run_toy(ToyTask(SCORES), PHASES, folder / f"{cut}", reference=16, max_epochs=cut)
        last = RunFolder(folder / f"{cut}").last_checkpoint
        _, _, records = run_toy(ToyTask(SCORES), PHASES, folder / f"{cut}", reference=16, ckpt=last)
        found[cut] = records.plain()
    return found


@pytest.fixture(scope="module")
def runs_and_folder(tmp_path_factory):
    """Of two processes, and where they left their checkpoints."""
    folder = tmp_path_factory.mktemp("runs")
    return in_processes(2, whole_and_resumed, folder, folder), folder


@pytest.fixture
def runs(runs_and_folder):
    """Of two processes."""
    return runs_and_folder[0]


def test_weights_and_optimisers_are_equal_in_all_processes_after_every_epoch(runs):
    first, second = (run["whole"]["ended"] for run in runs)
    assert len(first) == len(second) == len(EPOCHS)
    for one, other in zip(first, second, strict=True):
        assert_same(one["weights"], other["weights"])
        assert_same(one["optimiser"], other["optimiser"])


def test_what_is_reduced_is_what_is_trained_in_every_phase(runs):
    for run in runs:
        begun = run["whole"]["begun"]
        assert [e["reduced"] for e in begun] == [TRAINED[phase] for phase in EPOCHS]
        assert [len(e["trained"]) for e in begun] == [e["reduced"] for e in begun]
        assert not any(e["find_unused"] for e in begun)
        for epoch, phase in enumerate(EPOCHS):
            steps = [s for s in run["whole"]["steps"] if s["epoch"] == epoch]
            assert len(steps) == 4
            for step in steps:
                assert {name.split(".")[0] for name in step["gradients"]} == {*PHASES[phase].train}


def test_the_first_process_decides_for_all(runs):
    for run in runs:
        progress = run["whole"]["progress"]
        entries = [(e["start_epoch"], e["ended"]) for e in progress["phases"]]
        assert entries == [(0, "max_epochs"), (2, "plateau"), (5, "max_epochs")]
        assert progress["phases"][2]["restored_epoch"] == 2
        assert progress["best_epoch"] == 2
    assert runs[0]["whole"]["progress"] == runs[1]["whole"]["progress"]


def test_the_best_epoch_is_restored_in_all_processes(runs_and_folder):
    runs, folder = runs_and_folder
    best = torch.load(RunFolder(folder / "whole").best_checkpoint, weights_only=True)
    assert best["epoch"] == 2
    for run in runs:
        begun, ended = run["whole"]["begun"][5], run["whole"]["ended"]
        weights = {f"network.{name}": value for name, value in begun["weights"].items()}
        assert_same(weights, best["state_dict"])
        assert_same(begun["weights"], ended[2]["weights"])
        assert_same(begun["optimiser"], ended[2]["optimiser"])
        assert not torch.equal(begun["weights"]["top.weight"], ended[4]["weights"]["top.weight"])


def test_rates_grow_with_the_number_of_processes(runs):
    for run in runs:  # 0.1 is for 16 images a step; two processes have 4 each
        assert run["whole"]["steps"][0]["rates"] == {"stem": 0.0, "top": 0.0, "head": 0.05}


@pytest.mark.parametrize("cut", [5, 6])
def test_a_resumed_run_is_wrapped_with_what_its_phase_trains(runs, cut):
    for run in runs:
        started = run[cut]["started"]
        layers = {name.split(".")[0] for name in started["trained"]}
        assert layers == ({"top", "head"} if cut == 5 else {"stem", "top"})
        assert started["reduced"] == len(started["trained"]) == 4


@pytest.mark.parametrize("cut", [5, 6])
def test_a_resumed_run_ends_as_if_it_had_never_stopped(runs, cut):
    for run in runs:
        assert len(run[cut]["ended"]) == len(EPOCHS) - cut
        assert_same(run[cut]["ended"][-1]["weights"], run["whole"]["ended"][-1]["weights"])
        assert_same(run[cut]["ended"][-1]["optimiser"], run["whole"]["ended"][-1]["optimiser"])


class Chosen:
    """In place of torchvision's sampler: the same places of each image's list, without chance."""

    def __init__(self, positive, negative):
        self.places = positive, negative

    def __call__(self, labels):
        masks = [[torch.zeros_like(row, dtype=torch.uint8) for row in labels] for _ in range(2)]
        for row, *both in zip(labels, *masks, strict=True):
            for which, mask, places in zip((row >= 1, row == 0), both, self.places, strict=True):
                mask[torch.where(which)[0][places]] = 1
        return masks


# Each adds groups or drops some, and leaves the weights as they are.
STILL = {"default": 0.0}
TOY_STILL = [
    Phase("heads", ("head",), 1, lr_factor=STILL),
    Phase("top", ("top", "head"), 1, lr_factor=STILL),
    Phase("low", ("stem", "top"), 1, lr_factor=STILL),
]
REAL_STILL = [
    Phase("heads", ("neck", "head"), 1, lr_factor=STILL),
    Phase("top", ("layer3", "layer4", "neck", "head"), 1, lr_factor=STILL),
    Phase("low", ("stem", "layer1", "layer2", "layer3", "layer4"), 1, lr_factor=STILL),
]


def toy_gradients(folder):
    """At the first step of every phase; a step has 8 numbers, of all processes together."""
    records = Records()
    loader = numbers(8 // rank_and_count()[1])
    fit(ToyTask([[0.0] * 3] * 2), [staged(TOY_STILL, folder), records], loader)
    return [step["gradients"] for step in records.steps[::4]], records.begun


def real_gradients(folder):
    """The same of a detector; a step has both images."""
    task = small_detector()
    network = task.network
    # Losses are means over what is sampled: of every image equally much, so that the mean of two
    # processes is the mean of both images; and nothing that depends on scores.
    network.rpn.fg_bg_sampler = Chosen(slice(2), slice(14))
    network.roi_heads.fg_bg_sampler = Chosen(slice(-2, None), slice(0))  # the objects themselves
    records = Records()
    callbacks = [staged(REAL_STILL, folder, list(network.groups())), records]
    # Every process has a loader of its own, so that none can say how many images there are.
    fit(task, callbacks, pictures(2), limit_val_batches=1)
    return [step["gradients"] for step in records.steps], records.begun


@pytest.mark.parametrize(
    ("job", "phases"), [(toy_gradients, TOY_STILL), (real_gradients, REAL_STILL)]
)
def test_two_processes_have_the_gradients_of_one_with_twice_the_batch(job, phases, tmp_path):
    ranks = in_processes(2, job, tmp_path, tmp_path)
    alone, _ = job(tmp_path)
    assert len(alone) == len(phases)
    for found, begun in ranks:
        assert [epoch["reduced"] for epoch in begun] == [len(step) for step in alone]
        for one, other in zip(found, alone, strict=True):
            assert one.keys() == other.keys()
            flat, wanted = (torch.cat([g.flatten() for g in run.values()]) for run in (one, other))
            assert (flat - wanted).norm() <= 1e-5 * wanted.norm()
            assert wanted.norm() > 0


def memory(folder):
    """Of a run of ten million parameters, at the end of every epoch."""
    taken = []

    class Memory(pl.Callback):
        def on_train_epoch_end(self, trainer, module):
            gc.collect()
            alive = sum(isinstance(o, DistributedDataParallel) for o in gc.get_objects())
            taken.append((psutil.Process().memory_info().rss, alive))

    phases = [Phase(f"{i}", ("stem", "top", "head"), 1) for i in range(6)]
    options = OptimiserOptions(name="sgd", momentum=0.0, weight_decay=0.0)
    task = ToyTask([[0.0] * 6], options, width=3200)
    fit(task, [staged(phases, folder, lr=1e-6), Memory()], numbers(), limit_train_batches=1)
    return taken, 4 * sum(p.numel() for p in task.network.parameters())


def test_rewrapping_leaves_nothing_behind(tmp_path):
    ((taken, size),) = in_processes(1, memory, tmp_path, tmp_path)
    assert len(taken) == 6
    assert size > 40e6
    after = [rss for rss, _ in taken[1:]]  # after one rewrap up to five
    assert after[-1] - after[0] < size / 2
    assert {alive for _, alive in taken} == {1}
