"""Signing schemes in TOML: a preset's name, a preset with overrides, or a whole table."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, get_args, get_type_hints

import msgspec

from gateway.config import values
from gateway.config.kinds import Choice, Text, duration
from gateway.config.place import BAD, Place, nearest, type_text
from gateway.config.walker import Key, Kind, ListOf, Section, Table
from gateway.webhooks.checks.jwt import check_jwt
from gateway.webhooks.presets import PRESETS
from gateway.webhooks.scheme import OF_EVERY_CHECK, OF_JWT, OF_JWT_ALONE, Scheme
from gateway.webhooks.verify import Plan


def _choices(field: str) -> Choice:
    """Return the words that a scheme's field knows, so that they are listed once."""
    return Choice(get_args(get_type_hints(Scheme)[field]))


_ANY_TEXT = Text("string", str)
_SOURCE = Text('source ("header:X-Name", "body:a.b")', values.scheme_source, lambda s: s or None)

SCHEME = Section(
    doc="How a sender signs: an HMAC over parts of the request, a public key's signature, or a "
    "shared token. docs/senders.md tabulates the presets.",
    make=dict,  # SchemeKind makes the Scheme, from a preset or from nothing
    keys=(
        Key(
            name="preset",
            kind=Choice(tuple(PRESETS), label="preset's name"),
            doc="start from this known sender",
        ),
        Key(
            name="header",
            kind=ListOf(Text("header name", values.header_name), or_single=True, min_items=1),
            doc="carries the signature; with several, any that is present",
            unset="required without preset",
        ),
        Key(
            name="algorithm",
            kind=_choices("algorithm"),
            doc="the HMAC's hash; token: the bare secret is sent; the last three: the secret is "
            "the sender's public key, PEM or in key_encoding",
        ),
        Key(name="encoding", kind=_choices("encoding"), doc="how the signature is written"),
        Key(name="prefix", kind=_ANY_TEXT, doc='stands before each signature ("sha256=")'),
        Key(name="separator", kind=_ANY_TEXT, doc="splits the header into several items"),
        Key(
            name="signature_field",
            kind=_ANY_TEXT,
            doc="when items are name=value: the name of those that are signatures",
        ),
        Key(
            name="signed",
            kind=_ANY_TEXT,
            doc="what is signed: a text with {body}, {timestamp}, {id}, {method}, {url}, "
            "{decoded_url}, {header:X-Name}, {query:name}, {body:a.b}",
        ),
        Key(name="timestamp", kind=_SOURCE, doc='where the time of sending is; also "field:t"'),
        Key(name="timestamp_unit", kind=_choices("timestamp_unit"), doc="how it is written"),
        Key(
            name="tolerance",
            kind=duration(most="1d"),
            doc="how far it may be off, to both sides",
            field="tolerance_seconds",
        ),
        Key(name="message_id", kind=_SOURCE, doc="where {id} is"),
        Key(name="key_encoding", kind=_choices("key_encoding"), doc="how the secret is written"),
        Key(name="key_prefix", kind=_ANY_TEXT, doc='taken off the secret first ("whsec_")'),
        Key(name="event_type", kind=_SOURCE, doc="where the event's type is"),
        Key(
            name="dedupe",
            kind=Text("source", values.dedupe_source),
            doc='where the key is that repeated deliveries share; or "hash", "none"',
        ),
        Key(
            name="keys_url",
            kind=_ANY_TEXT,
            doc="where public keys are told: a jwt's issuer its JWKS, with rsa-sha256 or "
            "ecdsa-sha256; for plaid's sandbox the same of sandbox.plaid.com",
        ),
        Key(name="issuer", kind=_ANY_TEXT, doc="what iss of a jwt must be"),
        Key(
            name="audience",
            kind=_ANY_TEXT,
            doc="what aud of a jwt must be or hold; required with keys_url",
        ),
        Key(
            name="body_hash",
            kind=_ANY_TEXT,
            doc="the claim of a jwt that holds the SHA-256 of the body in hex",
        ),
    ),
)


def _with_defaults(section: Section) -> Section:
    """Say in each key's description which default the struct gives it."""
    defaults = {
        field.name: field.default
        for field in msgspec.structs.fields(Scheme)
        if field.default is not msgspec.NODEFAULT
    }
    keys = []
    for key in section.keys:
        if key.target in defaults:
            default = key.kind.spell(defaults[key.target])
            unset = f'"{default}"' if default else "empty" if default == "" else "none"
            key = replace(key, unset=f"the preset's, or {unset}")
        keys.append(key)
    return replace(section, keys=tuple(keys))


SCHEME = _with_defaults(SCHEME)


@dataclass(frozen=True)
class SchemeKind(Kind):
    """A :class:`Scheme`; with *or_none* also ``"none"``, read as None."""

    or_none: bool = False
    absent: Any = "none"

    @property
    def form(self) -> str:
        """See Kind."""
        return 'preset, table or "none"' if self.or_none else "preset or table"

    def read(self, raw: object, place: Place) -> Any:
        """Return a scheme that the verifier accepts."""
        match raw:
            case "none" if self.or_none:
                return None
            case str():
                if raw in PRESETS:
                    return PRESETS[raw]
                known = [*PRESETS, *(["none"] if self.or_none else [])]
                return place.unfit(f"a {self.form}", raw, nearest(raw, known, what="presets"))
            case dict():
                return self._read_table(raw, place)
            case _:
                return place.fault(f"expected a {self.form}, got {type_text(raw)}")

    def _read_table(self, raw: dict[str, Any], place: Place) -> Any:
        faults_before = len(place.report.faults)
        given = Table(SCHEME).read(raw, place)
        if "preset" not in raw and "header" not in raw:
            place.at("header").fault("is missing", 'write header = "X-Signature", or a preset')
        if len(place.report.faults) > faults_before:
            return BAD
        by_name = SCHEME.by_name
        fields = {by_name[name].target: value for name, value in given.items()}
        preset = fields.pop("preset", None)
        if len(fields.get("header", ())) == 1:
            fields["header"] = fields["header"][0]
        if preset is None:
            scheme = Scheme(**fields)
        else:
            scheme = msgspec.structs.replace(PRESETS[preset], **fields)
        if scheme.check and self._check_overrides(scheme, given, place) is BAD:
            return BAD
        for name in sorted(OF_JWT_ALONE & set(given)):
            if scheme.check != "jwt" and given[name]:  # a preset that is written out has it empty
                place.at(name).fault("has no effect: only a jwt has it", 'write preset = "jwt"')
                return BAD
        try:
            if scheme.check == "jwt":
                check_jwt(scheme)
            elif not scheme.check:
                Plan(scheme)
        except ValueError as error:
            return place.fault("this scheme cannot work", str(error))
        return scheme

    def _check_overrides(self, scheme: Scheme, given: dict[str, Any], place: Place) -> Any:
        """Refuse keys that say nothing where a sender's own function verifies."""
        fields = OF_JWT if scheme.check == "jwt" else OF_EVERY_CHECK
        may = {key.name for key in SCHEME.keys if key.target in fields}
        for name in sorted(set(given) - may - {"preset"}):
            place.at(name).fault(
                f"has no effect: {scheme.name} is verified in its own way",
                f"of a preset like this only {', '.join(sorted(may))} can be changed",
            )
        return scheme if set(given) <= may | {"preset"} else BAD

    def spell(self, value: Scheme) -> Any:
        """Return a preset's name, or a table of what differs from it, or the whole table."""
        preset = PRESETS.get(value.name)
        if preset == value:
            return value.name
        spelled: dict[str, Any] = {} if preset is None else {"preset": value.name}
        for key in SCHEME.keys[1:]:
            held = getattr(value, key.target)
            if preset is None or held != getattr(preset, key.target):
                if key.name == "header" and isinstance(held, str):
                    held = (held,)
                text = key.kind.spell(held)
                if text is not None:
                    spelled[key.name] = text
        return spelled

    def schema(self) -> dict[str, Any]:
        """See Kind."""
        names = [*PRESETS, *(["none"] if self.or_none else [])]
        return {"anyOf": [{"enum": names}, Table(SCHEME).schema()]}
