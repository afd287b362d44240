"""`model.summary`: what is printed, when, and that it changes nothing else."""

import copy
import re
import shutil
import signal

import pytest
import torch
from commands import run_cli
from conftest import TINY, ask, assert_same, call, in_force, prepare, three_splits, write_voc
from killable import run as run_killed

from detector import cli
from detector.config.schedules import read_schedule
from detector.config.schema import parse, plain
from detector.core.errors import RequestError
from detector.finetune.schedule import STATE_KEY
from detector.models.compute import MultiplyAdds
from detector.models.summary import GroupSummary, Seconds
from detector.pipeline import build, model_summary
from detector.pipeline.model_summary import _table, summary_table

ROWS = [
    GroupSummary("stem", (4,), 64, 9536, 0, MultiplyAdds(617_000_000, 0)),
    GroupSummary("layer4", (32,), 2048, 14_964_736, 14_942_208, MultiplyAdds(4_000_000, 8_000_000)),
    GroupSummary("head", (4, 8, 16, 32, 64), 256, 1000, 1000, MultiplyAdds(400_000, 800_000)),
]
SECONDS = {"stem": Seconds(0.01, 0), "layer4": Seconds(0.5, 1), "head": Seconds(0.2, 0.29)}
PHASES = (
    "finetune.phases=[{name: heads, train: [neck, head], until: {max_epochs: 1}},"
    "{name: top, train: [layer4, neck, head], until: {max_epochs: 1}}]"
)


def config_of(*overrides):
    return in_force(ask("train", *overrides))


def table(*overrides):
    """The summary of a run that is not begun."""
    config = config_of(*overrides)
    network = build.untrained_task(config, "meta").network
    return summary_table(config, network, read_schedule(config).phases[0])


def run(*overrides, cwd):
    return run_cli("train", *overrides, cwd=cwd, heavy=True)


def checkpoint(folder, *overrides, score=0.5):
    """What a run leaves behind after its first epoch, without weights."""
    config = config_of(*TINY, PHASES, *overrides)
    schedule = read_schedule(config)
    ours = {"config": plain(config), "classes": {"names": ["cat", "dog"], "ids": [1, 2]}}
    state = schedule.update(schedule.start(), score).to_plain()
    last = folder / "checkpoints" / "last.ckpt"
    last.parent.mkdir(parents=True)
    torch.save({"detector": ours, "epoch": 0, "callbacks": {STATE_KEY: state}}, last)
    return last


def test_a_table_reads_like_this():
    assert list(_table(ROWS, SECONDS)) == [
        "                                              multiply-adds, M              time",
        "group   stride channels  parameters trained  forward      step    step  backward",
        "--------------------------------------------------------------------------------",
        "stem         4       64       9,536    none      617       617   0.5 %       0 %",
        "layer4      32    2,048  14,964,736  99.8 %        4        12    75 %      50 %",
        "head      4-64      256       1,000     all        0         1    24 %      14 %",
        "--------------------------------------------------------------------------------",
        "network                  14,975,272  99.8 %      621       630   100 %      64 %",
    ]


def test_without_a_profile_there_are_no_times():
    assert list(_table(ROWS, None))[:4] == [
        "                                              multiply-adds, M",
        "group   stride channels  parameters trained  forward      step",
        "--------------------------------------------------------------------------------",
        "stem         4       64       9,536    none      617       617",
    ]


def test_a_group_without_parameters_trains_none():
    bare = GroupSummary("stem", (4,), 64, 0, 0, MultiplyAdds())
    assert "   0    none   " in list(_table([bare, *ROWS], None))[3]


@pytest.mark.parametrize("size", ["data.image_size=32", "data.image_size=4096"])
def test_it_fits_a_terminal_of_80_columns(size):
    long = "finetune.phases=[{name: a_phase_whose_name_is_so_very_long_that_it_does_not_fit, "
    lines = table(size, long + "train: [head], until: {max_epochs: 1}}]")
    assert max(map(len, lines)) <= 80


def test_it_shows_the_phase_that_the_run_begins_with():
    lines = table(*TINY, PHASES)
    trained = {line.split()[0]: line.split()[4] for line in lines[3:10]}
    groups = ("stem", "layer1", "layer2", "layer3", "layer4")
    assert trained == {**dict.fromkeys(groups, "none"), "neck": "all", "head": "all"}
    assert "phase          heads, with which the run begins" in lines


def test_a_dry_run_shows_it_below_the_phases(tmp_path):
    asked = [*TINY, PHASES, "dry_run=true", "data.root=/not/there"]
    code, out, err = run(*asked, "model.summary=true", cwd=tmp_path)
    assert (code, err) == (0, "")
    without = run(*asked, cwd=tmp_path)[1].splitlines()
    assert out.splitlines() == [*without, "", *table(*TINY, PHASES)]
    assert list(tmp_path.iterdir()) == []


def shares(lines):
    """The last two columns of the groups, in percent."""
    found = [re.findall(r"([\d.]+) %", line[-18:]) for line in lines]
    return [tuple(map(float, pair)) for pair in found if len(pair) == 2]


def test_a_dry_run_profiles_with_random_weights(tmp_path):
    asked = [*TINY, PHASES, "dry_run=true", "data.root=/not/there", "model.summary=profile"]
    code, out, err = run(*asked, cwd=tmp_path)
    assert (code, err) == (0, "")
    lines = out.partition("\n\n")[2].splitlines()
    *groups, whole = shares(lines)
    assert len(groups) == 7
    assert whole[0] == 100
    assert sum(share for share, _ in groups) == pytest.approx(100, abs=7 * 0.5)
    assert sum(share for _, share in groups) == pytest.approx(whole[1], abs=8 * 0.5)
    assert [share for _, share in groups[:5]] == [0] * 5  # frozen, and below all that is trained
    text = " ".join(" ".join(lines).split())
    assert "batch of 2 random images of 96 x 96, precision 32, on the CPU" in text
    assert "random here: the run's are not fetched for this" in text
    assert max(map(len, lines)) <= 80
    assert list(tmp_path.iterdir()) == []


def test_of_a_run_it_shows_the_phase_that_goes_on(tmp_path, capsys):
    checkpoint(tmp_path / "run")  # whose first phase has ended
    asked = [f"ckpt={tmp_path / 'run'}", "dry_run=true", "model.summary=true"]
    prepare(ask("train", *asked))
    lines = capsys.readouterr().out.splitlines()
    assert "phase          top, with which the run continues" in lines
    (layer4,) = (line for line in lines if line.startswith("layer4"))
    assert layer4.split()[4] == "all"


def test_a_checkpoint_neither_asks_for_it_nor_minds(tmp_path):
    last = checkpoint(tmp_path / "run", "model.summary=profile")
    assert config_of(f"ckpt={last}").model.summary == "false"
    assert config_of(f"ckpt={last}", "model.summary=true").model.summary == "true"


def test_a_checkpoint_from_before_the_key_is_read(tmp_path):
    last = checkpoint(tmp_path / "run")
    content = torch.load(last, weights_only=True)
    del content["detector"]["config"]["model"]["summary"]
    torch.save(content, last)
    assert config_of(f"ckpt={last}", "model.summary=true").model.summary == "true"


@pytest.mark.parametrize(("typed", "meant"), [("true", "true"), ("False", "false")])
def test_booleans_become_words(typed, meant):
    config = config_of(f"model.summary={typed}")
    assert config.model.summary == meant
    assert parse(plain(config), type(config)) == config


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model.summary=tru"], "model.summary=tru: expected one of false, true, profile"),
        (
            ["model.summary=profile", "trainer.compile=true"],
            "model.summary=profile: trainer.compile=true runs all stages as one",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(overrides, said):
    with pytest.raises(RequestError, match=f"^{re.escape(said)}"):
        config_of(*overrides)


@pytest.mark.parametrize("verb", ["evaluate", "predict", "check"])
def test_only_training_has_a_summary(verb, tmp_path):
    last = checkpoint(tmp_path / "run")
    source = ["source=."] * (verb == "predict")
    cfg = ask(verb, f"ckpt={last}", "model.summary=true", *source)
    with pytest.raises(RequestError, match=r"^model\.summary=true: only train prints one"):
        prepare(cfg)


def test_a_profile_of_a_device_that_is_not_there_is_refused(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    asked = ["dry_run=true", "model.summary=profile", "trainer.accelerator=gpu"]
    code, out, err = run(*TINY, *asked, cwd=tmp_path)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line == "error: trainer.accelerator=gpu: no GPU is available; choose auto or cpu"


def fresh_train(out, *overrides):
    call(ask("train", *overrides, out=out))
    return torch.load(out / "checkpoints/last.ckpt", weights_only=True)


def test_a_profiled_run_is_the_same_run_to_the_bit(voc_root, tmp_path, caplog):
    kept = {}
    for value in ("false", "profile"):
        asked = [*TINY, f"data.root={voc_root}", PHASES, f"model.summary={value}"]
        with caplog.at_level("INFO"):
            content = fresh_train(tmp_path / value, *asked)
        kept[value] = [content[key] for key in ("state_dict", "optimizer_states", "epoch")]
        assert ("with which the run begins" in caplog.text) == (value == "profile")
    assert_same(kept["profile"], kept["false"])
    assert "precision 32, on the CPU" in " ".join(caplog.text.split())


@pytest.mark.parametrize("dry", [False, True])
def test_a_run_that_goes_on_is_profiled_with_its_phase_and_weights(
    shared, tmp_path, monkeypatch, dry
):
    def fill(folder):
        write_voc(folder / "voc", three_splits())
        asked = [*TINY, f"data.root={folder / 'voc'}", PHASES]
        assert run_killed(asked, folder / "run", ("saved", 0)) == -signal.SIGKILL

    shutil.copytree(shared("one_epoch", fill) / "run", tmp_path / "run")
    last = tmp_path / "run/checkpoints/last.ckpt"
    weights = torch.load(last, weights_only=True)["state_dict"]
    seen = []

    def spy(config, network, phase, trainer):
        seen.append((phase.name, copy.deepcopy(network.state_dict())))
        return summary_table(config, network, phase, trainer)

    module = model_summary if dry else cli.load_command("train")
    monkeypatch.setattr(module, "summary_table", spy)
    more = ["model.summary=profile", f"dry_run={dry}"]
    asked = ask("train", f"ckpt={tmp_path / 'run'}", *more, out=tmp_path / "run")
    (prepare if dry else call)(asked)
    ((phase, found),) = seen
    assert phase == "top"
    assert_same(found, {name: weights[f"network.{name}"] for name in found})
