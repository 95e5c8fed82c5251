"""Starts and stops the peers that take webhooks, and the servers that they need."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

from benchmarks.bare import CONCURRENCY
from benchmarks.peers.install import Installed
from benchmarks.subjects import Subject, answers, free_port, running

EXPRESS_DURABLE = "Express + BullMQ, fsync always"  # as durable before its 202 as the gateway
FASTAPI_PROCESSES = len(os.sched_getaffinity(0))

Start = Callable[[int], AbstractContextManager[Subject]]  # given the stub's port


def webhook_peers(installed: Installed) -> dict[str, tuple[tuple[str, ...], Start]]:
    """Return by name what each peer needs, and how it is started."""
    return {
        "Express + BullMQ": (("node", "redis"), partial(running_express, installed, "everysec")),
        EXPRESS_DURABLE: (("node", "redis"), partial(running_express, installed, "always")),
        "FastAPI + Celery": (("python", "redis"), partial(running_fastapi, installed)),
        "Node-RED": (("node",), partial(running_nodered, installed)),
    }


@contextmanager
def running_express(installed: Installed, fsync: str, stub_port: int) -> Iterator[Subject]:
    """Start Redis, the Express server, and BullMQ's worker in a process of its own."""
    port = free_port()
    with running_redis(installed, fsync=fsync) as redis:
        env = _environment(redis=redis, stub=stub_port) | {"NODE_ENV": "production"}
        server = [installed.node, installed.program("web_express.mjs"), str(port)]
        worker = [installed.node, installed.program("worker_bullmq.mjs")]
        with (
            running("express", server, ready=answers("/", port), env=env) as pid,
            running("bullmq worker", worker, ready=lambda: _waiting(redis, "bzpopmin"), env=env),
        ):
            yield Subject("Express + BullMQ", pid, port)


@contextmanager
def running_fastapi(installed: Installed, stub_port: int) -> Iterator[Subject]:
    """Start Redis, uvicorn with a process for each CPU, and a Celery worker of 64 greenlets."""
    port = free_port()
    with running_redis(installed) as redis:
        env = _environment(redis=redis, stub=stub_port) | {"PYTHONPATH": installed.program("")}
        server = [
            installed.python, "-m", "uvicorn", "web_fastapi:app", "--port", str(port),
            "--workers", str(FASTAPI_PROCESSES), "--loop", "uvloop", "--http", "httptools",
            "--no-access-log", "--log-level", "warning",
        ]  # fmt: skip
        worker = celery_worker(installed, queue="delivered", pool="gevent", concurrency=CONCURRENCY)
        with (
            running("uvicorn", server, ready=answers("/", port), env=env) as pid,
            running("celery", worker, ready=lambda: _waiting(redis, "brpop"), env=env),
        ):
            yield Subject("FastAPI + Celery", pid, port)


@contextmanager
def running_nodered(installed: Installed, stub_port: int) -> Iterator[Subject]:
    """Start Node-RED with the flow that verifies, answers and calls; nothing is stored."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as folder:
        verify = Path(installed.program("nodered_verify.js")).read_text()
        flow = Path(installed.program("nodered_flow.json")).read_text()
        quoted = verify.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        flow = flow.replace("VERIFY", quoted).replace("STUB", str(stub_port))
        (Path(folder) / "flow.json").write_text(flow)
        env = {"BENCHMARK_PORT": str(port), "BENCHMARK_FOLDER": folder, "NODE_ENV": "production"}
        red = installed.folder / "node_modules" / "node-red" / "red.js"
        settings = installed.program("nodered_settings.cjs")
        command = [installed.node, str(red), "--settings", settings]
        with running("node-red", command, ready=_refuses_unsigned(port), env=env) as pid:
            yield Subject("Node-RED", pid, port)


def celery_worker(installed: Installed, *, queue: str, pool: str, concurrency: int) -> list[str]:
    """Return the command of a worker without the chatter between workers."""
    return [
        installed.python, "-m", "celery", "--app", "celery_app", "worker", "--queues", queue,
        "--pool", pool, "--concurrency", str(concurrency), "--loglevel", "WARNING",
        "--without-gossip", "--without-mingle", "--without-heartbeat",
    ]  # fmt: skip


@contextmanager
def running_redis(installed: Installed, *, fsync: str = "everysec") -> Iterator[int]:
    """Start Redis as queues want it: append-only file, fsync every second, nothing evicted."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as folder:
        command = [
            installed.redis, "--port", str(port), "--bind", "127.0.0.1", "--dir", folder,
            "--appendonly", "yes", "--appendfsync", fsync, "--save", "",
            "--maxmemory-policy", "noeviction",
        ]  # fmt: skip
        env = {"LD_LIBRARY_PATH": installed.redis_libraries}
        with running("redis", command, ready=lambda: _pong(port), env=env):
            yield port


@contextmanager
def running_postgres() -> Iterator[str]:
    """Start a PostgreSQL with the gateway's settings; yields its DSN."""
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as folder:
        Path(folder).chmod(0o711)  # as root, PostgreSQL runs as another user that must get through
        dsn = Path(folder) / "dsn"
        command = [sys.executable, "-m", "benchmarks.postgres", folder]
        with running("postgresql", command, ready=dsn.exists):
            yield dsn.read_text()


def redis_says(port: int, *command: str) -> str:
    """Return the first line of Redis's answer to *command*."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(" ".join(command).encode() + b"\r\n")
        return connection.makefile("rb").readline().decode().strip()


def redis_clients(port: int) -> str:
    """Return the list of Redis's clients, which names each one's last command."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(b"CLIENT LIST\r\n")
        answer = connection.makefile("rb")
        return answer.read(int(answer.readline()[1:])).decode()


def _environment(*, redis: int, stub: int) -> Mapping[str, str]:
    return {"BENCHMARK_REDIS": str(redis), "BENCHMARK_STUB": str(stub)}


def _pong(port: int) -> bool:
    try:
        return redis_says(port, "PING") == "+PONG"
    except OSError:
        return False


def _waiting(port: int, command: str) -> bool:
    """Tell whether some client blocks on *command*: then the worker is up."""
    return f"cmd={command}" in redis_clients(port)


def _refuses_unsigned(port: int) -> Callable[[], bool]:
    """Return a question: does the flow run yet? Before that there is no such path (404)."""

    def ask() -> bool:
        request = (
            b"POST /webhooks/delivered HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            b"webhook-id: x\r\nwebhook-timestamp: 1\r\nwebhook-signature: v1,eA==\r\n"
            b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
        )
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
                connection.sendall(request)
                return b" 401 " in connection.recv(64)
        except OSError:
            return False

    return ask
