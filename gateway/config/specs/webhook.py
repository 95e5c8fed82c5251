"""The keys of what a vendor sends."""

from __future__ import annotations

from gateway.config import values
from gateway.config.kinds import Number, SecretReference, Text, duration, size
from gateway.config.model import ResponseOverride, Webhook
from gateway.config.senders import HANDSHAKE as _HANDSHAKE
from gateway.config.senders import LearningFile
from gateway.config.signing import SchemeKind
from gateway.config.specs.shared_kinds import NETWORKS, RATE, take_burst
from gateway.config.walker import REQUIRED, Key, ListOf, Section, Table

RESPONSE = Section(
    doc="The answer to an accepted webhook, where the sender demands its own.",
    make=ResponseOverride,
    keys=(
        Key(
            name="status",
            kind=Number(200, 299),
            unset="what the sender takes for a success, or 202",
            doc="its HTTP status",
        ),
        Key(
            name="body",
            kind=Text("string", str),
            unset="the gateway's JSON",
            doc="its body, as plain text",
        ),
    ),
)


WEBHOOK = Section(
    doc="What a vendor sends: POST /webhooks/{vendor}.",
    make=Webhook,
    take=take_burst,
    keys=(
        Key(
            name="verify",
            kind=SchemeKind(or_none=True),
            default=REQUIRED,
            doc="how the sender signs; none accepts anything from anyone",
        ),
        Key(
            name="secrets",
            kind=ListOf(SecretReference()),
            default=[],
            doc="any may match, so that they can be rotated; required unless verify is none or ip",
        ),
        Key(
            name="url",
            kind=Text("URL", values.url, lambda url: url or None, may_echo=False),
            unset="required where the sender signs it",
            doc="the public URL of this endpoint, as it was entered at the sender",
        ),
        Key(
            name="verify_token",
            kind=SecretReference(),
            doc="what the sender shows in a handshake to prove itself (meta)",
        ),
        Key(
            name="learn_secret",
            kind=LearningFile(),
            doc="the file for the secret that the sender tells in its first handshake (asana, "
            "notion); written once, and one more of secrets from then on",
        ),
        Key(
            name="handshakes",
            kind=ListOf(Table(_HANDSHAKE)),
            default=[],
            doc="requests that are answered but are no events, besides those that the preset knows",
        ),
        Key(name="rate", kind=RATE, doc="beyond it 429 + Retry-After"),
        Key(
            name="burst",
            kind=Number(1, 1_000_000_000),
            unset="the rate's count",
            doc="webhooks that may come at once within the rate",
        ),
        Key(
            name="concurrency",
            kind=Number(1, 1_000_000),
            unset="half of server.concurrency",
            doc="its requests under way at once; beyond it 503 + Retry-After",
        ),
        Key(
            name="answer_within",
            kind=duration(least="100ms", most="1m"),
            unset="4/5 of the sender's patience (10 s where it tells none)",
            field="answer_within_seconds",
            doc="how long the commit may take; 503 + Retry-After then, before the sender gives up",
        ),
        Key(
            name="max_body",
            kind=size(),
            unset="server.max_body",
            field="max_body_bytes",
            doc="largest webhook; beyond it 413",
        ),
        Key(
            name="allow_ips",
            kind=NETWORKS,
            default=[],
            doc="callers allowed in; empty: everyone",
        ),
        Key(
            name="event_type",
            kind=Text("source", values.event_type_source, lambda source: source or None),
            unset="the sender's own, or none",
            doc='where the event\'s type is: "header:X-Event", "body:type", "none"',
        ),
        Key(
            name="dedupe",
            kind=Text("source", values.dedupe_source, lambda source: source or None),
            unset='the sender\'s own, or "hash"',
            doc='what repeated deliveries share: "header:X-Id", "body:id", "hash" of the body, '
            'or "none": every delivery is a new event',
        ),
        Key(
            name="dedupe_window",
            kind=duration(least="1s"),
            default="7d",
            field="dedupe_window_seconds",
            doc="how long it is remembered",
        ),
        Key(
            name="response",
            kind=Table(RESPONSE),
            default={},
            doc="the answer, where the sender demands its own",
        ),
    ),
)
