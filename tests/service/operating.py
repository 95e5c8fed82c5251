"""What an operator does in the tests of the real process: commands, and the admin API."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import aiohttp
from harness import ROOT, SECRET


async def command(config: Path, *words: str, expect: int = 0) -> list[Any]:
    """Run ``gateway …`` and return what it printed, decoded."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", *words, "--config", str(config), "--json"),
        cwd=ROOT,
        env={**os.environ, "SHOP_SECRET": SECRET},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == expect, err.decode()
    return [json.loads(line) for line in out.splitlines()]


async def post(url: str, body: Any = None) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session, session.post(url, json=body) as response:
        return response.status, await response.json()


async def get_json(url: str) -> Any:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        assert response.status == 200, await response.text()
        return await response.json()
