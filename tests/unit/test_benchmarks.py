"""The measuring instrument: what it sends is what a sender sends, and it finds it again."""

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.webhooks.presets import PRESETS
from gateway.webhooks.verify import SignedRequest, Verifier

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


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 10**6))
def test_an_incomplete_message_is_waited_for(wire: Any, cut: int) -> None:
    message = b'HTTP/1.1 202 Accepted\r\ncontent-length: 7\r\nX: y\r\n\r\n{"a":1}'
    assert wire.message_bytes(message) == len(message)
    assert wire.message_bytes(message[: cut % len(message)]) is None
    assert wire.message_bytes(message + message) == len(message)


def test_beside_a_dead_vendor_each_round_is_compared_with_its_own_pair(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    from benchmarks.measure import Options, Sample
    from benchmarks.report import Report

    def rounds(*figures: tuple[float, float]) -> list[Sample]:
        return [
            Sample(
                per_second=per_second,
                p50_ms=1.0,
                p99_ms=2.0,
                max_ms=3.0,
                delivered_p99_ms=p99,
                load_cpu_us=1.0,
                cpu_us=p99,
            )
            for per_second, p99 in figures
        ]

    # A machine that is half as fast for a while says nothing about the vendor.
    report = Report(machine={}, started_at=0.0, options=Options(rounds=3))
    report.rounds["isolation"] = {
        "answers": rounds((4000, 10.0), (2000, 20.0), (4000, 10.0)),
        "refuses": rounds((3800, 10.5), (1900, 21.0), (3800, 10.5)),
        "hangs": rounds((3000, 12.0), (1500, 24.0), (3000, 12.0)),
    }
    assert report.ratios("isolation", "refuses") == [0.95, 0.95, 0.95]
    assert [(target.name, target.met) for target in report.targets()] == [
        ("beside one that refuses: share of throughput", True),
        ("beside one that refuses: share of delivered p99", True),
        ("beside one that refuses: share of CPU per webhook", True),
        ("beside one that hangs: share of throughput", False),
        ("beside one that hangs: share of delivered p99", False),
        ("beside one that hangs: share of CPU per webhook", False),
    ]
