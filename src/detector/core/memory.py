"""Free memory of the machine."""

from __future__ import annotations

from pathlib import Path

import psutil

# Where Linux keeps the memory limits of a container (its documentation: cgroup-v2, "memory").
CGROUP = Path("/sys/fs/cgroup")


def free_memory() -> int:
    """Free memory of the machine or of its container, whichever is less, in bytes."""
    free = int(psutil.virtual_memory().available)
    try:
        limit = int((CGROUP / "memory.max").read_text())  # "max" is a ValueError: no limit
        used = int((CGROUP / "memory.current").read_text())
        lines = (CGROUP / "memory.stat").read_text().splitlines()
        kept = dict(line.split() for line in lines)  # cached files, whose memory can be freed
        return min(free, limit - used + int(kept["active_file"]) + int(kept["inactive_file"]))
    except (OSError, ValueError, KeyError):
        return free
