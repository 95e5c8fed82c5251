"""How a sender signs and shakes hands: the parameters of the one generic verifier, as data."""

from __future__ import annotations

from typing import Literal

import msgspec

Algorithm = Literal["sha1", "sha256", "sha512", "token", "ed25519", "ecdsa-sha256", "rsa-sha256"]
Encoding = Literal["hex", "base64", "base64url"]
KeyEncoding = Literal["utf8", "base64", "hex"]
Check = Literal[
    "",
    "adyen",
    "aws-sns",
    "basic",
    "ip",
    "jwt",
    "mailgun",
    "microsoft-graph",
    "paypal",
    "plaid",
    "twilio",
]

PATIENCE_SECONDS = 10.0  # of senders that tell none; the shortest that are usual


class Alternative(msgspec.Struct, frozen=True, kw_only=True):
    """Another way in which a sender may sign the same message in the same header.

    It applies to the secrets that begin with ``key_prefix``; all others are the scheme's own.
    """

    algorithm: Algorithm
    prefix: str
    key_prefix: str
    encoding: Encoding = "base64"
    key_encoding: KeyEncoding = "base64"


class Handshake(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request that is no event: the sender wants an answer that shows whose endpoint this is.

    ``match`` holds conditions: a *source* (``"query:name"``, ``"header:Name"`` or
    ``"body:dotted.path"``) and the text that must stand there; ``"*"``: anything, ``""``: nothing.
    ``body`` and the values of ``headers`` are templates over ``{query:name}``, ``{header:Name}``,
    ``{body:path}``, and ``{hmac-hex:SOURCE}`` or ``{hmac-base64:SOURCE}``: the HMAC-SHA256 of that
    text under the secret. In a JSON answer each is escaped to stand inside a string's quotes.
    """

    method: Literal["GET", "POST"] = "POST"
    match: dict[str, str]
    signed: bool = True  # whether the scheme must accept the request first
    proof: str = ""  # source of a text that must equal ``webhook.verify_token``
    status: int = 200
    body: str = ""
    content_type: Literal["text/plain", "application/json"] = "text/plain"
    headers: dict[str, str] = {}
    learn: str = ""  # source of the secret that the sender signs with from now on
    confirm: str = ""  # source of a URL to GET before the answer, held against ``confirm_url``
    confirm_url: str = ""  # regular expression for the whole URL

    @property
    def signs_for_anyone(self) -> bool:
        """Whether its answer holds an HMAC though nothing shows who asks for it."""
        texts = (self.body, *self.headers.values())
        return not self.signed and not self.proof and any("{hmac-" in text for text in texts)


class Scheme(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A signature or a shared token. Presets are such; a ``verify = { … }`` table becomes one.

    ``signed`` is a template over ``{body}`` (raw bytes), ``{timestamp}`` (the text as received),
    ``{id}`` (the text of ``message_id``), ``{method}``, ``{url}``, ``{decoded_url}``,
    ``{header:Name}``, ``{query:name}`` and ``{body:dotted.path}``. A *source* is
    ``"header:Name"``, ``"query:name"``, ``"body:dotted.path"`` or ``"field:name"`` (a
    ``name=value`` item of the signature header itself, as in Stripe's ``t=…,v1=…``); of several,
    joined by ``" | "``, the first that finds something is taken.
    """

    name: str = "custom"
    header: str | tuple[str, ...]  # every one present is read; any match wins
    algorithm: Algorithm = "sha256"  # token: the bare secret; a public key's: the key is a secret
    encoding: Encoding = "hex"
    prefix: str = ""  # stands before each signature, e.g. "sha256=" or "v1,"
    separator: str = ""  # splits the header into several signatures or fields
    signature_field: str = ""  # with fields: the name of those that carry signatures, e.g. "v1"
    signed: str = "{body}"
    timestamp: str = ""  # source; empty: the scheme has none
    timestamp_unit: Literal["s", "ms", "iso8601"] = "s"
    tolerance_seconds: float = 300.0  # to both sides
    message_id: str = ""  # source of {id}
    key_encoding: KeyEncoding = "utf8"  # a public key may be PEM, whatever is said here
    key_prefix: str = ""  # stripped before decoding, e.g. "whsec_"
    event_type: str = ""  # source used when the configuration names none
    dedupe: str = "hash"  # source, "hash" or "none", used when the configuration names none
    keys_url: str = ""  # where the sender's public keys are asked for, if it tells them that way
    issuer: str = ""  # of a JWT: what iss must be
    audience: str = ""  # of a JWT: what aud must be, or name among others
    body_hash: str = ""  # of a JWT: the claim that holds the body's SHA-256 in hex

    # What only presets have:
    alternative: Alternative | None = None
    check: Check = ""  # the function that verifies instead of the generic verifier
    message: str = ""  # in words: what that function says is signed
    handshakes: tuple[Handshake, ...] = ()
    empty_answers: bool = False  # this sender wants 200 or 401 and not a byte more
    patience_seconds: float = PATIENCE_SECONDS  # how long this sender waits for an answer
    accepted_status: int = 202  # what tells this sender that its webhook was taken in
    link: str = ""  # the sender's own description

    @property
    def needs_secret(self) -> bool:
        """Whether anything is proven by a secret; else by addresses, or by keys that are told."""
        return self.check != "ip" and not (self.check == "jwt" and self.keys_url)

    @property
    def signs_url(self) -> bool:
        """Whether verification needs the public URL as the sender knows it."""
        return self.check == "twilio" or "url}" in self.signed


ASYMMETRIC = frozenset({"ed25519", "ecdsa-sha256", "rsa-sha256"})
"""The algorithms whose secret is a public key, which verifies but cannot sign."""

PRESET_ONLY = frozenset(
    {
        "name",
        "alternative",
        "check",
        "message",
        "handshakes",
        "empty_answers",
        "patience_seconds",
        "accepted_status",
        "link",
    }
)
"""The fields of a scheme that no table can set; overriding a preset keeps them."""

OF_EVERY_CHECK = frozenset({"event_type", "dedupe", "tolerance_seconds", "keys_url"})
"""The fields that also mean something where a function verifies."""

OF_JWT_ALONE = frozenset({"issuer", "audience", "body_hash"})
"""The fields that mean something for a JWT only."""

OF_JWT = (
    OF_EVERY_CHECK | OF_JWT_ALONE | {"header", "prefix", "algorithm", "key_encoding", "key_prefix"}
)
"""The fields that mean something for a JWT."""
