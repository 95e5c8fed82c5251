"""The public listener in the tests' own process: nothing is committed, nothing is fetched."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from urllib.parse import urlencode

import aiohttp
from aiohttp import web

from gateway.config import loader
from gateway.config.model import Address, Config
from gateway.model import Receipt
from gateway.routing import Router
from gateway.store.writes import Acceptance
from gateway.telemetry.metrics import Metrics
from gateway.vendors.fetch import FetchFailed
from gateway.web.connections import Timeouts
from gateway.web.doors import open_doors
from gateway.web.handshaking import Fetch
from gateway.web.intake import Intake
from gateway.web.server import Listener, public_listener
from gateway.web.turnstile import Turnstile
from gateway.webhooks.sign import sign
from gateway.webhooks.signed import Need

SECRET = "a-secret-of-the-tests"
ENVIRON = {"S": SECRET}  # what env: references are looked up in


class Desk:
    """Counts what would be committed."""

    def __init__(self) -> None:
        self.stored: list[Acceptance] = []
        self.patience: list[float] = []
        self.gate = asyncio.Event()  # closed, the database takes its time
        self.gate.set()

    def post(
        self,
        item: Acceptance,
        tell: Callable[[Receipt | BaseException], None],
        *,
        patience_seconds: float,
    ) -> None:
        committed = asyncio.ensure_future(self.accept(item, patience_seconds=patience_seconds))
        committed.add_done_callback(lambda committed: tell(committed.result()))

    async def accept(self, item: Acceptance, *, patience_seconds: float) -> Receipt:
        self.stored.append(item)
        self.patience.append(patience_seconds)
        await self.gate.wait()
        return Receipt(item.event.id, len(item.jobs), False)


class Fetcher:
    """Hands out what a test put there; fails for all else."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes] = {}
        self.asked: list[str] = []

    async def fetch(self, need: Need) -> bytes:
        self.asked.append(need.url)
        if need.url not in self.answers:
            raise FetchFailed("no such host in the tests")
        return self.answers[need.url]


class Place:
    """One public listener with the vendors of a TOML text."""

    def __init__(self, config: Config, base: str, session: aiohttp.ClientSession) -> None:
        self.config = config
        self.base = base
        self.session = session
        self.desk = Desk()
        self.fetcher = Fetcher()
        self.metrics = Metrics(version="0", vendors=config.vendors)
        self.handled = 0  # requests that had a coroutine of their own
        self.intake: Intake
        self.listener: Listener

    async def call(
        self,
        vendor: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        method: str = "POST",
        query: Mapping[str, str] | None = None,
    ) -> tuple[int, str, Mapping[str, str]]:
        url = f"{self.base}/webhooks/{vendor}" + (f"?{urlencode(query)}" if query else "")
        async with self.session.request(method, url, data=body or None, headers=headers) as answer:
            return answer.status, await answer.text(), answer.headers.copy()

    async def signed(
        self,
        vendor: str,
        body: bytes,
        *,
        secret: str = SECRET,
        content_type: str = "application/json",
    ) -> tuple[int, str, Mapping[str, str]]:
        webhook = self.config.vendors[vendor].webhook
        assert webhook is not None
        assert webhook.verify is not None
        headers = sign(webhook.verify, secret, body=body, now=time.time(), message_id="m")
        return await self.call(vendor, body, {**headers, "Content-Type": content_type})

    def count(self, vendor: str, result: str) -> float:
        return self.metrics.webhooks_total[vendor, result].value


def vendor(name: str, verify: str | None = None, more: str = "", *, secret: str = "env:S") -> str:  # noqa: S107
    return f"""
[vendors.{name}.webhook]
verify = "{verify or name}"
secrets = ["{secret}"]
{more}
"""


@contextlib.asynccontextmanager
async def serving(
    tmp_path: Path,
    toml: str,
    *,
    timeouts: Timeouts | None = None,
    fetch: Fetch | None = None,
    turnstile: Turnstile | None = None,
) -> AsyncIterator[Place]:
    path = tmp_path / "gateway.toml"
    path.write_text(toml)
    config = loader.load(path, environ=ENVIRON)
    webhooks = {name: v.webhook for name, v in config.vendors.items() if v.webhook}
    async with aiohttp.ClientSession() as session:
        place = Place(config, "", session)
        intake = place.intake = Intake(
            open_doors(webhooks),
            router=Router((), {}),
            desk=place.desk,  # type: ignore[arg-type]
            backlog_full=lambda: False,
            metrics=place.metrics,
            server=config.server,
            fetch=fetch or place.fetcher.fetch,
        )

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            place.handled += 1
            return await intake.handle(request)

        listener = place.listener = public_listener(
            handle,
            Address("127.0.0.1", 0),
            prompt=intake,
            timeouts=timeouts or Timeouts(),
            turnstile=turnstile,
        )
        await listener.start()
        place.base = f"http://127.0.0.1:{listener.port}"
        try:
            yield place
        finally:
            await listener.stop_accepting()
            await listener.close()
