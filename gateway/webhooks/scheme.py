"""How a sender signs: the parameters of the one generic verifier, as data."""

from __future__ import annotations

from typing import Literal

import msgspec


class Scheme(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An HMAC scheme, or a shared token. Presets are such; a ``verify = { … }`` table becomes one.

    ``signed`` is a template over ``{body}`` (raw bytes), ``{timestamp}`` (the text as received),
    ``{id}`` (the text of ``message_id``), ``{method}``, ``{url}``, ``{header:Name}`` and
    ``{body:dotted.path}``. A *source* is ``"header:Name"``, ``"body:dotted.path"`` or
    ``"field:name"`` (a ``name=value`` item of the signature header itself, as in Stripe's
    ``t=…,v1=…``); of several, joined by ``" | "``, the first that finds something is taken.
    """

    name: str = "custom"
    header: str | tuple[str, ...]  # every one present is read; any match wins
    algorithm: Literal["sha1", "sha256", "sha512", "token"] = "sha256"  # token: the bare secret
    encoding: Literal["hex", "base64", "base64url"] = "hex"
    prefix: str = ""  # stands before each signature, e.g. "sha256=" or "v1,"
    separator: str = ""  # splits the header into several signatures or fields
    signature_field: str = ""  # with fields: the name of those that carry signatures, e.g. "v1"
    signed: str = "{body}"
    timestamp: str = ""  # source; empty: the scheme has none
    timestamp_unit: Literal["s", "ms", "iso8601"] = "s"
    tolerance_seconds: float = 300.0  # to both sides
    message_id: str = ""  # source of {id}
    key_encoding: Literal["utf8", "base64", "hex"] = "utf8"
    key_prefix: str = ""  # stripped before decoding, e.g. "whsec_"
    event_type: str = ""  # source used when the configuration names none
    dedupe: str = "hash"  # source, "hash" or "none", used when the configuration names none
