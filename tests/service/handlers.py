"""Handlers that the tests' routes name. They run inside the gateway's own process."""

import asyncio
import os
import signal
import sys
from typing import Any

from gateway.model import Cancel, Dead, Outcome, Retry, Snooze


async def poison(job: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def innocent(job: Any) -> None:
    await job.call("crm", "POST", "/innocent")


async def stubborn(job: Any) -> None:
    await job.call("crm", "POST", "/began")
    try:
        await asyncio.Event().wait()
    finally:
        await job.call("crm", "POST", "/tidied")


async def snoozes_twice(job: Any) -> Outcome | None:
    """Ask the vendor each time; it says how often we came."""
    reply = await job.call("crm", "POST", "/snoozes")
    return Snooze(0.1, "not yet") if reply.body != b"3" else None


async def cancels(job: Any) -> Outcome:
    return Cancel("no longer wanted")


async def dies(job: Any) -> Outcome:
    return Dead("cannot be helped \x00 at all")


async def raises(job: Any) -> None:
    raise RuntimeError("out of luck")


async def retries(job: Any) -> Outcome:
    return Retry("try me again")


async def exits(job: Any) -> None:
    sys.exit(3)


async def cancelled_inside(job: Any) -> None:
    """A task of its own is cancelled, which is nobody's wish to end the attempt."""
    task = asyncio.create_task(asyncio.sleep(3600))
    task.cancel()
    await task


async def nonsense(job: Any) -> Any:
    return {"whatever": 1}


async def endless_snooze(job: Any) -> Outcome:
    return Snooze(float("inf"))


async def textual_snooze(job: Any) -> Outcome:
    return Snooze("soon")  # type: ignore[arg-type]


async def unreasonable(job: Any) -> Outcome:
    return Retry(None, after_seconds=float("nan"))  # type: ignore[arg-type]


async def calls_twice(job: Any) -> None:
    await job.call("crm", "POST", "/first", json={"attempt": job.attempt})
    await job.call("crm", "POST", "/second", json={"attempt": job.attempt})
