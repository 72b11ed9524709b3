"""How much memory this process may still take."""

from pathlib import Path

import psutil

_GROUP = Path("/sys/fs/cgroup")  # of a container: control groups, version 2


def available_memory() -> int:
    """Bytes that are free for this process, on the machine and, in a container, within its limit."""
    free = int(psutil.virtual_memory().available)
    try:
        limit, used = (
            (_GROUP / "memory.max").read_text(encoding="ascii"),
            int((_GROUP / "memory.current").read_text(encoding="ascii")),
        )
        stat = dict(line.split() for line in (_GROUP / "memory.stat").read_text(encoding="ascii").splitlines())
        return min(free, int(limit) - used + int(stat["inactive_file"]))  # files in memory make room
    except (OSError, ValueError, KeyError):  # no container, or one without a limit, which says `max`
        return free
