"""Who is calling: a header is believed only as far as we trust whoever wrote it."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.web.caller import Networks, caller_address

TRUSTED = Networks(["10.0.0.0/8", "fd00::/8"])


@pytest.mark.parametrize(
    ("peer", "headers", "caller"),
    [
        ("203.0.113.7", {}, "203.0.113.7"),
        ("203.0.113.7", {"x-forwarded-for": "198.51.100.1"}, "203.0.113.7"),
        ("10.0.0.1", {"x-forwarded-for": "198.51.100.1"}, "198.51.100.1"),
        ("10.0.0.1", {"x-forwarded-for": "1.2.3.4, 198.51.100.1, 10.9.9.9"}, "198.51.100.1"),
        ("10.0.0.1", {"x-forwarded-for": "10.1.1.1"}, "10.1.1.1"),
        ("10.0.0.1", {"forwarded": 'for="[2001:db8::5]:443";proto=https'}, "2001:db8::5"),
        ("10.0.0.1", {"forwarded": "for=1.2.3.4, for=198.51.100.1:99"}, "198.51.100.1"),
        ("::ffff:10.0.0.1", {"x-forwarded-for": "198.51.100.1"}, "198.51.100.1"),
        ("10.0.0.1", {"x-forwarded-for": "nonsense"}, None),
        ("10.0.0.1", {"x-forwarded-for": "198.51.100.1, "}, None),
        ("10.0.0.1", {}, "10.0.0.1"),
        (None, {"x-forwarded-for": "198.51.100.1"}, None),
    ],
)
def test_the_right_most_untrusted_hop_is_the_caller(
    peer: str | None, headers: dict[str, str], caller: str | None
) -> None:
    expected = None if caller is None else ip_address(caller)
    assert caller_address(peer, headers, TRUSTED) == expected


@given(st.text(max_size=200))
def test_an_untrusted_peer_cannot_speak_for_others(chain: str) -> None:
    headers = {"x-forwarded-for": chain, "forwarded": chain}
    assert caller_address("203.0.113.7", headers, TRUSTED) == ip_address("203.0.113.7")


@given(st.text(max_size=200))
def test_what_stands_left_of_an_untrusted_hop_changes_nothing(forged: str) -> None:
    headers = {"x-forwarded-for": f"{forged}, 198.51.100.1, 10.2.2.2"}
    assert caller_address("10.0.0.1", headers, TRUSTED) == ip_address("198.51.100.1")
