"""The keys of how we prove to a vendor who we are."""

from __future__ import annotations

from typing import Any

from gateway.config import values
from gateway.config.kinds import Choice, SecretReference, Text
from gateway.config.model import (
    Auth,
    BasicAuth,
    BearerAuth,
    HeaderAuth,
    OAuth2Auth,
    QueryAuth,
    SignAuth,
)
from gateway.config.signing import SchemeKind
from gateway.config.specs.shared_kinds import HEADER_NAME, PLAIN
from gateway.config.walker import REQUIRED, Key, ListOf, MapOf, Section, Table

BASIC = Section(
    doc="HTTP basic authentication.",
    make=BasicAuth,
    keys=(
        Key(
            name="username",
            kind=Text("string without colon", values.username),
            default=REQUIRED,
            doc="the user",
        ),
        Key(name="password", kind=SecretReference(), default=REQUIRED, doc="its password"),
    ),
)

HEADER = Section(
    doc="A secret in a header of its own.",
    make=HeaderAuth,
    keys=(
        Key(name="name", kind=HEADER_NAME, default=REQUIRED, doc="the header"),
        Key(
            name="value",
            kind=SecretReference(one_line=True),
            default=REQUIRED,
            doc="the secret, as it is sent",
        ),
    ),
)

QUERY = Section(
    doc="A secret in the query of each URL, where a vendor takes nothing better.",
    make=QueryAuth,
    keys=(
        Key(
            name="name",
            kind=Text("parameter's name", values.parameter_name),
            default=REQUIRED,
            doc="the parameter, which no route may set",
        ),
        Key(
            name="value",
            kind=SecretReference(one_line=True),
            default=REQUIRED,
            doc="the secret; it is masked in what is kept and never in an error",
        ),
    ),
)

OAUTH2 = Section(
    doc="OAuth 2 client credentials (RFC 6749, section 4.4).",
    make=OAuth2Auth,
    keys=(
        Key(
            name="token_url",
            kind=Text("URL", values.url, may_echo=False),
            default=REQUIRED,
            doc="where tokens are fetched",
        ),
        Key(name="client_id", kind=PLAIN, default=REQUIRED, doc="who we are"),
        Key(name="client_secret", kind=SecretReference(), default=REQUIRED, doc="and its proof"),
        Key(name="scopes", kind=ListOf(PLAIN), default=[], doc="what is asked for"),
        Key(name="audience", kind=PLAIN, doc="for whom, where the server wants to know"),
        Key(
            name="params",
            kind=MapOf(PLAIN, name=values.token_parameter, what="parameter's name"),
            default={},
            doc="further parameters of the token request",
        ),
        Key(
            name="auth_style",
            kind=Choice(("basic", "post")),
            unset="basic, and post where the server refuses that",
            doc="how the client is shown: HTTP Basic, or in the form",
        ),
    ),
)

SIGN = Section(
    doc="Requests signed as a webhook's sender would.",
    make=SignAuth,
    keys=(
        Key(name="scheme", kind=SchemeKind(), default=REQUIRED, doc="as in webhook.verify"),
        Key(name="secret", kind=SecretReference(), default=REQUIRED, doc="the key"),
    ),
)


def _make_auth(**given: Any) -> Auth:
    ((name, value),) = given.items()
    return BearerAuth(value) if name == "bearer" else value


def _take_auth(auth: Auth, key: Key) -> Any:
    match auth, key.name:
        case BearerAuth(token), "bearer":
            return token
        case (BasicAuth(), "basic") | (HeaderAuth(), "header") | (QueryAuth(), "query"):
            return auth
        case (OAuth2Auth(), "oauth2") | (SignAuth(), "sign"):
            return auth
        case _:
            return None


AUTH = Section(
    doc="How we prove who we are; exactly one.",
    make=_make_auth,
    take=_take_auth,
    one_of=True,
    keys=(
        Key(name="bearer", kind=SecretReference(one_line=True), doc="Authorization: Bearer …"),
        Key(name="basic", kind=Table(BASIC), doc="Authorization: Basic …"),
        Key(name="header", kind=Table(HEADER), doc="a secret in a header of its own"),
        Key(name="query", kind=Table(QUERY), doc="a secret in the query of each URL"),
        Key(name="oauth2", kind=Table(OAUTH2), doc="OAuth 2 client credentials"),
        Key(name="sign", kind=Table(SIGN), doc="a signature over each request"),
    ),
)
