"""The public doors: every vendor's webhook settings, compiled for the requests to come."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import msgspec

from gateway.config.model import ServerSection, Webhook
from gateway.web.caller import Networks
from gateway.web.handshaking import handshakes_of, verifier_of
from gateway.web.sparing import LineBudget
from gateway.web.throttle import Brake, Places, TokenBucket
from gateway.webhooks.extract import DecodeJson, compile_decoder, compile_dedupe, compile_event_type
from gateway.webhooks.handshakes import Handshakes
from gateway.webhooks.scheme import Scheme
from gateway.webhooks.verify import RequestVerifier

# Proof of identity that is not ours to keep: the signature schemes cover the rest.
_SECRET_HEADERS = frozenset(
    {"authorization", "proxy-authorization", "cookie", "x-gitlab-token", "x-api-key"}
)


class Door(msgspec.Struct, frozen=True, kw_only=True):
    """One vendor's webhook settings, compiled."""

    config: Webhook
    verifier: RequestVerifier | None
    handshakes: Handshakes | None
    methods: frozenset[str]
    masked: frozenset[str]  # headers that are themselves a secret
    find_event_type: Callable[[Mapping[str, str], object, bytes], str | None]
    find_dedupe_key: Callable[[Mapping[str, str], object, bytes], str | None]
    bucket: TokenBucket | None
    places: Places
    brake: Brake
    allowed: Networks  # empty: everybody
    lines: LineBudget  # of what anybody can have us log
    decode_json: DecodeJson | None  # of what is asked for but by routes; None if that is nothing
    prompt: bool  # whether each POST is an event, to be judged without waiting for anything


def open_doors(webhooks: Mapping[str, Webhook]) -> dict[str, Door]:
    """Compile every vendor's webhook settings; ``ValueError`` for a key that cannot be decoded."""
    doors = {}
    for name, config in webhooks.items():
        scheme = config.verify
        event_type = config.event_type or (scheme.event_type if scheme else "")
        dedupe = config.dedupe or (scheme.dedupe if scheme else "hash")
        verifier, handshakes = verifier_of(config), handshakes_of(config)
        doors[name] = Door(
            config=config,
            verifier=verifier,
            handshakes=handshakes,
            methods=frozenset({"POST"}) | (handshakes.methods if handshakes else frozenset()),
            masked=_SECRET_HEADERS | _token_headers(scheme),
            find_event_type=compile_event_type(event_type),
            find_dedupe_key=compile_dedupe(dedupe),
            bucket=bucket_of(config),
            places=Places(config.concurrency),
            brake=Brake(),
            allowed=Networks(config.allow_ips),
            lines=LineBudget(),
            decode_json=compile_decoder(event_type, dedupe),
            prompt=not (verifier and verifier.fetches)
            and not (handshakes and "POST" in handshakes.methods),
        )
    return doors


def _token_headers(scheme: Scheme | None) -> frozenset[str]:
    if scheme is None or (scheme.algorithm != "token" and scheme.check != "jwt"):
        return frozenset()
    names = (scheme.header,) if isinstance(scheme.header, str) else scheme.header
    return frozenset(name.lower() for name in names)


def bucket_of(config: Webhook | ServerSection) -> TokenBucket | None:
    """Return the bucket for a section's ``rate`` and ``burst``; None without a rate."""
    if config.rate is None:
        return None
    per_second = config.rate.count / config.rate.period_seconds
    return TokenBucket(per_second, config.burst or config.rate.count, now=time.monotonic())
