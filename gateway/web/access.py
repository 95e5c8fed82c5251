"""Access to the operators' HTTP: who is let in, and what every answer looks like.

With a token, it must be shown. Without one the listener is on loopback only, and a browser is what
is left to fear: a page that rebinds its name to 127.0.0.1, or posts here from elsewhere. Hence the
checks of Host and Origin.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from gateway.config.model import Secret
from gateway.errors import DatabaseUnavailable, GatewayError, NotFound, Refused, TooWide
from gateway.telemetry.logs import get_logger
from gateway.web.parameters import BadParameter

log = get_logger("gateway.admin")

RETRY_AFTER_SECONDS = 5

PROBES = frozenset({"/healthz", "/readyz"})  # say nothing that would be worth protecting
WITHOUT_TOKEN = PROBES | {"/metrics"}  # scrapers and load balancers rarely hold tokens

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Server": "gateway",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_encode = msgspec.json.Encoder().encode


class TurnedAway(GatewayError):
    """The caller may not do this."""

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        self.status = status
        self.code = code
        self.headers = headers
        super().__init__(message)


def guarded(token: Secret | None) -> Middleware:
    """Return the one middleware: it checks the caller, and turns errors into JSON."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            _admit(request, token)
            response = await handler(request)
        except Exception as error:  # noqa: BLE001  # the door: every error becomes an answer
            response = _answer_to(error, request)
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    return guard


def json(
    value: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Answer *value* as JSON; structs, ids and times included."""
    return web.Response(
        status=status, body=_encode(value), content_type="application/json", headers=headers
    )


def error_json(
    status: int, code: str, message: str, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Answer an error in the one shape that errors have."""
    return json({"error": {"code": code, "message": message}}, status=status, headers=headers)


def _admit(request: web.Request, token: Secret | None) -> None:
    if token is None:
        if request.path not in PROBES:
            _check_host(request)
    elif request.path not in WITHOUT_TOKEN:
        _check_token(request, token)
    if request.method not in ("GET", "HEAD"):
        _check_origin(request)


def _check_host(request: web.Request) -> None:
    given = request.headers.getall("Host", [])
    if len(given) != 1 or not _is_loopback(given[0]):
        raise TurnedAway(
            403,
            "forbidden",
            "without admin.token only a loopback name is answered in Host, such as localhost;"
            " set admin.token to come by another",
        )


def _check_token(request: web.Request, token: Secret) -> None:
    given = request.headers.get("Authorization", "")
    scheme, _, credentials = given.partition(" ")
    shown = None
    if scheme.lower() == "bearer":
        shown = credentials.strip()
    elif scheme.lower() == "basic" and request.path == "/":
        shown = _password(credentials)  # browsers offer no other way to show a token
    if shown is not None and hmac.compare_digest(
        shown.encode("utf-8", "surrogateescape"), token.value.encode()
    ):
        return
    if given:
        log.warning("operator_refused", path=request.path[:200], remote=request.remote)
    challenge = 'Basic realm="gateway", charset="UTF-8"' if request.path == "/" else "Bearer"
    raise TurnedAway(
        401,
        "unauthorized",
        "show the value of admin.token: Authorization: Bearer …",
        {"WWW-Authenticate": challenge},
    )


def _check_origin(request: web.Request) -> None:
    for origin in request.headers.getall("Origin", []):
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or parts.netloc != request.headers.get("Host"):
            raise TurnedAway(403, "forbidden", "this act is not taken from another site's page")


def _is_loopback(host: str) -> bool:
    name = host.lower()
    if name.startswith("["):
        name = name[1:].partition("]")[0]
    elif name.count(":") == 1:
        name = name.partition(":")[0]
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _password(credentials: str) -> str | None:
    try:
        return base64.b64decode(credentials, validate=True).decode().partition(":")[2]
    except (binascii.Error, ValueError):
        return None


def _answer_to(error: Exception, request: web.Request) -> web.Response:
    match error:
        case TurnedAway():
            return error_json(error.status, error.code, str(error), error.headers)
        case BadParameter():
            return error_json(400, "bad_parameter", str(error))
        case NotFound():
            return error_json(404, "not_found", str(error))
        case Refused():
            return error_json(409, "refused", str(error))
        case TooWide():
            return error_json(422, "too_wide", str(error))
        case DatabaseUnavailable():
            log.warning("operator_postponed", path=request.path[:200], error=str(error))
            return error_json(
                503,
                "database_unavailable",
                "the database does not answer at the moment",
                {"Retry-After": str(RETRY_AFTER_SECONDS)},
            )
        case web.HTTPMethodNotAllowed():
            allowed = ", ".join(sorted(error.allowed_methods))
            return error_json(
                405, "method_not_allowed", f"answered here: {allowed}", {"Allow": allowed}
            )
        case web.HTTPNotFound():
            return error_json(404, "not_found", "no such path; see /api/v1/openapi.json")
        case web.HTTPException():
            return error_json(error.status, "bad_request", error.reason)
        case _:
            log.error("admin_failed", path=request.path[:200], exc_info=error)
            return error_json(500, "internal", "internal error; the log tells more")
