"""Where a redirect leads: never without its bounds, and never with what it must not see."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from gateway.vendors.calls import CallFailed, Reply
from gateway.vendors.redirects import Hop, harmless, next_hop

START = Hop("POST", URL("https://a.example/v1/deals?x=1"), with_body=True, own=True)


def reply(status: int, location: str | None) -> Reply:
    headers = {} if location is None else {"location": location}
    return Reply(status=status, headers=headers, body=b"", body_complete=True, duration_seconds=0.1)


def hop(location: str, *, start: Hop = START, status: int = 307, **key: str) -> Hop:
    found = next_hop(start, reply(status, location), **key)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("https://b.example/y?z=%20#part", "https://b.example/y?z=%20"),
        ("/y", "https://a.example/y"),
        ("y", "https://a.example/v1/y"),
        ("?y=2", "https://a.example/v1/deals?y=2"),
        ("//b.example/y", "https://b.example/y"),
        ("HTTPS://B.example:444/", "https://B.example:444/"),
    ],
)
def test_a_location_is_read_as_a_reference(location: str, target: str) -> None:
    assert str(hop(location).url).lower() == target.lower()


@pytest.mark.parametrize(
    "location",
    [
        *(
            "",
            "ftp://a.example/",
            "file:///etc/passwd",
            "javascript:alert(1)",
        ),
        *("https://u:p@b.example/", "https://u@b.example/", "http://a.example/", "http:/x"),
        *("https://b.example\\@a.example/", "https://b.example/\r\nX: 1", "/a b", "/ä", "//[::1/"),
        *("https://b.example:99999/", "/" + "x" * 3000),
    ],
)
def test_a_target_that_is_none_is_refused(location: str) -> None:
    with pytest.raises(CallFailed) as caught:
        next_hop(START, reply(302, location))
    assert caught.value.kind == "redirect"
    assert len(caught.value.text) < 200


@given(st.text(max_size=60))
def test_no_location_leads_out_of_http_or_raises_otherwise(location: str) -> None:
    with contextlib.suppress(CallFailed):
        found = next_hop(START, reply(302, location))
        assert found is not None
        assert found.url.scheme == "https"
        assert found.url.host


@pytest.mark.parametrize("status", [200, 204, 300, 304, 305, 306, 309, 404])
def test_other_statuses_lead_nowhere(status: int) -> None:
    assert next_hop(START, reply(status, "/y")) is None
    assert next_hop(START, reply(302, None)) is None


@pytest.mark.parametrize(
    ("status", "method", "expected"),
    [
        *((301, "POST", "GET"), (302, "POST", "GET"), (303, "POST", "GET")),
        *(
            (307, "POST", "POST"),
            (308, "POST", "POST"),
            (301, "PUT", "PUT"),
            (302, "PATCH", "PATCH"),
        ),
        *(
            (303, "DELETE", "GET"),
            (303, "HEAD", "HEAD"),
            (302, "HEAD", "HEAD"),
            (308, "GET", "GET"),
        ),
    ],
)
def test_the_method_follows_rfc_9110(status: int, method: str, expected: str) -> None:
    found = hop(
        "/y", start=Hop(method, START.url, with_body=method != "GET", own=True), status=status
    )
    assert found.method == expected
    assert found.with_body == (expected == method != "GET")


def test_only_the_same_scheme_host_and_port_are_our_own_and_there_is_no_way_back() -> None:
    assert hop("https://a.example:443/y").own
    for other in ("https://b.example/", "https://a.example:444/", "https://x.a.example/"):
        away = hop(other)
        assert not away.own
        assert not hop("https://a.example/", start=away).own
        assert not hop("/y", start=away).own


def test_a_query_key_stays_with_its_origin() -> None:
    key = {"query": "k=s3cr3t", "query_name": "k"}
    assert str(hop("/y?a=1", **key).url) == "https://a.example/y?a=1&k=s3cr3t"
    assert str(hop("/y?k=s3cr3t&a=1", **key).url) == "https://a.example/y?a=1&k=s3cr3t"
    assert str(hop("https://b.example/y?a=1&%6B=s3cr3t", **key).url) == "https://b.example/y?a=1"


def test_what_could_be_a_credential_stays_behind() -> None:
    headers = {
        "Authorization": "s",
        "X-Sig": "s",
        "X-Api-Key": "s",
        "Cookie": "s",
        "X-Token": "s",
        "Idempotency-Key": "1",
        "traceparent": "2",
        "Content-Type": "3",
        "X-Event-Type": "4",
    }
    assert harmless(headers, auth={"x-sig"}, idempotency_header="idempotency-key") == {
        "Idempotency-Key": "1",
        "traceparent": "2",
        "Content-Type": "3",
        "X-Event-Type": "4",
    }
