"""A run's folder: never one with an earlier run's results, never two processes at once."""

import subprocess
import sys

import pytest

from detector.cli import call, load_command
from detector.core.errors import RequestError
from detector.core.run_folder import File, RunFolder
from detector.pipeline.command import Outcome

RESULTS = ("checkpoints/last.ckpt", "checkpoints/best.ckpt", "metrics.json")
RESULTS += ("predictions.json", "check.json")


def write(file):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("{}")


@pytest.fixture
def idle(monkeypatch):
    """All commands find every request good and do nothing."""
    for name in ("train", "predict"):
        command = load_command(name)
        monkeypatch.setattr(command, "prepare", lambda cfg: cfg)
        monkeypatch.setattr(command, "run", lambda prepared, folder: Outcome(None))


def refuse(run, command, ckpt=None):
    with pytest.raises(RequestError, match="has the results of an earlier run") as refusal:
        run.check_unused(command, "hydra.run.dir", ckpt)
    return str(refusal.value)


@pytest.mark.parametrize("result", RESULTS)
@pytest.mark.parametrize("command", ["train", "evaluate", "predict", "check", "other"])
def test_a_new_run_is_refused_where_an_earlier_one_left_results(tmp_path, command, result):
    run = RunFolder(tmp_path / "run")
    write(run.path / result)
    if command == "check" and result == "check.json":
        run.check_unused(command, "hydra.run.dir", None)
        return
    said = refuse(run, command)
    assert said.startswith(f"hydra.run.dir={run}: has the results of an earlier run ({result})")
    assert (f"ckpt={run} continues it" in said) == (command == "train" and "ckpt" in result)


def test_a_file_of_another_command_is_protected_by_its_attribute_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(RunFolder, "exported", File("a.onnx", result_of="export"), raising=False)
    run = RunFolder(tmp_path)
    assert run.exported == tmp_path / "a.onnx"
    write(run.exported)
    assert "(a.onnx)" in refuse(run, "predict")


def test_a_folder_without_results_can_be_used_again(tmp_path):
    run = RunFolder(tmp_path)
    write(tmp_path / "train.log")  # of a run that ended before its first epoch did
    write(run.splits)
    write(run.metrics_csv)  # is written before the epoch's checkpoint
    run.check_unused("train", "hydra.run.dir", None)


def test_a_training_continues_in_its_own_folder_and_in_no_other_runs(tmp_path):
    a, b = RunFolder(tmp_path / "a"), RunFolder(tmp_path / "b")
    for run in (a, b):
        write(run.last_checkpoint)
        write(run.best_checkpoint)
    for ckpt in (a, a.last_checkpoint):
        a.check_unused("train", "hydra.run.dir", str(ckpt))
    for ckpt in (b, a.best_checkpoint, tmp_path / "missing"):  # epochs would be lost
        assert "continues it" not in refuse(a, "train", str(ckpt))
    refuse(a, "evaluate", str(a))


def test_a_command_called_in_the_process_refuses_a_used_folder_too(tmp_path, idle):
    write(tmp_path / "metrics.json")
    with pytest.raises(RequestError, match="earlier run"):
        call("train", [], tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.json"]


def test_a_folder_that_is_taken_gets_a_number(tmp_path):
    wanted = tmp_path / "outputs" / "today"
    made = [RunFolder.create(wanted).path for _ in range(3)]
    assert made == [wanted, wanted.with_name("today_2"), wanted.with_name("today_3")]
    assert all(folder.is_dir() for folder in made)


def test_a_checkpoint_knows_its_run_and_what_lies_beside_it(tmp_path):
    run = RunFolder(tmp_path)
    assert RunFolder.of_checkpoint(run.last_checkpoint) == run
    assert RunFolder.best_checkpoint.beside(tmp_path / "copy.ckpt") == tmp_path / "best.ckpt"


def test_results_of_an_evaluation_are_replaced_together(tmp_path):
    run = RunFolder(tmp_path)
    for file in (run.metrics_json, run.analysis, run.detections_json, run.metrics_csv):
        write(file)
    with run.replace() as draft:
        write(draft.metrics_json)
        write(draft.report)
        assert run.analysis.exists()  # nothing has changed so far
    left = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert left == {"metrics.json", "report/index.html", "metrics.csv"}


def test_an_interrupted_evaluation_leaves_the_older_results(tmp_path):
    run = RunFolder(tmp_path)
    write(run.metrics_json)

    def evaluate():
        with run.replace() as draft:
            draft.metrics_json.write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate()
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.json"]
    assert run.metrics_json.read_text() == "{}"


def test_a_folder_in_the_place_of_a_result_is_refused(tmp_path):
    run = RunFolder(tmp_path)
    run.check_replaceable("hydra.run.dir")
    run.metrics_json.mkdir()
    with pytest.raises(RequestError, match=r"metrics\.json is in the way of the results$"):
        run.check_replaceable("hydra.run.dir")
    run.metrics_json.rmdir()
    (tmp_path / "report").touch()
    with pytest.raises(RequestError, match=r"report is in the way of the results$"):
        run.check_replaceable("hydra.run.dir")


HOLD = """
import sys
from pathlib import Path
from detector.core.run_folder import RunFolder
with RunFolder(Path(sys.argv[1])).locked("hydra.run.dir"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_folder_is_one_processs_until_that_ends_however_it_ends(tmp_path):
    run = RunFolder(tmp_path)
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as other:  # type: ignore[call-overload]
        assert other.stdout.read(4) == b"held"
        with pytest.raises(RequestError, match="another process is writing into it"):
            run.claim("hydra.run.dir")
        other.kill()
    with run.locked("a"), run.locked("a"):
        pass


def test_processes_of_one_training_share_its_folder(tmp_path, monkeypatch, idle):
    write(tmp_path / "metrics.json")
    monkeypatch.setenv("LOCAL_RANK", "1")
    call("train", [], tmp_path)
    assert not RunFolder(tmp_path).lock.exists()
    # Processes that predict are runs of their own.
    with pytest.raises(RequestError, match="earlier run"):
        call("predict", [], tmp_path)
