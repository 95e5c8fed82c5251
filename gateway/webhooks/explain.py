"""Why does this captured request not pass? What was read, what was signed, and what would fit.

Nothing here decides anything: the verdict is the verifier's own. Secrets are named by reference.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

import msgspec

from gateway.errors import SignatureRefused
from gateway.webhooks.compile import verifier_for
from gateway.webhooks.presets import PRESETS
from gateway.webhooks.scheme import ASYMMETRIC, Scheme
from gateway.webhooks.signed import SignedRequest
from gateway.webhooks.verify import Plan

_SHOWN_CHARS = 200
_SHOWN_BODY_BYTES = 64


class Timestamp(msgspec.Struct, frozen=True, kw_only=True):
    """When the sender says it signed, against our clock."""

    given: str
    now: str
    skew_seconds: float  # positive: the request is old
    tolerance_seconds: float
    fits: bool


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One secret, by reference, and whether the signature is its own (whatever the time)."""

    secret: str
    matched: bool
    reason: str | None = None


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one request, and why."""

    scheme: str
    verdict: str  # "accepted" or "refused"
    reason: str | None
    cause: str | None  # the most likely one, with what to do
    headers: dict[str, str | None]  # those that the scheme reads; None: not there
    signed: str | None  # the bytes that should have been signed, the body abbreviated
    signed_bytes: int | None
    timestamp: Timestamp | None
    tried: list[Trial]


def explain(
    scheme: Scheme,
    secrets: Sequence[tuple[str, str]],
    request: SignedRequest,
    *,
    now: float,
    fetched: bytes = b"",
) -> Explanation:
    """Tell what the gateway makes of *request* at Unix time *now*.

    *secrets* are pairs of reference and value; *fetched* is what the verifier needs from the
    sender's host, if it needs anything. ``ValueError`` for a scheme or secrets that cannot work.
    """
    timestamp = _timestamp(scheme, request, now)
    signed_at = now if timestamp is None else now - timestamp.skew_seconds
    reason = _refusal(scheme, [value for _, value in secrets], request, now, fetched)
    message = _message(scheme, secrets, request)
    tried = [
        Trial(secret=reference, matched=why is None, reason=why)
        for reference, value in secrets
        for why in [_refusal(scheme, [value], request, signed_at, fetched)]
    ]
    cause = None
    if reason is not None:
        cause = _cause(scheme, secrets, request, timestamp, tried, signed_at, fetched)
    return Explanation(
        scheme=scheme.name,
        verdict="refused" if reason else "accepted",
        reason=reason,
        cause=cause,
        headers=_headers(scheme, request.headers),
        signed=None if message is None else _shown(message, request.body),
        signed_bytes=None if message is None else len(message),
        timestamp=timestamp,
        tried=tried,
    )


def _refusal(
    scheme: Scheme, secrets: Sequence[str], request: SignedRequest, now: float, fetched: bytes
) -> str | None:
    verifier = verifier_for(scheme, secrets)
    try:
        verifier.needs(request)
        verifier.verify(request, now, fetched)
    except SignatureRefused as refused:
        return refused.reason
    return None


def _timestamp(scheme: Scheme, request: SignedRequest, now: float) -> Timestamp | None:
    if scheme.check:
        return None
    try:
        seconds = Plan(scheme).read(request).timestamp_seconds
    except SignatureRefused:
        return None
    if seconds is None:
        return None
    skew = now - seconds
    return Timestamp(
        given=_moment(seconds),
        now=_moment(now),
        skew_seconds=skew,
        tolerance_seconds=scheme.tolerance_seconds,
        fits=-scheme.tolerance_seconds <= skew <= scheme.tolerance_seconds,
    )


def _moment(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return f"{seconds:.0f} s since 1970"


def _message(
    scheme: Scheme, secrets: Sequence[tuple[str, str]], request: SignedRequest
) -> bytes | None:
    if scheme.algorithm == "token" and not scheme.check:
        return None
    try:
        return verifier_for(scheme, [value for _, value in secrets]).message_of(request)
    except SignatureRefused:
        return None


def _names(scheme: Scheme) -> tuple[str, ...]:
    return (scheme.header,) if isinstance(scheme.header, str) else scheme.header


def _headers(scheme: Scheme, headers: Mapping[str, str]) -> dict[str, str | None]:
    """Return the headers that the scheme reads, masked where they are themselves the secret."""
    names = list(_names(scheme))
    for source in (scheme.timestamp, scheme.message_id):
        for alternative in source.split("|"):
            kind, _, name = alternative.strip().partition(":")
            if kind == "header":
                names.append(name)
    shown: dict[str, str | None] = {}
    secret = scheme.algorithm == "token" or scheme.check in ("basic", "jwt")
    for name in names:
        value = headers.get(name.lower())
        if value is not None:
            value = "***" if secret else ascii(value[:_SHOWN_CHARS])[1:-1]
        shown[name] = value
    if any(shown[name] is not None for name in _names(scheme)) and len(_names(scheme)) > 1:
        return {name: value for name, value in shown.items() if value is not None}
    return shown


def _shown(message: bytes, body: bytes) -> str:
    """Return *message* as text, with the middle of the body left out."""
    if len(body) > _SHOWN_BODY_BYTES and body in message:
        half = _SHOWN_BODY_BYTES // 2
        left = b"%b [%d bytes] %b" % (body[:half], len(body) - 2 * half, body[-half:])
        message = message.replace(body, left)
    return ascii(message.decode("utf-8", "backslashreplace"))[1:-1][:2000]


def _cause(
    scheme: Scheme,
    secrets: Sequence[tuple[str, str]],
    request: SignedRequest,
    timestamp: Timestamp | None,
    tried: Sequence[Trial],
    signed_at: float,
    fetched: bytes,
) -> str:
    names = _names(scheme)
    if names and not any(request.headers.get(name.lower()) for name in names):
        return _missing_header(scheme, request.headers)
    if timestamp is not None and not timestamp.fits:
        return _bad_time(scheme, timestamp, signed=any(trial.matched for trial in tried))
    values = [value for _, value in secrets]
    for what, other_scheme, other_secrets, other_request in _variations(scheme, values, request):
        try:
            fits = _refusal(other_scheme, other_secrets, other_request, signed_at, fetched) is None
        except ValueError:  # a secret that is no key in that spelling
            continue
        if fits:
            return what
    if scheme.algorithm in ASYMMETRIC:
        return "the key is not the sender's, or what it signed was changed on the way"
    if scheme.check:
        return f"see the reason, and {scheme.link or 'the documentation'}"
    return (
        "no secret is the one that signed this, or the body was changed on the way: copy the "
        "secret again from the sender, and capture the body's raw bytes"
    )


def _missing_header(scheme: Scheme, headers: Mapping[str, str]) -> str:
    found = [
        other.name
        for other in PRESETS.values()
        if other.name != scheme.name
        and not {name.lower() for name in _names(other)} & {"authorization"}
        and any(headers.get(name.lower()) for name in _names(other))
    ]
    wanted = " or ".join(_names(scheme)[:3])
    if found:
        return f"there is no {wanted}, but what {' or '.join(found)} would send: is verify right?"
    return (
        f"there is no {wanted}: the sender has no secret set and so signs nothing, "
        "or a proxy takes the header away"
    )


def _bad_time(scheme: Scheme, timestamp: Timestamp, *, signed: bool) -> str:
    skew = timestamp.skew_seconds
    if abs(skew) > 300 * 86400:
        other = "ms" if scheme.timestamp_unit == "s" else "s"
        return f'the time is far off: is it in another unit (timestamp_unit = "{other}")?'
    genuine = "the signature is genuine, but " if signed else ""
    if skew > 0:
        return (
            f"{genuine}the request is older than tolerance allows: a replay, a sender that tries "
            "again with the old time, or a capture (explain it with --now of that time)"
        )
    return f"{genuine}the request is from the future: this machine's clock or the sender's is wrong"


_Variation = tuple[str, Scheme, Sequence[str], SignedRequest]


def _variations(
    scheme: Scheme, secrets: Sequence[str], request: SignedRequest
) -> Iterator[_Variation]:
    """Yield what people get wrong, one change at a time, with the words for it."""
    for what, body in _bodies(request.body):
        words = f"it fits {what}: the body was changed, by a proxy or when it was captured"
        yield words, scheme, secrets, msgspec.structs.replace(request, body=body)
    if scheme.signs_url:
        for url in _urls(request.url):
            words = f"it fits the URL {url}: write url = that in the vendor's webhook section"
            other = msgspec.structs.replace(request, url=url, query=url.partition("?")[2])
            yield words, scheme, secrets, other
    stripped = [secret.strip() for secret in secrets]
    if stripped != list(secrets):
        yield "it fits the secret without the blanks around it", scheme, stripped, request
    if scheme.check or scheme.algorithm in ASYMMETRIC:
        return
    for encoding in ("utf8", "base64", "hex"):
        for prefix in {"", scheme.key_prefix, "whsec_"}:
            other_scheme = msgspec.structs.replace(
                scheme, key_encoding=encoding, key_prefix=prefix, alternative=None
            )
            words = f'it fits with key_encoding = "{encoding}" and key_prefix = "{prefix}"'
            yield words, other_scheme, secrets, request
    for algorithm in ("sha1", "sha256", "sha512"):
        other_scheme = msgspec.structs.replace(scheme, algorithm=algorithm)
        yield f'it fits with algorithm = "{algorithm}"', other_scheme, secrets, request
    for other_encoding in ("hex", "base64", "base64url"):
        other_scheme = msgspec.structs.replace(scheme, encoding=other_encoding)
        yield f'it fits with encoding = "{other_encoding}"', other_scheme, secrets, request


def _bodies(body: bytes) -> Iterator[tuple[str, bytes]]:
    yield "without the last line break", re.sub(rb"\r?\n\Z", b"", body)
    yield "with a line break at the end", body + b"\n"
    yield "with LF in place of CRLF", body.replace(b"\r\n", b"\n")
    yield "with CRLF in place of LF", body.replace(b"\n", b"\r\n")
    try:
        yield "as compact JSON", msgspec.json.format(body, indent=-1)
        yield "as JSON with blanks between", msgspec.json.format(body, indent=0)
        yield "as indented JSON", msgspec.json.format(body, indent=2)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return


def _urls(url: str) -> Iterator[str]:
    base, _, query = url.partition("?")
    tail = f"?{query}" if query else ""
    yield base.rstrip("/") + tail
    yield base.rstrip("/") + "/" + tail
    yield base
    if base.startswith("https://"):
        yield "http://" + base.removeprefix("https://") + tail
    elif base.startswith("http://"):
        yield "https://" + base.removeprefix("http://") + tail
