"""What a vendor sends: the keys of handshakes, the file of a learnt secret, the checks between all.

A secret that a sender tells in its handshake is kept in a file of its own, written once by the
gateway that the handshake reached, readable for its user only. It is one more of ``secrets``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gateway.config import secrets, values
from gateway.config.kinds import Choice, Flag, Folder, Number, Text
from gateway.config.model import Learning, Secret
from gateway.config.place import BAD, Place
from gateway.config.walker import REQUIRED, Key, MapOf, Section, Values, build
from gateway.webhooks.compile import verifier_for
from gateway.webhooks.handshakes import check_handshake
from gateway.webhooks.scheme import Handshake, Scheme
from gateway.webhooks.sign import check_signing


def _make_handshake(**fields: Any) -> Handshake:
    return Handshake(**fields)


def _source(text: str) -> str:
    kind, _, name = text.partition(":")
    if kind not in ("query", "header", "body") or not name or name.split() != [name]:
        raise ValueError('a source is "query:name", "header:X-Name" or "body:dotted.path"')
    return text


HANDSHAKE = Section(
    doc="A request that is no event: it is answered, never stored, and starts no job. Presets know "
    "their senders' own; these come first.",
    make=_make_handshake,
    keys=(
        Key(name="method", kind=Choice(("GET", "POST")), default="POST", doc="how it comes"),
        Key(
            name="match",
            kind=MapOf(Text("string", str), name=_source, what="source"),
            default=REQUIRED,
            doc='what must stand where ("query:mode" = "subscribe"); "*" is anything, "" nothing',
        ),
        Key(
            name="signed",
            kind=Flag(),
            default=True,
            doc="whether it must pass verify first; senders sign no GET",
        ),
        Key(
            name="proof",
            kind=Text('source ("query:token")', _source, lambda source: source or None),
            doc="where the sender shows verify_token; without it 403",
        ),
        Key(name="status", kind=Number(200, 299), default=200, doc="the answer's HTTP status"),
        Key(
            name="body",
            kind=Text("string", str),
            default="",
            doc="the answer: a text with {query:name}, {header:X-Name}, {body:a.b}, and "
            "{hmac-hex:SOURCE} or {hmac-base64:SOURCE}, the HMAC-SHA256 of that under the secret",
        ),
        Key(
            name="content_type",
            kind=Choice(("text/plain", "application/json")),
            default="text/plain",
            doc="the answer's; in JSON the texts are escaped to stand in quotes",
        ),
        Key(
            name="headers",
            kind=MapOf(
                Text("header value", values.header_value),
                name=values.sent_header_name,
                what="header name",
                fold_case=True,
            ),
            default={},
            doc="the answer's, templates too",
        ),
    ),
)


@dataclass(frozen=True)
class LearningFile(Folder):
    """The path of a file that is written by the gateway, once, and what it holds already."""

    def read(self, raw: object, place: Place) -> Any:
        """Return a Learning, with the secret if the file is there."""
        path = super().read(raw, place)
        if path is BAD:
            return BAD
        if not path.parent.is_dir():
            return place.fault(f"folder {path.parent} does not exist", "create it")
        if not path.exists():
            return Learning(path)
        secret = secrets.resolve(f"file:{path}", place)
        return BAD if secret is BAD else Learning(path, secret)

    def spell(self, value: Any) -> str:
        """See Kind."""
        return str(value.path)


def check_webhook(name: str, webhook: Values) -> None:
    """Report every fault between the keys of one vendor's webhook section."""
    place = webhook.place
    scheme: Scheme | None = webhook.get("verify")
    _check_secrets(name, webhook, scheme)
    if scheme is not None and scheme.signs_url and "url" not in webhook.given:
        place.at("url").fault(
            f"is missing, and {scheme.name} signs it",
            f'write the public URL as it is entered at the sender: "https://…/webhooks/{name}"',
        )
    if scheme is not None and scheme.check == "ip" and not webhook.get("allow_ips"):
        place.at("allow_ips").fault(
            'is missing, and verify = "ip" checks nothing else', "name the sender's networks"
        )
    _check_handshakes(webhook, scheme)
    check_burst(webhook)


def check_burst(section: Values) -> None:
    """Report a ``burst`` that no ``rate`` goes with."""
    if "burst" in section.given and "rate" not in section.given:
        section.place.at("burst").fault("has no rate to go with", 'write rate = "500/s" beside it')


def check_signing_key(scheme: Scheme, secret: Secret, place: Place) -> None:
    """Report a secret that requests cannot be signed with."""
    try:
        check_signing(scheme, secret.value)
    except ValueError as error:
        place.fault(f"the value of {secret.reference} is no key of {scheme.name}", str(error))


def _check_secrets(name: str, webhook: Values, scheme: Scheme | None) -> None:
    place = webhook.place
    given: tuple[Secret, ...] | None = webhook.get("secrets")
    learning: Learning | None = webhook.get("learn_secret")
    if scheme is None:
        if "verify" in webhook:
            place.at("verify").warn(
                f'"none": whoever reaches the listener can send webhooks as {name}; '
                "name the sender's scheme and its secret"
            )
            if given:
                place.at("secrets").warn("not used, since verify is none")
        return
    if not scheme.needs_secret:
        if given:
            place.at("secrets").warn(f"not used, since verify is {scheme.name}")
        return
    if given == () and "learn_secret" not in webhook.given and "verify" in webhook.given:
        how = 'write secrets = ["env:NAME"], or verify = "none" to accept anything'
        if any(handshake.learn for handshake in scheme.handshakes):
            how += (
                f'; {scheme.name} tells its secret in a handshake: learn_secret = "FILE" keeps it'
            )
        place.at("secrets").fault("is missing, so nothing could be verified", how)
    for secret in given or ():
        _check_key(scheme, secret, place.at("secrets"))
    if learning is not None and learning.secret is not None:
        _check_key(scheme, learning.secret, place.at("learn_secret"))
    elif learning is not None and not given:
        place.at("learn_secret").warn(
            f"{learning.path} does not exist yet: the first handshake that comes is believed, and "
            "until then every webhook is refused"
        )


def _check_key(scheme: Scheme, secret: Secret, place: Place) -> None:
    try:
        verifier_for(scheme, [secret.value])
    except ValueError as error:
        place.fault(f"the value of {secret.reference} is no key of {scheme.name}", str(error))


def _check_handshakes(webhook: Values, scheme: Scheme | None) -> None:
    place = webhook.place
    custom: tuple[Values, ...] = webhook.get("handshakes", ())
    for values_of in custom:
        if "match" not in values_of:
            continue
        handshake: Handshake = build(values_of)
        try:
            check_handshake(handshake)
            if handshake.signs_for_anyone:
                raise ValueError(
                    "signed: whoever asks would be told HMACs, and could sign with them; "
                    "write signed = true, or a proof"
                )
        except ValueError as error:
            values_of.place.fault("this handshake cannot be", str(error))
    own = scheme.handshakes if scheme is not None else ()
    proof = any(handshake.proof for handshake in own) or any(v.get("proof") for v in custom)
    if proof and "verify_token" not in webhook.given:
        place.at("verify_token").warn("is not given, so that handshakes which show it get 403")
    elif "verify_token" in webhook.given and not proof:
        place.at("verify_token").fault("has no handshake that shows it", "leave it out")
    if "learn_secret" in webhook.given and not any(handshake.learn for handshake in own):
        place.at("learn_secret").fault(
            "the sender's scheme has no handshake that tells a secret", "leave it out"
        )
