"""Reports to the service manager, over a real datagram socket."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.notify import Notifier, listen_fds


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(5)
        yield listener


def notifier_to(manager: socket.socket, **more: str) -> Notifier:
    return Notifier({"NOTIFY_SOCKET": manager.getsockname(), **more})


def heard(manager: socket.socket) -> list[str]:
    return manager.recv(65536).decode().split("\n")


def test_ready_stopping_and_watchdog_are_said(manager: socket.socket) -> None:
    notifier = notifier_to(manager)
    notifier.ready("serving on 8080")
    notifier.watchdog()
    notifier.stopping()
    assert heard(manager) == ["READY=1", "STATUS=serving on 8080"]
    assert heard(manager) == ["WATCHDOG=1"]
    assert heard(manager) == ["STOPPING=1"]


def test_reloading_carries_the_monotonic_clock_of_now(manager: socket.socket) -> None:
    before = time.monotonic_ns() // 1000
    notifier_to(manager).reloading()
    after = time.monotonic_ns() // 1000
    first, second = heard(manager)
    assert first == "RELOADING=1"
    name, _, value = second.partition("=")
    assert name == "MONOTONIC_USEC"
    assert before <= int(value) <= after


def test_a_status_cannot_smuggle_in_another_assignment(manager: socket.socket) -> None:
    notifier_to(manager).status("draining\nREADY=1\r\n" + "x" * 5000)
    (only,) = heard(manager)
    assert only.startswith("STATUS=draining READY=1 xxx")
    assert len(only) < 600


def test_extend_timeout_is_in_microseconds(manager: socket.socket) -> None:
    notifier_to(manager).extend_timeout(1.5)
    assert heard(manager) == ["EXTEND_TIMEOUT_USEC=1500000"]


def test_an_abstract_socket_is_reached() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("")  # the kernel picks an abstract name
        listener.settimeout(5)
        name = listener.getsockname()
        Notifier({"NOTIFY_SOCKET": "@" + os.fsdecode(name[1:])}).ready()
        assert heard(listener) == ["READY=1"]


@pytest.mark.parametrize("address", ["", "@", "relative", "vsock:2:1234"])
def test_without_a_usable_socket_nothing_is_said(address: str) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000"})
    notifier.ready()
    assert not notifier.enabled
    assert notifier.ping_seconds is None


def test_a_manager_that_is_gone_or_deaf_stops_nobody(tmp_path: Path) -> None:
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "deaf"))
        deaf = notifier_to(listener)
        for _ in range(2000):  # more than the socket's queue holds: a blocking send would hang
            deaf.watchdog()


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_fed_at_half_its_deadline_and_only_if_it_is_ours(
    manager: socket.socket, environ: dict[str, str], seconds: float | None
) -> None:
    assert notifier_to(manager, **environ).ping_seconds == seconds


@pytest.mark.parametrize(
    "environ",
    [{}, {"LISTEN_PID": "1", "LISTEN_FDS": "1"}, {"LISTEN_FDS": "1"}, {"LISTEN_PID": "self"}],
)
def test_sockets_meant_for_others_are_not_taken(environ: dict[str, str]) -> None:
    if environ.get("LISTEN_PID") == "self":
        environ = {"LISTEN_PID": str(os.getpid())}
    assert listen_fds(environ) == {}


def test_inherited_sockets_come_by_name_and_do_not_leak_to_children() -> None:
    """In a process of its own: the numbers from 3 on are fixed by the protocol."""
    script = """
import os, socket, sys
from gateway.notify import listen_fds
a, b, c = (socket.socket() for _ in range(3))
held = [os.dup2(s.fileno(), n) for s, n in zip((a, b, c), (13, 14, 15))]
for n, fd in enumerate(held): os.dup2(fd, 3 + n)
environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "3", "LISTEN_FDNAMES": "web:admin:web"}
found = listen_fds(environ)
print(found, any(os.get_inheritable(fd) for fds in found.values() for fd in fds))
sys.stdout.flush()
os._exit(0)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert done.stdout.strip() == "{'web': [3, 5], 'admin': [4]} False"
