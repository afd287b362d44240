"""The built wheel works from any folder: it carries conf/ and the page's templates."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

COMPOSE = """
import sys
from pathlib import Path
import detector
from detector import cli
from detector.config.resolve import resolve
from detector.config.schema import conf_folder
from detector.config.schedules import read_schedule
assert Path(detector.__file__).is_relative_to(sys.argv[1]), detector.__file__
assert conf_folder().is_relative_to(sys.argv[1])
names = sorted(p.stem for p in (conf_folder() / "experiment").glob("*.yaml"))
for name in names:
    cfg = cli.compose("train", [f"+experiment={name}"])
    read_schedule(resolve(cli.load_command("train").KEYS, cfg))
print(*names)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the wheel's content."""
    base = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(base), str(ROOT)]
    subprocess.run([*pip, *build], check=True)
    (wheel,) = base.glob("*.whl")
    target = base / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(target), str(wheel)], check=True)
    return target


def run(installed, cwd, *arguments):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={"PYTHONPATH": str(installed), "PATH": "/usr/bin:/bin", "HOME": str(cwd)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_experiment_composes_from_another_folder(installed, tmp_path):
    done = run(installed, tmp_path, "-c", COMPOSE, str(installed))
    assert done.returncode == 0, done.stderr
    names = sorted(p.stem for p in (ROOT / "conf/experiment").glob("*.yaml"))
    assert done.stdout.split() == names


def test_the_wheel_carries_the_templates_of_the_page(installed):
    part = Path("detector/report/templates")
    expected = {p.name for p in (ROOT / "src" / part).iterdir()}
    assert "check.html" in expected
    assert {p.name for p in (installed / part).iterdir()} == expected


def test_the_command_runs_from_another_folder(installed, tmp_path):
    done = run(installed, tmp_path, "-m", "detector.train", "data.root=nowhere")
    assert done.returncode == 2
    assert f"data.root={tmp_path}/nowhere: no such folder" in done.stderr
