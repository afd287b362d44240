"""The dry run: what it says is true of the network, and it does nothing else."""

import re

import pytest
import torch
from commands import run_cli
from conftest import TINY, ask, in_force, prepare

from detector.config.schedules import read_schedule
from detector.config.schema import Config, plain
from detector.core.errors import RequestError
from detector.finetune.schedule import STATE_KEY
from detector.models.faster_rcnn import build_faster_rcnn
from detector.pipeline import load_data
from detector.pipeline.dry_run import phase_table

LITE = "backbone=efficientnet_lite0"


def config_of(*overrides: str) -> Config:
    return in_force(ask("train", *overrides))


def table(*overrides: str) -> list[str]:
    return phase_table(config_of(*overrides))


def phase_of(lines: list[str], name: str) -> dict[str, str]:
    """A phase's row, as `row`, and the lines below it by their word."""
    first = next(i for i, line in enumerate(lines) if line.split()[:1] == [name])
    found = {"row": " ".join(lines[first].split())}
    for line in lines[first + 1 :]:
        if line.startswith("---"):
            return found
        word, text = line[2:12].strip(), line[12:]
        last = word or list(found)[-1]
        found[last] = f"{found.get(last, '')} {text}".strip()
    raise AssertionError("no line below the phase")


def footer(lines: list[str]) -> str:
    last = max(i for i, line in enumerate(lines) if line.startswith("---"))
    return " ".join(" ".join(lines[last + 1 :]).split())


def run(*overrides: str, cwd) -> tuple[int, str, str]:
    return run_cli("train", *overrides, "dry_run=true", cwd=cwd, heavy=True)


def test_a_phase_says_what_it_trains_how_long_and_at_which_rates():
    top = phase_of(table("finetune=staged"), "top")
    # Layer4 has 3 blocks of 3 convolutions and a shortcut's: 10, norms frozen; pyramid 8, RPN 3,
    # box head 4. ResNet-50 has 53 convolutions and as many norms.
    assert top["row"].startswith("top 2 25 of 121 32.79 M 79 % 26 %")
    assert top["trained"] == "layer4, neck, head"
    assert top["frozen"] == "stem, layer1, layer2, layer3"
    assert top["rates"] == "layer4 0.0003; neck, head 0.0007"
    assert top["course"] == "20 steps of warm-up from 0.1 %"
    assert "begins" not in top


@pytest.mark.parametrize("norm", ["frozen", "eval_when_frozen", "train"])
def test_the_parameters_are_those_of_the_real_network_in_that_phase(norm):
    config = config_of("finetune=auto", LITE, f"finetune.norm={norm}", "data.classes=[a,b,c]")
    lines = phase_table(config)
    network = build_faster_rcnn(config.backbone.name, 3, norm=norm, options=config.model)
    whole = sum(p.numel() for p in network.parameters())
    assert f"{whole / 1e6:.2f} M parameters with a head for 3 classes" in footer(lines)
    for phase in read_schedule(config).phases:
        network.set_trainable(phase.train)
        trained = [p for p in network.parameters() if p.requires_grad]
        numbers = sum(p.numel() for p in trained)
        row = phase_of(lines, phase.name)["row"]
        assert f" {numbers / 1e6:.2f} M " in row
        share = float(re.search(r"M ([\d.]+) %", row)[1])
        assert share == pytest.approx(100 * numbers / whole, abs=0.5)


def test_an_image_size_that_will_be_fitted_is_said():
    said = footer(table(LITE, "data.image_size=auto"))
    assert "image size fitted to the data; 512 pixels for the numbers here" in said
    assert "at 512 x 512 pixels" in said
    assert "image size" not in footer(table(LITE))


def test_anchors_that_will_be_fitted_are_said():
    assert "anchors fitted to the data" in footer(table(LITE))
    assert "anchors" not in footer(table(LITE, "model.anchor_scales=[8]"))


def test_a_plateau_says_between_which_epochs_and_until_when():
    lines = table("finetune=plateau", LITE)
    # Patience 2: the first epoch gains, the next two may not. Patience 4 likewise: 5, though 4
    # would be allowed.
    assert "3 to 9, until no gain for 2" in phase_of(lines, "top")["row"]
    upper = phase_of(lines, "upper")
    assert "5 to 12, until no gain for 4" in upper["row"]
    assert upper["a gain"] == "is more than 0.002 in val/map"
    assert upper["begins"] == "from the best weights so far, with the optimiser as it was then"
    assert upper["course"] == (
        "50 steps of warm-up of new groups from 0.1 %, cosine decay to 2 % of the rate"
    )
    assert "30 epochs at most" in footer(lines)


def test_a_plateau_that_cannot_end_a_phase_early_is_not_promised():
    lines = table("finetune=staged", LITE, "finetune.early_stopping.patience=6")
    assert phase_of(lines, "upper")["row"].startswith("upper 6 54")


def test_auto_says_what_each_further_phase_is_conditional_on():
    lines = table("finetune=auto", LITE)
    assert "then" not in phase_of(lines, "heads")
    told = "on if the best val/map rose by 0.002, else the run ends"
    assert phase_of(lines, "layer2")["then"] == told
    assert "then" not in phase_of(lines, "stem")  # nothing comes after it
    # 0.3 and 0.7 as the group above, each time.
    rates = "stem 7.2e-05; layer1 0.000103; layer2 0.000147; layer3 0.00021; layer4 0.0003; "
    assert phase_of(lines, "stem")["rates"] == rates + "neck, head 0.0007"


def test_rates_are_scaled_to_the_effective_batch():
    # 0.02 for 16 images a step; here 2 x 4 x 2 processes and machines.
    more = ["data.batch_size=2", "trainer.devices=4", "trainer.num_nodes=2"]
    lines = table("optim=sgd", LITE, *more, "optim.reference_batch=8")
    assert phase_of(lines, "heads")["rates"] == "neck, head 0.04"
    assert "optim.lr=0.02 x 16 images a step / 8" in footer(lines)


def test_phases_share_the_epochs_of_the_run():
    lines = table("finetune=staged", LITE, "trainer.max_epochs=6")
    rows = [phase_of(lines, name)["row"].split()[1] for name in ("heads", "top", "upper")]
    assert rows == ["1", "1", "4"]
    assert "length 6 epochs at most" in footer(lines)
    short = table("finetune=staged", LITE, "trainer.max_epochs=2")
    assert phase_of(short, "upper")["row"].split()[1] == "1.2"


def test_phases_share_the_time_of_the_run():
    lines = table("finetune=staged", LITE, "trainer.max_minutes=5")
    rows = [phase_of(lines, name)["row"] for name in ("heads", "top", "upper")]
    for row, name, share in zip(rows, ("heads", "top", "upper"), (20, 20, 60), strict=True):
        assert row.startswith(f"{name} {share} % of 5 min ")
    assert "length 5 minutes, with validations at most" in footer(lines)


def test_a_phase_that_may_end_early_says_when():
    row = phase_of(table("finetune=plateau", LITE), "upper")["row"]
    assert row.startswith("upper 5 to 12, until no gain for 4 ")


@pytest.mark.parametrize(
    "overrides", [["finetune=auto"], ["finetune=full"], ["finetune=plateau", "optim=sgd"]]
)
def test_it_fits_a_terminal_of_80_columns(overrides):
    long = "finetune.phases=[{name: a_phase_whose_name_is_long, train: [head], "
    long += "until: {max_epochs: 100, plateau: {patience: 10}}}]"
    for lines in (table(*overrides, "trainer.max_epochs=7"), table(long, LITE)):
        assert max(map(len, lines)) <= 80


def test_everything_trained_saves_nothing():
    row = phase_of(table("finetune=full"), "all")["row"]
    assert row.endswith(" 0 %")


def test_nothing_is_read_fetched_or_written(tmp_path, monkeypatch, capsys):
    def forbidden(*args, **kwargs):
        raise AssertionError("a dry run needs no data and no weights")

    monkeypatch.setattr(load_data, "usable_data", forbidden)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", forbidden)
    assert prepare(ask("train", "dry_run=true", "data.root=/not/there")) is None
    assert "neck, head" in capsys.readouterr().out


@pytest.mark.parametrize("overrides", [[], ["data.root=/not/there", "hydra.run.dir=out"]])
def test_the_command_prints_the_table_and_exits_with_0(tmp_path, overrides):
    code, out, err = run(LITE, "finetune=staged", *overrides, cwd=tmp_path)
    assert (code, err) == (0, "")
    assert out.splitlines() == table(LITE, "finetune=staged")
    assert list(tmp_path.iterdir()) == []


def test_of_a_sweep_it_shows_what_the_trials_share(tmp_path):
    code, out, err = run("-m", LITE, "finetune=staged", "optim.lr=1e-3,1e-2", cwd=tmp_path)
    assert code == 0, err
    *lines, last = out.splitlines()
    assert lines == table(LITE, "finetune=staged")
    assert last.startswith("sweep ")
    assert list(tmp_path.iterdir()) == []


def test_a_schedule_that_cannot_be_meant_is_refused(tmp_path):
    phases = "finetune.phases=[{name: a, train: [hed], until: {max_epochs: 1}}]"
    code, out, err = run(phases, cwd=tmp_path)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("error: finetune.phases[0].train: no group 'hed'; did you mean head?")
    assert list(tmp_path.iterdir()) == []


def test_of_a_run_it_shows_that_runs_schedule(tmp_path):
    config = config_of(*TINY, "finetune=staged", "data.root=/not/there")
    ours = {"config": plain(config), "classes": {"names": ["cat", "dog"], "ids": [1, 2]}}
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    last.parent.mkdir(parents=True)
    schedule = read_schedule(config)
    progress = schedule.update(schedule.start(), 0.5).to_plain()
    torch.save({"detector": ours, "epoch": 0, "callbacks": {STATE_KEY: progress}}, last)
    before = last.stat().st_mtime_ns
    code, out, err = run(f"ckpt={tmp_path / 'run'}", cwd=tmp_path)
    assert code == 0, err
    lines = out.splitlines()
    assert phase_of(lines, "top")["trained"] == "layer4, neck, head"
    assert "efficientnet_lite0" in footer(lines)
    assert "a head for 2 classes" in footer(lines)
    assert [p.name for p in tmp_path.rglob("*")] == ["run", "checkpoints", "last.ckpt"]
    assert last.stat().st_mtime_ns == before


def test_the_function_refuses_a_schedule_too():
    with pytest.raises(RequestError, match="no group 'hed'"):
        table("finetune.phases=[{name: a, train: [hed], until: {max_epochs: 1}}]")
