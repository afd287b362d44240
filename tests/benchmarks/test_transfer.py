"""The comparison of schedules, without training: made-up runs and results."""

import dataclasses
import json
import shlex
import sys
from pathlib import Path

import pytest
import training_runs
import transfer
from conftest import resolved
from transfer import Result, Run

from detector.cli import compose
from detector.config.schedules import read_schedule


def result(data="trees", schedule="staged", seed=0, **values):
    """A result with the given values."""
    known = {
        "split": "test",
        "map": 0.2,
        "ap50": 0.5,
        "val_map": 0.25,
        "epochs": 10,
        "seconds": 100.0,
        "wall_seconds": 120.0,
        "peak_bytes": 2**30,
        "command": "typed",
        "day": "2026-01-02",
    }
    return Result(data, schedule, seed, **{**known, **values})


def schedule_of(overrides):
    return read_schedule(resolved("train", compose("train", overrides)))


def write_run(folder, ap50=0.5, scores=(0.1, 0.3, 0.2)):
    """The files of a finished run."""
    folder.mkdir(parents=True, exist_ok=True)
    coco = {"map": ap50 / 2, "map_50": ap50}
    metrics = {"split": "test", "coco": coco, "seconds": {"train": 80.5, "evaluate": 3}}
    rows = [f"{i},{score}" for i, score in enumerate(scores)]
    (folder / "metrics.csv").write_text("\n".join(["epoch,val/map", *rows, ""]))
    (folder / "metrics.json").write_text(json.dumps(metrics))


@pytest.fixture
def bench(monkeypatch, tmp_path):
    """The command on `trees` alone, with processes that only write what a run would."""

    class Bench:
        def __init__(self):
            self.out = tmp_path / "out"
            self.commands = []
            self.codes = {}  # by the name of a run; 0 where there is none

        def run(self, *arguments):
            return transfer.main([*arguments, "--out", str(self.out)])

        def results(self):
            entries = json.loads((self.out / "results.json").read_text())
            return {f"{e['data']}-{e['schedule']}-{e['seed']}": e for e in entries}

        def process(self, command, log):
            self.commands.append(command)
            folder = Path(command[-1].split("=", 1)[1])
            code = self.codes.get(folder.name, 0)
            if code == 130:
                raise KeyboardInterrupt
            if not code:
                write_run(folder)
            return code, 3 * 2**20

    bench = Bench()
    monkeypatch.setattr(training_runs, "run_process", bench.process)
    monkeypatch.setattr(transfer, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(transfer, "PICTURE", tmp_path / "picture.png")
    transfer.PAGE.write_text(f"Before.\n\n{transfer.START}\n{transfer.END}\n\nAfter.\n")
    return bench


@pytest.mark.parametrize("epochs", [4, 10, 20, 30])
@pytest.mark.parametrize("name", transfer.SCHEDULES)
def test_every_schedule_has_the_epochs_asked_for(name, epochs):
    schedule = schedule_of(["+experiment=trees", *training_runs.equal_epochs(name, epochs)])
    assert schedule.epochs == epochs
    # Of phases that last as long as they may.
    done = 0
    for phase in range(len(schedule.phases)):
        if done < schedule.epochs:
            done += schedule.length(phase, done)
    assert done == epochs


def test_a_short_schedule_has_its_last_phase_lengthened_and_a_long_one_is_left_as_it_is():
    twenty = schedule_of(["+experiment=trees", *training_runs.equal_epochs("staged", 20)])
    assert [p.max_epochs for p in twenty.phases] == [2, 2, 16]
    four = training_runs.equal_epochs("staged", 4)
    assert four == ["finetune=staged", "trainer.max_epochs=4"]
    # Six phases: 30 epochs need 5 of each.
    assert training_runs.equal_epochs("auto", 30)[2:] == ["finetune.auto.max_epochs=5"]


def test_runs_are_ordered_by_seed_then_data_set_then_schedule(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "a").mkdir()
    runs = transfer.plan([tmp_path / "b", tmp_path / "a"], 7, [3, 1])
    assert len(runs) == 2 * 3 * 5
    assert [r.name for r in runs[:6]] == [
        *("trees-scratch-3", "trees-feature_extraction-3", "trees-staged-3", "trees-auto-3"),
        *("trees-full-3", "b-scratch-3"),
    ]
    assert runs[10].name == "a-scratch-3"
    assert runs[15].name == "trees-scratch-1"
    assert runs[10].root == (tmp_path / "a").resolve()
    assert {r.epochs for r in runs} == {7}


def test_folders_and_numbers_that_cannot_be_meant_are_refused(tmp_path, capsys):
    for name in ("x/same", "y/same", "trees"):
        (tmp_path / name).mkdir(parents=True)
    for arguments, said in (
        ([str(tmp_path / "none")], "no such folder"),
        ([str(tmp_path / "x/same"), str(tmp_path / "y/same")], "already a data set called same"),
        ([str(tmp_path / "trees")], "already a data set called trees"),
        (["--epochs", "0"], "--epochs 0"),
        (["--seeds", "1", "1"], "--seeds 1 1"),
    ):
        assert transfer.main([*arguments, "--out", str(tmp_path / "out")]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_run_is_typed_as_it_is_meant_also_with_an_odd_folder():
    root = Path("/data/it's, a {set}=1 #2")
    run = Run(root.name, root, "scratch", 4, 20)
    config = resolved("train", compose("train", run.overrides()))
    assert config.data.root == str(root)
    assert config.name == root.name
    assert config.data.on_bad == "skip"
    assert (config.model.weights, config.finetune.norm) == ("none", "train")
    assert (config.seed, config.trainer.max_epochs) == (4, 20)
    assert config.backbone.name == "efficientnet_lite0"
    assert read_schedule(config).epochs == 20


def test_only_scratch_starts_from_random_weights():
    for schedule in transfer.SCHEDULES:
        typed = Run("trees", None, schedule, 0, 10).overrides()
        assert ("model.weights=none" in typed) == (schedule == "scratch")
        assert typed[0] == "+experiment=trees"


def test_an_unfinished_run_goes_on_from_its_last_epoch(tmp_path):
    run = Run("trees", None, "full", 2, 10)
    assert training_runs.command_of(run, tmp_path)[-2:] == ["seed=2", f"hydra.run.dir={tmp_path}"]
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    assert training_runs.command_of(run, tmp_path) == [
        "python",
        "-m",
        "detector.train",
        f"ckpt={tmp_path}",
    ]


def test_a_finished_run_is_not_repeated_and_its_result_kept(bench, capsys):
    write_run(bench.out / "trees-staged-0", ap50=0.4)
    assert bench.run("--seeds", "0") == 0
    done = [Path(c[-1].split("=", 1)[1]).name for c in bench.commands]
    assert done == [f"trees-{s}-0" for s in transfer.SCHEDULES if s != "staged"]
    results = bench.results()
    assert set(results) == {f"trees-{s}-0" for s in transfer.SCHEDULES}
    assert results["trees-staged-0"]["ap50"] == 0.4
    assert results["trees-staged-0"]["peak_bytes"] is None
    full = results["trees-full-0"]
    assert full["peak_bytes"] == 3 * 2**20
    assert full["command"] == shlex.join(bench.commands[-1])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("[1/4] trees-scratch-0: test mAP 0.250, AP50 0.500, best val/map")
    # One that took 80.5 s and one that took none: 40 s for each of three.
    assert lines[0].endswith("3 left, about 2 min")
    bench.commands.clear()
    assert bench.run("--seeds", "0") == 0
    assert not bench.commands
    assert bench.results() == results


def test_results_are_written_as_each_run_ends_and_an_interruption_says_how_to_go_on(bench, capsys):
    bench.codes["trees-staged-0"] = 130
    assert bench.run("--seeds", "0", "--epochs", "12") == 130
    assert set(bench.results()) == {"trees-scratch-0", "trees-feature_extraction-0"}
    last = capsys.readouterr().out.splitlines()[-1]
    command = f"python benchmarks/transfer.py --seeds 0 --epochs 12 --out {bench.out}"
    assert last == f"to go on: {command}"
    bench.codes.clear()
    assert bench.run("--seeds", "0", "--epochs", "12") == 0
    assert len(bench.results()) == 5


def test_a_run_that_fails_is_said_and_the_others_go_on(bench, capsys):
    bench.codes["trees-auto-0"] = 1
    assert bench.run("--seeds", "0") == 1
    assert set(bench.results()) == {f"trees-{s}-0" for s in transfer.SCHEDULES if s != "auto"}
    said = capsys.readouterr().out
    assert "trees-auto-0: failed with exit code 1, see" in said
    assert "| `auto`" not in said


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("trainer: {max_epochs: 9}\ndata: {root: null}\n", "trainer.max_epochs=9"),
        ("trainer: {max_epochs: 10}\ndata: {root: /other}\n", "data.root=/other"),
    ],
)
def test_a_folder_with_another_run_is_refused(bench, capsys, config, said):
    folder = bench.out / "trees-staged-0"
    write_run(folder)
    (folder / "config.yaml").write_text(config)
    assert bench.run() == 2
    assert said in capsys.readouterr().err
    assert not bench.commands
    (folder / "config.yaml").write_text("trainer: {max_epochs: 10}\ndata: {root: null}\n")
    assert bench.run("--seeds", "0") == 0


@pytest.mark.parametrize("content", ["{bad", "3", '[{"data": 1}]'])
def test_a_file_that_holds_no_results_is_refused_and_left(bench, capsys, content):
    bench.out.mkdir()
    (bench.out / "results.json").write_text(content)
    assert bench.run() == 2
    assert "not a file of results" in capsys.readouterr().err
    assert (bench.out / "results.json").read_text() == content


def test_a_result_is_read_from_the_runs_files(tmp_path):
    write_run(tmp_path, ap50=0.6, scores=(0.1, 0.31, "nan", 0.2))
    run = Run("trees", None, "auto", 1, 10)
    found = training_runs.read_result(run, tmp_path, 99.0, 7, "typed")
    expected = result(
        schedule="auto",
        seed=1,
        map=0.3,
        ap50=0.6,
        val_map=0.31,
        epochs=4,
        seconds=80.5,
        wall_seconds=99.0,
        peak_bytes=7,
    )
    assert dataclasses.replace(found, day=expected.day) == expected


def test_a_table_has_mean_and_extremes_least_seconds_and_the_largest_peak():
    results = [
        result(seed=0, map=0.1, ap50=0.4, seconds=90.0, peak_bytes=2**30, val_map=0.2),
        result(seed=1, map=0.2, ap50=0.5, seconds=200.0, peak_bytes=2**30 + 2**20, val_map=0.3),
        result(seed=2, map=0.6, ap50=0.9, seconds=110.0, peak_bytes=None, val_map=0.4, epochs=8),
        result(schedule="full", peak_bytes=None),
        result(data="other", split="val"),
    ]
    first, second = transfer.tables(results).split("\n\n")
    assert first.splitlines()[0].startswith("| trees | seeds | test mAP")
    assert first.splitlines()[2:] == [
        "| `staged` | 0, 1, 2 | 0.300 (0.100-0.600) | 0.600 (0.400-0.900) | 0.300 | 8-10 | 90 "
        "| 1025 MiB |",
        "| `full` | 0 | 0.200 (0.200-0.200) | 0.500 (0.500-0.500) | 0.250 | 10 | 100 |  |",
    ]
    assert second.splitlines()[0].startswith("| other | seeds | val mAP")
    assert len(second.splitlines()) == 3


def test_the_time_left_is_what_runs_of_the_same_data_took():
    rest = [Run(name, None, "full", 0, 10) for name in ("trees", "trees", "new")]
    done = [
        result(wall_seconds=100.0),
        result(wall_seconds=None, seconds=200.0),
        result(data="other", wall_seconds=600.0),
    ]
    # Trees took 150 on average, and all together (100 + 200 + 600) / 3 = 300.
    assert training_runs.time_left(rest, done) == 150 + 150 + 300


def test_a_process_gives_its_exit_code_peak_memory_and_output(tmp_path):
    log = tmp_path / "log"
    for code in (0, 3):
        script = f"import sys; print('said {code}'); sys.exit({code})"
        found, peak = training_runs.run_process(["python", "-c", script], log)
        assert found == code
        assert 4 * 2**20 < peak < 2**40  # bytes, not KiB
    assert log.read_text() == "said 0\nsaid 3\n"


def test_a_process_that_was_interrupted_interrupts(tmp_path):
    script = "import sys; sys.exit(130)"
    with pytest.raises(KeyboardInterrupt):
        training_runs.run_process(["python", "-c", script], tmp_path / "log")


def test_the_page_and_the_picture_are_written_when_asked_for(bench):
    page = transfer.PAGE.read_text()
    assert bench.run("--seeds", "0") == 0
    assert transfer.PAGE.read_text() == page
    assert bench.run("--seeds", "0", "--report") == 0
    text = transfer.PAGE.read_text()
    assert text.startswith("Before.\n")
    assert text.endswith("After.\n")
    assert "| `scratch` | 0 | 0.250 (0.250-0.250) |" in text
    assert "10 epochs a run" in text
    assert "](picture.png)" in text
    assert transfer.PICTURE.read_bytes().startswith(b"\x89PNG")


def test_the_real_page_has_the_markers():
    root = Path(sys.modules["transfer"].__file__).parents[1]
    text = (root / "docs" / "transfer.md").read_text(encoding="utf-8")
    assert text.index(transfer.START) < text.index(transfer.END)
