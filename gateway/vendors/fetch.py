"""Fetches what a sender's signature is verified by: certificates, keys, a confirmation.

What to fetch follows from a request that nobody has verified yet, so everything is bounded: only
https, only public addresses, no redirects, few at a time, one per URL, small and soon; and
failures are remembered, too, so that a flood of forged requests is not passed on to the sender.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import aiohttp
from yarl import URL

from gateway.errors import GatewayError
from gateway.vendors.guard import socket_factory
from gateway.webhooks.signed import Need

MAX_ANSWER_BYTES = 64 << 10
TIMEOUT_SECONDS = 3.0  # senders wait a few seconds for our own answer
FAILURE_SECONDS = 10.0  # how long a failure is not tried again
MAX_KEPT = 256
MAX_AT_ONCE = 4


class FetchFailed(GatewayError):
    """What a request is verified by cannot be had at the moment."""


class SenderFetcher:
    """Fetches by :class:`Need`, and keeps the answers for as long as each may be used."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        session: Callable[[], aiohttp.ClientSession] | None = None,
    ) -> None:
        self._clock = clock
        self._new_session = session or _guarded_session
        self._session: aiohttp.ClientSession | None = None
        self._kept: dict[str, tuple[float, bytes | FetchFailed]] = {}  # until when, and what
        self._under_way: dict[str, asyncio.Task[bytes]] = {}
        self._turns = asyncio.Semaphore(MAX_AT_ONCE)

    async def close(self) -> None:
        """Break off what is under way."""
        for task in self._under_way.values():
            task.cancel()
        if self._session is not None:
            await self._session.close()

    async def fetch(self, need: Need) -> bytes:
        """Return the answer, at most 64 KiB; raises :class:`FetchFailed`.

        Who asks for what is being fetched already waits for that one.
        """
        if (kept := self._kept.get(need.key)) is not None and self._clock() < kept[0]:
            if isinstance(kept[1], FetchFailed):
                raise FetchFailed(str(kept[1]))
            return kept[1]
        task = self._under_way.get(need.key)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._fetch(need))
            self._under_way[need.key] = task
            task.add_done_callback(lambda done: self._ended(need.key, done))
        return await asyncio.shield(task)  # a sender that goes away leaves the others their answer

    def _ended(self, key: str, task: asyncio.Task[bytes]) -> None:
        self._under_way.pop(key, None)
        if not task.cancelled():
            task.exception()  # it has been told to whoever waited, if anyone still did

    async def _fetch(self, need: Need) -> bytes:
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS), self._turns:
                answer = await self._ask(need)
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            failed = FetchFailed(f"{need.key[:200]}: {str(error)[:200] or type(error).__name__}")
            self._keep(need.key, FAILURE_SECONDS, failed)
            raise failed from None
        except FetchFailed as failed:
            self._keep(need.key, FAILURE_SECONDS, failed)
            raise
        if need.keep_seconds:
            self._keep(need.key, need.keep_seconds, answer)
        return answer

    async def _ask(self, need: Need) -> bytes:
        url = URL(need.url, encoded=True)
        if url.scheme != "https" or url.user is not None or url.explicit_port is not None:
            raise FetchFailed(f"{need.key[:200]} is no plain https URL")
        if self._session is None:
            self._session = self._new_session()
        method = "POST" if need.post else "GET"
        headers = {"Content-Type": "application/json"} if need.post else {}
        async with self._session.request(
            method, url, data=need.post or None, headers=headers, allow_redirects=False
        ) as response:
            if response.status != 200:
                raise FetchFailed(f"{need.key[:200]} answered HTTP {response.status}")
            answer = b""
            while chunk := await response.content.read(MAX_ANSWER_BYTES + 1 - len(answer)):
                answer += chunk
        if len(answer) > MAX_ANSWER_BYTES or not answer.lstrip().startswith(need.expects):
            raise FetchFailed(f"{need.key[:200]} answered with something else")
        return answer.lstrip()

    def _keep(self, key: str, seconds: float, what: bytes | FetchFailed) -> None:
        now = self._clock()
        if len(self._kept) >= MAX_KEPT:
            # Failures and old answers go first: made-up URLs must not drive out real answers.
            stale = [k for k, (end, _) in self._kept.items() if end <= now]
            failures = [k for k, (_, held) in self._kept.items() if isinstance(held, FetchFailed)]
            for name in stale or failures or [next(iter(self._kept))]:
                self._kept.pop(name, None)
        self._kept[key] = (now + seconds, what)


def _guarded_session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=MAX_AT_ONCE, socket_factory=socket_factory(allow_private=False)
        ),
        timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
    )
