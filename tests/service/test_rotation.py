"""Secrets rotate under load: no webhook of either secret is refused while both are in force."""

import asyncio
import collections
import contextlib
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
from harness import Gateway, Records, configure, eventually, get

from gateway.webhooks.presets import PRESETS
from gateway.webhooks.sign import sign

SCHEME = PRESETS["github"]
SENDERS = 4
ENOUGH = 40  # answers between two acts
OLD, NEW = "the-old-secret-of-the-tests", "the-new-secret-of-the-tests"

Answers = collections.Counter[tuple[str, int]]


async def post(gateway: Gateway, session: aiohttp.ClientSession, secret: str, name: str) -> int:
    body = json.dumps({"n": name}).encode()
    headers = sign(SCHEME, secret, body=body, now=0, message_id=name)
    url = f"{gateway.public}/webhooks/code"
    async with session.post(url, data=body, headers=headers) as answer:
        await answer.read()
        return answer.status


@contextlib.asynccontextmanager
async def sending(gateway: Gateway, secret: str) -> AsyncIterator[Answers]:
    """Keep sending with that secret until the block ends."""
    answers: Answers = collections.Counter()
    over = asyncio.Event()

    async def send(session: aiohttp.ClientSession, number: int) -> None:
        while not over.is_set():
            number += SENDERS
            answers[secret, await post(gateway, session, secret, f"{secret}-{number}")] += 1

    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
        for number in range(SENDERS):
            group.create_task(send(session, number))
        try:
            yield answers
        finally:
            over.set()


async def more(answers: Answers) -> None:
    """Wait until there are enough answers more."""
    wanted = answers.total() + ENOUGH

    async def reached() -> bool:
        return answers.total() >= wanted

    await eventually(reached)


async def test_a_secret_is_rotated_under_load_without_a_401(
    database_url: str, records: Records, tmp_path: Path
) -> None:
    for name, secret in (("old", OLD), ("new", NEW)):
        (tmp_path / name).write_text(secret)
        (tmp_path / name).chmod(0o600)

    def write(*secrets: str) -> Path:
        named = ", ".join(f'"file:{tmp_path / name}"' for name in secrets)
        code = f'[vendors.code.webhook]\nverify = "github"\nsecrets = [{named}]\n'
        return configure(tmp_path, database_url, vendors=code)

    async def reload(gateway: Gateway, event: str = "config_reloaded") -> None:
        mark = len(gateway.log)
        gateway.signal(signal.SIGHUP)
        await gateway.logged(event, since=mark)

    async with Gateway(write("old")) as gateway:
        async with sending(gateway, OLD) as old:
            await more(old)
            write("new", "old")
            await reload(gateway)
            async with sending(gateway, NEW) as new:
                await more(old)
                await more(new)
                (tmp_path / "new").rename(tmp_path / "away")
                await reload(gateway, "reload_refused")  # a fault changes nothing
                await more(old)
                await more(new)
                (tmp_path / "away").rename(tmp_path / "new")
                await reload(gateway)
                await more(new)
            _, text = await get(f"{gateway.admin}/metrics")
        assert set(old) == {(OLD, 202)}
        assert set(new) == {(NEW, 202)}
        # Which secret matched: the new one stands first, the old one did before, and second now.
        counted = {
            place: float(
                text.partition(f'gateway_webhook_secrets_total{{secret="{place}",vendor="code"}} ')[
                    2
                ].split("\n")[0]
            )
            for place in ("1", "2")
        }
        assert counted["2"] > 0
        assert counted["1"] > new.total() - SENDERS
        assert OLD not in text + json.dumps(gateway.log)

        write("new")
        await reload(gateway)
        async with aiohttp.ClientSession() as session:
            assert await post(gateway, session, OLD, "late") == 401
            assert await post(gateway, session, NEW, "on-time") == 202
        events = await records.value("SELECT count(*) FROM gateway.events")
        assert events == old.total() + new.total() + 1
        assert not gateway.faults(), gateway.faults()[0]
