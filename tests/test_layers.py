"""The layers of docs/architecture.md, read off the imports, those for type checking included."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import detector

ROOT = Path(detector.__file__).parent
FILES = sorted(p.relative_to(ROOT) for p in ROOT.rglob("*.py"))
COMMANDS = {"train", "evaluate", "predict", "check"}
# What each room may import, beside itself.
BELOW: dict[str, set[str]] = {"core": set()}
BELOW["data"] = BELOW["models"] = BELOW["evaluation"] = {"core"}
BELOW["finetune"] = {"data", "models", "evaluation"} | BELOW["models"]
BELOW["training"] = {"finetune"} | BELOW["finetune"]
BELOW["report"] = {"training"} | BELOW["training"]
BELOW["config"] = {"report"} | BELOW["report"]
BELOW["pipeline"] = {"config"} | BELOW["config"]
BELOW["cli"] = {"pipeline"} | BELOW["pipeline"]
BELOW |= dict.fromkeys([*COMMANDS, "__init__", "__main__"], {"cli"} | BELOW["cli"])
# Which files may import a library; a folder stands for all in it.
ONLY_IN = {
    ("hydra", "omegaconf"): ("config", "pipeline", "cli.py", *(f"{c}.py" for c in COMMANDS)),
    ("lightning", "pytorch_lightning"): (
        *("training", "finetune", "pipeline", "train.py", "evaluate.py"),
        *("data/loading/datamodule.py",),
    ),
    ("supervision", "matplotlib", "jinja2", "plotly"): ("report",),
    ("albumentations",): ("data/loading/augment.py",),
    ("hotcoco",): ("evaluation/coco.py",),
    ("pycocotools",): ("evaluation/reference.py",),
}


def imports(file: Path) -> set[str]:
    """Dotted names of everything a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def module(name: str) -> str | None:
    """The file, relative, of a dotted name of ours, which may be that of a thing in it."""
    parts = name.split(".")[1:]
    for end in range(len(parts), -1, -1):
        path = Path(*parts[:end])
        for file in (path.with_suffix(".py") if end else None, path / "__init__.py"):
            if file is not None and (ROOT / file).is_file():
                return str(file)
    return None


def room(path: Path) -> str:
    return path.parts[0].removesuffix(".py")


@pytest.mark.parametrize("file", FILES, ids=str)
def test_imports_go_down_the_layers(file):
    ours = {name for name in imports(file) if name.startswith("detector.")}
    rooms = {room(Path(found)) for found in map(module, ours) if found}
    assert rooms - {room(file)} <= BELOW[room(file)]


@pytest.mark.parametrize("file", FILES, ids=str)
def test_a_library_is_imported_where_it_belongs(file):
    libraries = {name.split(".")[0] for name in imports(file)}
    for names, places in ONLY_IN.items():
        if not any(file.is_relative_to(place) for place in places):
            assert not libraries & set(names)


def test_only_commands_and_packages_lie_in_the_package_itself():
    loose = {path.name for path in ROOT.iterdir() if path.is_file()}
    commands = {f"{name}.py" for name in COMMANDS}
    assert loose == {"__init__.py", "__main__.py", "py.typed", "cli.py"} | commands


def test_no_module_imports_itself_through_others():
    graph = {}
    for file in FILES:
        names = {name for name in imports(file) if name.startswith("detector.")}
        graph[str(file)] = {found for found in map(module, names) if found} - {str(file)}
    TopologicalSorter(graph).prepare()  # raises, and names the circle


@pytest.mark.parametrize("module", ["pipeline.history", "report.schedule"])
def test_matplotlib_is_imported_only_when_something_is_drawn(module):
    program = f"import sys, detector.{module}; print('matplotlib' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.stdout == "False\n", ran.stderr


def test_pyplot_with_its_global_state_is_not_used():
    for file in FILES:
        assert not any(name.startswith("matplotlib.pyplot") for name in imports(file)), file
