"""A flood on one sender's path, while another sender's latency is measured.

The flood is a load generator of its own, an open loop far above what its path lets through, over
its own connections: throttled (429), or with signatures that are nobody's (401). Once it goes to
another server on the same machine, which tells what the machine's share in the difference is.
"""

from __future__ import annotations

import http.client
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import msgspec

from benchmarks.load import LoadSpec
from benchmarks.subjects import ROOT, SECRET, BenchmarkError, Subject

RATE = 2000.0  # webhooks per second
CONNECTIONS = 32
_MAX_SECONDS = 170.0
_FORGERS_SECRET = "whsec_" + "A" * 32

Start = Callable[[], AbstractContextManager[Subject]]

# what floods → its path, what it signs with, and what it is answered
FLOODS = {
    "elsewhere": ("/webhooks/noisy", SECRET, 202),
    "throttled": ("/webhooks/noisy", SECRET, 429),
    "forged": ("/webhooks/scheduled", _FORGERS_SECRET, 401),
}


@contextmanager
def beside(start: Start, kind: str, *, elsewhere: Start) -> Iterator[Subject]:
    """Start a subject, and let a flood of that *kind* go on until the block ends."""
    path, secret, expected = FLOODS[kind]
    with start() as subject, elsewhere() as other:
        flooded = other if kind == "elsewhere" else subject
        spec = LoadSpec(
            port=flooded.port,
            path=path,
            secret=secret,
            connections=CONNECTIONS,
            rate=RATE,
            warmup_seconds=0.0,
            seconds=_MAX_SECONDS,
        )
        flood = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.load"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            cwd=ROOT,
        )
        try:
            assert flood.stdin is not None
            flood.stdin.write(msgspec.json.encode(spec))
            flood.stdin.close()
            _wait_until_answered(flooded, path, expected)
            yield subject
            if flood.poll() is not None:
                raise BenchmarkError("the flood ended before the measurement did")
        finally:
            flood.kill()
            flood.wait()


def _wait_until_answered(subject: Subject, path: str, expected: int) -> None:
    """Wait until one more request to the flooded path gets what the flood gets."""
    deadline = time.monotonic() + 20.0
    while time.monotonic() < deadline:
        connection = http.client.HTTPConnection("127.0.0.1", subject.port, timeout=10)
        try:
            connection.request("POST", path, body=b"{}")
            if connection.getresponse().status == expected:
                return
        finally:
            connection.close()
        time.sleep(0.05)
    raise BenchmarkError(f"the flood on {path} is not answered with {expected}")
