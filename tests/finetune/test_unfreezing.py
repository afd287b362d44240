"""The schedule applied in one process: what is frozen, restored, remembered and resumed."""

import math
from itertools import islice

import lightning.pytorch as pl
import pytest
import torch
from conftest import assert_same
from torch.nn.modules.batchnorm import _BatchNorm
from toys import (
    ADAMW,
    GROUPS,
    SGD,
    ToyTask,
    fit,
    pictures,
    run_toy,
    small_detector,
    staged,
)

from detector.core.run_folder import RunFolder
from detector.finetune.averaging import AveragedWeights
from detector.finetune.options import Decay, Plateau, Warmup
from detector.finetune.phases import Phase
from detector.training.options import OptimiserOptions

# Every group is trained in one of them, and every one is frozen in another.
REAL_PHASES = [
    Phase("heads", ("neck", "head"), 1),
    Phase("top", ("layer4", "head"), 1, lr_factor={"layer4": 0.5}),
    Phase("low", ("stem", "layer1", "layer2", "layer3", "neck"), 1),
]
MANY = 2**24 + 1  # float32 has no such number


class Changes(pl.Callback):
    """By phase, which entries of the state changed by a bit: of the network and of its average."""

    def __init__(self, average):
        self.average = average
        self.found = []  # a pair of sets for every epoch
        self.state = {}

    def on_train_start(self, trainer, module):
        self.state = self._copies(trainer, module)

    def on_before_optimizer_step(self, trainer, module, optimizer):
        for group in optimizer.param_groups:
            frozen = group["lr"] == 0
            for parameter in group["params"]:
                assert not frozen or (parameter.grad is None and not parameter.requires_grad)

    def on_train_epoch_end(self, trainer, module):
        before, self.state = self.state, self._copies(trainer, module)
        self.found.append(
            [
                {key for key in old if not torch.equal(bits(old[key]), bits(new[key]))}
                for old, new in zip(before, self.state, strict=True)
            ]
        )

    def _copies(self, trainer, module):
        checkpoint = {"state_dict": module.state_dict()}
        plain = {k: v.clone() for k, v in checkpoint["state_dict"].items()}
        self.average.on_save_checkpoint(trainer, module, checkpoint)
        return plain, {k: v.clone() for k, v in checkpoint["state_dict"].items()}


def bits(tensor):
    """As bytes: unlike for numbers, 0 and -0 differ and NaN is NaN."""
    return tensor.flatten().view(torch.uint8)


# These would move what is frozen, and what has no gradient but should.
PULLED = {"weight_decay": 0.1, "weight_decay_norm": 0.1, "weight_decay_bias": 0.1, "l1": 1e-3}


@pytest.mark.parametrize(
    ("backbone", "norm", "optimiser"),
    [
        ("resnet18", "frozen", "sgd"),
        ("resnet18", "eval_when_frozen", "adamw"),
        ("efficientnet_lite0", "frozen", "adamw"),
        ("efficientnet_lite0", "eval_when_frozen", "sgd"),
    ],
)
def test_frozen_groups_do_not_change_by_a_bit_and_trained_groups_all_change(
    backbone, norm, optimiser, tmp_path
):
    task = small_detector(backbone, norm, OptimiserOptions(name=optimiser, momentum=0.9, **PULLED))
    network = task.network
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.num_batches_tracked.fill_(MANY)
    average = AveragedWeights(0.9)
    changes = Changes(average)
    tuning = staged(REAL_PHASES, tmp_path, list(network.groups()), lr=0.01)
    fit(task, [tuning, average, changes], pictures(1))
    names = {id(v): k for k, v in task.state_dict(keep_vars=True).items()}
    assert len(changes.found) == len(REAL_PHASES)
    trained = set()
    for phase, (weights, averages) in zip(REAL_PHASES, changes.found, strict=True):
        trained |= {*phase.train}
        for group, modules in network.groups().items():
            keys = {names[id(v)] for m in modules for v in m.state_dict(keep_vars=True).values()}
            assert bool(weights & keys) == (group in phase.train), (phase.name, group)
            # The average of what an earlier phase trained may still approach the weights.
            if group in phase.train or group not in trained:
                assert bool(averages & keys) == (group in trained), (phase.name, group)


def test_rates_reach_the_optimiser_scaled_to_the_batch(tmp_path):
    task = small_detector(optimiser=OptimiserOptions(name="sgd", momentum=0.9, weight_decay=0.01))
    tuning = staged(REAL_PHASES[:2], tmp_path, list(task.network.groups()), lr=0.016, reference=32)
    trainer = fit(task, [tuning], pictures(1))
    rates = {g["group"]: g["lr"] for g in trainer.optimizers[0].param_groups}
    assert rates["head"] == pytest.approx(0.002)
    assert rates["layer4"] == pytest.approx(0.001)
    assert rates["neck"] == rates["stem"] == 0.0
    decays = {(g["group"], g["weight_decay"]) for g in trainer.optimizers[0].param_groups}
    assert {("head", 0.01), ("head", 0.0)} <= decays


def test_rates_follow_warm_up_and_decay_by_the_steps_of_the_phase(tmp_path):
    phases = [
        # Ends after two of its three epochs, so that the second phase begins at step 8, not 12.
        Phase("a", ("head",), 3, Plateau(1), warmup=Warmup(5, 0.2), decay=Decay("linear")),
        Phase(
            "b",
            ("stem", "head"),
            1,
            lr_factor={"default": 0.5, "stem": 0.1},
            warmup=Warmup(2, 0.0, "new"),
            decay=Decay("cosine", 0.1),
        ),
    ]
    _, _, records = run_toy(ToyTask([[0.5, 0.4, 0.3]]), phases, tmp_path)
    rates = [step["rates"] for step in records.steps]
    # A quarter of the phase's twelve steps, and of the other's four.
    warm = [0.2, 0.2 + 0.8 / 3, 0.2 + 1.6 / 3, 1, 1, 1, 1, 1]
    first = [0.1 * share * (12 - step) / 12 for step, share in enumerate(warm)]
    cosine = [0.1 + 0.9 * share for share in (1, (1 + math.sqrt(0.5)) / 2, 0.5)]
    cosine.append(0.1 + 0.9 * (1 - math.sqrt(0.5)) / 2)
    second = [0.1 * 0.5 * share for share in cosine]
    assert [rate["head"] for rate in rates] == pytest.approx(first + second)
    stem = [0.1 * 0.1 * a * b for a, b in zip(cosine, (0, 1, 1, 1), strict=True)]
    assert [rate["stem"] for rate in rates] == pytest.approx([0] * 8 + stem)
    assert [rate["top"] for rate in rates] == [0] * 12


# The best epoch is the first; the last phase begins after the second one, and lets the stem go on
# without the head.
TWO = [Phase("a", ("top", "head"), 2), Phase("b", ("stem", "top"), 1)]
FALLING = [[0.9, 0.8, 0.7]]


def second_phase(folder, options, *callbacks, **phase):
    """A run of `TWO`."""
    begins = Phase("b", ("stem", "top"), 1, restore_best=True, **phase)
    return run_toy(ToyTask(FALLING, options), [TWO[0], begins], folder, *callbacks)


@pytest.mark.parametrize("options", [SGD, ADAMW], ids=["sgd", "adamw"])
def test_the_optimiser_keeps_its_current_state(options, tmp_path):
    _, _, records = second_phase(tmp_path, options, optimizer_state="current")
    assert_same(records.begun[2]["optimiser"], records.ended[1]["optimiser"])
    layers = {name.split(".")[0] for name in records.begun[2]["optimiser"]}
    assert layers == {"top", "head"}


@pytest.mark.parametrize("options", [SGD, ADAMW], ids=["sgd", "adamw"])
def test_the_optimiser_takes_the_state_of_the_checkpoint(options, tmp_path):
    _, _, records = second_phase(tmp_path, options, optimizer_state="checkpoint")
    assert_same(records.begun[2]["optimiser"], records.ended[0]["optimiser"])
    with pytest.raises(AssertionError):
        assert_same(records.begun[2]["optimiser"], records.ended[1]["optimiser"])


@pytest.mark.parametrize("options", [SGD, ADAMW], ids=["sgd", "adamw"])
def test_the_optimiser_forgets_its_state(options, tmp_path):
    _, _, records = second_phase(tmp_path, options, optimizer_state="reset")
    assert records.ended[1]["optimiser"]
    assert records.begun[2]["optimiser"] == {}


def test_the_optimisers_groups_are_the_same_in_all_phases(tmp_path):
    _, _, records = second_phase(tmp_path, SGD, optimizer_state="checkpoint")
    entries = [epoch["groups"] for epoch in (*records.begun, *records.ended)]
    assert entries == [[("stem", 2), ("top", 2), ("head", 2)]] * 6


def test_a_phase_begins_with_the_best_weights_if_it_says_so(tmp_path):
    _, tuning, records = second_phase(tmp_path, SGD)
    assert_same(records.begun[2]["weights"], records.ended[0]["weights"])
    assert tuning.progress.phases[1].restored_epoch == 0
    best = torch.load(RunFolder(tmp_path).best_checkpoint, weights_only=True)["state_dict"]
    assert_same(
        records.begun[2]["weights"], {k.removeprefix("network."): v for k, v in best.items()}
    )
    _, _, records = run_toy(ToyTask(FALLING), TWO, tmp_path)
    assert_same(records.begun[2]["weights"], records.ended[1]["weights"])


def test_gradients_of_a_phase_do_not_reach_into_the_next_one(tmp_path):
    class Keeping(ToyTask):
        def on_validation_model_zero_grad(self):
            """Leave gradients alone, as Lightning does where nothing is validated."""

    _, _, records = run_toy(Keeping(FALLING), TWO, tmp_path)
    assert records.begun[1]["gradients"]
    assert records.begun[2]["gradients"] == []
    layers = [{name.split(".")[0] for name in epoch["trained"]} for epoch in records.begun]
    assert layers == [{"top", "head"}, {"top", "head"}, {"stem", "top"}]
    for step in records.steps:
        assert {n.split(".")[0] for n in step["gradients"]} == layers[step["epoch"]]


def test_the_average_goes_on_from_the_restored_weights(tmp_path):
    averages = []

    class Averages(pl.Callback):
        def on_train_epoch_start(self, trainer, module):
            checkpoint = {"state_dict": module.state_dict()}
            average.on_save_checkpoint(trainer, module, checkpoint)
            averages.append({k: v.clone() for k, v in checkpoint["state_dict"].items()})

        on_train_end = on_train_epoch_start

    average = AveragedWeights(0.9)
    _, _, records = second_phase(tmp_path, SGD, average, Averages())
    best = torch.load(RunFolder(tmp_path).best_checkpoint, weights_only=True)
    assert best["epoch"] == 0
    assert_same(averages[2], best["state_dict"])
    assert_same(
        {f"network.{k}": v for k, v in records.begun[2]["weights"].items()}, best["state_dict"]
    )
    with pytest.raises(AssertionError):
        assert_same(best["state_dict"], best["current_model_state"])
    # What the last phase freezes again has nothing left to approach.
    assert torch.equal(
        averages[3]["network.head.weight"], best["state_dict"]["network.head.weight"]
    )
    assert not torch.equal(
        averages[3]["network.top.weight"], best["state_dict"]["network.top.weight"]
    )


def test_anothers_best_weights_are_not_restored(tmp_path):
    class Other(pl.Callback):
        def on_train_epoch_end(self, trainer, module):
            if trainer.current_epoch == 1:  # the file is of epoch 0
                content = torch.load(RunFolder(tmp_path).best_checkpoint, weights_only=True)
                torch.save(content | {"epoch": 7}, RunFolder(tmp_path).best_checkpoint)

    with pytest.raises(RuntimeError, match=r"is of epoch 8, but the best was 1: another run"):
        second_phase(tmp_path, SGD, Other())


def test_equal_zero_biases_are_all_optimised(tmp_path):
    task = ToyTask(FALLING)
    for name in GROUPS:
        torch.nn.init.zeros_(getattr(task.network, name).bias)
    optimiser = task.configure_optimizers()
    held = [id(p) for group in optimiser.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in task.parameters())


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ({"stem": ["stem"], "top": ["top"]}, r"^head\.weight must belong to exactly one group"),
        ({"stem": ["stem"], "top": ["top", "head"], "head": ["head"]}, r"^head\.weight must"),
        ({"stem": ["stem", "stem"], "top": ["top"], "head": ["head"]}, r"^stem\.weight must"),
    ],
    ids=["omitted", "in two groups", "twice in one"],
)
def test_a_parameter_outside_of_the_groups_or_in_several_is_refused(groups, said):
    task = ToyTask(FALLING)
    network = task.network
    network.groups = lambda: {k: [getattr(network, n) for n in v] for k, v in groups.items()}
    with pytest.raises(ValueError, match=said):
        task.configure_optimizers()


def test_parameters_of_another_network_are_refused():
    task, other = ToyTask(FALLING), ToyTask(FALLING)
    groups = task.network.groups()
    task.network.groups = lambda: groups | {"other": [other.network.head]}
    with pytest.raises(ValueError, match="parameters that are not the network's"):
        task.configure_optimizers()


def test_the_score_of_an_untrained_network_never_becomes_the_best(tmp_path):
    task = ToyTask([[0.2, 0.3, 0.1]], sanity=0.9)
    _, tuning, _ = run_toy(task, TWO, tmp_path, num_sanity_val_steps=1)
    assert (tuning.progress.best, tuning.progress.best_epoch) == (pytest.approx(0.3), 1)
    assert torch.load(RunFolder(tmp_path).best_checkpoint, weights_only=True)["epoch"] == 1


def test_a_run_stops_at_the_plateau_of_its_last_phase(tmp_path):
    phases = [Phase("a", ("head",), 1), Phase("b", ("top", "head"), 9, Plateau(2))]
    scores = [0.1, 0.5, 0.4, 0.3, 0.6]
    trainer, tuning, _ = run_toy(ToyTask([scores]), phases, tmp_path)
    assert trainer.global_step == 4 * 4
    assert tuning.progress.ended == "plateau"


def test_what_ends_a_phase_and_where_the_next_begins_is_said(tmp_path, caplog):
    back = {"restore_best": True, "gain": 0.25}
    phases = [Phase("a", ("head",), 9, Plateau(1)), Phase("b", ("top", "head"), 1, **back)]
    phases.append(Phase("c", ("stem",), 1))
    with caplog.at_level("INFO", logger="detector.finetune.unfreezing"):
        run_toy(ToyTask([[0.5, 0.4, 0.6, 0.7]]), phases, tmp_path)
    said = [r.getMessage() for r in caplog.records if r.name == "detector.finetune.unfreezing"]
    assert [line for line in said if "million" not in line] == [
        "phase a: training head",
        "phase a ended after 2 epochs (val/map no longer improved)",
        "restored the best weights, of epoch 1 (val/map 0.500)",
        "phase b: training top, head",
        "phase b ended after 1 epoch (the best val/map did not rise by 0.25)",
    ]


def test_a_loss_that_is_no_number_ends_the_run_before_it_is_kept(tmp_path):
    class Exploding(ToyTask):
        def training_step(self, batch, index):
            loss = super().training_step(batch, index)
            self.log(
                "train/loss", loss * (float("nan") if self.current_epoch else 1), on_epoch=True
            )
            return loss

    with pytest.raises(FloatingPointError, match=r"loss became nan in epoch 2: a lower optim\.lr"):
        run_toy(Exploding([[0.5] * 3]), [Phase("a", ("head",), 3)], tmp_path)
    assert torch.load(RunFolder(tmp_path).last_checkpoint, weights_only=True)["epoch"] == 0


def test_a_finished_run_does_not_train_on(tmp_path):
    phases = [Phase("a", ("top", "head"), 9, Plateau(1))]
    scores = [[0.5, 0.4, 0.6, 0.7]]
    _, _, records = run_toy(ToyTask(scores), phases, tmp_path)
    task = ToyTask(scores)
    trainer, tuning, again = run_toy(
        task, phases, tmp_path, ckpt=RunFolder(tmp_path).last_checkpoint
    )
    assert trainer.global_step == 2 * 4
    assert (again.steps, tuning.progress.ended) == ([], "plateau")
    assert_same(dict(task.network.state_dict()), records.ended[-1]["weights"])


@pytest.mark.parametrize("cut", [2, 3])
def test_a_resumed_run_trains_what_its_phase_does_and_ends_alike(cut, tmp_path):
    phases = [TWO[0], Phase("b", ("stem", "top"), 2, restore_best=True)]
    scores = [[0.9, 0.8, 0.7, 0.6]]
    _, _, whole = run_toy(ToyTask(scores, ADAMW), phases, tmp_path)
    run_toy(ToyTask(scores, ADAMW), phases, tmp_path, max_epochs=cut)
    task = ToyTask(scores, ADAMW)
    _, _, rest = run_toy(task, phases, tmp_path, ckpt=RunFolder(tmp_path).last_checkpoint)
    layers = {name.split(".")[0] for name in rest.started["trained"]}
    assert layers == {*phases[cut - 2].train}
    for one, other in zip(rest.ended, whole.ended[cut:], strict=True):
        assert_same(one["weights"], other["weights"])
        assert_same(one["optimiser"], other["optimiser"])
    for step, wanted in zip(rest.steps, islice(whole.steps, 4 * cut, None), strict=True):
        assert step["rates"] == wanted["rates"]
