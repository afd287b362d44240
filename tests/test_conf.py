"""Every configuration that is shipped composes, is valid and stays small."""

from pathlib import Path

import pytest
from conftest import composed

from detector import cli
from detector.config import schema
from detector.config.schedules import read_schedule
from detector.models.backbones.table import BACKBONES

CONF = schema.conf_folder()
FILES = sorted(p.relative_to(CONF) for p in CONF.rglob("*.yaml"))


def choices(group: str) -> list[str]:
    return sorted(p.stem for p in (CONF / group).glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=str)
def test_a_file_is_at_most_35_lines(file):
    assert len((CONF / file).read_text().splitlines()) <= 35


@pytest.mark.parametrize(
    "override",
    [f"+experiment={name}" for name in choices("experiment")]
    + [
        f"{group}={name}"
        for group in (
            "data",
            "augment",
            "backbone",
            "finetune",
            "optim",
            "logger",
            "trainer",
            "model",
            "model/head",
        )
        for name in choices(group)
        if name != "timm"
    ]
    + [f"backbone={name}" for name in BACKBONES]
    + ["backbone=timm backbone.name=resnet18"],
)
def test_every_choice_composes_and_is_valid(override):
    read_schedule(parsed(*override.split()))


def parsed(*overrides):
    return schema.parse(composed("train", *overrides), cli.load_command("train").KEYS)


@pytest.mark.parametrize("name", ["evaluate", "predict", "check"])
def test_the_other_commands_take_every_key_of_train_but_its_own(name):
    train, other = (cli.compose(each, []) for each in ("train", name))
    assert set(train) - set(other) == {"dry_run"}


def test_augmentations_shipped_are_understood():
    from detector.data.loading.augment import Augmenter

    for name in choices("augment"):
        Augmenter(parsed(f"augment={name}").augment.steps, 64)


def test_nothing_in_a_configuration_names_code_to_run():
    for file in FILES:
        text = (CONF / file).read_text()
        assert ("_target_" in text) == (str(file) == str(Path("hydra/detector.yaml")))


@pytest.mark.parametrize("epochs", [2, 20])
@pytest.mark.parametrize("name", sorted({*choices("finetune")} - {"auto"}))
def test_phases_have_their_shares_of_two_epochs_and_of_twenty(name, epochs):
    schedule = read_schedule(parsed(f"finetune={name}", f"trainer.max_epochs={epochs}"))
    shares = [p.until.share for p in parsed(f"finetune={name}").finetune.phases]
    found = [steps for _, steps, _ in schedule.remaining(schedule.start(1000))]
    assert sum(found) == 1000 * epochs
    # Twenty epochs are whole ones, so that a phase may have half of one more or less.
    slack = 1 if epochs < len(shares) else 500
    assert found == pytest.approx([1000 * epochs * share for share in shares], abs=slack)


def test_the_length_of_a_schedule_is_its_own_unless_the_run_has_one():
    staged = read_schedule(parsed("finetune=staged"))
    assert [steps for _, steps, _ in staged.remaining(staged.start(10))] == [20, 20, 60]
    assert read_schedule(parsed("finetune=staged", "trainer.max_minutes=5")).by_time
    typed = "finetune.phases=[{name: a, train: [head], until: {max_epochs: 3}}]"
    own = read_schedule(parsed("finetune=staged", typed))
    assert [steps for _, steps, _ in own.remaining(own.start(10))] == [30]
