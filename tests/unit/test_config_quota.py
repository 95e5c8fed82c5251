"""A vendor's own quota headers and a breaker's ratio, as they are written in the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.loader import load
from gateway.config.model import Api, Breaker, QuotaHeaders
from gateway.errors import ConfigInvalid


def api_of(folder: Path, lines: str) -> Api:
    path = folder / "gateway.toml"
    path.write_text(f'[vendors.crm.api]\nbase_url = "https://crm.example"\n{lines}\n')
    api = load(path, environ={}, hostname="host-1").vendors["crm"].api
    assert api is not None
    return api


def test_quota_headers_are_named_in_any_case_with_their_unit_and_meaning(tmp_path: Path) -> None:
    api = api_of(
        tmp_path,
        """
        [vendors.crm.api.quota]
        remaining = "X-HubSpot-RateLimit-Remaining"
        reset = "X-HubSpot-RateLimit-Interval-Milliseconds"
        unit = "milliseconds"
        """,
    )
    assert api.quota == QuotaHeaders(
        remaining="x-hubspot-ratelimit-remaining",
        reset="x-hubspot-ratelimit-interval-milliseconds",
        unit="milliseconds",
    )


def test_one_header_may_hold_used_and_limit_and_the_reset_be_known(tmp_path: Path) -> None:
    lines = 'quota = { remaining = "X-Calls", meaning = "used/limit", reset_after = "2s" }'
    assert api_of(tmp_path, lines).quota == QuotaHeaders(
        remaining="x-calls", meaning="used/limit", reset_seconds=2.0
    )
    assert api_of(tmp_path, "").quota is None


def test_a_quota_without_its_header_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match=r"quota\.remaining"):
        api_of(tmp_path, 'quota = { unit = "seconds" }')


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("", Breaker(failures=16, window_seconds=60.0, cooldown_seconds=30.0)),
        ("breaker = {}", Breaker(failures=16)),
        ("concurrency = 1", Breaker(failures=10)),
        ("concurrency = 64", Breaker(failures=128)),
        ('timeout = "1m"', Breaker(failures=16, window_seconds=180.0)),
        ('concurrency = 64\ntimeout = "1m"\nbreaker = { failures = 3, window = "10s" }',
         Breaker(failures=3, window_seconds=10.0)),
        ("breaker = false", None),
    ],
)  # fmt: skip
def test_every_vendor_has_a_breaker_unless_it_is_switched_off(
    tmp_path: Path, lines: str, expected: Breaker | None
) -> None:
    """By default all calls under way may fail at once, and time out twice, without opening it."""
    assert api_of(tmp_path, lines).breaker == expected


def test_a_breaker_may_look_at_the_ratio_of_failures(tmp_path: Path) -> None:
    assert api_of(tmp_path, "breaker = { ratio = 0.5 }").breaker == Breaker(ratio=0.5, minimum=20)
    with pytest.raises(ConfigInvalid, match=r"breaker\.ratio"):
        api_of(tmp_path, "breaker = { ratio = 1.5 }")
