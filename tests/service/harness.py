"""What the tests of the real process are made of: the process, its vendors, its senders."""

import asyncio
import base64
import contextlib
import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import asyncpg
from aiohttp import web

from gateway.webhooks.presets import PRESETS
from gateway.webhooks.sign import sign

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent

SECRET = "whsec_" + base64.b64encode(b"a key of the tests, 32 bytes long").decode()
SCHEME = PRESETS["standard-webhooks"]

START_SECONDS = 30.0
BOUND_SECONDS = 30.0  # whatever does not happen within it never will

_ids = itertools.count(1)


def configure(
    directory: Path,
    database_url: str,
    *,
    vendors: str,
    node: str = "node",
    lease: str = "2s",
    drain: str = "10s",
    gateway: str = "",
    server: str = "",
    queue: str = "",
    webhook: str = "",
) -> Path:
    """Write a configuration whose sender is ``shop``; *vendors* holds called vendors and routes."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{node}.toml"
    path.write_text(
        f"""
[gateway]
state_dir = "{directory / "state"}"
node = "{node}"
drain = "{drain}"
{gateway}
[database]
url = "{database_url}"
pool = 4
[server]
listen = "127.0.0.1:0"
{server}
[admin]
listen = "127.0.0.1:0"
[queue]
lease = "{lease}"
{queue}
[vendors.shop.webhook]
verify = "standard-webhooks"
secrets = ["env:SHOP_SECRET"]
{webhook}
{vendors}
"""
    )
    return path


def api(name: str, base_url: str, more: str = "") -> str:
    """Return the section of a called vendor on loopback."""
    return f'[vendors.{name}.api]\nbase_url = "{base_url}"\nallow_private = true\n{more}\n'


def route(name: str, act: str, more: str = "") -> str:
    """Return a route of the events of type *name*; *act* is its ``call`` or ``handler`` line."""
    return f'[[routes]]\nname = "{name}"\nfrom = "shop"\nevents = ["{name}"]\n{act}\n{more}\n'


class Gateway:
    """One ``gateway serve``. Its log is read as it comes; leaving the block kills it."""

    def __init__(self, config: Path) -> None:
        self.config = config
        self.log: list[dict[str, Any]] = []
        self.public = ""
        self.admin = ""
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._news = asyncio.Event()

    async def __aenter__(self) -> "Gateway":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def launch(self) -> None:
        """Start the process without waiting until it serves."""
        environment = {
            **os.environ,
            "SHOP_SECRET": SECRET,
            "PYTHONPATH": str(HERE),
            "PYTHONFAULTHANDLER": "1",
        }
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway", "serve", "--config", str(self.config)),
            cwd=ROOT,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            limit=1 << 20,
        )
        self._reader = asyncio.create_task(self._read(self._process))

    async def start(self) -> None:
        """Start the process; return when it serves."""
        mark = len(self.log)
        await self.launch()
        ready = await self.logged("service_ready", since=mark, seconds=START_SECONDS)
        self.public = f"http://{ready['public']}"
        self.admin = f"http://{ready['admin']}"

    async def kill(self) -> None:
        """End it by SIGKILL, if it still runs, and wait for its end."""
        if self.runs:
            os.kill(self.pid, signal.SIGKILL)
        await self.ended()

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    async def ended(self, seconds: float = BOUND_SECONDS) -> int:
        """Wait until the process has ended by itself; return its exit code."""
        if self._process is None:
            return 0
        async with asyncio.timeout(seconds):
            code = await self._process.wait()
            if self._reader is not None:
                await self._reader
        return code

    async def logged(
        self, event: str, *, since: int = 0, seconds: float = BOUND_SECONDS, **fields: Any
    ) -> dict[str, Any]:
        """Wait for a line of the log from line *since* on; return it."""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    for line in self.lines(event, since=since, **fields):
                        return line
                    assert self.runs, f"ended without logging {event}:\n{self.tail()}"
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"no {event} within {seconds} s:\n{self.tail()}") from None

    def lines(self, event: str, *, since: int = 0, **fields: Any) -> list[dict[str, Any]]:
        return [
            line
            for line in self.log[since:]
            if line["event"] == event and fields.items() <= line.items()
        ]

    def faults(self) -> list[dict[str, Any]]:
        """Return the lines that tell of a fault of ours."""
        return [
            line
            for line in self.log
            if "exception" in line or line["event"] in ("raw", "library_logged", "slot_failed")
        ]

    def tail(self) -> str:
        return "\n".join(json.dumps(line)[:2000] for line in self.log[-20:])

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None
        async for line in process.stderr:
            try:
                self.log.append(json.loads(line))
            except ValueError:
                self.log.append({"event": "raw", "text": line.decode(errors="replace")})
            self._news.set()
        await process.wait()
        self._news.set()


class Call:
    """One request that a vendor received; ``at`` is monotonic."""

    def __init__(self, request: web.BaseRequest, body: bytes) -> None:
        self.at = time.monotonic()
        self.method = request.method
        self.path = request.raw_path
        self.headers = request.headers.copy()
        self.body = body

    @property
    def key(self) -> str:
        return self.headers["Idempotency-Key"]


Answer = Callable[["Vendor", Call], Awaitable[web.StreamResponse]]


class Vendor:
    """A called system on loopback that does as ``answer`` says."""

    def __init__(self, answer: Answer | None = None) -> None:
        self.calls: list[Call] = []
        self.answer = answer or ok
        self.released = asyncio.Event()  # lets hanging calls end
        self.url = ""
        self._news = asyncio.Event()
        self._runner: web.ServerRunner | None = None

    async def __aenter__(self) -> "Vendor":
        self._runner = web.ServerRunner(
            web.Server(self._handle, access_log=None), shutdown_timeout=0.1
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, backlog=1024).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        self.released.set()
        await self._runner.cleanup()

    async def called(
        self, times: int = 1, *, seconds: float = BOUND_SECONDS, path: str | None = None
    ) -> list[Call]:
        """Wait until there were that many calls (to *path*); return them."""

        def matching() -> list[Call]:
            return [call for call in self.calls if path is None or call.path == path]

        try:
            async with asyncio.timeout(seconds):
                while len(matching()) < times:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"{len(matching())} calls of {times} in {seconds} s") from None
        return matching()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        call = Call(request, await request.read())
        self.calls.append(call)
        self._news.set()
        return await self.answer(self, call)


async def ok(vendor: Vendor, call: Call) -> web.StreamResponse:
    return web.Response(text="thanks")


async def broken(vendor: Vendor, call: Call) -> web.StreamResponse:
    return web.Response(status=500, text="broken")


async def hang(vendor: Vendor, call: Call) -> web.StreamResponse:
    await vendor.released.wait()
    return web.Response(text="at last")


def one_after_the_other(*answers: Answer) -> Answer:
    """Answer each call as the next of *answers* says, and from then on as the last one."""
    left = list(answers)

    async def answer(vendor: Vendor, call: Call) -> web.StreamResponse:
        return await (left.pop(0) if len(left) > 1 else left[0])(vendor, call)

    return answer


def status(code: int, **headers: str) -> Answer:
    async def answer(vendor: Vendor, call: Call) -> web.StreamResponse:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(status=code, headers=given)

    return answer


@contextlib.contextmanager
def refusing() -> Iterator[str]:
    """Yield a URL where connections are refused: its port is taken, but nobody listens."""
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def signed(body: bytes, *, message_id: str, now: float | None = None) -> dict[str, str]:
    return sign(
        SCHEME,
        SECRET,
        body=body,
        now=time.time() if now is None else now,
        message_id=message_id,
    )


class Receipt:
    def __init__(self, status: int, text: str, headers: Any) -> None:
        self.status = status
        self.headers = headers
        self.json = json.loads(text) if text.startswith("{") else {}


class Sender:
    """A system that sends signed webhooks; ``url`` may change while it sends."""

    def __init__(self, url: Callable[[], str], *, timeout_seconds: float = 15.0) -> None:
        self._url = url
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=timeout_seconds),
            connector=aiohttp.TCPConnector(limit=0),
        )
        self.receipts: dict[str, Receipt] = {}  # of acknowledged webhooks, by message id

    async def __aenter__(self) -> "Sender":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def send(
        self, event_type: str, *, message_id: str | None = None, **fields: Any
    ) -> Receipt:
        """Send once; return the answer. Raises what aiohttp raises when there is none."""
        message_id = message_id or f"msg_{next(_ids)}"
        body = json.dumps({"type": event_type, "n": message_id, **fields}).encode()
        headers = {
            **signed(body, message_id=message_id),
            "Content-Type": "application/json",
        }
        url = f"{self._url()}/webhooks/shop"
        async with self._session.post(url, data=body, headers=headers) as response:
            receipt = Receipt(response.status, await response.text(), response.headers.copy())
        if receipt.status in (200, 202):
            self.receipts[message_id] = receipt
        return receipt

    async def deliver(self, event_type: str, *, message_id: str, **fields: Any) -> None:
        """Send as real senders do: again until it is acknowledged."""
        while True:
            with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                receipt = await self.send(event_type, message_id=message_id, **fields)
                if receipt.status in (200, 202):
                    return
            await asyncio.sleep(0.05)  # a sender's pause; no test waits on it


class Records:
    """The database as an operator reads it."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    async def rows(self, sql: str, *args: Any) -> list[dict[str, Any]]:
        return [dict(row) for row in await self._connection.fetch(sql, *args)]

    async def value(self, sql: str, *args: Any) -> Any:
        return await self._connection.fetchval(sql, *args)

    async def states(self, route: str | None = None) -> dict[str, int]:
        """Return how many jobs (of *route*) are in which state."""
        rows = await self.rows(
            "SELECT state::text, count(*) AS jobs FROM gateway.jobs"
            " WHERE $1::text IS NULL OR route = $1 GROUP BY state",
            route,
        )
        return {row["state"]: row["jobs"] for row in rows}

    async def jobs(self, route: str | None = None) -> list[dict[str, Any]]:
        return await self.rows(
            "SELECT *, state::text AS state FROM gateway.jobs"
            " WHERE $1::text IS NULL OR route = $1 ORDER BY id",
            route,
        )

    async def attempts(self, job_id: Any) -> list[dict[str, Any]]:
        return await self.rows(
            "SELECT * FROM gateway.attempts WHERE job_id = $1 ORDER BY attempt", job_id
        )

    async def until_states(
        self, expected: dict[str, int], route: str | None = None, seconds: float = BOUND_SECONDS
    ) -> None:
        """Wait until the jobs (of *route*) are in exactly these states."""

        async def reached() -> bool:
            return await self.states(route) == expected

        try:
            await eventually(reached, seconds=seconds)
        except AssertionError:
            raise AssertionError(f"{await self.states(route)}, not {expected}") from None


@contextlib.asynccontextmanager
async def records_of(url: str) -> Any:
    connection = await asyncpg.connect(url)
    try:
        yield Records(connection)
    finally:
        await connection.close()


async def eventually(
    holds: Callable[[], Awaitable[bool]], *, seconds: float = BOUND_SECONDS, what: str = ""
) -> None:
    """Ask until it holds; fail after *seconds*."""
    deadline = time.monotonic() + seconds
    while not await holds():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what or holds}"
        await asyncio.sleep(0.05)


async def get(url: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status, await response.text()


def quoted(text: str) -> str:
    return quote(text, safe="")
