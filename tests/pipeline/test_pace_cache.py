"""What an earlier run's pace says of the next run's length."""

import pytest
from conftest import TINY, ask, in_force
from test_dry_run import phase_of

from detector.config.schedules import read_schedule
from detector.data.formats.paths import cache_folder
from detector.finetune.schedule import Entry, Progress
from detector.pipeline.dry_run import phase_table
from detector.pipeline.pace_cache import recall_pace, remember_pace

STAGED = [*TINY, "finetune=staged", "trainer.max_minutes=5"]
# Two phases of 6 and 3 steps, where a pass has 6: 20 s and 10 s of training.
PROGRESS = Progress(
    (
        Entry(0, "heads", 0, 0, None, "max_epochs", ("neck", "head"), 6),
        Entry(1, "top", 1, 6, None, "max_epochs", ("layer4", "neck", "head"), 3),
    ),
    per_epoch=6,
    epochs=1,
    steps=3,
)
ROWS = [
    {"epoch": "0", "seconds": "21", "seconds_validation": "1"},
    {"epoch": "1", "seconds": "22", "seconds_validation": "12"},
]


def remember(*overrides):
    config = in_force(ask("train", *STAGED, *overrides))
    remember_pace(config, PROGRESS, ROWS, read_schedule(config).phases)


def rows(*overrides):
    lines = phase_table(in_force(ask("train", *STAGED, *overrides)))
    return [phase_of(lines, name)["row"] for name in ("heads", "top", "upper")]


def test_a_dry_run_says_how_many_epochs_the_shares_of_the_time_give():
    assert ": " not in rows()[0]
    remember("data.root=a")
    heads, top, upper = rows("data.root=a")
    # A minute each. A pass of 20 s with a validation of 1 s; one of 20 s where a validation, of
    # 12 s, may take a tenth, so that not every epoch has one.
    assert heads.startswith(f"heads 20 % of 5 min: {60 / 21:.2g} epochs ")
    assert top.startswith(f"top 20 % of 5 min: {60 / (20 / 0.9):.2g} epochs ")
    assert upper.startswith("upper 60 % of 5 min ")  # has not been trained
    assert ":" not in upper


@pytest.mark.parametrize("other", ["data.root=b", "data.batch_size=4", "data.image_size=128"])
def test_the_pace_is_that_of_the_same_data_network_and_batches(other):
    remember("data.root=a")
    assert ": " not in rows("data.root=a", other)[0]


def test_a_file_of_something_else_is_no_pace():
    remember("data.root=a")
    (cache_folder() / "pace.json").write_text("[1, 2]")
    config = in_force(ask("train", *STAGED, "data.root=a"))
    assert recall_pace(config, read_schedule(config).phases[0]) is None
    remember("data.root=a")
    assert recall_pace(config, read_schedule(config).phases[0]) == (20, 1)
