"""What /proc tells of processes: their CPU time and their children."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int, *, reaped: bool = False) -> float:
    """Return user and system time of *pid*; with *reaped* also that of children it waited for."""
    fields = _fields(pid)
    return sum(map(int, fields[11:15] if reaped else fields[11:13])) / _TICKS


def children(pid: int) -> Iterator[int]:
    """Yield the pids of the children of *pid*."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):  # it ended meanwhile
                if int(_fields(int(entry.name))[1]) == pid:
                    yield int(entry.name)


def title(pid: int) -> str:
    """Return the command line of *pid*, which PostgreSQL's processes replace by what they do."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ").strip()
    return ""


def _fields(pid: int) -> list[str]:
    """Return the fields of stat(5) after the name, which may hold anything: state is the first."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
