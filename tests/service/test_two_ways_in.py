"""A webhook that comes in one piece goes a shorter way than one that does not; nobody can tell."""

import asyncio
import gc
import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from doorstep import Place, serving, vendor
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from gateway.messages import Request
from gateway.web.connections import MAX_HELD_BYTES, Connection, Timeouts
from gateway.web.turnstile import Entrant, Turnstile

BOUND_SECONDS = 10.0
BODY = b'{"type": "x", "id": "e-1"}'
CLOSES = b"Connection: close\n"  # as answers() tells it


def unsigned(name: str, more: str = "") -> str:
    return vendor(name, "none", more).replace('secrets = ["env:S"]\n', "")


TOML = (
    unsigned("open")
    + unsigned("small", 'max_body = "20B"')
    + unsigned("far", 'allow_ips = ["192.0.2.1"]')
    + unsigned("near", 'allow_ips = ["127.0.0.1"]')
    + unsigned("terse")
    + '[vendors.terse.webhook.response]\nstatus = 204\nbody = ""\n'
    + unsigned("wordy")
    + '[vendors.wordy.webhook.response]\nstatus = 200\nbody = "thank you, \u00e9"\n'
    + vendor("signed", "github")
    + vendor("silent", "xero")
    + vendor("shaking", "slack")
)

PATHS = [
    *("open", "small", "far", "near", "terse", "wordy", "signed", "silent", "shaking", "nobody"),
    *("open?a=1&b=%20", "%6fpen", "open/", "open#part"),
]

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def connected(place: Place) -> AsyncIterator[Streams]:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(place.base.rpartition(":")[2]))
    try:
        yield reader, writer
    finally:
        writer.close()


def request(path: str, *, method: str = "POST", more: str = "", body: bytes = BODY) -> bytes:
    return (
        f"{method} /webhooks/{path} HTTP/1.1\r\nHost: x\r\nX-Correlation-ID: c-1\r\n"
        f"Content-Length: {len(body)}\r\n{more}\r\n"
    ).encode() + body


async def answers(reader: asyncio.StreamReader, count: int) -> list[tuple[bytes, bytes]]:
    """Return that many answers as (head, body), without what differs from one to the next."""
    found = []
    async with asyncio.timeout(BOUND_SECONDS):
        for _ in range(count):
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"Content-Length: (\d+)", head)
            body = await reader.readexactly(int(length[1]) if length else 0)
            lines = sorted(line for line in head.split(b"\r\n") if not line.startswith(b"Date:"))
            found.append((b"\n".join(lines), re.sub(rb'"[0-9a-f-]{36}"', b'"ID"', body)))
    return found


async def in_pieces(streams: Streams, raw: bytes, *, place: Place) -> list[tuple[bytes, bytes]]:
    """Send head and body so that no callback ever sees them together."""
    head, _, body = raw.partition(b"\r\n\r\n")
    streams[1].write(head + b"\r\n\r\n" + body[:1])
    await until(lambda: place.intake.under_way == 1)
    streams[1].write(body[1:])
    return await answers(streams[0], 1)


@pytest.mark.parametrize("path", ["open", "near", "terse", "wordy", "signed", "silent", "shaking"])
async def test_both_ways_say_the_same(tmp_path: Path, path: str) -> None:
    async with serving(tmp_path, TOML) as place:
        async with connected(place) as streams:
            streams[1].write(request(path))
            whole = await answers(streams[0], 1)
        async with connected(place) as streams:
            assert await in_pieces(streams, request(path), place=place) == whole


async def test_only_what_is_whole_and_needs_no_waiting_goes_the_short_way(tmp_path: Path) -> None:
    async with serving(tmp_path, TOML) as place, connected(place) as streams:
        for path, counted in [("open", 0), ("signed", 0), ("shaking", 1), ("nobody", 1)]:
            before = place.handled
            streams[1].write(request(path))
            await answers(streams[0], 1)
            assert place.handled - before == counted, path
        await in_pieces(streams, request("open"), place=place)
        assert place.handled - before == 2


@pytest.mark.parametrize(
    ("pieces", "offered"),
    [
        ([request("open")], ["/webhooks/open"]),
        ([request("open")[:-5], request("open")[-5:]], []),
        ([request("open")[:-5], request("open")[-5:-2], request("open")[-2:]], []),
        ([request("shaking")], ["/webhooks/shaking"]),  # and aiohttp reads it once more
    ],
    ids=["whole", "body in two", "body in three", "whole, for a coroutine"],
)
async def test_after_what_it_is_known_to_have_read_aiohttp_is_asked_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pieces: list[bytes], offered: list[str]
) -> None:
    seen = offers(monkeypatch)
    async with serving(tmp_path, TOML) as place, connected(place) as streams:
        await send_singly(streams, pieces)
        assert seen == offered
        await send_singly(streams, [request("near")])
        assert seen == [*offered, "/webhooks/near"]


@pytest.mark.parametrize(
    "pieces",
    [
        [request("open")[:20], request("open")[20:]],
        [request("open")[:-5], request("open")[-5:] + request("open")],
        [request("open") * 2],
        [b"\r\n" + request("open")],
        [request("open", more="X-Name: \u00fc\r\n")],
    ],
    ids=["head in two", "pipelined after a piece", "pipelined", "empty line", "not ASCII"],
)
async def test_where_aiohttp_may_be_in_the_middle_of_something_it_reads_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pieces: list[bytes]
) -> None:
    seen = offers(monkeypatch)
    async with serving(tmp_path, TOML) as place, connected(place) as streams:
        await send_singly(streams, pieces)
        await send_singly(streams, [request("near")])
        assert seen == []
        assert len(place.desk.stored) == b"".join(pieces).count(b"POST") + 1


@pytest.mark.parametrize("pieces", [1, 2], ids=["whole", "in pieces"])
async def test_what_comes_next_is_not_taken_before_it_is_its_turn(
    tmp_path: Path, pieces: int
) -> None:
    async with serving(tmp_path, TOML) as place, connected(place) as streams:
        place.desk.gate.clear()
        raw = request("wordy")
        streams[1].write(raw if pieces == 1 else raw[:-1])
        await until(lambda: place.intake.under_way == 1)
        streams[1].write(b"" if pieces == 1 else raw[-1:])
        await until(lambda: len(place.desk.stored) == 1)
        with watched(Connection) as read:
            streams[1].write(request("terse"))
            await until(lambda: len(read) == 1)
        await some_turns()
        assert len(place.desk.stored) == 1
        place.desk.gate.set()
        (first, _), (second, _) = await answers(streams[0], 2)
        assert b"HTTP/1.1 200 " in first
        assert b"HTTP/1.1 204 " in second


@pytest.mark.parametrize("turns", range(8))
async def test_nor_while_aiohttp_is_at_what_came_before(tmp_path: Path, turns: int) -> None:
    """Whatever its tasks have come to."""
    async with serving(tmp_path, TOML) as place, connected(place) as streams:
        with watched(Connection) as read:
            await send_singly(streams, [request("wordy")])
        connection = read[0]
        place.desk.gate.clear()
        connection.data_received(request("%77ordy"))  # it has to be decoded, by a coroutine
        for _ in range(turns):
            await asyncio.sleep(0)
        connection.data_received(request("terse"))
        await some_turns()
        assert len(place.desk.stored) == 2
        place.desk.gate.set()
        (first, _), (second, _) = await answers(streams[0], 2)
        assert b"HTTP/1.1 200 " in first
        assert b"HTTP/1.1 204 " in second


async def some_turns() -> None:
    """Let whatever can go on without its sender do so."""
    for _ in range(30):
        await asyncio.sleep(0)


@contextmanager
def watched(kind: type[Connection]) -> Iterator[list[Connection]]:
    """Yield the connections that have read something, again for each time."""
    read: list[Connection] = []
    look = kind._look_at

    def noting(connection: Connection, data: bytes) -> None:
        if data:
            read.append(connection)
        look(connection, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "_look_at", noting)
        yield read


def offers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the targets of requests that were read at once, as they are."""
    seen: list[str] = []
    offer = Connection._offer

    def noting(connection: Connection, request: Request) -> bool:
        seen.append(request.target)
        return offer(connection, request)

    monkeypatch.setattr(Connection, "_offer", noting)
    return seen


async def send_singly(streams: Streams, pieces: Sequence[bytes]) -> None:
    """Send *pieces* so that each is read by itself; wait for the answers to all of them."""
    with watched(Connection) as read:
        for count, piece in enumerate(pieces, 1):
            streams[1].write(piece)
            await until(lambda count=count: len(read) == count)
        await answers(streams[0], b"".join(pieces).count(b"POST"))


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(paths=["far", "open"], cuts=[1, 83], waits=False)
@given(
    paths=st.lists(st.sampled_from(PATHS), min_size=1, max_size=40),
    cuts=st.lists(st.integers(0, 6000), max_size=5),
    waits=st.booleans(),
)
async def test_however_requests_are_cut_and_piled_up_each_gets_its_answer_in_its_turn(
    tmp_path: Path, paths: Sequence[str], cuts: Sequence[int], waits: bool
) -> None:
    """Also where all that comes has to wait its turn at the turnstile."""
    turnstile = Turnstile(slice_seconds=0.0) if waits else None
    async with serving(tmp_path, TOML, turnstile=turnstile) as place:
        alone = {}
        for path in set(paths):
            async with connected(place) as streams:
                streams[1].write(request(path))
                alone[path] = (await answers(streams[0], 1))[0]
        # A refused body that is too large ends its connection, and what comes after it.
        expected = [alone[path] for path in paths]
        ends = next((at + 1 for at, one in enumerate(expected) if CLOSES in one[0]), len(paths))
        raw = b"".join(request(path) for path in paths)
        async with connected(place) as streams:
            places = [0, *sorted(cut for cut in cuts if cut < len(raw)), len(raw)]
            for start, end in pairwise(places):
                streams[1].write(raw[start:end])
                await asyncio.sleep(0)
            for wanted in expected[:ends]:
                ((head, body),) = await answers(streams[0], 1)
                if CLOSES in head and CLOSES not in wanted[0]:
                    # Refused before its body was here: the connection ends with it.
                    assert b"HTTP/1.1 4" in head
                    assert (head.replace(CLOSES, b""), body) == wanted
                    break
                assert (head, body) == wanted
        assert place.intake.under_way == 0


async def test_a_webhook_that_waits_for_its_commit_holds_up_the_close(tmp_path: Path) -> None:
    async with serving(tmp_path, TOML) as place, connected(place) as streams:
        place.desk.gate.clear()
        streams[1].write(request("open") * 2)
        await until(lambda: len(place.desk.stored) == 1)
        assert place.intake.under_way == 1, "the second waits for the first one's answer"
        await place.listener.stop_accepting()
        closing = asyncio.create_task(place.listener.close())
        for _ in range(100):
            await asyncio.sleep(0)
        assert not closing.done()
        place.desk.gate.set()
        await closing
        assert b"202 Accepted" in (await answers(streams[0], 1))[0][0]
        assert await streams[0].read() == b"", "the second is the sender's to send again"
        assert len(place.desk.stored) == 1
        assert place.intake.under_way == 0


async def test_a_sender_that_leaves_before_its_answer_leaves_its_place(tmp_path: Path) -> None:
    async with serving(tmp_path, TOML) as place:
        place.desk.gate.clear()
        async with connected(place) as streams:
            streams[1].write(request("open") * 3)
            await until(lambda: len(place.desk.stored) == 1)
        await until(lambda: place.listener.connections == 0)
        assert place.intake.under_way == 1
        place.desk.gate.set()
        await until(lambda: place.intake.under_way == 0)
        assert place.intake.doors["open"].places.taken == 0
        async with connected(place) as streams:
            streams[1].write(request("open"))
            assert len(await answers(streams[0], 1)) == 1


async def test_the_idle_clock_does_not_run_while_a_webhook_waits(tmp_path: Path) -> None:
    async with (
        serving(tmp_path, TOML, timeouts=Timeouts(idle_seconds=0.05)) as place,
        connected(place) as streams,
    ):
        place.desk.gate.clear()
        streams[1].write(request("open"))
        await until(lambda: len(place.desk.stored) == 1)
        # Five times as long, by the clock that would cut it off.
        clock = asyncio.get_running_loop().time
        began = clock()
        await until(lambda: clock() - began > 0.25)
        assert place.listener.connections == 1
        place.desk.gate.set()
        assert len(await answers(streams[0], 1)) == 1
        async with asyncio.timeout(BOUND_SECONDS):
            assert await streams[0].read() == b"", "and then it is idle"


async def test_what_goes_wrong_inside_is_told_and_the_connection_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path, TOML) as place, connected(place) as streams:
        with monkeypatch.context() as broken:
            broken.setattr(place.desk, "post", lambda *_, **__: 1 / 0)
            streams[1].write(request("open"))
            (head, body), *_ = await answers(streams[0], 1)
        assert b"HTTP/1.1 500 Internal Server Error" in head
        assert body == b'{"error":"internal error"}'
        streams[1].write(request("open"))
        assert b"202 Accepted" in (await answers(streams[0], 1))[0][0]
        assert place.intake.under_way == 0


# Waiting in line --------------------------------------------------------------------------------


class Barred(Turnstile):
    """Lets nobody in until it is unbarred."""

    def __init__(self) -> None:
        super().__init__()
        self.line: list[Entrant] = []
        self.barred = True
        self.waited_seconds = 0.0

    def lets_in(self) -> bool:
        return not self.barred

    def wait(self, entrant: Entrant) -> None:
        self.line.append(entrant)

    def unbar(self) -> None:
        self.barred = False
        for entrant in self.line:
            entrant.enter(self.waited_seconds)


async def test_an_answer_that_cannot_be_said_or_sent_gives_its_place_back_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = asyncio.Semaphore(0)

    def broken(*_: object) -> None:
        tried.release()
        raise RuntimeError("it cannot")

    async with serving(tmp_path, TOML) as place:
        with monkeypatch.context() as unsaid:
            unsaid.setattr("gateway.web.intake.receipt_said", broken)
            async with connected(place) as streams:
                streams[1].write(request("open"))
                ((head, _),) = await answers(streams[0], 1)
                assert b"HTTP/1.1 500 " in head
        async with connected(place) as streams:
            with monkeypatch.context() as unsent:
                unsent.setattr(Connection, "answer", broken)
                streams[1].write(request("open"))
                async with asyncio.timeout(BOUND_SECONDS):
                    for _ in ("the receipt was not said", "nor sent", "nor was the refusal"):
                        await tried.acquire()
        assert (await place.call("open", BODY))[0] == 202
        assert place.intake.under_way == 0
        assert place.intake._places.taken == 0


async def test_who_has_waited_too_long_is_told_to_come_again_and_nothing_is_stored(
    tmp_path: Path,
) -> None:
    turnstile = Turnstile(slice_seconds=0.0, late_seconds=-1.0)
    async with (
        serving(tmp_path, TOML, turnstile=turnstile) as place,
        connected(place) as streams,
    ):
        for path in ("open", "signed"):
            streams[1].write(request(path))
            ((head, body),) = await answers(streams[0], 1)
            assert b"HTTP/1.1 503 Service Unavailable" in head
            assert b"Retry-After: 5" in head
            assert b"X-Correlation-ID: c-1" in head
            assert body == b'{"error":"too many requests at once"}'
            assert place.count(path, "overloaded") == 1
        assert place.desk.stored == []
        assert place.intake.under_way == 0


@pytest.mark.parametrize("pieces", [1, 2], ids=["whole", "in pieces"])
async def test_what_it_has_waited_is_part_of_the_time_that_its_sender_gives_it(
    tmp_path: Path, pieces: int
) -> None:
    async with (
        serving(tmp_path, TOML, turnstile=(turnstile := Barred())) as place,
        connected(place) as streams,
    ):
        turnstile.waited_seconds = 0.75
        raw = request("open")
        for piece in (raw,) if pieces == 1 else (raw[:-1], raw[-1:]):
            streams[1].write(piece)
            await until(lambda: len(turnstile.line) == 1)
            turnstile.unbar()
            turnstile.line.clear()
            turnstile.barred = True
            if piece is not raw and piece != raw[-1:]:
                await until(lambda: place.intake.under_way == 1)
        await answers(streams[0], 1)
        within = place.intake.doors["open"].config.answer_within_seconds
        assert within - 1.75 < place.desk.patience[-1] <= within - 0.75
        if pieces == 1:
            assert place.metrics.webhook_seconds["open"].total >= 0.75


async def test_what_waits_in_line_is_bounded_in_bytes_and_read_on_after_that(
    tmp_path: Path,
) -> None:
    body = b"x" * (8 << 20)
    toml = TOML + unsigned("large", 'max_body = "10MiB"')
    async with (
        serving(tmp_path, toml, turnstile=(turnstile := Barred())) as place,
        connected(place) as streams,
    ):
        streams[1].write(request("large", body=body))
        await until(lambda: len(turnstile.line) == 1)
        waits = turnstile.line[0]
        assert isinstance(waits, Connection)
        await until(lambda: len(waits._held) > MAX_HELD_BYTES)
        for _ in range(200):
            await asyncio.sleep(0)
        assert len(waits._held) <= MAX_HELD_BYTES + (1 << 20)
        turnstile.unbar()
        ((head, _),) = await answers(streams[0], 1)
        assert b"202 Accepted" in head
        assert place.desk.stored[0].event.body == body


async def test_who_leaves_the_line_is_passed_over(tmp_path: Path) -> None:
    async with serving(tmp_path, TOML, turnstile=(turnstile := Barred())) as place:
        async with connected(place) as gone, connected(place) as going, connected(place) as stays:
            gone[1].write(request("open"))
            await until(lambda: len(turnstile.line) == 1)
            gone[1].transport.abort()
            await until(lambda: place.listener.connections == 2)
            going[1].write(request("open"))
            stays[1].write(request("open"))
            await until(lambda: len(turnstile.line) == 3)
            leaves = turnstile.line[1]
            assert isinstance(leaves, Connection)
            assert leaves.transport is not None
            leaves.transport.abort()  # it is lost after this turn only
            turnstile.unbar()
            assert b"202 Accepted" in (await answers(stays[0], 1))[0][0]
        assert place.intake.under_way == 0
        assert len(place.desk.stored) == 1


async def test_who_leaves_while_it_is_looked_at_is_no_fault_of_ours(tmp_path: Path) -> None:
    """Its connection is lost after its head was parsed, and before anybody asks for its body."""
    async with serving(tmp_path, TOML, turnstile=(turnstile := Barred())) as place:
        with capture_logs() as logs:
            async with connected(place) as streams:
                streams[1].write(request("open")[:-1])
                await until(lambda: len(turnstile.line) == 1)
                leaves = turnstile.line[0]
                assert isinstance(leaves, Connection)
                assert leaves.transport is not None
                turnstile.unbar()
                leaves.transport.abort()
                await until(lambda: place.handled == 1 and place.intake.under_way == 0)
        assert [line["event"] for line in logs] == ["sender_vanished"]
        assert place.desk.stored == []


async def test_who_leaves_with_more_to_be_answered_is_no_fault_of_ours(tmp_path: Path) -> None:
    """Its connection is lost in the turn in which its first webhook is answered."""
    faults: list[str] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: faults.append(f"{context['message']}: {context.get('exception')}")
    )
    async with serving(tmp_path, TOML) as place:
        place.desk.gate.clear()
        async with connected(place) as streams:
            with watched(Connection) as read:
                streams[1].write(request("open") + request("%6fpen"))  # which a coroutine decodes
                await until(lambda: len(place.desk.stored) == 1)
            leaves = read[0]
            assert leaves.transport is not None
            leaves.transport.abort()  # it is lost after this turn only
            leaves.answer(b"")
            await until(lambda: place.listener.connections == 0)
        place.desk.gate.set()
        await until(lambda: place.intake.under_way == 0)
        await some_turns()
        gc.collect()  # an exception that nobody has asked for is told by then
    assert faults == []


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(BOUND_SECONDS):
        while not holds():  # noqa: ASYNC110  # a turn of the loop is all it takes
            await asyncio.sleep(0)
