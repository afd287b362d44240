"""What a command is: a module beside cli.py, and a YAML file of the same name in conf/."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from omegaconf import DictConfig

from detector.config.schema import Config
from detector.core.run_folder import RunFolder


@dataclass(frozen=True)
class Outcome:
    """Result of a command.

    Attributes:
        result: Plain data for callers in Python, such as scores by name.
        score: Score that a sweep maximises; None if there is none.
        exit_code: Exit code of the process.
    """

    result: Any
    score: float | None = None
    exit_code: int = 0


class Command(Protocol):
    """Interface of a command's module.

    A command that several processes carry out together, of which the first one writes, also has
    `DISTRIBUTED = True`.

    Attributes:
        KEYS: The options of the command, its own keys among them.
    """

    KEYS: type[Config]

    def prepare(self, cfg: DictConfig) -> Any:
        """Check everything that can be checked before the work begins, and write nothing.

        Args:
            cfg: As composed, with `overrides`.

        Returns:
            What `run` needs, with all that was read; None if nothing is left to do.

        Raises:
            RequestError: If the request is wrong: one line that names the key, file or box.
        """

    def run(self, prepared: Any, folder: RunFolder) -> Outcome:
        """Do the work.

        Args:
            prepared: Result of `prepare`.
            folder: Folder for the outputs. It exists, and no other process writes into it.
        """
