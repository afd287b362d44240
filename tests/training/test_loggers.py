"""What reaches the log of a run, read back from it; what is refused before."""

import csv
import importlib.util
import json
import math
import shutil
import subprocess
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from conftest import TINY, random_split, write_voc
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.utilities import rank_zero_only

from detector import cli
from detector.config.resolve import resolve
from detector.core.errors import RequestError
from detector.core.run_folder import RunFolder
from detector.training.loggers import LOGGERS, MLflow, RunLogger, Wandb, build_logger

LOGGED = [*TINY, "logger=tensorboard"]
PHASES = (
    "finetune.phases=[{name: heads, train: [neck, head], until: {max_epochs: 2}},"
    "{name: top, train: [layer4, neck, head], until: {max_epochs: 1}}]"
)


def call(name, *overrides, out):
    HydraConfig.instance().cfg = None
    return cli.call(name, overrides, out)[0].result


def settings(*overrides, command="train"):
    """The options of the logger that a request has."""
    HydraConfig.instance().cfg = None
    cfg = cli.compose(command, overrides)
    return resolve(cli.load_command(command).KEYS, cfg, resume=command == "train").logger


def read_log(out):
    """A run's event files, as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = EventAccumulator(str(out / "tensorboard"), {"scalars": 0, "images": 0})
    return log.Reload()


def points(log, name):
    return [(event.step, event.value) for event in log.Scalars(name)]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Six training images: three steps an epoch."""
    splits = {"train": random_split("train", 6, 0), "val": random_split("val", 2, 1)}
    folder = tmp_path_factory.mktemp("data") / "voc"
    return write_voc(folder, {**splits, "test": random_split("test", 2, 2)})


@pytest.fixture(scope="module")
def run(root, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "out"
    call("train", *LOGGED, PHASES, f"data.root={root}", out=out)
    return out


def rows(out):
    with (out / "metrics.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_event_files_hold_the_numbers_of_metrics_csv(run):
    log, table = read_log(run), rows(run)
    columns = [name for name in table[0] if name != "phase"]
    assert {"train/loss", "val/map", "lr/layer4", "seconds_validation"} <= set(columns)
    for name in columns:
        numbers = [(3 * (i + 1), float(row[name])) for i, row in enumerate(table)]
        numbers = [(step, value) for step, value in numbers if math.isfinite(value)]
        found = points(log, name) if name in log.Tags()["scalars"] else []
        assert found == [(step, pytest.approx(value, rel=1e-6)) for step, value in numbers], name


def test_the_log_says_the_phase_and_the_share_of_validation(run):
    log = read_log(run)
    assert points(log, "phase") == [(3, 0), (6, 0), (9, 1)]
    assert all(0 < share < 1 for _, share in points(log, "validation_share"))


def test_the_final_figures_are_those_of_metrics_json(run):
    log, content = read_log(run), json.loads((run / "metrics.json").read_text())
    expected = dict(content["coco"]) | {f"voc_{k}": v for k, v in content["voc"].items()}
    expected = {f"test/{k}": v for k, v in expected.items() if v is not None}
    found = {name for name in log.Tags()["scalars"] if name.startswith("test/")}
    assert found == set(expected)
    for name, value in expected.items():
        assert points(log, name) == [(9, pytest.approx(value, rel=1e-6))]


@pytest.mark.parametrize("name", ["detections", "schedule"])
def test_the_pictures_are_logged_in_their_colours(run, name):
    (event,) = read_log(run).Images(name)
    logged = cv2.imdecode(np.frombuffer(event.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(logged, cv2.imread(str(run / f"{name}.png")))


def test_where_there_is_no_test_split_final_figures_do_not_mix_with_the_epochs(root, tmp_path):
    out = tmp_path / "out"
    asked = [*LOGGED, f"data.root={root}", "data.splits.test=[]", "trainer.max_epochs=1"]
    call("train", *asked, out=out)
    assert len(points(read_log(out), "val/map")) == 1
    assert len(points(read_log(out), "best_val/map")) == 1


def test_an_epoch_that_is_repeated_after_a_kill_is_logged_once(root, tmp_path):
    from killable import run as run_killed

    out = tmp_path / "out"
    asked = [*LOGGED, PHASES, f"data.root={root}", "trainer.max_epochs=2"]
    assert run_killed(asked, out, ("decided, not saved", 1)) != 0
    assert [step for step, _ in points(read_log(out), "train/loss")] == [3, 6]
    assert run_killed([f"ckpt={out}"], out) == 0
    log = read_log(out)
    assert points(log, "epoch") == [(3, 0), (6, 1)]
    losses = [float(row["train/loss"]) for row in rows(out)]
    assert [value for _, value in points(log, "train/loss")] == pytest.approx(losses, rel=1e-6)


def test_a_new_run_in_an_old_folder_voids_the_old_log(tmp_path):
    for steps in ((3, 6), (3,)):
        logger = build_logger(settings(), RunFolder(tmp_path))
        with logger.opened({}):
            for step in steps:
                logger.log_results({"loss": 0.5}, {}, step)
    assert [step for step, _ in points(read_log(tmp_path), "loss")] == [3]


def test_without_a_logger_metrics_csv_is_written_and_no_log(root, tmp_path):
    asked = [*LOGGED, f"data.root={root}", "logger=none", "trainer.max_epochs=1"]
    call("train", *asked, out=tmp_path / "out")
    assert len(rows(tmp_path / "out")) == 1
    assert not (tmp_path / "out/tensorboard").exists()


def test_evaluate_logs_its_figures_at_the_step_of_the_weights(run, tmp_path):
    scores = call("evaluate", f"ckpt={run}", "split=val", out=tmp_path / "e")
    best = torch.load(run / "checkpoints/best.ckpt", weights_only=True)["global_step"]
    log = read_log(tmp_path / "e")
    assert points(log, "val/map") == [(best, pytest.approx(scores["map"], rel=1e-6))]
    assert len(log.Images("detections")) == 1


def test_of_several_processes_only_the_first_has_a_logger(tmp_path, monkeypatch):
    assert build_logger(settings(), RunFolder(tmp_path)).lightning is not None
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    assert build_logger(settings(), RunFolder(tmp_path)).lightning is None


def test_every_logger_that_a_configuration_may_name_is_a_row():
    for name in LOGGERS:
        assert settings(f"logger={name}").name == name


@pytest.mark.parametrize("name", ["wandb", "mlflow", "tensorboard"])
def test_a_logger_that_is_not_installed_is_refused_by_name(root, tmp_path, monkeypatch, name):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    said = f"^logger={name} needs the package {name}: pip install {name}$"
    with pytest.raises(RequestError, match=said):
        call("train", *LOGGED, f"data.root={root}", f"logger={name}", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_logger_needs_no_package(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    RunLogger.check(settings("logger=none"))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["logger.name=csv"], "logger.name=csv: expected one of tensorboard, wandb, mlflow, none"),
        (["logger=wandb", "logger.project=a/b"], r"logger.project=a/b: expected a name without /"),
        (["logger=mlflow", "logger.project=' '"], r"logger.project= : expected a name"),
        (["logger=mlflow", "logger.uri=''"], r"logger.uri=: expected null or some text"),
    ],
)
def test_what_a_logger_cannot_be_told_is_refused(overrides, said):
    with pytest.raises(RequestError, match=said):
        settings(*overrides)


@pytest.mark.parametrize("logged_in", [False, True])
def test_wandb_without_a_login_is_refused_unless_it_is_offline(monkeypatch, logged_in):
    def login(prompt, verify):
        assert not prompt
        return logged_in

    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(login=login))
    Wandb.check(settings("logger=wandb", "logger.offline=true"))
    if logged_in:
        Wandb.check(settings("logger=wandb"))
    else:
        with pytest.raises(RequestError, match=r"nobody is logged in; .* logger\.offline=true"):
            Wandb.check(settings("logger=wandb"))


def test_a_version_of_wandb_that_asks_by_itself_is_left_to_it(monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    older = SimpleNamespace(login=lambda anonymous=None: False)  # cannot be told not to ask
    monkeypatch.setitem(sys.modules, "wandb", older)
    Wandb.check(settings("logger=wandb"))


def changed_checkpoint(run, folder, change):
    """A copy of a run's last checkpoint with another configuration."""
    content = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    change(content["detector"]["config"])
    torch.save(content, folder / "last.ckpt")
    shutil.copyfile(run / "checkpoints/best.ckpt", folder / "best.ckpt")
    return folder / "last.ckpt"


def test_a_run_goes_on_with_its_logger_and_is_evaluated_with_the_usual_one(run, tmp_path):
    def with_wandb(saved):
        saved["logger"] = {"name": "wandb", "project": "trees"}

    path = changed_checkpoint(run, tmp_path, with_wandb)
    resumed = settings(f"ckpt={path}")
    assert (resumed.name, resumed.project) == ("wandb", "trees")
    assert settings(f"ckpt={path}", command="evaluate").name == "tensorboard"
    assert settings(f"ckpt={path}", "logger=none", command="evaluate").name == "none"


def test_a_checkpoint_from_before_there_were_loggers_goes_on_without(run, tmp_path):
    path = changed_checkpoint(run, tmp_path, lambda saved: saved.pop("logger"))
    assert settings(f"ckpt={path}").name == "none"


def test_nothing_that_checks_a_request_imports_a_logger():
    program = (
        "import sys, detector.train, detector.evaluate, detector.training.loggers;"
        "print({'tensorboard', 'lightning', 'torch'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.stdout == "set()\n", ran.stderr


class Recorder:
    """In place of Lightning's loggers and their clients: records what would be sent."""

    run_id, id, offline = "0f0f", "abc123", True

    def __init__(self, params=None):
        self.calls = []
        self.experiment = self
        self.params = params

    def log_metrics(self, metrics, step):
        self.calls.append((step, metrics))

    def log_hyperparams(self, params):
        self.calls.append(params)

    def finalize(self, status):
        self.calls.append(status)

    def save(self):
        self.calls.append("saved")

    def log_image(self, *given, **named):
        self.calls.append((given, named))

    def get_run(self, run_id):
        return SimpleNamespace(data=SimpleNamespace(params=self.params))

    def update_run(self, run_id, status):
        self.calls.append((run_id, status))


@pytest.fixture
def record(tmp_path, monkeypatch):
    """A logger that writes to a `Recorder`."""
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(run=None))

    def make(kind, params=None):
        recorder = Recorder(params)
        monkeypatch.setattr(kind, "_build", lambda self, step: recorder)
        return kind(settings(f"logger={kind.name}"), RunFolder(tmp_path)), recorder.calls

    return make


IMAGE = np.zeros((4, 5, 3), np.uint8)


@pytest.mark.parametrize(
    ("kind", "logged"),
    [
        (Wandb, (("picture", [IMAGE], 7), {})),
        (MLflow, (("0f0f", IMAGE), {"key": "picture", "step": 7})),
    ],
)
def test_every_logger_gets_finite_scores_and_pictures_with_their_step(record, kind, logged):
    logger, calls = record(kind)
    logger.log_results({"test/map": 0.5, "test/map_small": math.nan}, {"picture": IMAGE}, 7)
    assert calls == [(7, {"test/map": 0.5}), logged, "saved"]


@pytest.mark.parametrize(("kind", "run_id"), [(Wandb, "abc123"), (MLflow, "0f0f")])
def test_a_log_begins_with_the_configuration_and_keeps_its_id_for_a_resume(
    record, tmp_path, kind, run_id
):
    logger, calls = record(kind)
    with logger.opened({"seed": 5}):
        calls.append("work")
    assert calls == [{"seed": 5}, "work", "success"]
    assert (tmp_path / kind.name / "run_id").read_text() == f"{run_id}\n"


def test_mlflows_parameters_are_logged_once_because_they_cannot_change(record):
    logger, calls = record(MLflow, params={"seed": "0"})
    with logger.opened({"seed": 5}):
        pass
    assert calls == [("0f0f", "RUNNING"), "success"]


def test_a_log_ends_as_failed_where_its_run_does(record):
    logger, calls = record(MLflow)
    with pytest.raises(KeyboardInterrupt), logger.opened({}):
        raise KeyboardInterrupt
    assert calls[-1] == "failed"


@pytest.mark.parametrize(("error", "code"), [(None, 0), (KeyboardInterrupt, 1)])
def test_wandbs_log_is_finished_so_that_the_next_run_has_its_own(record, monkeypatch, error, code):
    codes = []
    client = SimpleNamespace(run="open", finish=lambda exit_code: codes.append(exit_code))
    logger, _ = record(Wandb)
    monkeypatch.setitem(sys.modules, "wandb", client)
    with pytest.raises(error) if error else nullcontext(), logger.opened({}):
        if error:
            raise error
    assert codes == [code]


@pytest.fixture
def built(monkeypatch):
    """What Lightning's loggers are built with."""
    for name in ("WandbLogger", "MLFlowLogger"):
        monkeypatch.setattr(f"lightning.pytorch.loggers.{name}", lambda **named: named)
    monkeypatch.setitem(sys.modules, "mlflow", json)
    return lambda *overrides, run, step=0: build_logger(settings(*overrides), run, step).lightning


@pytest.mark.parametrize(
    ("step", "expected"), [(0, None), (6, "abc123")], ids=["a new run", "a resumed run"]
)
@pytest.mark.parametrize(("name", "key"), [("wandb", "id"), ("mlflow", "run_id")])
def test_only_a_resumed_run_continues_the_log_of_its_folder(
    tmp_path, built, name, key, step, expected
):
    (tmp_path / name).mkdir()
    (tmp_path / name / "run_id").write_text("abc123\n")
    assert built(f"logger={name}", run=RunFolder(tmp_path), step=step)[key] == expected


def test_mlflow_writes_into_the_runs_folder_unless_it_is_told_where(tmp_path, built):
    folder = tmp_path / "trees" / "0"
    own = built("logger=mlflow", run=RunFolder(folder))
    assert own["tracking_uri"] == f"sqlite:///{folder}/mlflow/mlflow.db"
    assert own["artifact_location"] == f"file://{folder}/mlflow/artifacts"
    assert own["run_name"] == "trees/0"
    overrides = ["logger=mlflow", "logger.uri=http://host:5000", "logger.run=first"]
    told = built(*overrides, run=RunFolder(folder))
    assert (told["tracking_uri"], told["artifact_location"]) == ("http://host:5000", None)
    assert told["run_name"] == "first"
