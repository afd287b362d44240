"""`--help`, `--help-all` and docs/keys.md, which have one source."""

from pathlib import Path

import pytest

from detector.cli import compose, load_command
from detector.config.help import help_text
from detector.config.keys import markdown
from detector.config.messages import wanted
from detector.config.schema import command_names

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(params=command_names())
def command(request):
    compose(request.param, [])  # registers what conf/ refers to
    return request.param


def text(command, *, everything=False, overrides=()):
    return help_text(command, load_command(command).KEYS, everything, overrides)


def test_help_fits_on_two_screens(command):
    lines = text(command).splitlines()
    assert len(lines) <= 90
    assert max(map(len, lines)) <= 100


def test_help_shows_description_type_default_and_choices():
    lines = " ".join(text("train").split())
    assert "data.batch_size=2 Images per step and device. [at least 1]" in lines
    assert "trainer.accelerator=auto Kind of device. [one of auto, cpu, gpu, mps]" in lines
    assert "optim=adamw adamw, sgd" in lines
    assert "+experiment=NAME coco, trees, voc" in lines
    assert "dry_run=false Print the phases" in lines
    assert "python -m detector.train data.root=DIR" in lines


def test_defaults_are_those_of_what_is_typed_beside():
    assert "  optim.lr=0.02 " in text("train", overrides=["optim=sgd"])


def test_most_keys_are_left_to_help_all():
    assert "model.rpn_batch_per_image=" not in text("train")
    assert "  model.rpn_batch_per_image=256 " in text("train", everything=True)


def test_help_all_lists_every_key_that_is_composed(command):
    def leaves(values, prefix=""):
        for key, value in values.items():
            if isinstance(value, dict):
                yield from leaves(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}"

    from conftest import composed

    shown = text(command, everything=True)
    assert [key for key in leaves(composed(command)) if f"\n  {key}=" not in shown] == []


def test_the_page_of_all_keys_is_up_to_date():
    compose("train", [])
    kinds = {name: load_command(name).KEYS for name in command_names()}
    assert (DOCS / "keys.md").read_text() == markdown(kinds), "run: make keys"


@pytest.mark.parametrize(
    ("hint", "said"), [(int, "a whole number"), (float | None, "null or a number"), (str, "text")]
)
def test_a_type_without_limits_is_called_by_its_name(hint, said):
    assert wanted(hint) == said
