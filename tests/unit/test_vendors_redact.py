from __future__ import annotations

import json
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.model import Api, BasicAuth, BearerAuth, Secret
from gateway.vendors.calls import Call, Redaction, Reply
from gateway.vendors.redact import describe_reply, describe_request, redaction_for

PLAIN = redaction_for(Api(vendor="stub", base_url="https://x"))
anything = st.text(st.characters(), max_size=80)  # NUL and lone surrogates too


def stored(described: dict[str, object]) -> str:
    """What PostgreSQL would be given as jsonb; fails on what it could not take."""
    encoded = msgspec.json.encode(described)
    assert b"\\u0000" not in encoded.replace(b"\\\\", b"")  # an escaped backslash is none
    assert json.loads(encoded) == described
    return encoded.decode("utf-8")


@given(
    anything,
    anything,
    st.dictionaries(st.one_of(anything, st.sampled_from(["Location", "Date"])), anything),
    st.one_of(st.none(), st.binary(max_size=200)),
    anything,
    st.integers(0, 100),
)
def test_every_request_can_be_stored_whatever_it_holds(
    method: str, path: str, headers: dict[str, str], body: bytes | None, text: str, limit: int
) -> None:
    call = Call(
        method=method,
        path=path,
        headers=headers,
        body=body,
        content_type=text,
        idempotency_key=text,
    )
    described = describe_request(call, redaction=PLAIN, excerpt_bytes=limit)
    stored(described)
    if body is not None:
        assert len(described["body"]) <= limit


@given(
    st.dictionaries(st.one_of(anything, st.just("location")), anything),
    st.binary(max_size=200),
    st.booleans(),
    st.integers(0, 100),
)
def test_every_reply_can_be_stored_whatever_it_holds(
    headers: dict[str, str], body: bytes, complete: bool, limit: int
) -> None:
    reply = Reply(
        status=200, headers=headers, body=body, body_complete=complete, duration_seconds=0.1
    )
    described = describe_reply(reply, redaction=PLAIN, excerpt_bytes=limit)
    stored(described)
    assert ("body_bytes" in described) == (not complete or len(body) > limit)


def test_secrets_in_headers_and_queries_are_not_kept() -> None:
    call = Call(
        method="POST",
        path="/x?api_key=s3cr3t&page=2&access_token=s3cr3t&X-Amz-Signature=s3cr3t&flag",
        headers={"Authorization": "s3cr3t", "X-Api-Key": "s3cr3t", "Cookie": "s3cr3t"},
    )
    described = describe_request(call, redaction=PLAIN, excerpt_bytes=100)
    assert "s3cr3t" not in stored(described)
    assert described["url"] == (
        "https://x/x?api_key=***&page=2&access_token=***&X-Amz-Signature=***&flag"
    )
    reply = Reply(
        status=302,
        headers={
            "set-cookie": "s3cr3t",
            "location": "/y?code=s3cr3t",
            "www-authenticate": "s3cr3t",
        },
        body=b"",
        body_complete=True,
        duration_seconds=0.1,
    )
    assert "s3cr3t" not in stored(describe_reply(reply, redaction=PLAIN, excerpt_bytes=100))


def test_what_helps_to_find_a_fault_is_kept() -> None:
    reply = Reply(
        status=429,
        headers={
            "content-type": "application/json",
            "x-request-id": "r1",
            "x-ratelimit-remaining": "0",
            "retry-after": "3",
        },
        body='{"error":"é"}'.encode(),
        body_complete=True,
        duration_seconds=0.1,
    )
    described = describe_reply(reply, redaction=PLAIN, excerpt_bytes=100)
    assert described["headers"] == reply.headers
    assert described["body"] == '{"error":"é"}'
    assert "body_bytes" not in described


def test_a_cut_goes_through_no_character() -> None:
    call = Call(method="POST", path="/", body="ééé".encode())
    described = describe_request(call, redaction=PLAIN, excerpt_bytes=3)
    assert described["body"] == "é"
    assert described["body_bytes"] == 6


def test_a_compressed_body_is_named_not_shown() -> None:
    reply = Reply(
        status=200,
        headers={"content-encoding": "gzip"},
        body=b"\x1f\x8b\x00",
        body_complete=True,
        duration_seconds=0.1,
    )
    described = describe_reply(reply, redaction=PLAIN, excerpt_bytes=100)
    assert (described["body"], described["body_bytes"]) == ("<gzip>", 3)


def redacting(*paths: str, **changes: Any) -> Redaction:
    return redaction_for(Api(vendor="stub", base_url="https://x", redact=paths, **changes))


def answer(body: bytes, content_type: str = "application/json", **headers: str) -> Reply:
    return Reply(
        status=200,
        headers={"content-type": content_type} | headers,
        body=body,
        body_complete=True,
        duration_seconds=0.1,
    )


def test_masked_fields_are_masked_on_both_sides_before_the_cut() -> None:
    redaction = redacting("card.number")
    body = b'{"card": {"number": "4111111111111111", "brand": "visa"}}'
    call = Call(method="POST", path="/", body=body, content_type="application/json")
    for described in (
        describe_request(call, redaction=redaction, excerpt_bytes=100),
        describe_reply(answer(body), redaction=redaction, excerpt_bytes=100),
    ):
        assert described["body"] == '{"card":{"number":"***","brand":"visa"}}'
    for limit in range(60):
        assert "4111" not in stored(
            describe_request(call, redaction=redaction, excerpt_bytes=limit)
        )


def test_a_cut_answer_that_is_to_be_redacted_is_left_out() -> None:
    reply = msgspec.structs.replace(answer(b'{"card": {"number": "4111'), body_complete=False)
    described = describe_reply(reply, redaction=redacting("card.number"), excerpt_bytes=100)
    assert described["body"].startswith("<left out")
    assert described["body_bytes"] is None


def test_headers_are_kept_where_they_are_named() -> None:
    redaction = redacting(keep_headers=("X-Shop-Node",))
    reply = answer(b"", **{"x-shop-node": "n7", "x-other": "secret"})
    kept = describe_reply(reply, redaction=redaction, excerpt_bytes=9)["headers"]
    assert kept == {"content-type": "application/json", "x-shop-node": "n7"}
    call = Call(method="GET", path="/", headers={"X-SHOP-node": "n8", "X-Other": "secret"})
    kept = describe_request(call, redaction=redaction, excerpt_bytes=9)["headers"]
    assert kept == {"x-shop-node": "n8"}


def test_a_secret_that_the_vendor_repeats_is_not_kept() -> None:
    for auth, echoed in (
        (BearerAuth(Secret("env:T", "s3cr3t/t0ken")), b"you sent s3cr3t/t0ken, s3cr3t%2Ft0ken"),
        (BasicAuth("ann", Secret("env:P", "s3cr3tpw")), b"Basic YW5uOnMzY3IzdHB3 s3cr3tpw"),
    ):
        reply = answer(echoed, "text/plain")
        described = describe_reply(reply, redaction=redacting(auth=auth), excerpt_bytes=100)
        assert "s3cr3t" not in described["body"]
        assert "YW5u" not in described["body"]
        assert "***" in described["body"]
