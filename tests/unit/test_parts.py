"""How the parts of a node are wired, where no other test would notice a wire that is missing."""

from __future__ import annotations

from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gateway import parts
from gateway.config.loader import load
from gateway.queue.lane import Lane
from gateway.store.database import Database
from gateway.telemetry.metrics import Metrics
from gateway.web.turnstile import Turnstile

CONFIG = """
[database]
url = "postgresql://nobody@127.0.0.1:1/none"
[vendors.crm.api]
base_url = "https://crm.example"
"""


async def test_what_comes_in_leaves_more_turns_to_jobs_that_are_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    def turnstile(**options: Any) -> Turnstile:
        given.update(options)
        return Turnstile(**options)

    monkeypatch.setattr(parts, "Turnstile", turnstile)
    path = tmp_path / "config.toml"
    path.write_text(CONFIG)
    config = load(path)
    async with AsyncExitStack() as stack:
        built = await parts.build_parts(
            config,
            stack,
            Database("", pool=1),  # it is not opened
            node="node",
            metrics=Metrics(version="0", vendors=config.vendors),
            status=lambda: "serving",
            started_at=datetime.now(UTC),
        )
        assert built.ready.lanes.keys() == {"crm", "local"}
        assert not given["behind"]()
        monkeypatch.setattr(Lane, "behind", lambda lane: lane.name == "crm")
        assert given["behind"]()
