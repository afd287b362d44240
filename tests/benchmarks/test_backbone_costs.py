"""What backbones cost and bring, without timing or training: made-up costs, runs and results."""

import json
import math
from pathlib import Path

import backbone_costs
import backbone_runs
import backbones
import networks
import pytest
import timm
import torch
import torchvision
import training_runs
from backbone_costs import Cost
from backbone_runs import NETWORKS, REFERENCE, Result, Run
from conftest import resolved
from torch.utils.flop_counter import FlopCounterMode

from detector.cli import compose
from detector.config.schedules import read_schedule
from detector.config.schema import plain
from detector.models.backbones.table import BACKBONES

LITE1 = "timm/tf_efficientnet_lite1"


def cost(backbone="resnet18", full=2.0, **values):
    """A cost with the given values."""
    known = {
        "parameters": 11_200_000,
        "multiply_adds": 10_000_000_000,
        "seconds": {"frozen": 0.5, "partial": 1.25, "full": full},
        "peak_bytes": {"frozen": 2**30, "partial": 2**30, "full": 3 * 2**29},
        "side": 512,
        "steps": 9,
        "wall_seconds": 60.0,
        "machine": "A machine.",
        "day": "2026-01-02",
    }
    return Cost(backbone=backbone, **{**known, **values})


def result(backbone="resnet18", seed=0, ap50=0.5, **values):
    """A result with the given values."""
    known = {
        "split": "test",
        "map": ap50 / 2,
        "val_map": 0.25,
        "epochs": 6,
        "seconds": 100.0,
        "wall_seconds": 120.0,
        "peak_bytes": 2**30,
        "command": "typed",
        "day": "2026-01-02",
    }
    return Result(backbone, seed, "A machine.", ap50=ap50, **{**known, **values})


def write_run(folder, epochs, seconds):
    """The files of a finished run."""
    folder.mkdir(parents=True, exist_ok=True)
    metrics = {"split": "test", "coco": {"map": 0.2, "map_50": 0.5}, "seconds": {"train": 80.5}}
    rows = [f"{i},0.2,{seconds + 1 - i}" for i in range(epochs)]  # the later, the quicker
    (folder / "metrics.csv").write_text("\n".join(["epoch,val/map,seconds", *rows, ""]))
    (folder / "metrics.json").write_text(json.dumps(metrics))


def typed_value(command, key):
    return next(word for word in command if word.startswith(f"{key}=")).partition("=")[2]


@pytest.fixture
def bench(monkeypatch, tmp_path):
    """The command, with costs made up and processes that only write what a run would."""

    class Bench:
        def __init__(self):
            self.out = tmp_path / "out"
            self.measured = []
            self.commands = []
            self.broken = {}  # by the name of a backbone or run: what happens instead

        def run(self, *arguments):
            return backbones.main([*arguments, "--out", str(self.out)])

        def costs(self):
            return [e["backbone"] for e in json.loads((self.out / "costs.json").read_text())]

        def results(self):
            return json.loads((self.out / "results.json").read_text())

        def measure(self, name, side, steps):
            self.measured.append(name)
            if name in self.broken:
                raise self.broken[name]
            return cost(name, side=side, steps=steps)

        def process(self, command, log):
            self.commands.append(command)
            folder = Path(typed_value(command, "hydra.run.dir"))
            if folder.name in self.broken:
                raise self.broken[folder.name]
            name = folder.name.rpartition("-")[0]
            seconds = {"efficientnet_lite0": 10.0, "resnet18": 16.0, "zfnet": 8.0}.get(name, 12.5)
            write_run(folder, int(typed_value(command, "trainer.max_epochs")), seconds)
            return 0, 3 * 2**20

    bench = Bench()
    monkeypatch.setattr(backbone_costs, "measure", bench.measure)
    monkeypatch.setattr(training_runs, "run_process", bench.process)
    monkeypatch.setattr(backbones, "PAGE", tmp_path / "page.md")
    markers = "\n\n".join("\n".join(pair) for pair in backbones.MARKERS.values())
    backbones.PAGE.write_text(f"Before.\n\n{markers}\n\nAfter.\n")
    return bench


def test_what_cannot_be_meant_is_refused_before_anything_is_done(bench, capsys):
    for arguments, said in (
        ([], "say what to do"),
        (["--costs", "--steps", "0"], "--steps 0"),
        (["--train", "--epochs", "0"], "--epochs 0"),
        (["--train", "--seeds", "1", "1"], "--seeds 1 1"),
        (["--costs", "--only", "resnet19"], "--only resnet19: there are alexnet,"),
        (["--train", "--only", "vgg16"], "--only vgg16: trained are efficientnet_lite0,"),
        (["--report", "--costs", "--quick"], "--quick"),
        (["--report"], "nothing was measured yet"),
    ):
        assert bench.run(*arguments) == 2
        assert said in capsys.readouterr().err
    assert not bench.out.exists()


def test_costs_are_those_of_all_in_the_courses_order_and_none_is_measured_twice(bench, capsys):
    assert bench.run("--costs", "--only", "resnet18", "zfnet") == 0
    assert bench.costs() == ["zfnet", "resnet18"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("[1/2] resnet18: 11.2 M, 10.0 G, frozen 0.50 s, partial 1.25 s")
    assert lines[0].endswith("1 left, about 1 min")
    assert bench.run("--costs") == 0
    assert bench.measured[:4] == ["resnet18", "zfnet", "alexnet", "vgg16"]
    assert len(bench.measured) == len(set(bench.measured))
    assert bench.costs() == list(backbone_costs.NAMES)
    assert bench.costs()[: len(BACKBONES)] == list(BACKBONES)


def test_an_interruption_keeps_what_was_measured_and_says_how_to_go_on(bench, capsys):
    bench.broken["zfnet"] = KeyboardInterrupt()
    assert bench.run("--costs", "--steps", "3") == 130
    assert bench.costs() == ["alexnet"]
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"to go on: python benchmarks/backbones.py --costs --steps 3 --out {bench.out}"


def test_a_backbone_whose_process_dies_is_said_and_the_others_go_on(bench, capsys):
    bench.broken["zfnet"] = EOFError()
    assert bench.run("--costs", "--only", "alexnet", "zfnet", "vgg16") == 1
    assert bench.costs() == ["alexnet", "vgg16"]
    assert "zfnet: failed" in capsys.readouterr().out


def test_costs_measured_otherwise_or_another_file_are_refused_and_left(bench, capsys):
    assert bench.run("--costs", "--steps", "3", "--only", "alexnet") == 0
    assert bench.run("--costs") == 2
    assert "measured with 3 steps at 512 pixels" in capsys.readouterr().err
    # Small sizes are kept apart.
    assert bench.run("--costs", "--quick", "--only", "alexnet") == 0
    assert bench.costs() == ["alexnet"]
    assert (bench.out / "quick" / "costs.json").is_file()
    (bench.out / "costs.json").write_text('[{"other": 1}]')
    assert bench.run("--costs") == 2
    assert "not a file of costs" in capsys.readouterr().err
    assert (bench.out / "costs.json").read_text() == '[{"other": 1}]'


@pytest.mark.parametrize("name", ["resnet18", LITE1])
def test_counts_are_those_of_the_network_without_its_classifier(name):
    with torch.device("meta"):
        if name == "resnet18":
            whole = torchvision.models.resnet18()
            whole.fc = torch.nn.Identity()
        else:
            whole = timm.create_model(name.removeprefix("timm/"))
            whole.conv_head = whole.bn2 = whole.classifier = torch.nn.Identity()
        with FlopCounterMode(display=False) as counter:
            whole.eval()(torch.empty(1, 3, 64, 64))
    parameters = sum(p.numel() for p in whole.parameters())
    # A product and a sum are two of torch's operations.
    assert backbone_costs.count(name, 64) == (parameters, counter.get_total_flops() / 2)


def test_all_backbones_are_measured_under_the_small_networks_pyramid_and_head():
    network = networks.build_ours(0, 3, "zfnet", options=backbone_costs.slim())
    assert network.backbone.out_channels == 128
    assert network.roi_heads.box_head.fc6.out_features == 512
    assert network.roi_heads.fg_bg_sampler.batch_size_per_image == 128
    assert network.rpn._post_nms_top_n["training"] == 500


def test_a_step_whose_loss_is_not_finite_is_no_measurement(monkeypatch):
    losses = iter([1.0, math.nan])
    monkeypatch.setattr(backbone_costs, "our_step", lambda *_, **__: lambda: next(losses))
    step = backbone_costs.checked_step(0, ([], []), "zfnet")
    step()
    with pytest.raises(ArithmeticError, match="zfnet: the loss is nan"):
        step()


def test_a_costs_row_has_each_state_and_the_remark_the_extremes_for_each_multiply_add():
    costs = [
        cost("vgg16", full=8.0, multiply_adds=80_200_000_000),
        cost("zfnet", full=1.2, multiply_adds=6_000_000_000),
        cost(full=1.0),
    ]
    assert backbone_costs.table(costs).splitlines()[2] == (
        "| `vgg16` | 11.2 | 80.2 | 0.50 | 1.25 | 8.00 | 1024 | 1536 |"
    )
    # Two images: 8 s / 160.4 G, 1.2 s / 12 G, 1 s / 20 G.
    assert "takes 50 ms with `vgg16` and 100 ms with `zfnet`" in backbone_costs.remark(costs)
    text = backbone_costs.report(costs)
    assert text.startswith("2026-01-02: 2 images of 512x512 with 12 boxes each, medians of 9 steps")
    assert "Multiply-adds" not in backbone_costs.report(costs[:1])


@pytest.mark.parametrize("name", NETWORKS)
def test_a_run_differs_from_the_demo_only_in_its_backbone_weights_and_epochs(name):
    run = Run(name, 3, 17)
    config = resolved("train", compose("train", run.overrides()))
    demo = resolved("train", compose("train", ["+experiment=trees"]))
    assert config.backbone.key == name
    assert (config.seed, read_schedule(config).epochs) == (3, 17)
    scratch = NETWORKS[name] == "scratch"
    assert config.model.weights == ("none" if scratch else "imagenet")
    assert config.finetune.norm == ("train" if scratch else "frozen")
    ours, theirs = plain(config), plain(demo)
    differ = {part for part in ours if ours[part] != theirs[part]}
    assert differ <= {"backbone", "finetune", "model", "seed", "trainer"}
    ours["model"]["weights"], ours["trainer"]["max_epochs"] = "imagenet", 8
    assert ours["model"] == theirs["model"]
    assert ours["trainer"] == theirs["trainer"]


def test_the_references_eight_epochs_are_the_demo_as_it_is_shipped():
    typed = Run(REFERENCE, 0, 8).overrides()
    ours = plain(resolved("train", compose("train", typed)))
    assert ours == plain(resolved("train", compose("train", ["+experiment=trees"])))


def test_a_quick_run_is_of_a_batch_of_small_images():
    config = resolved("train", compose("train", Run("zfnet", 0, 1, quick=True).overrides()))
    assert config.data.image_size == 96
    assert config.trainer.limit_train_batches == 1


def test_epochs_are_whole_last_about_as_long_as_the_references_and_are_one_at_least():
    took = {REFERENCE: 20.0, "resnet18": 30.0, "zfnet": 15.0, LITE1: 500.0}
    # 8 epochs of 20 s: 5.3 of 30 s, 10.7 of 15 s, 0.3 of 500 s.
    assert backbone_runs.equal_time(took, 8) == {
        **{REFERENCE: 8, "resnet18": 5},
        **{"zfnet": 11, LITE1: 1},
    }


def test_an_epoch_takes_what_the_quickest_of_a_run_took(tmp_path):
    write_run(tmp_path, 2, 12.5)
    assert backbone_runs.epoch_seconds(tmp_path) == 12.5


def test_probes_choose_the_epochs_and_what_is_done_is_not_repeated(bench, capsys):
    assert bench.run("--train", "--only", "resnet18", "--seeds", "4") == 0
    # The reference is needed to know how long is equally long.
    folders = [Path(typed_value(c, "hydra.run.dir")) for c in bench.commands]
    probes = bench.out / "probes"
    first = [probes / "efficientnet_lite0-0", probes / "resnet18-0"]
    assert folders == [*first, bench.out / "resnet18-4"]
    # 8 epochs of 10 s are 5 of 16 s.
    assert [typed_value(c, "trainer.max_epochs") for c in bench.commands] == ["2", "2", "5"]
    assert "resnet18: 5 epochs of 16.0 s" in capsys.readouterr().out
    bench.commands.clear()
    assert bench.run("--train", "--seeds", "4", "2") == 0
    done = [Path(typed_value(c, "hydra.run.dir")).name for c in bench.commands]
    assert done == [
        *("tf_efficientnet_lite1-0", "tf_efficientnet_lite2-0", "zfnet-0"),
        *("efficientnet_lite0-4", "tf_efficientnet_lite1-4", "tf_efficientnet_lite2-4", "zfnet-4"),
        *("efficientnet_lite0-2", "tf_efficientnet_lite1-2", "tf_efficientnet_lite2-2"),
        *("resnet18-2", "zfnet-2"),
    ]
    assert len(bench.results()) == 10
    assert {(r["backbone"], r["epochs"]) for r in bench.results()} == {
        *{(REFERENCE, 8), (LITE1, 6), ("timm/tf_efficientnet_lite2", 6)},
        *{("resnet18", 5), ("zfnet", 10)},
    }


def test_an_interrupted_training_says_how_to_go_on_and_does(bench, capsys):
    bench.broken["zfnet-1"] = KeyboardInterrupt()
    assert bench.run("--train", "--only", "zfnet") == 130
    assert [r["seed"] for r in bench.results()] == [0]
    last = capsys.readouterr().out.splitlines()[-1]
    assert (
        last == f"to go on: python benchmarks/backbones.py --train --only zfnet --out {bench.out}"
    )
    bench.broken.clear()
    bench.commands.clear()
    assert bench.run("--train", "--only", "zfnet") == 0
    assert len(bench.commands) == 1


def test_a_folder_with_another_training_is_refused(bench, capsys):
    folder = bench.out / "zfnet-0"
    write_run(folder, 3, 1.0)
    (folder / "config.yaml").write_text("trainer: {max_epochs: 3}\nbackbone: {name: zfnet}\n")
    assert bench.run("--train", "--only", "zfnet") == 2
    assert "trained with trainer.max_epochs=3" in capsys.readouterr().err
    assert not (bench.out / "results.json").exists()


def test_a_table_has_the_networks_in_order_with_what_their_runs_took_and_reached():
    results = [
        result(seed=1, ap50=0.2, seconds=110.0),
        result(seed=0, ap50=0.4),
        result(LITE1, ap50=0.5, epochs=7),
    ]
    assert backbone_runs.table(results).splitlines()[2:] == [
        f"| `{LITE1}` | ImageNet | 0 | 7 | 100 | 0.500 (0.500-0.500) | 0.250 (0.250-0.250) |",
        "| `resnet18` | none | 0, 1 | 6 | 105 | 0.300 (0.200-0.400) | 0.150 (0.100-0.200) |",
    ]


def test_the_remark_calls_a_network_better_only_where_all_its_runs_are():
    clear = [result("zfnet", s, a) for s, a in enumerate((0.1, 0.2))]
    clear += [result(LITE1, s, a) for s, a in enumerate((0.3, 0.4))]
    assert backbone_runs.remark(clear).startswith(f"Every run of `{LITE1}` has a higher AP50")
    near = [*clear, *(result("resnet18", s, a) for s, a in enumerate((0.05, 0.3)))]
    assert "overlap with those of `resnet18`." in backbone_runs.remark(near)
    assert not backbone_runs.remark(clear[:2])
    assert not backbone_runs.remark(clear[1:])  # a network with a single run


def test_the_page_gets_what_there_is_between_its_markers_and_keeps_the_rest(bench):
    assert bench.run("--costs", "--only", "zfnet", "--report") == 0
    text = backbones.PAGE.read_text()
    assert "| `zfnet` | 11.2 |" in text
    assert "AP50" not in text
    assert bench.run("--train", "--only", "zfnet", "--report") == 0
    text = backbones.PAGE.read_text()
    assert "| `zfnet` | none | 0, 1 | 10 |" in text
    assert text.index("| `zfnet` | 11.2 |") < text.index("| `zfnet` | none |")
    assert text.startswith("Before.\n")
    assert text.endswith("After.\n")


def test_the_real_page_has_the_markers():
    text = (Path(backbones.__file__).parents[1] / "docs" / "backbones.md").read_text()
    places = [text.index(marker) for pair in backbones.MARKERS.values() for marker in pair]
    assert places == sorted(places)
