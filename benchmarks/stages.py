"""Tells from a sampled stack which stage of a webhook's way the gateway was at."""

from __future__ import annotations

from collections import Counter

# The innermost frame that matches decides; a folder ends in a slash.
_STAGES = (
    ("gateway/webhooks/", "verify"),
    ("gateway/routing.py", "decode and route"),
    ("gateway/expressions.py", "decode and route"),
    ("gateway/bodies.py", "decode and route"),
    ("gateway/sandbox.py", "decode and route"),
    ("gateway/queue/acceptance.py", "commit"),
    ("gateway/store/events.py", "commit"),
    ("gateway/queue/settlement.py", "settle"),
    ("gateway/store/jobs.py", "settle"),
    ("gateway/queue/", "schedule"),
    ("gateway/vendors/", "HTTP out"),
    ("aiohttp/client", "HTTP out"),
    ("aiohttp/connector", "HTTP out"),
    ("gateway/worker.py", "attempt"),
    ("gateway/web/", "HTTP in"),
    ("aiohttp/web", "HTTP in"),
    ("gateway/store/batch.py", "commit and settle: batching"),
    ("gateway/telemetry/", "metrics and logs"),
)
_DRIVER = ("asyncpg/", "PostgreSQL's answers")  # where nobody of ours is waiting in the stack
_REST = "event loop and sockets"


def stages_of(stacks: str) -> Counter[str]:
    """Return samples by stage; *stacks* are py-spy's raw lines, ``frame;frame;… count``."""
    counted: Counter[str] = Counter()
    for line in stacks.splitlines():
        stack, _, count = line.rpartition(" ")
        if count.isdecimal():
            counted[_stage(stack.split(";"))] += int(count)
    return counted


def _stage(frames: list[str]) -> str:
    for frame in reversed(frames):
        for place, stage in _STAGES:
            if place in frame:
                return stage
    return _DRIVER[1] if any(_DRIVER[0] in frame for frame in frames) else _REST
