"""A short, seeded run of what ``make fuzz`` does for minutes; see fuzzing.py."""

import asyncio
from pathlib import Path

import fuzzing
from harness import Gateway

from gateway.webhooks.presets import PRESETS

SEED = 20261121
SLICES = 3


async def test_nothing_that_is_sent_to_the_public_listener_is_a_fault_of_ours(
    database_url: str, tmp_path: Path
) -> None:
    async with Gateway(fuzzing.configure(tmp_path, database_url)) as gateway:
        fuzz = fuzzing.Fuzz(gateway, SEED)
        async with asyncio.timeout(120):
            for _ in range(SLICES):
                await fuzz.slice(wires=400)
        assert not fuzz.found, fuzz.found[0]
        # The run is worth its name only if it got past the verifier, and was refused, too.
        assert {200, 202, 400, 401, 405, 431} <= set(fuzz.awaited)
        assert fuzz.awaited[202] > 100
        assert {kind.__name__ for kind in fuzzing.KINDS} | {"request"} == set(fuzz.sent)


def test_every_preset_has_a_path_to_fuzz(tmp_path: Path) -> None:
    text = fuzzing.configure(tmp_path, "embedded").read_text()
    assert all(f"[vendors.{name}.webhook]" in text for name in PRESETS)
