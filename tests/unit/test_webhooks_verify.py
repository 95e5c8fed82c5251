"""Only the sender's own signature over these very bytes passes; all else is a refusal."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from gateway.errors import SignatureRefused
from gateway.webhooks.presets import PRESETS
from gateway.webhooks.scheme import ASYMMETRIC, Scheme
from gateway.webhooks.sign import sign
from gateway.webhooks.signed import SignedRequest
from gateway.webhooks.verify import MAX_HEADER_CHARS, MAX_SIGNATURES, Verifier

NOW = 1_700_000_000
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BODY = f'{{"id":"evt_1","type":"a.b","webhookTimestamp":{NOW}000}}'.encode()

LEGACY = Scheme(
    header="X-Signature",
    prefix="sha256=",
    signed="{timestamp}.{body}",
    timestamp="header:X-Timestamp",
)
URL_SAFE = Scheme(
    name="url-safe",
    header="X-Signature",
    algorithm="sha512",
    encoding="base64url",
    key_encoding="hex",
    signed="{method} {url} {header:X-Tenant} {body:type} 100% {body}",
)
GENERIC = {
    name: scheme
    for name, scheme in PRESETS.items()
    if not scheme.check and scheme.algorithm not in ASYMMETRIC
}
SCHEMES = {**GENERIC, "legacy": LEGACY}
SIGNING = {name: scheme for name, scheme in SCHEMES.items() if scheme.algorithm != "token"}


def signed_headers(scheme: Scheme, *, secret: str = SECRET, now: float = NOW) -> dict[str, str]:
    headers = sign(scheme, secret, body=BODY, now=now, message_id="msg_1", url="https://g/x")
    return {name.lower(): headers[name] for name in headers}


def request(headers: Mapping[str, str], body: bytes = BODY) -> SignedRequest:
    return SignedRequest("POST", "https://g/x", headers, body)


def verdict(scheme: Scheme, headers: Mapping[str, str], body: bytes = BODY, **more: Any) -> str:
    """Return "accepted" or the reason of the refusal."""
    verifier = Verifier(scheme, more.get("secrets", [SECRET]))
    try:
        verifier.verify(request(headers, body), more.get("now", NOW))
    except SignatureRefused as refusal:
        return refusal.reason
    return "accepted"


def flipped(data: bytes, bit: int) -> bytes:
    bit %= len(data) * 8
    return bytes(byte ^ (1 << bit % 8) if i == bit // 8 else byte for i, byte in enumerate(data))


often = settings(max_examples=500)  # about twenty for each scheme
bits = st.integers(min_value=0, max_value=1 << 16)
any_text = st.text(st.characters() | st.sampled_from("\0\ud800\udcff"), max_size=60)


@often
@given(st.sampled_from(sorted(SIGNING)), bits)
def test_a_flipped_bit_in_the_body_is_refused(name: str, bit: int) -> None:
    scheme = SIGNING[name]
    assert verdict(scheme, signed_headers(scheme), flipped(BODY, bit)) != "accepted"


@often
@given(st.sampled_from(sorted(SCHEMES)), bits, st.data())
def test_a_flipped_bit_in_any_header_that_is_signed_is_refused(
    name: str, bit: int, data: st.DataObject
) -> None:
    scheme = SCHEMES[name]
    headers = signed_headers(scheme)
    unsigned = scheme.dedupe.lower() if scheme.dedupe != scheme.message_id else ""
    touched = data.draw(st.sampled_from([h for h in headers if h != unsigned[len("header:") :]]))
    forged = flipped(headers[touched].encode(), bit).decode("latin-1")
    hex_case_only = scheme.encoding == "hex" and forged.lower() == headers[touched].lower()
    assume(scheme.algorithm == "token" or not hex_case_only)
    assert verdict(scheme, {**headers, touched: forged}) != "accepted"


@often
@given(st.sampled_from(sorted(SCHEMES)), bits)
def test_a_flipped_bit_in_the_secret_is_refused(name: str, bit: int) -> None:
    scheme = SCHEMES[name]
    key = SECRET.removeprefix(scheme.key_prefix) if scheme.key_prefix else SECRET
    other = flipped(key.encode(), bit).decode("latin-1")
    headers = signed_headers(scheme)
    if scheme.key_encoding == "base64" and not re.fullmatch("[A-Za-z0-9+/]*={0,2}", other):
        with pytest.raises(ValueError, match="not base64"):
            Verifier(scheme, [other])
    else:
        assert verdict(scheme, headers, secrets=[other]) != "accepted"


@often
@given(st.sampled_from(sorted(SCHEMES)), st.data())
def test_junk_raises_nothing_but_a_refusal(name: str, data: st.DataObject) -> None:
    scheme = SCHEMES[name]
    headers = signed_headers(scheme)
    junk = dict(headers)
    for header in data.draw(st.sets(st.sampled_from(sorted(headers)), min_size=1)):
        piece = data.draw(any_text | st.sampled_from(sorted(headers.values())), header)
        junk[header] = piece + data.draw(any_text, header)
    body = data.draw(st.binary(max_size=60) | st.just(BODY))
    for mapping in (junk, CIMultiDictProxy(CIMultiDict(junk))):
        verdict(scheme, mapping, body)


@given(any_text, any_text, any_text, st.sampled_from(["s", "ms", "iso8601"]))
@example("0001-01-01T00:00:00+23:59", "POST", "", "iso8601")
@example("9999-12-31T23:59:59.999999-23:59", "POST", "", "iso8601")
@example("9999-12-31", "POST", "\ud800", "iso8601")
def test_any_timestamp_method_and_url_raise_nothing_but_a_refusal(
    timestamp: str, method: str, url: str, unit: str
) -> None:
    scheme = Scheme(
        header="X-S",
        signed="{method}{url}{timestamp}{body}{header:X-T}",
        timestamp="header:X-T",
        timestamp_unit=unit,  # type: ignore[arg-type]
    )
    headers = {"x-s": "0" * 64, "x-t": timestamp}
    with pytest.raises(SignatureRefused):
        Verifier(scheme, ["k"]).verify(SignedRequest(method, url, headers, b""), NOW)


@pytest.mark.parametrize("name", SCHEMES)
def test_headers_may_be_a_dict_or_case_insensitive(name: str) -> None:
    headers = signed_headers(SCHEMES[name])
    titled = CIMultiDictProxy(CIMultiDict({h.title(): text for h, text in headers.items()}))
    assert verdict(SCHEMES[name], headers) == "accepted"
    assert verdict(SCHEMES[name], titled) == "accepted"


@pytest.mark.parametrize("name", SCHEMES)
def test_each_missing_or_empty_header_is_refused(name: str) -> None:
    scheme = SCHEMES[name]
    headers = signed_headers(scheme)
    needed = {h for h in headers if h not in (scheme.dedupe + scheme.event_type).lower()}
    if scheme.message_id:
        needed |= {scheme.message_id.partition("|")[0].strip().removeprefix("header:")}
    assert needed
    for missing in needed:
        without = {h: text for h, text in headers.items() if h != missing}
        assert verdict(scheme, without) != "accepted"
        assert verdict(scheme, {**headers, missing: ""}) != "accepted"


@pytest.mark.parametrize("name", [name for name in SCHEMES if SCHEMES[name].timestamp])
def test_the_tolerance_is_two_sided(name: str) -> None:
    scheme = SCHEMES[name]
    headers = signed_headers(scheme)
    tolerance = scheme.tolerance_seconds
    for skew in (-tolerance, tolerance):
        assert verdict(scheme, headers, now=NOW + skew) == "accepted"
    for skew in (-tolerance - 1, tolerance + 1, -31e6, 31e6):
        assert "s old" in verdict(scheme, headers, now=NOW + skew)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "+1700000000",
        "-1700000000",
        "1_700_000_000",
        "1700000000.0",
        "1700000000\n",
        "17e8",
        "0x6553f100",
        "\N{FULLWIDTH DIGIT ONE}700000000",
        "\N{ARABIC-INDIC DIGIT ONE}700000000",
        "1700000000\N{SUPERSCRIPT TWO}",
        "NaN",
        "inf",
        "9" * 5000,
    ],
)
def test_a_timestamp_is_ascii_digits_only_even_when_signed(text: str) -> None:
    digest = hmac.digest(SECRET.encode(), text.encode() + b"." + BODY, "sha256").hex()
    headers = {"x-signature": f"sha256={digest}", "x-timestamp": text}
    assert verdict(LEGACY, headers) in (
        "malformed timestamp at header:X-Timestamp",
        "no timestamp at header:X-Timestamp",
    )


def test_every_signature_is_tried_with_every_secret() -> None:
    scheme = PRESETS["standard-webhooks"]
    headers = signed_headers(scheme)
    good = headers["webhook-signature"]
    old = "v1," + "A" * 43 + "="
    for listed in (f"{good} {old}", f"{old} {good}", f"v1a,xyz v2,{good[3:]} junk  {old} {good}"):
        forged = {**headers, "webhook-signature": listed}
        for secrets, index in (([SECRET, "a2V5"], 0), (["a2V5", "a2V6", SECRET], 2)):
            assert Verifier(scheme, secrets).verify(request(forged), NOW) == index
    assert verdict(scheme, {**headers, "webhook-signature": good.replace("v1,", "v1a,")}) != (
        "accepted"
    )


@pytest.mark.parametrize("text", ["\u00e9", "\udcff"])
def test_an_id_beyond_ascii_is_refused_even_when_signed(text: str) -> None:
    raw = text.encode("utf-8", "surrogateescape")
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    digest = hmac.digest(key, raw + f".{NOW}.".encode() + BODY, "sha256")
    signature = "v1," + base64.b64encode(digest).decode()
    headers = {
        "webhook-id": text,
        "webhook-timestamp": str(NOW),
        "webhook-signature": signature,
    }
    assert "no usable id" in verdict(PRESETS["standard-webhooks"], headers)


def test_of_repeated_fields_the_first_counts() -> None:
    header = signed_headers(PRESETS["stripe"])["stripe-signature"]
    assert verdict(PRESETS["stripe"], {"stripe-signature": f"{header},t=1"}) == "accepted"
    assert verdict(PRESETS["stripe"], {"stripe-signature": f"t=1,{header}"}) != "accepted"


def test_any_of_several_signature_headers_is_enough() -> None:
    scheme = PRESETS["docusign"]
    good = signed_headers(scheme)["x-docusign-signature-1"]
    wrong = "A" * 43 + "="
    headers = {"x-docusign-signature-1": wrong, "x-docusign-signature-2": good}
    assert verdict(scheme, headers) == "accepted"


def test_svix_may_come_with_either_family_of_headers() -> None:
    standard = signed_headers(PRESETS["standard-webhooks"])
    assert verdict(PRESETS["svix"], standard) == "accepted"


def test_signatures_and_their_header_are_bounded() -> None:
    scheme = PRESETS["standard-webhooks"]
    headers = signed_headers(scheme)
    good = headers["webhook-signature"]
    many = " ".join(["v1,x"] * (MAX_SIGNATURES - 1))
    assert verdict(scheme, {**headers, "webhook-signature": f"{many} {good}"}) == "accepted"
    over = {**headers, "webhook-signature": f"{many} v1,x {good}"}
    assert "over 16 signatures" in verdict(scheme, over)
    long = {**headers, "webhook-signature": good.ljust(MAX_HEADER_CHARS + 1)}
    assert "over 4096 characters" in verdict(scheme, long)


def test_hex_counts_in_either_case_and_nothing_else_is_stretched() -> None:
    headers = signed_headers(PRESETS["github"])
    digest = headers["x-hub-signature-256"].removeprefix("sha256=")
    name = "x-hub-signature-256"
    assert verdict(PRESETS["github"], {name: f"sha256={digest.upper()}"}) == "accepted"
    for text in (
        digest,  # without its prefix
        f"SHA256={digest}",
        f"sha256= {digest}",
        f"sha256={digest[:-2]}",
        f"sha256={digest[:-1]}",
        f"sha256={digest}00",
        f"sha256={digest[:2]} {digest[2:]}",
        f"sha256={digest},sha256={digest}",
        "sha256=",
    ):
        assert "no well-formed signature" in verdict(PRESETS["github"], {name: text})


def test_base64_has_exactly_one_spelling() -> None:
    scheme = PRESETS["shopify"]
    text = signed_headers(scheme)["x-shopify-hmac-sha256"]
    stray_bits = text[:-2] + chr(ord(text[-2]) + 1) + "="
    assert verdict(scheme, {"x-shopify-hmac-sha256": text}) == "accepted"
    for other in (
        stray_bits,
        text[:-1],
        text + "=",
        f"{text[:9]}\n{text[9:]}",
        f"{text[:9]}!{text[9:]}",
    ):
        refused = verdict(scheme, {"x-shopify-hmac-sha256": other})
        assert "no well-formed signature" in refused


def test_a_table_can_sign_method_url_headers_and_body_paths() -> None:
    """With sha512, base64url (padding optional), a hex key and a percent sign in the template."""
    message = b"PUT https://g/\xc3\xa9 acme a.b 100% " + BODY
    digest = hmac.new(bytes.fromhex("00ff10"), message, hashlib.sha512).digest()
    text = base64.urlsafe_b64encode(digest).decode()
    verifier = Verifier(URL_SAFE, ["00ff10"])
    for signature in (text, text.rstrip("=")):
        headers = {"x-signature": signature, "x-tenant": "acme"}
        assert verifier.verify(SignedRequest("PUT", "https://g/é", headers, BODY), NOW) == 0
    with pytest.raises(SignatureRefused, match="nothing at header:X-Tenant"):
        verifier.verify(SignedRequest("PUT", "https://g/é", {"x-signature": text}, BODY), NOW)
    with pytest.raises(ValueError, match="nothing at header:X-Tenant"):
        sign(URL_SAFE, "00ff10", body=BODY, now=NOW, message_id="1")


def test_a_table_can_sign_what_stands_in_the_query() -> None:
    """The timestamp, too: as its raw text, which is decoded from the URL."""
    scheme = Scheme(
        header="X-Signature", signed="{query:nonce}.{timestamp}.{body}", timestamp="query:t"
    )
    verifier = Verifier(scheme, ["key"])
    text = hmac.new(b"key", b"a b/\xc3\xa9.0%d." % NOW + BODY, hashlib.sha256).hexdigest()

    def told(query: str, now: float = NOW) -> str:
        request = SignedRequest("POST", "/x", {"x-signature": text}, BODY, query)
        try:
            verifier.verify(request, now)
        except SignatureRefused as refusal:
            return refusal.reason
        return "accepted"

    assert told(f"nonce=a+b%2F%C3%A9&t=0{NOW}") == "accepted"
    assert told(f"t=0{NOW}&nonce=a%20b/%c3%a9&nonce=other") == "accepted"  # the first counts
    assert told(f"nonce=a+b%2F%C3%A9&t={NOW}") == "no signature matches any secret"
    assert told(f"nonce=other&t=0{NOW}") == "no signature matches any secret"
    assert told(f"t=0{NOW}") == "nothing at query:nonce"
    assert told("nonce=a+b%2F%C3%A9") == "no timestamp at query:t"
    assert "s old" in told(f"nonce=a+b%2F%C3%A9&t=0{NOW}", NOW + 301)


def test_a_token_is_the_secret_itself() -> None:
    bearer = Scheme(header="Authorization", algorithm="token", prefix="Bearer ")
    assert verdict(bearer, {"authorization": f"Bearer {SECRET}"}) == "accepted"
    for text in (SECRET, "Bearer ", f"Bearer {SECRET}x", f"Bearer {SECRET[:-1]}", "Bearer \udcff"):
        assert verdict(bearer, {"authorization": text}) != "accepted"


@pytest.mark.parametrize(
    ("secrets", "scheme", "problem"),
    [
        ([], "github", "there is no secret"),
        ([""], "github", "the secret is empty"),
        (["whsec_"], "standard-webhooks", "the secret is empty"),
        (["topsecret!"], "standard-webhooks", "not base64"),
        (["topsecret\u00e9"], "standard-webhooks", "not base64"),
        (["topsecret\ud800"], "github", "not utf8"),
    ],
)
def test_an_unusable_secret_stops_the_start_and_is_not_shown(
    secrets: list[str], scheme: str, problem: str
) -> None:
    with pytest.raises(ValueError, match=problem) as caught:
        Verifier(PRESETS[scheme], secrets)
    assert "topsecret" not in repr(caught.value)
    assert caught.value.__context__ is None


def test_a_verifier_shows_no_secret() -> None:
    assert SECRET not in repr(Verifier(PRESETS["github"], [SECRET]))


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ({"signed": "{timestamp}", "timestamp": "header:X-T"}, "does not cover the body"),
        ({"signed": "{timestamp}.{body}"}, "{timestamp} has no source"),
        ({"signed": "{id}.{body}"}, "{id} has no source"),
        ({"timestamp": "header:X-T"}, "anyone could renew it"),
        ({"timestamp": "body:t | header:X-T"}, "anyone could renew it"),
        (
            {
                "timestamp": "field:t | header:X-T",
                "signed": "{timestamp}{body}",
                "signature_field": "v1",
                "separator": ",",
            },
            'unknown source "field:t"',
        ),
        ({"timestamp": "field:t", "signed": "{timestamp}{body}"}, "signature_field: is needed"),
        ({"signature_field": "v1"}, "separator: is needed"),
        ({"signed": "{nonce}{body}"}, "unknown part {nonce}"),
        ({"signed": "{{body}"}, "a brace without its partner"),
        ({"signed": "{body}}"}, "a brace without its partner"),
        ({"tolerance_seconds": 0.0}, "lets nothing pass"),
        ({"tolerance_seconds": float("nan")}, "lets nothing pass"),
        ({"header": ""}, "none is named"),
        ({"header": ()}, "none is named"),
        ({"message_id": "cookie:x", "signed": "{id}{body}"}, 'unknown source "cookie:x"'),
        ({"algorithm": "token", "timestamp": "header:X-T"}, "a token protects none"),
    ],
)
def test_a_scheme_that_protects_nothing_stops_the_start(
    table: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - its text is compared below
        Verifier(Scheme(**{"header": "X-S", **table}), ["k"])
    assert problem in str(caught.value)
