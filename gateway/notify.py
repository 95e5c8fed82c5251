"""What the gateway tells systemd, and what it inherits from it; protocols of sd_notify(3),
sd_watchdog_enabled(3) and sd_listen_fds(3), in the standard library.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

_FIRST_INHERITED_FD = 3
_STATUS_CHARS = 512


class Notifier:
    """Reports to the service manager; does nothing where there is none (no ``NOTIFY_SOCKET``).

    A report that cannot be delivered is dropped: the manager's own time-outs are the safety net,
    and a service must not fail because nobody listens to it.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._address = _socket_address(environ.get("NOTIFY_SOCKET", ""))
        self.watchdog_seconds = _watchdog_seconds(environ) if self._address else None

    @property
    def enabled(self) -> bool:
        """Whether a service manager listens."""
        return self._address is not None

    @property
    def ping_seconds(self) -> float | None:
        """How often to call :meth:`watchdog`, half its deadline; None: no watchdog watches us."""
        return None if self.watchdog_seconds is None else self.watchdog_seconds / 2

    def ready(self, status: str = "") -> None:
        """Say that start-up, or a reload, is complete."""
        self._send("READY=1", *_status(status))

    def reloading(self) -> None:
        """Say that the configuration is being read again; :meth:`ready` ends it."""
        # The clock tells the manager which reload this answers (Type=notify-reload, systemd 253).
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={microseconds}")

    def stopping(self, status: str = "") -> None:
        """Say that the drain has begun."""
        self._send("STOPPING=1", *_status(status))

    def status(self, text: str) -> None:
        """Set the one line that ``systemctl status`` shows."""
        self._send(*_status(text))

    def watchdog(self) -> None:
        """Say that the event loop still turns. Call it from that loop, never from a thread."""
        self._send("WATCHDOG=1")

    def extend_timeout(self, seconds: float) -> None:
        """Ask for *seconds* more to start or stop, e.g. for a long migration."""
        self._send(f"EXTEND_TIMEOUT_USEC={round(seconds * 1_000_000)}")

    def _send(self, *assignments: str) -> None:
        if self._address is None or not assignments:
            return
        datagram = "\n".join(assignments).encode(errors="replace")
        try:
            # A socket per report: it survives a manager that was re-executed. Never blocks.
            with socket.socket(
                socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            ) as sender:
                sender.sendto(datagram, self._address)
        except OSError:
            return


def listen_fds(environ: Mapping[str, str] = os.environ) -> dict[str, list[int]]:
    """Return the sockets that a ``.socket`` unit opened for this process, by name, in order.

    The name is that of ``FileDescriptorName=``, by default the unit's. Each is made
    close-on-exec, so that PostgreSQL, our child, does not inherit it.
    """
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return {}
    count = _natural(environ.get("LISTEN_FDS"))
    if not count:
        return {}
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    inherited: dict[str, list[int]] = {}
    for index in range(count):
        fd = _FIRST_INHERITED_FD + index
        os.set_inheritable(fd, False)
        name = names[index] if index < len(names) and names[index] else "unknown"
        inherited.setdefault(name, []).append(fd)
    return inherited


def _socket_address(text: str) -> str | None:
    """Return what ``sendto`` takes: a path, or an abstract name, which is written with ``@``."""
    if text.startswith("@") and len(text) > 1:
        return "\0" + text[1:]
    return text if text.startswith("/") else None


def _watchdog_seconds(environ: Mapping[str, str]) -> float | None:
    """Return the watchdog's deadline, unless it is meant for another process."""
    microseconds = _natural(environ.get("WATCHDOG_USEC"))
    if not microseconds or environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return microseconds / 1_000_000


def _natural(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() else None


def _status(text: str) -> list[str]:
    """Return the assignment; a newline would start another one, so it becomes a space."""
    return [f"STATUS={' '.join(text[:_STATUS_CHARS].split())}"] if text else []
