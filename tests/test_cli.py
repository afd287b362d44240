"""Wrong requests: one line, exit code 2, before torch is imported or a file made."""

import json
import os
import pwd
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest
import torch
from commands import RUN, refused, run_script
from conftest import write_xml
from hydra.errors import HydraException, MissingConfigException

from detector import cli
from detector.cli import compose, output_folder_of
from detector.config.explain import explain_hydra
from detector.config.schema import command_names
from detector.core.errors import RequestError
from detector.core.version import __version__
from detector.data.formats.paths import cache_folder


@pytest.fixture
def cwd(tmp_path):
    folder = tmp_path / "cwd"
    folder.mkdir()
    return folder


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("trainer.max_epoch=3", "trainer.max_epoch: no such key; did you mean trainer.max_epochs?"),
        ("experiment=trees", "experiment: this group is added, with a plus: +experiment=NAME"),
        ("model.anchor_scales=8", "model.anchor_scales=8: expected a list of at least one"),
        ("trainer.max_epochs=0", "trainer.max_epochs=0: expected null or at least 1"),
        ("nonsense=3", "nonsense: no such key (see python -m detector.train --help)"),
        (
            "data=vocc",
            "data=vocc: no such choice; did you mean voc? there are auto, coco, trees, voc, yolo",
        ),
        ("+experiment=tree", "experiment=tree: no such choice; did you mean trees?"),
        ("seed=many", "seed=many: expected a whole number, 0..4294967295"),
        ("name=../../zz", "name=../../zz: expected the name of one folder"),
        ("name=", "name=: expected the name of one folder"),
        ("name=..", "name=..: expected the name of one folder"),
        ("data.classes=a,b", "data.classes=a,b: a list needs brackets, such as data.classes=[a,b]"),
        ("data.root=my, data", "quotes of its own, such as \"data.root='my, data'\"; with -m"),
        ("model.in_channels=2", "model.in_channels=2: expected 1 (grey), 3 (RGB) or 4 (RGB"),
        ("optim.lr=-1", "optim.lr=-1: expected a number above 0"),
        ("backbone.name=resnet51", "backbone.name=resnet51: expected one of alexnet, zfnet, "),
        ("model.weights=coc", "model.weights=coc: no such file; expected imagenet, coco, none, or"),
        ("model.weights=.", "model.weights=.: not the folder of a run: it has no /"),
        ("trainer.devices=none", "trainer.devices=none: expected auto or a number"),
        ("data.root=/no/such/place", "data.root=/no/such/place: no such folder"),
        ("seed=0", "data.root= is required: the folder of your images and annotations"),
        ("data.on_bad=ignore", "data.on_bad=ignore: expected one of error, skip"),
        ("data.cache=disc", "data.cache=disc: expected one of none, ram, disk"),
        ("data.auto_split.val=0", "data.auto_split.val=0: expected 0 < x < 1"),
        ("data.auto_split.test=0.9", "data.auto_split.val+test=1.05: expected less than 1"),
        ("data.splits.train=[]", "data.splits.train=[]: expected null or a list of at least one"),
        ("data.repeat_threshold=2", "data.repeat_threshold=2: expected null or 0 < x <= 1"),
        ("data.stall_seconds=0", "data.stall_seconds=0: expected a number above 0"),
        (
            "+experiment=voc",
            "no VOCdevkit/VOC2007 in it; expected VOCdevkit/{VOC2007,VOC2012}/{Annotations,Im",
        ),
        ("seed=[", "no viable alternative at input '[': a value with spaces, commas, brackets"),
        ("data.root=~/no/such/place", "/no/such/place: no such folder"),
        ("data.root=(x)", "needs quotes of its own, such as \"data.root='my data'\""),
        ("data.root=", "data.root= is required"),
        ("data.classes=[]", "data.classes=[]: expected null, or every class once"),
        ("seed=99999999999999", "seed=99999999999999: expected 0..4294967295"),
    ],
)
def test_a_wrong_override_is_refused(cwd, override, said):
    assert said in refused("train", override, cwd=cwd)


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda root: (root / "Annotations/train0.xml").unlink(), "train0.xml: no such file"),
        (lambda root: (root / "JPEGImages/test1.jpg").unlink(), "test1.xml: no image of that"),
        (
            lambda root: [p.write_bytes(b"") for p in (root / "JPEGImages").iterdir()],
            "JPEGImages/train0.jpg: the file is empty (and 13 more errors); python -m",
        ),
        (lambda root: (root / "Annotations/val0.xml").write_text("<annotation"), "val0.xml: not a"),
        (
            lambda root: write_xml(root / "Annotations/val0.xml", [("cat", (1, 1, 9, 9))]),
            "val0.xml: object 1 (cat 1, 1, 9, 9): the class 'cat' is not among",
        ),
    ],
)
def test_broken_data_are_named(cwd, voc_root, break_it, said):
    break_it(voc_root)
    assert said in refused("train", f"data.root={voc_root}", cwd=cwd)


def test_a_group_that_the_network_has_not_is_refused(cwd, voc_root):
    phases = "finetune.phases=[{name: a, train: [hed], until: {max_epochs: 1}}]"
    line = refused("train", f"data.root={voc_root}", phases, cwd=cwd)
    assert line.startswith("finetune.phases[0].train: no group 'hed'; did you mean head")


@pytest.mark.parametrize("verb", ["train", "evaluate", "predict"])
def test_a_checkpoint_that_is_not_there_or_none_is_refused(cwd, tmp_path, verb):
    extra = ["source=."] if verb == "predict" else []
    text = tmp_path / "notes.ckpt"
    text.write_text("not a checkpoint")
    for value, said in [
        (tmp_path / "none.ckpt", "no such file or folder"),
        (text, "not a checkpoint"),
        (tmp_path, "not the folder of a run"),
    ]:
        assert said in refused(verb, f"ckpt={value}", *extra, cwd=cwd)


def test_a_file_of_something_else_is_no_checkpoint(cwd, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.ckpt", "w") as archive:
        archive.writestr("a", "b")
    torch.save({"state_dict": {}}, tmp_path / "b.ckpt")
    torch.save({"detector": {"config": {}, "classes": ["cat"]}}, tmp_path / "c.ckpt")
    for name in ("a", "b", "c"):
        line = refused("evaluate", f"ckpt={tmp_path / name}.ckpt", cwd=cwd, light=False)
        assert "not a checkpoint of" in line


class Touch:
    """Pickles to an instruction that makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_nothing_in_a_checkpoint_is_executed(cwd, tmp_path):
    trap = tmp_path / "executed"
    torch.save({"detector": Touch(trap)}, tmp_path / "a.ckpt")
    line = refused("evaluate", f"ckpt={tmp_path / 'a.ckpt'}", cwd=cwd, light=False)
    assert "not a checkpoint of plain weights" in line
    assert not trap.exists()


def test_nothing_in_a_file_of_weights_is_executed(cwd, tmp_path, voc_root):
    trap = tmp_path / "executed"
    torch.save({"a": Touch(trap)}, tmp_path / "a.pth")
    overrides = [f"data.root={voc_root}", f"model.weights={tmp_path}/a.pth"]
    line = refused("train", *overrides, cwd=cwd, light=False)
    assert line.startswith(f"model.weights={tmp_path}/a.pth: refused: reading it would run code")
    assert not trap.exists()


@pytest.mark.parametrize(
    ("verb", "typed", "said"),
    [
        ("train", ["trainer.max_epochs=0"], "trainer.max_epochs=0: expected null or at least 1"),
        ("predict", ["source=.", "score_threshold=2"], "score_threshold=2: expected null or 0..1"),
        ("predict", ["source=nowhere"], "source=nowhere: no such file or folder"),
        ("evaluate", ["compare=nowhere"], "compare=nowhere: no such file or folder"),
    ],
)
def test_what_is_wrong_without_a_checkpoint_is_refused_before_one_is_read(
    cwd, tmp_path, verb, typed, said
):
    torch.save({}, tmp_path / "any.ckpt")
    assert refused(verb, f"ckpt={tmp_path / 'any.ckpt'}", *typed, cwd=cwd) == said


def test_a_missing_required_key_is_named(cwd):
    assert refused("predict", "source=x", cwd=cwd).startswith("ckpt= is required")
    assert refused("predict", "ckpt=x", cwd=cwd).startswith("source= is required")
    assert refused("evaluate", cwd=cwd).startswith("ckpt= is required")


def test_a_sweep_is_checked_before_its_folder_is_made(cwd):
    assert "no such folder" in refused("train", "seed=0,1", "data.root=/no/where", "-m", cwd=cwd)
    line = refused("train", "-m", "data.root=/no/where", "lr=1,2", cwd=cwd)
    assert line == "lr: no such key; did you mean optim.lr=1,2?"


@pytest.mark.parametrize("verb", ["train", "evaluate", "predict", "check"])
def test_help_lists_groups_and_keys_without_importing_torch(cwd, verb):
    ended = run_script(RUN, verb, "--help", cwd=cwd)
    assert (ended.code, ended.torch) == (0, False)
    assert "alexnet, convnext_tiny, densenet121" in ended.stdout
    assert "hydra.run.dir" in ended.stdout
    assert list(cwd.iterdir()) == []


def test_a_folder_for_outputs_that_cannot_be_made_is_refused(cwd, voc_root):
    (voc_root / "taken").write_text("")
    line = refused("train", f"data.root={voc_root}", f"hydra.run.dir={voc_root}/taken/x", cwd=cwd)
    assert f"{voc_root}/taken is a file, expected a folder" in line
    line = refused("train", f"data.root={voc_root}", f"hydra.run.dir={'x' * 300}", cwd=cwd)
    assert line.endswith("x: cannot be written to (File name too long)")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("trainer.devices=999", "trainer.devices=999: this machine has"),
        ("augment.steps=[{name: Foo}]", "augment.steps[0]: 'Foo' is not a transform"),
    ],
)
def test_what_only_heavy_libraries_know_is_still_refused_before_a_folder(
    cwd, voc_root, override, said
):
    assert said in refused("train", f"data.root={voc_root}", override, cwd=cwd, light=False)


def test_outputs_go_to_a_new_folder_except_when_a_run_goes_on(tmp_path):
    assert re.fullmatch(
        r"outputs/voc/\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", output_folder_of("voc", None)
    )
    last = tmp_path / "checkpoints" / "last.ckpt"
    last.parent.mkdir()
    last.write_text("")
    assert output_folder_of("voc", str(tmp_path)) == str(tmp_path)
    assert output_folder_of("voc", str(last)) == str(tmp_path)
    assert output_folder_of("voc", str(last.with_name("best.ckpt"))).startswith("outputs/voc/")
    assert output_folder_of("evaluate", str(tmp_path)).startswith("outputs/evaluate/")


def test_a_key_that_the_schedule_has_not_says_how_it_is_added(cwd, voc_root):
    key = "finetune.phases.0.restore_best"
    line = refused("train", f"data.root={voc_root}", "finetune=staged", f"{key}=true", cwd=cwd)
    assert line.startswith(f"{key}: the schedule chosen has no such key")
    assert "is added with a plus, such as +finetune.phases.1.restore_best=true" in line
    more = "finetune.phases.2.until.max_epochs"
    line = refused("train", f"data.root={voc_root}", f"{more}=9", cwd=cwd)
    assert line.startswith(f"{more}: the schedule chosen has no such key")


def test_only_training_has_a_dry_run(cwd, voc_root):
    line = refused("check", f"data.root={voc_root}", "dry_run=true", cwd=cwd)
    assert line == "dry_run: no key of check, but of python -m detector.train"


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        # Before the sweep's own values are put in, there is no name at all.
        (["backbone=timm", "backbone.name=resnt18,resnet18"], "did you mean resnet18"),
        (["backbone=zfnet,alexnet", "model.weights=imagenet"], "none are published for zfnet"),
        (["backbone=alexnet", "model.weights=coco,none"], "only for resnet50"),
    ],
)
def test_a_sweep_is_checked_with_its_first_trials_values(cwd, voc_root, typed, said):
    sweep = ("-m", f"data.root={voc_root}", *typed)
    assert said in refused("train", *sweep, cwd=cwd, light=False)


def test_a_key_of_the_command_itself_is_not_called_another_commands():
    compose("train", [])  # tells Hydra of the groups that come from tables
    error = HydraException("Could not override 'seed'.")
    assert explain_hydra(error, "train", command_names()) == "seed: no such key; did you mean seed?"
    error = HydraException("Could not override 'source'.")
    assert (
        explain_hydra(error, "train", command_names())
        == "source: no key of train, but of python -m detector.predict"
    )


# A command whose work is the given line; scoring files of detections needs no torch.
STUB = """
import logging, os, signal, sys
from datetime import datetime
from pathlib import Path
import detector.cli as cli
import detector.evaluate as command
from detector.pipeline.command import Outcome

class Now(datetime):
    @classmethod
    def now(cls):
        return cls(2026, 1, 2, 3, 4, 5)

cli.datetime = Now
log = logging.getLogger("detector")

def work(prepared, folder):
    {work}
    return Outcome(None)

command.run = work
{before}
cli.run_command("evaluate")
"""


@pytest.fixture
def scored(tmp_path):
    """Keys of a request that is right, and is checked quickly."""
    image = {"id": 1, "file_name": "a.jpg", "width": 9, "height": 9}
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5], "area": 25, "iscrowd": 0}
    truth = {"images": [image], "annotations": [box], "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "found.json").write_text(json.dumps([{**box, "score": 0.5}]))
    return [f"truth={tmp_path / 'truth.json'}", f"predictions={tmp_path / 'found.json'}"]


def stub(cwd, keys, work="pass", before=""):
    """Run a command whose work is given: its exit code, and what it printed and complained of."""
    return run_script(STUB.format(work=work, before=before), *keys, cwd=cwd)[:3]


def interpret(cwd, keys, work, redirection, **options):
    """As `stub`, in a fresh interpreter with redirected streams."""
    script = STUB.format(work=work, before="")
    command = ["bash", "-c", f'exec "$0" "$@" {redirection}', sys.executable, "-c", script, *keys]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, **options)
    return done.returncode, done.stdout, done.stderr


def test_commands_of_one_second_write_into_folders_of_their_own(cwd, scored):
    both = [stub(cwd, scored, "print(folder)") for _ in range(2)]
    folders = {Path(out.strip()).name for _, out, _ in both}
    assert folders == {"2026-01-02_03-04-05", "2026-01-02_03-04-05_2"}
    assert {p.name for p in (cwd / "outputs/evaluate").iterdir()} == folders


def test_a_sweep_gets_a_folder_of_its_own_too(cwd, scored):
    sweep = ["-m", *scored, "resamples=0,100"]
    for _ in range(2):
        code, _, err = stub(cwd, sweep, "print(folder)")
        assert code == 0, err
    there = cwd / "outputs/evaluate/multirun"
    assert len(list(there.glob("*/1/.hydra"))) == 2
    # typed again in the folder of the first
    folder = min(there.iterdir())
    (folder / "0/metrics.json").write_text("{}")
    code, _, err = stub(cwd, [*sweep, f"hydra.sweep.dir={folder}"])
    assert code == 2
    assert err.startswith(f"error: hydra.sweep.dir={folder}/0: has the results of an earlier run")


def test_a_run_into_a_used_folder_is_refused_before_anything_is_written(cwd, scored):
    (cwd / "out").mkdir()
    (cwd / "out/metrics.json").write_text("{}")
    code, _, err = stub(cwd, [*scored, "hydra.run.dir=out"])
    assert code == 2
    assert err.startswith("error: hydra.run.dir=out: has the results of an earlier run")
    assert [p.name for p in (cwd / "out").iterdir()] == ["metrics.json"]


def test_an_internal_error_of_the_check_says_so_and_leaves_no_folder(
    cwd, scored, tmp_path, monkeypatch
):
    before = "command.prepare = lambda *_: {}['lost']"
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    code, _, err = stub(cwd, scored, before=before)
    assert code == 1
    (line,) = err.splitlines()
    assert line.startswith(f"error: internal error of detector {__version__}, which is no fault")
    assert "KeyError: 'lost'" in line
    kept = Path(line.partition("traceback in ")[2].rstrip(")"))
    assert "in <lambda>" in kept.read_text()
    assert list(cwd.iterdir()) == []


def test_a_failure_of_the_work_itself_exits_with_1(cwd, scored):
    before = "from detector.core.errors import WorkError"
    ended = stub(cwd, scored, "raise WorkError('no picture')", before)
    assert ended == (1, "", "error: no picture\n")


def test_an_internal_error_of_the_work_is_in_the_runs_log(cwd, scored):
    code, _, err = stub(cwd, [*scored, "hydra.run.dir=out"], "{}['lost']")
    assert code == 1
    (line,) = err.splitlines()
    assert line.endswith(f"KeyError: 'lost' (traceback in {cwd}/out/evaluate.log)")
    assert "in work" in (cwd / "out/evaluate.log").read_text()


def test_sigterm_is_said_and_has_an_exit_code_of_its_own(cwd, scored):
    code, _, err = stub(cwd, scored, "os.kill(os.getpid(), signal.SIGTERM)")
    assert code == 143
    assert err == "terminated by SIGTERM\n"


def test_a_terminal_without_utf8_and_the_log_show_the_same_table(cwd, scored):
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    work = "log.info('\\u2501 caf\\xe9 \\u65e5')"
    options = {"env": environment, "encoding": "latin-1"}
    ended = interpret(cwd, [*scored, "hydra.run.dir=out"], work, "", **options)
    assert ended == (0, "- café \\u65e5\n", "")
    assert (cwd / "out/evaluate.log").read_text(encoding="utf-8") == "━ café 日\n"


def test_work_goes_on_in_silence_when_nobody_reads_what_it_prints(cwd, scored):
    work = "[log.info('line %d', i) for i in range(3)]"
    # The reader ends before anything is written.
    nobody = interpret(cwd, [*scored, "hydra.run.dir=out"], work, "> >(:)")
    assert nobody == (0, "", "")
    assert (cwd / "out/evaluate.log").read_text() == "line 0\nline 1\nline 2\n"


def test_help_of_which_only_the_beginning_is_read_is_no_failure(cwd):
    assert interpret(cwd, ["--help-all"], "pass", "> >(:)") == (0, "", "")


def test_a_sweep_without_m_is_refused(cwd):
    line = refused("train", "+sweep=lr", cwd=cwd)
    assert line.startswith("+sweep=lr: searches only with -m: python -m detector.train -m")


@pytest.mark.parametrize("place", ["/no/such/data.yaml", "my/data", "data.yaml"])
def test_a_place_given_as_a_format_says_which_key_is_meant(place):
    options = ["auto", "voc"]
    error = MissingConfigException("", f"data/{place}", options)
    line = explain_hydra(error, "train", command_names())
    assert line.startswith(f"data={place}: no such choice; the place of your data is named by")
    assert f"data.root={place}" in line


def test_what_takes_more_than_a_moment_is_named_and_the_rest_is_not(monkeypatch, capsys):
    monkeypatch.setattr(cli, "PATIENCE", 1e6)
    with cli.said_if_slow("reading quickly"):
        pass
    monkeypatch.setattr(cli, "PATIENCE", 0.0)
    with cli.said_if_slow("reading a\x1b[1m") as timer:
        timer.join()
    assert capsys.readouterr().out == "reading a\\x1b[1m\n"


def test_only_the_first_of_several_processes_says_what_it_does(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    with cli.said_if_slow("reading") as timer:
        assert not timer.is_alive()


def test_a_user_without_a_home_folder_has_caches_in_the_temporary_one(monkeypatch, tmp_path):
    def no_entry(_):
        raise KeyError

    for name in ("HOME", "DETECTOR_CACHE", "XDG_CACHE_HOME", "TORCH_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", no_entry)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    compose("check", [])
    assert cache_folder() == tmp_path / ".cache/detector"
    assert torch.hub.get_dir() == str(tmp_path / ".cache/torch/hub")


@pytest.mark.parametrize("closed", ["1>&- 2>&-", "0<&-", "1> /dev/full"])
def test_a_stream_that_is_closed_or_full_changes_nothing(cwd, scored, closed):
    ended = interpret(cwd, [*scored, "hydra.run.dir=out"], "log.info('a line')", closed)
    assert (ended[0], ended[2]) == (0, "")
    assert (cwd / "out/evaluate.log").read_text() == "a line\n"


def test_a_refusal_has_its_exit_code_also_where_nobody_reads_it(cwd):
    assert interpret(cwd, ["truth=nowhere"], "pass", "2>&-") == (2, "", "")
    assert list(cwd.iterdir()) == []


@pytest.mark.parametrize("key", ["data.root", "model.weights"])
def test_a_link_to_itself_is_the_requests_fault(cwd, tmp_path, key):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert refused("train", f"{key}={tmp_path / 'loop'}", cwd=cwd).startswith(f"{key}=")


def called(monkeypatch, *words):
    """What `detector WORD ...` runs."""
    ran = []
    monkeypatch.setattr(sys, "argv", ["detector", *words])
    monkeypatch.setattr(
        cli.runpy, "run_module", lambda name, **_: ran.append((name, *sys.argv[1:]))
    )
    cli.main()
    return ran


def test_the_console_script_runs_a_command_lists_all_and_refuses_others(monkeypatch, capsys):
    assert called(monkeypatch, "train", "seed=1") == [("detector.train", "seed=1")]
    for words in ([], ["--help"], ["help"]):
        assert called(monkeypatch, *words) == []
        said = capsys.readouterr().out
        assert all(f"\n  {name}" in said for name in command_names())
    assert called(monkeypatch, "--version") == []
    assert capsys.readouterr().out == f"detector {__version__}\n"
    with pytest.raises(SystemExit) as end:
        called(monkeypatch, "trian")
    assert end.value.code == 2
    assert "trian: no such command; there are check, evaluate" in capsys.readouterr().err


def test_a_model_that_is_a_backbone_is_answered():
    with pytest.raises(RequestError, match="did you mean backbone=resnet50"):
        compose("train", ["model=resnet50"])
    with pytest.raises(RequestError, match="backbone=NAME chooses the network"):
        compose("train", ["model=yolov8n"])


def test_a_key_that_would_have_no_effect_is_not_suggested():
    compose("predict", [])
    error = HydraException("Could not override 'lr'.")
    said = "lr: no such key (see python -m detector.predict --help)"
    assert explain_hydra(error, "predict", command_names(), ["lr=3"]) == said
