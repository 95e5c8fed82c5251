"""The measuring instrument: what it sends is what a sender sends, and it finds it again."""

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.webhooks.presets import PRESETS
from gateway.webhooks.signed import SignedRequest
from gateway.webhooks.verify import Verifier

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    from benchmarks import wire

    return wire


def test_its_requests_are_whole_signed_and_different(wire: Any) -> None:
    requests = wire.Requests(path="/webhooks/acme", secret=SECRET)
    requests.prepare(2)
    ids = set()
    for seq in range(5):  # beyond what was prepared, too
        raw = requests.request(seq)
        assert wire.message_bytes(raw) == len(raw)
        assert wire.seq_of(raw) == seq
        head, body = raw.split(b"\r\n\r\n", 1)
        lines = [line.split(": ", 1) for line in head.decode().splitlines()[1:]]
        headers = {name.lower(): value for name, value in lines}
        request = SignedRequest(method="POST", url="", headers=headers, body=body)
        Verifier(PRESETS["standard-webhooks"], [SECRET]).verify(request, time.time())
        ids.add(headers["webhook-id"])
    assert len(ids) == 5


@pytest.mark.parametrize(
    ("given", "prepared"),
    [
        ({"warmup_seconds": 1.0, "seconds": 4.0}, 200_000),  # at the pace of the fastest
        ({"warmup_seconds": 0.0, "seconds": 600.0, "max_requests": 50_000}, 50_000),
        ({"warmup_seconds": 0.5, "seconds": 2.0, "rate": 200.5}, 502),
        ({"warmup_seconds": 0.0, "seconds": 1800.0, "rate": 1000.0}, 400_000),  # enough memory
    ],
)
def test_no_run_makes_signatures_while_it_measures(
    wire: Any, given: dict[str, Any], prepared: int
) -> None:
    from benchmarks.load import LoadSpec

    assert LoadSpec(port=1, path="/", secret=SECRET, **given).prepared() == prepared


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 10**6))
def test_an_incomplete_message_is_waited_for(wire: Any, cut: int) -> None:
    message = b'HTTP/1.1 202 Accepted\r\ncontent-length: 7\r\nX: y\r\n\r\n{"a":1}'
    assert wire.message_bytes(message) == len(message)
    assert wire.message_bytes(message[: cut % len(message)]) is None
    assert wire.message_bytes(message + message) == len(message)


@pytest.fixture
def isolation(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    from benchmarks import isolation

    return isolation


def turns(isolation: Any, *, machine: list[float], slower: float) -> list[Any]:
    """Turns of a subject that is so much *slower*, on a *machine* that is slow now and then."""
    return [
        isolation.Turn(
            arrived=round(4000 / factor / slower),
            seconds=1.0,
            delivered=4000,
            cpu_seconds=slower,
            latencies_ns=sorted(
                round(1e6 * factor * slower * (1 + number % 100)) for number in range(2000)
            ),
        )
        for factor in machine
    ]


@pytest.mark.parametrize(("slower", "verdict"), [(1.0, "met"), (1.05, "met"), (1.3, "missed")])
def test_what_slows_the_machine_for_a_turn_says_nothing_about_the_vendor(
    isolation: Any, slower: float, verdict: str
) -> None:
    machine = [1.0, 1.0, 3.0, 1.0, 20.0, 1.0] * 3
    control = turns(isolation, machine=machine, slower=1.0)
    beside = turns(isolation, machine=machine, slower=slower)
    found = isolation.Isolation(turns={"answers": control, "refuses": beside, "hangs": beside})
    shares = found.shares()
    assert {share.verdict for share in shares} == {verdict}
    for share in shares:
        expected = 1 / slower if share.figure == "throughput" else slower
        assert [share.low, share.value, share.high] == pytest.approx([expected] * 3, rel=0.001)


@pytest.mark.parametrize(("bad", "verdict"), [(1, "met"), (5, "undecided"), (9, "missed")])
def test_one_bad_turn_of_many_decides_nothing_and_many_do(
    isolation: Any, bad: int, verdict: str
) -> None:
    calm = [1.0] * 10
    control = turns(isolation, machine=calm, slower=1.0)
    shaken = turns(isolation, machine=[*calm[bad:], *[5.0] * bad], slower=1.0)
    found = isolation.Isolation(turns={"answers": control, "refuses": control, "hangs": shaken})
    verdicts = {(share.beside, share.figure): share.verdict for share in found.shares()}
    assert verdicts["hangs", "delivered p99"] == verdict
    assert verdicts["refuses", "delivered p99"] == "met"


@given(
    st.lists(
        st.lists(st.integers(1, 1000), min_size=1, max_size=300), min_size=1, max_size=5
    )
)  # fmt: skip
def test_the_p99_of_all_turns_is_that_of_all_their_latencies(lists: list[list[int]]) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(Path(__file__).parents[2]))
        from benchmarks import isolation
        from benchmarks.load import percentile_ms

    pooled = [
        isolation.Turn(
            arrived=0, seconds=1.0, delivered=0, cpu_seconds=0.0, latencies_ns=sorted(values)
        )
        for values in lists
    ]
    everything = sorted(value for values in lists for value in values)
    assert isolation._p99_ms(pooled) == percentile_ms(everything, 0.99)
