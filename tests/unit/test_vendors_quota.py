from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.vendors.quota import STANDARD, Quota, QuotaHeaders, pause_seconds, quota_of

NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("headers", "quota"),
    [
        ({}, None),
        ({"ratelimit-remaining": "5", "ratelimit-reset": "30"}, Quota(5, 30.0)),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1700000060"}, Quota(0, 60.0)),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1700000060000"}, Quota(0, 60.0)),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1699999999"}, Quota(0, 0.0)),
        ({"x-rate-limit-remaining": "9", "x-rate-limit-reset": "1.5"}, Quota(9, 1.5)),
        ({"ratelimit": "limit=100, remaining=50, reset=5"}, Quota(50, 5.0)),
        ({"ratelimit": '"burst";r=0;t=1, "daily";r=4000;t=50000'}, Quota(0, 1.0)),
        ({"ratelimit": '"default";r=7;t=30', "x-ratelimit-remaining": "3"}, Quota(7, 30.0)),
        (
            {
                "ratelimit": '"default";r=7;t=30',
                "x-ratelimit-remaining": "3",
                "x-ratelimit-reset": "9",
            },
            Quota(3, 9.0),
        ),
        ({"x-ratelimit-remaining": "5"}, None),
        ({"x-ratelimit-remaining": "-5", "x-ratelimit-reset": "3"}, None),
        ({"x-ratelimit-remaining": "5", "x-ratelimit-reset": "999999"}, None),
        ({"x-ratelimit-remaining": "5, 6", "x-ratelimit-reset": "3"}, None),
    ],
)
def test_every_family_of_headers_is_read(headers: dict[str, str], quota: Quota | None) -> None:
    assert quota_of(headers, now=NOW) == quota


def test_a_vendors_own_headers_and_meaning_can_be_named() -> None:
    shopify = QuotaHeaders(
        remaining="x-shopify-shop-api-call-limit", meaning="used/limit", reset_seconds=2.0
    )
    headers = {"x-shopify-shop-api-call-limit": "38/40"}
    assert quota_of(headers, now=NOW) is None
    assert quota_of(headers, now=NOW, formats=(*STANDARD, shopify)) == Quota(2, 2.0)
    hubspot = QuotaHeaders(remaining="left", reset="interval", unit="milliseconds")
    assert quota_of({"left": "3", "interval": "10000"}, now=NOW, formats=(hubspot,)) == Quota(
        3, 10.0
    )


@given(st.text(max_size=60), st.text(max_size=30))
def test_no_header_is_an_error(first: str, second: str) -> None:
    headers = {
        "ratelimit": first,
        "x-ratelimit-remaining": second,
        "x-ratelimit-reset": first,
        "used": first,
    }
    used = QuotaHeaders(remaining="used", meaning="used/limit")
    quota = quota_of(headers, now=NOW, formats=(*STANDARD, used))
    assert quota is None or (quota.remaining >= 0 and quota.reset_seconds >= 0)


@given(st.integers(0, 20), st.integers(0, 20), st.floats(0, 3600), st.integers())
def test_a_lane_pauses_before_the_quota_is_overdrawn_and_never_too_short(
    remaining: int, in_flight: int, reset: float, seed: int
) -> None:
    pause = pause_seconds(Quota(remaining, reset), in_flight=in_flight, random=Random(seed))
    if remaining > in_flight:
        assert pause == 0.0
    else:
        assert reset <= pause <= reset + 1.0
