"""The processes of the embedded PostgreSQL: starting them, their log, and what a crash left."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from gateway.errors import EmbeddedFailed
from gateway.store.embedded_place import Account, Place

log = structlog.get_logger(__name__)

LOG_BYTES: Final = 10 << 20
TAIL_BYTES: Final = 4096
LEFTOVER_QUIT_SECONDS: Final = 30.0  # after asking an old server to stop, tell it to
LEFTOVER_GIVE_UP_SECONDS: Final = 45.0
POLL_SECONDS: Final = 0.05


class ServerLog:
    """The file that the server writes to by itself, so that we can never block it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self.handle = os.open(path, flags, 0o600)
        self.trim()
        self._start = os.fstat(self.handle).st_size

    def trim(self) -> None:
        """Begin afresh once the file is over its bound; the old text stays in ``….log.1``."""
        if os.fstat(self.handle).st_size > LOG_BYTES:
            old = self.path.with_name(self.path.name + ".1")
            shutil.copyfile(self.path, old)
            old.chmod(0o600)
            os.ftruncate(self.handle, 0)  # the server appends, so it goes on at the new end
            self._start = 0

    def tail(self) -> str:
        """Return the last lines since this object was made, for an error's text."""
        with self.path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(self._start, end - TAIL_BYTES))
            text = file.read().decode(errors="replace").strip()
        return f"; {self.path} ends with:\n{text}" if text else f"; {self.path} says nothing"

    def close(self) -> None:
        """Close our handle; the server has its own."""
        os.close(self.handle)


async def launch(
    command: list[str], *, account: Account, log_handle: int, at_our_death: signal.Signals
) -> asyncio.subprocess.Process:
    """Run *command* as *account*; it is sent *at_our_death* when the calling thread ends.

    In a session of its own: a terminal's Ctrl-C is for the gateway, which must drain first.
    """
    launcher = Path(__file__).with_name("embedded_launch.py")
    numbers = (int(at_our_death), os.getpid(), account.uid, account.gid)
    inherited = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", str(launcher), *map(str, numbers), *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=log_handle,
        stderr=log_handle,
        cwd="/",
        env={**inherited, "PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"},
        start_new_session=True,
    )  # fmt: skip


async def stop_leftovers(place: Place) -> None:
    """Wait until nothing runs on the data directory, and drop the lock files of a crash.

    To be called under the lock of ``state_dir``: whatever still runs has lost its gateway.
    PostgreSQL's own look at ``postmaster.pid`` is not enough: it refuses to start when the
    number in it now belongs to anybody else's process, as happens after a container's restart.
    """
    clock = asyncio.get_running_loop().time
    began = clock()
    signalled: set[tuple[int, signal.Signals]] = set()
    while leftovers := list(_processes(place)):
        waited = clock() - began
        if waited > LEFTOVER_GIVE_UP_SECONDS:
            raise EmbeddedFailed(
                f"an earlier PostgreSQL on {place.data} does not stop; end its processes "
                f"({', '.join(str(pid) for pid, _ in leftovers)}), then start again"
            )
        urgent = waited > LEFTOVER_QUIT_SECONDS
        for pid, is_postmaster in leftovers:
            number = signal.SIGQUIT if urgent else signal.SIGINT
            if (is_postmaster or urgent) and (pid, number) not in signalled:
                signalled.add((pid, number))
                log.warning("embedded_leftover_signalled", pid=pid, signal=number.name)
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
        await asyncio.sleep(POLL_SECONDS)
    for stale in (place.data / "postmaster.pid", *place.sockets.glob(".s.PGSQL.*")):
        stale.unlink(missing_ok=True)


def _processes(place: Place) -> Iterator[tuple[int, bool]]:
    """Yield the pid of each process of this server, and whether it is the postmaster.

    By their command lines, which unlike ``cwd`` root can also read in a container without
    CAP_SYS_PTRACE; by their owner too, since anybody can give himself any command line.
    """
    postmaster = (b"-D", os.fsencode(place.data))
    title = f"postgres: {place.cluster_name}: ".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        with suppress(OSError):  # it ended meanwhile
            line = (entry / "cmdline").read_bytes()
            arguments = line.split(b"\0")
            is_postmaster = (
                arguments[0].endswith(b"/postgres") and tuple(arguments[1:3]) == postmaster
            )
            if not (is_postmaster or line.startswith(title)):
                continue
            if entry.stat().st_uid == place.account.uid:
                yield int(entry.name), is_postmaster
