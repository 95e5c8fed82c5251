"""What is fetched to verify a request is bounded, kept, and asked for once."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateway.vendors.fetch import (
    FAILURE_SECONDS,
    MAX_ANSWER_BYTES,
    MAX_KEPT,
    FetchFailed,
    SenderFetcher,
)
from gateway.webhooks.signed import Need

URL = "https://sender.example/key.pem"


class Response:
    def __init__(self, status: int, body: bytes) -> None:
        self.status = status
        self.content = asyncio.StreamReader()
        self.content.feed_data(body)
        self.content.feed_eof()


class Session:
    """Answers as the test says; remembers what it was asked."""

    def __init__(self, answer: Callable[[], Awaitable[tuple[int, bytes]]]) -> None:
        self.answer = answer
        self.asked: list[tuple[str, str, Any]] = []

    def request(self, method: str, url: Any, **options: Any) -> "Session":
        assert options["allow_redirects"] is False
        self.asked.append((method, str(url), options["data"]))
        return self

    async def __aenter__(self) -> Response:
        return Response(*await self.answer())

    async def __aexit__(self, *_: object) -> None:
        pass

    async def close(self) -> None:
        pass


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def fetcher(status: int = 200, body: bytes = b"key") -> tuple[SenderFetcher, Session, Clock]:
    async def answer() -> tuple[int, bytes]:
        return status, body

    session, clock = Session(answer), Clock()
    return SenderFetcher(clock=clock, session=lambda: session), session, clock  # type: ignore[arg-type, return-value]


async def test_an_answer_is_kept_for_its_time() -> None:
    made, session, clock = fetcher()
    need = Need(url=URL, key=URL, keep_seconds=100.0)
    assert await made.fetch(need) == b"key"
    clock.now = 99.0
    assert await made.fetch(need) == b"key"
    assert session.asked == [("GET", URL, None)]
    clock.now = 101.0
    await made.fetch(need)
    assert len(session.asked) == 2
    await made.close()


async def test_what_shall_not_be_kept_is_fetched_again() -> None:
    made, session, _ = fetcher()
    for _ in range(2):
        await made.fetch(Need(url=URL, key=URL, keep_seconds=0.0))
    assert len(session.asked) == 2


async def test_many_that_ask_at_once_are_one_request() -> None:
    gate = asyncio.Event()

    asked = asyncio.Event()

    async def answer() -> tuple[int, bytes]:
        asked.set()
        await gate.wait()
        return 200, b"key"

    session = Session(answer)
    made = SenderFetcher(session=lambda: session)  # type: ignore[arg-type, return-value]
    tasks = [asyncio.create_task(made.fetch(Need(url=URL, key=URL))) for _ in range(20)]
    await asked.wait()
    tasks[0].cancel()  # one that goes away leaves the others their answer
    gate.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert answers[1:] == [b"key"] * 19
    assert len(session.asked) == 1


@pytest.mark.parametrize(
    ("status", "body", "expects"),
    [
        (404, b"key", b""),
        (302, b"key", b""),
        (200, b"x" * (MAX_ANSWER_BYTES + 1), b""),
        (200, b"<html>", b"-----BEGIN CERTIFICATE-----"),
    ],
)
async def test_what_is_not_as_expected_fails_and_is_not_asked_for_at_once(
    status: int, body: bytes, expects: bytes
) -> None:
    made, session, clock = fetcher(status, body)
    need = Need(url=URL, key=URL, expects=expects)
    for _ in range(3):
        with pytest.raises(FetchFailed):
            await made.fetch(need)
    assert len(session.asked) == 1
    clock.now = FAILURE_SECONDS + 1
    with pytest.raises(FetchFailed):
        await made.fetch(need)
    assert len(session.asked) == 2


@pytest.mark.parametrize(
    "url",
    [
        "http://sender.example/key.pem",
        "https://user@sender.example/key.pem",
        "https://sender.example:8443/key.pem",
        "ftp://sender.example/",
    ],
)
async def test_only_plain_https_is_asked(url: str) -> None:
    made, session, _ = fetcher()
    with pytest.raises(FetchFailed, match="no plain https URL"):
        await made.fetch(Need(url=url, key=url))
    assert session.asked == []


async def test_made_up_urls_do_not_drive_out_real_answers() -> None:
    made, session, _ = fetcher()
    await made.fetch(Need(url=URL, key="real"))

    async def missing() -> tuple[int, bytes]:
        return 404, b""

    session.answer = missing
    for number in range(2 * MAX_KEPT):
        with pytest.raises(FetchFailed):
            await made.fetch(Need(url=URL, key=f"made-up-{number}"))
    assert await made.fetch(Need(url=URL, key="real")) == b"key"


async def test_a_private_address_is_never_asked() -> None:
    """With the real session: the guard sees the address, whatever the name says."""
    made = SenderFetcher()
    try:
        for host in ("127.0.0.1", "localhost", "[::1]", "169.254.169.254"):
            with pytest.raises(FetchFailed):
                await made.fetch(Need(url=f"https://{host}/", key=host))
    finally:
        await made.close()


async def test_what_is_posted_shows_in_no_error() -> None:
    made, session, _ = fetcher(500)
    with pytest.raises(FetchFailed) as caught:
        await made.fetch(Need(url=URL, key="plaid#kid", post=b'{"secret":"hush"}'))
    assert session.asked == [("POST", URL, b'{"secret":"hush"}')]
    assert "hush" not in str(caught.value)
