"""The layers of docs/architecture.md, read off the imports."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import detector

ROOT = Path(detector.__file__).parent
FILES = sorted(p.relative_to(ROOT) for p in ROOT.rglob("*.py"))
L0 = {"types", "boxes", "bar", "__init__"}
L1 = {"data", "models", "evaluation", "report"}
L2 = {"finetune", "task", "progress"}
ENTRIES = {"train", "evaluate", "predict", "check"}


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


def room(path: Path) -> str:
    return path.parts[0].removesuffix(".py")


@pytest.mark.parametrize("file", FILES, ids=str)
def test_imports_respect_the_layers(file):
    here = room(file)
    ours = {n.split(".")[1] for n in imports(file) if n.startswith("detector.")}
    others = {n.split(".")[0] for n in imports(file)} | {
        ".".join(n.split(".")[:2]) for n in imports(file)
    }
    if here in L0:
        assert not ours - {"types"}
    elif here in L1:
        assert not ours - L0 - {here}, "a package of layer 1 imports layer 0 alone"
    elif here in L2:
        assert not ours - L0 - L2 - {"models", "evaluation"}
    else:
        assert not ours & (ENTRIES - {here}), "nobody imports an entry point"
    if here in L0 | L1 | L2:
        assert not others & {"hydra", "omegaconf"}
    if here in L0 | L1 and str(file) != "data/datamodule.py":
        assert not others & {"lightning", "pytorch_lightning"}
    if here != "report":
        assert not others & {"supervision", "matplotlib", "jinja2", "plotly"}
    if str(file) != "evaluation/coco.py":
        assert "hotcoco" not in others
    if str(file) != "evaluation/reference.py":
        assert "pycocotools" not in others


@pytest.mark.parametrize("module", ["history", "report.schedule"])
def test_matplotlib_is_imported_only_when_something_is_drawn(module):
    program = f"import sys, detector.{module}; print('matplotlib' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.stdout == "False\n", ran.stderr


def test_pyplot_with_its_global_state_is_not_used():
    for file in FILES:
        assert not any(name.startswith("matplotlib.pyplot") for name in imports(file)), file
