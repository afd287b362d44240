"""A run that is killed and goes on ends bitwise where the uninterrupted one does."""

import csv
import json
import shutil
import signal
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import TINY, assert_same, random_split, write_voc
from hydra.core.hydra_config import HydraConfig
from killable import run

from detector import cli
from detector.cli import compose
from detector.config.resolve import resolve
from detector.config.schedules import read_schedule
from detector.core.errors import RequestError
from detector.core.run_folder import RunFolder
from detector.train import KEYS
from detector.training.run_checkpoints import RunCheckpoints, link_or_copy

PHASES = (
    "finetune.phases=["
    "{{name: heads, train: [neck, head], until: {{max_epochs: 3, plateau: {{patience: 1}}}},"
    "warmup: {{steps: 3}}}},"
    "{{name: top, train: [layer4, head], until: {{max_epochs: 2}}, restore_best: true,"
    "optimizer_state: {}, lr_factor: {{layer4: 0.1}}, warmup: {{steps: 2, groups: new}},"
    "decay: {{type: cosine, final_factor: 0.1}}}}]"
)
# The plateau ends the first phase after two epochs. The second one begins with the weights of
# epoch 0, and its second epoch is the best.
STARTS = {"heads": (0, None), "top": (2, 0)}
KILLS = (
    ("in the epoch", 0),  # there is no checkpoint yet
    ("last.ckpt saved, best.ckpt not", 0),  # the first best
    ("decided, not saved", 1),  # the end of the phase
    ("in the epoch", 2),  # after the best weights were restored
    ("last.ckpt saved, best.ckpt not", 3),  # another best, and the end of the schedule
)
# The average of the weights is restored with the best epoch.
KILLS_AVERAGED = (("saved", 1), ("in the epoch", 3))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    base = tmp_path_factory.mktemp("killed")
    splits = {"train": random_split("train", 5, 0), "val": random_split("val", 2, 1)}
    return write_voc(base / "voc", {**splits, "test": random_split("test", 2, 2)})


def content(out, name):
    return torch.load(out / "checkpoints" / f"{name}.ckpt", weights_only=True)


def rows(out):
    with (out / "metrics.csv").open(newline="") as stream:
        timeless = [k for k in next(csv.reader(stream)) if not k.startswith("seconds")]
        stream.seek(0)
        return [{k: row[k] for k in timeless} for row in csv.DictReader(stream)]


@pytest.mark.parametrize(
    ("averaging", "state", "kills"),
    [("null", "checkpoint", KILLS), ("0.9", "reset", KILLS_AVERAGED)],
    ids=["plain", "averaged, pulled and kept"],
)
def test_a_run_that_is_killed_and_resumed_ends_as_the_uninterrupted_one(
    root, runs, tmp_path, averaging, state, kills
):
    asked = [*TINY, f"data.root={root}", PHASES.format(state), f"optim.ema={averaging}"]
    if averaging != "null":
        asked += [f"model.weights={runs.first}", "optim.l2_sp=0.5"]
        asked += ["finetune.norm=frozen", "augment=flip"]  # outputs of frozen stages are kept
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run(asked, whole) == 0

    for kill in kills:
        known = [f"ckpt={killed}"] if RunFolder(killed).last_checkpoint.exists() else asked
        assert run(known, killed, kill) == -signal.SIGKILL, kill
    assert run([f"ckpt={killed}"], killed) == 0

    log = content(whole, "last")["callbacks"]["finetune"]["phases"]
    assert {e["name"]: (e["start_epoch"], e["restored_epoch"]) for e in log} == STARTS
    assert content(whole, "best")["epoch"] == 3
    for name in ("last", "best"):
        one, other = content(whole, name), content(killed, name)
        for key in ("epoch", "state_dict", "optimizer_states", "global_step"):
            assert_same(one[key], other[key], key)
        assert_same(one.get("current_model_state"), other.get("current_model_state"))
        assert one["callbacks"]["finetune"] == other["callbacks"]["finetune"]
    assert rows(whole) == rows(killed)
    pictures = [(out / "schedule.png").read_bytes() for out in (whole, killed)]
    assert pictures[0] == pictures[1]
    results = [json.loads((out / "metrics.json").read_text()) for out in (whole, killed)]
    assert_same(*({k: r[k] for k in ("coco", "voc", "per_class")} for r in results))


@pytest.fixture(scope="module")
def finished(root, tmp_path_factory):
    """A run of six epochs with three done, whose best epoch is the first and not the last."""
    out = tmp_path_factory.mktemp("finished") / "out"
    phases = (
        "finetune.phases=[{name: heads, train: [neck, head], until: {max_epochs: 2}},"
        "{name: top, train: [layer4, head], until: {max_epochs: 4}}]"
    )
    keys = [*TINY, f"data.root={root}", phases, "gallery=3"]
    assert run(keys, out, ("saved", 2)) == -signal.SIGKILL
    return out


def resume(out, *overrides):
    HydraConfig.instance().cfg = None
    return resolve(KEYS, compose("train", [f"ckpt={out}", *overrides]), resume=True)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("optim=sgd", r"optim\.name=sgd: .*last\.ckpt was trained with adamw"),
        ("optim.weight_decay=0.1", r"optim\.weight_decay=0\.1: .* was trained with 0\.0001"),
        ("seed=7", r"seed=7: .* was trained with 0"),
        ("data.splits.test=[train]", r"data\.splits\.test=\['train'\]: .* was trained with null"),
        ("data.auto_split.seed=1", r"data\.auto_split\.seed=1: .* was trained with 0"),
        ("optim.ema=0.9", r"optim\.ema=0\.9: .* was trained with null"),
        ("data.image_size=128", r"data\.image_size=128: .* was trained with 96"),
        ("model.score_threshold=0.1", r"model\.score_threshold=0\.1: .* was trained with 0\.05"),
        ("finetune=auto", r"finetune\.phases: auto, but .* was trained with a list of phases"),
        ("finetune.norm=frozen", r"finetune\.norm=frozen: .* was trained with train; .*changed=tr"),
        ("finetune=full", r"finetune\.norm=frozen"),
        ("finetune.early_stopping.patience=2", r"early_stopping\.patience=2: .* with null; fine"),
        ("monitor=val/map_50", r"monitor=val/map_50: .* was trained with val/map"),
        ("trainer.max_epochs=2", r"trainer\.max_epochs=2: expected at least 3, which .* has done"),
        (
            "finetune.phases=[{name: heads, train: [neck, head], until: {max_epochs: 5}}]",
            r"finetune\.phases\.0\.until\.max_epochs=5: .*last\.ckpt was trained with 2; fine",
        ),
        (
            "finetune.phases=[{name: heads, train: [neck, head], until: {max_epochs: 2}}]",
            r"finetune\.phases\.1\.name=null: .* was trained with top",
        ),
    ],
)
def test_what_a_checkpoint_does_not_fit_is_refused_by_its_key(finished, typed, said):
    with pytest.raises(RequestError, match=said):
        resume(finished, typed)


def test_a_changed_schedule_may_be_allowed_and_has_all_of_its_own_epochs(finished, tmp_path):
    out = tmp_path / "on"
    shutil.copytree(finished, out)
    other = "finetune.phases=[{name: new, train: [head], until: {max_epochs: 2}}]"
    changed = [other, "finetune.allow_changed=true"]
    assert run([f"ckpt={out}", *changed], out) == 0
    assert [row["phase"] for row in rows(out)] == ["heads", "heads", "top", "new", "new"]
    log = content(out, "last")["callbacks"]["finetune"]["phases"]
    found = [(e["name"], e["start_epoch"], e["start_step"], e["ended"]) for e in log]
    new = ("new", 3, 9, "max_epochs")
    assert found == [("heads", 0, 0, "max_epochs"), ("top", 2, 6, "changed"), new]
    # That a change was allowed is not remembered.
    assert resume(out).finetune.allow_changed is False
    with pytest.raises(RequestError, match="allow_changed=true goes on"):
        resume(out, "finetune=staged", "finetune.norm=train")


def test_a_group_is_taken_over_before_the_keys_in_it(finished):
    typed = ["finetune=staged", "finetune.phases.2.warmup.steps=7"]
    found = resume(finished, *reversed(typed), "finetune.allow_changed=true")
    assert [phase.warmup.steps for phase in read_schedule(found).phases] == [50, 20, 7]


def test_a_momentum_that_is_not_used_may_change(finished):
    assert resume(finished, "optim.momentum=0.5").optim.momentum == 0.5


def test_a_run_may_be_called_like_a_number(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished, tmp_path / "0")
    found = resume("0")
    assert (found.ckpt, found.data.image_size) == ("0", 96)  # 96 is what the run was trained with
    assert cli.output_folder_of("voc", 0) == "0"


def test_a_finished_run_goes_on_where_more_epochs_are_asked_for(finished):
    schedule = read_schedule(resume(finished))
    progress = schedule.start()
    while not schedule.finished(progress):
        if progress.ended:
            progress = schedule.next_phase(progress)
        progress = schedule.update(progress, 0.0)
    assert progress.done == 6
    longer = read_schedule(resume(finished, "trainer.max_epochs=9"))
    more = longer.resume(progress)
    assert not longer.finished(more)
    assert longer.total(more) == 9


def test_epochs_that_were_cut_count_as_what_they_are_of_whole_ones(finished, monkeypatch):
    cut = replace(read_schedule(resume(finished)).start(6), epochs=4, steps=9)  # one and a half
    monkeypatch.setattr("detector.config.resolve.read_progress", lambda _: cut)
    assert resume(finished, "trainer.max_epochs=2").trainer.max_epochs == 2
    with pytest.raises(RequestError, match=r"max_epochs=1: expected at least 2, which .* has done"):
        resume(finished, "trainer.max_epochs=1")


def test_a_run_that_goes_on_makes_the_report_that_it_was_begun_with(finished):
    assert resume(finished).gallery == 3
    assert resume(finished, "gallery=5").gallery == 5


def test_rates_may_be_changed_and_more_epochs_asked_for(finished):
    assert resume(finished, "optim.lr=1e-4", "trainer.max_epochs=5").optim.lr == 1e-4


def test_the_best_checkpoint_must_lie_beside_the_last(finished, tmp_path):
    assert content(finished, "last")["epoch"] != content(finished, "best")["epoch"] == 0
    kept = tmp_path / "checkpoints"
    kept.mkdir()
    shutil.copy(finished / "checkpoints/last.ckpt", kept)
    with pytest.raises(RequestError, match=r"beside it must be best\.ckpt of epoch 1, the best"):
        resume(tmp_path)
    shutil.copy(finished / "checkpoints/last.ckpt", kept / "best.ckpt")
    with pytest.raises(RequestError, match=r"beside it must be best\.ckpt of epoch 1, the best"):
        resume(tmp_path)
    # The best itself needs nothing beside it.
    alone = tmp_path / "alone.ckpt"
    shutil.copy(finished / "checkpoints/best.ckpt", alone)
    assert resume(alone).ckpt == str(alone)


def test_a_checkpoint_that_lost_its_schedule_is_refused(finished, tmp_path):
    saved = content(finished, "last")
    del saved["callbacks"]["finetune"]
    torch.save(saved, tmp_path / "last.ckpt")
    with pytest.raises(RequestError, match="has no progress of a schedule"):
        resume(tmp_path / "last.ckpt")


def test_a_run_that_goes_on_elsewhere_knows_its_past(finished, tmp_path):
    out = tmp_path / "new"
    last = finished / "checkpoints/last.ckpt"
    assert run([f"ckpt={last}", "trainer.max_epochs=4"], out) == 0
    assert [row["epoch"] for row in rows(out)] == ["0", "1", "2", "3"]
    assert rows(out)[:3] == rows(finished)
    phases = json.loads((out / "phases.json").read_text())
    assert [phase["best"] for phase in phases] == pytest.approx([0.3, 0.4])


def test_a_checkpoint_of_another_version_is_refused_by_name(finished, tmp_path):
    saved = content(finished, "last")
    del saved["detector"]["config"]["trainer"]["accelerator"]
    torch.save(saved, tmp_path / "last.ckpt")
    said = (
        r"ckpt=.*last\.ckpt: made by another version of detector \(trainer\.accelerator: missing\)"
    )
    with pytest.raises(RequestError, match=said):
        resume(tmp_path / "last.ckpt")


def test_ctrl_c_between_the_line_of_an_epoch_and_its_checkpoint_waits_for_it(tmp_path):
    run = RunFolder(tmp_path)
    run.checkpoints.mkdir()
    rows = SimpleNamespace(end_epoch=lambda trainer: signal.raise_signal(signal.SIGINT))
    tuning = SimpleNamespace(progress=SimpleNamespace(best_epoch=0))
    trainer = SimpleNamespace(
        is_global_zero=True, current_epoch=0, save_checkpoint=lambda file: file.touch()
    )
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            RunCheckpoints(tuning, run, rows).on_train_epoch_end(trainer, None)
    finally:
        signal.signal(signal.SIGINT, before)
    assert run.last_checkpoint.is_file()
    assert run.best_checkpoint.is_file()


def test_a_link_to_itself_leaves_nothing_behind(tmp_path):
    file, copy = tmp_path / "last.ckpt", tmp_path / "best.ckpt"
    file.write_text("weights")
    for _ in range(2):
        link_or_copy(file, copy)
        assert copy.read_text() == "weights"
    assert {f.name for f in tmp_path.iterdir()} == {"last.ckpt", "best.ckpt"}


def test_checkpoints_are_copied_where_there_are_no_links(tmp_path, monkeypatch):
    def no_links(self, target):
        raise OSError("no links here")

    monkeypatch.setattr("pathlib.Path.hardlink_to", no_links)
    (tmp_path / "last.ckpt").write_text("weights")
    link_or_copy(tmp_path / "last.ckpt", tmp_path / "best.ckpt")
    assert not (tmp_path / "best.ckpt").samefile(tmp_path / "last.ckpt")
    assert (tmp_path / "best.ckpt").read_text() == "weights"
