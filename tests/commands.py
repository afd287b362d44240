"""Commands in processes of their own that start at once.

A fresh interpreter takes seconds to import what a command needs. Here a server imports it once, and
forks for each command, which then has modules, signal handlers and streams of its own.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import json
import os
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import NamedTuple

# What a refused request imports; torch is not among it.
LIGHT = ("cv2", "msgspec", "psutil", "sqlite3", "xml.etree.ElementTree", "PIL.Image")
LIGHT += ("detector.cli", "detector.data.read")
# What trains and evaluates.
HEAVY = (*LIGHT, "torch", "torchvision", "lightning.pytorch", "albumentations", "torchmetrics")
HEAVY += ("pycocotools.cocoeval", "matplotlib.figure", "supervision", "plotly.graph_objects")
HEAVY += ("torch.utils.tensorboard", "matplotlib.backends.backend_agg", "scipy.fftpack")
HEAVY += ("detector.training.module", "detector.evaluation.metric", "detector.report.run_page")
HEAVY += ("detector.pipeline.results", "detector.data.loading.datamodule")

# Runs a command as `python -m detector.COMMAND` does.
RUN = """
import runpy, sys
command = sys.argv.pop(1)
sys.argv[0] = command
runpy.run_module(f"detector.{command}", run_name="__main__", alter_sys=True)
"""


class Ended(NamedTuple):
    """How a process ended."""

    code: int  # -N where signal N ended it
    stdout: str
    stderr: str
    torch: bool  # whether it imported torch


def run_script(script: str, *arguments: str, cwd: Path, heavy: bool = False) -> Ended:
    """Run a script as `python -c` does, with the environment of this process.

    Args:
        script: Python code.
        arguments: What follows it.
        cwd: Its working directory.
        heavy: Have what needs torch imported already.
    """
    server = _server(HEAVY if heavy else LIGHT)
    with tempfile.TemporaryDirectory() as folder:
        asked = {"script": script, "arguments": arguments, "cwd": str(cwd), "folder": folder}
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps(asked | {"environment": dict(os.environ)}) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        out, err = (Path(folder, name).read_text() for name in ("out", "err"))
        return Ended(code, out, err, Path(folder, "torch").exists())


def run_cli(command: str, *overrides: str, cwd: Path, heavy: bool = False) -> tuple[int, str, str]:
    """Run `python -m detector.COMMAND`; its exit code, and what it printed and complained of."""
    return run_script(RUN, command, *overrides, cwd=cwd, heavy=heavy)[:3]


def refused(command: str, *overrides: str, cwd: Path, light: bool = True) -> str:
    """What is said to a request that must be refused, before anything is written.

    Args:
        command: The command.
        overrides: As typed.
        cwd: An empty folder.
        light: The refusal must not need torch either.
    """
    ended = run_script(RUN, command, *overrides, cwd=cwd, heavy=not light)
    assert ended.code == 2, ended.stderr
    assert list(cwd.iterdir()) == []
    assert not (light and ended.torch)
    (line,) = ended.stderr.strip().splitlines()
    return line.removeprefix("error: ")


@functools.cache
def _server(modules: tuple[str, ...]) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "ignore", __file__, *modules]
    server = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="ascii"
    )

    def end() -> None:
        server.communicate()  # closes its input

    atexit.register(end)
    return server


def _serve() -> dict[str, object]:
    """Fork for each request; returns it in the child."""
    for line in iter(sys.stdin.readline, ""):
        child = os.fork()
        if not child:
            return dict(json.loads(line))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    sys.exit()


def _run(request: dict[str, object]) -> None:
    """Become the process that was asked for."""
    folder = Path(str(request["folder"]))
    os.chdir(str(request["cwd"]))
    os.environ.clear()
    os.environ.update(request["environment"])  # type: ignore[call-overload]
    for number, name in enumerate(("in", "out", "err")):
        file = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
    sys.stdin, sys.stdout, sys.stderr = (open(i, "w" if i else "r") for i in range(3))  # noqa: PTH123, SIM115
    sys.argv[:] = ["-c", *request["arguments"]]  # type: ignore[misc]
    code: object = 0
    try:
        exec(str(request["script"]), {"__name__": "__main__"})
    except SystemExit as ending:
        code = ending.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    if "torch" in sys.modules:
        (folder / "torch").touch()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)  # taking so many modules down takes long


if __name__ == "__main__":
    for module in sys.argv[1:]:
        importlib.import_module(module)
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.plugins import Plugins

    from detector.config.groups import register_backbones

    Plugins.instance()
    register_backbones()
    OverridesParser.create().parse_overrides(["a.b=[1, {c: 'd'}]", "+e=f,g", "h/i=j"])
    gc.freeze()  # else a collection in a child copies every page
    _run(_serve())
