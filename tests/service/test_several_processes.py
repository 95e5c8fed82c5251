"""Processes that share a socket, as by ``gateway@.service``: a restart loses no connection."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from harness import (
    HERE,
    ROOT,
    SECRET,
    Gateway,
    Records,
    Vendor,
    api,
    configure,
    route,
    signed,
)

_INHERIT = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "public"}
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


class Sharing(Gateway):
    """A gateway that inherits the public socket."""

    def __init__(self, config: Path, shared: socket.socket) -> None:
        super().__init__(config)
        self._shared = shared

    async def launch(self) -> None:
        fd = self._shared.fileno()
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _INHERIT, str(fd)),
            *("-m", "gateway", "serve", "--config", str(self.config)),
            cwd=ROOT,
            env={**os.environ, "SHOP_SECRET": SECRET, "PYTHONPATH": str(HERE)},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            limit=1 << 20,
            pass_fds=(fd,),
        )
        self._reader = asyncio.create_task(self._read(self._process))


@pytest.fixture
def shared() -> Any:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        made.listen(1024)
        yield made


async def test_a_restart_of_one_of_two_processes_loses_no_connection(
    tmp_path: Path, database_url: str, records: Records, shared: socket.socket
) -> None:
    port = shared.getsockname()[1]
    answers: list[int] = []
    stop, reached = asyncio.Event(), asyncio.Event()
    goal = 0

    async def send() -> None:
        """One connection per webhook, so that each has to be accepted by somebody."""
        while not stop.is_set():
            number = len(answers)
            answers.append(0)
            body = b'{"type":"sale"}'
            headers = {**signed(body, message_id=f"m{number}"), "Connection": "close"}
            url = f"http://127.0.0.1:{port}/webhooks/shop"
            async with (
                aiohttp.ClientSession() as session,
                session.post(url, data=body, headers=headers) as response,
            ):
                answers[number] = response.status
            if sum(map(bool, answers)) >= goal:
                reached.set()

    async def more(number: int) -> None:
        """Wait until so many more are answered."""
        nonlocal goal
        goal = sum(map(bool, answers)) + number
        reached.clear()
        async with asyncio.timeout(30):
            await reached.wait()

    async with Vendor() as vendor:
        vendors = api("crm", vendor.url) + route("sale", 'call = "POST crm:/sales"')
        configs = [
            configure(tmp_path, database_url, vendors=vendors, node=f"n{number}")
            for number in range(2)
        ]
        async with Sharing(configs[0], shared) as first, Sharing(configs[1], shared) as second:
            async with asyncio.TaskGroup() as group:
                senders = [group.create_task(send()) for _ in range(8)]
                for gateway in (first, second):
                    await more(50)
                    gateway.signal(signal.SIGTERM)
                    assert await gateway.ended() == 0
                    await more(50)  # the other one takes them
                    await gateway.start()
                stop.set()
                await asyncio.gather(*senders)
            assert set(answers) == {202}
            await vendor.called(len(answers))
            await records.until_states({"completed": len(answers)})
