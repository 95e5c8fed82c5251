"""The texts that stand for values: durations, sizes, rates, addresses, URLs, sources.

Each reader takes the text as written and returns the value, or raises ValueError whose message
says how such a text is written; each ``…_text`` function is a reader's inverse.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Literal
from urllib.parse import urlsplit

from gateway.config.model import Address, Rate
from gateway.masks import parse_path
from gateway.webhooks.extract import compile_source

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_DURATION = re.compile(r"([0-9]{1,15})(ms|s|m|h|d)")
_UNIT_MS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_MAX_DURATION_MS = 36_500 * _UNIT_MS["d"]

_SIZE = re.compile(r"([0-9]{1,15})(B|KiB|MiB|GiB)")
_UNIT_BYTES = {"GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10, "B": 1}

_RATE = re.compile(r"([0-9]{1,9})/([smhd])")

_ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.%]+)\]|([^\s:\[\]/@]+)):([0-9]{1,5})")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, section 5.6.2

_HANDLER = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")
VENDOR_NAME_PATTERN = "[a-z0-9][a-z0-9_-]{0,62}"
_VENDOR_NAME = re.compile(VENDOR_NAME_PATTERN)
_ROUTE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_FRAMING_HEADERS = frozenset(
    {"host", "connection", "content-length", "transfer-encoding", "te", "trailer", "upgrade"}
)
_SECRET_HEADERS = frozenset(
    {"authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key"}
)
_STATUS = re.compile(r"[2-5](?:xx|[0-9]{2})")


def duration_seconds(text: str) -> float:
    """Read ``"250ms"``, ``"10s"``, ``"5m"``, ``"24h"`` or ``"7d"``; at most a hundred years."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError("a duration is a whole number and ms, s, m, h or d")
    milliseconds = int(match[1]) * _UNIT_MS[match[2]]
    if milliseconds > _MAX_DURATION_MS:
        raise ValueError("a duration is at most a hundred years")
    return milliseconds / 1000


def duration_text(seconds: float) -> str:
    """Return the shortest exact text, in the largest unit that needs no fraction."""
    milliseconds = round(seconds * 1000)
    unit = next(unit for unit, size in _UNIT_MS.items() if milliseconds % size == 0)
    return "0s" if milliseconds == 0 else f"{milliseconds // _UNIT_MS[unit]}{unit}"


def size_bytes(text: str) -> int:
    """Read ``"64KiB"``, ``"1MiB"``, ``"512B"`` or ``"1GiB"``."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError("a size is a whole number and B, KiB, MiB or GiB")
    return int(match[1]) * _UNIT_BYTES[match[2]]


def size_text(size: int) -> str:
    """Return the size in the largest unit that needs no fraction."""
    unit = next(unit for unit, factor in _UNIT_BYTES.items() if size % factor == 0)
    return "0B" if size == 0 else f"{size // _UNIT_BYTES[unit]}{unit}"


def rate(text: str) -> Rate:
    """Read ``"10/s"``, ``"600/m"``, ``"5000/h"`` or ``"100000/d"``."""
    match = _RATE.fullmatch(text)
    if match is None or int(match[1]) == 0:
        raise ValueError("a rate is a count above 0 per s, m, h or d")
    return Rate(int(match[1]), _UNIT_MS[match[2]] / 1000)


def rate_text(value: Rate) -> str:
    """Return the rate as written; its period is one of the four units."""
    milliseconds = round(value.period_seconds * 1000)
    unit = next(unit for unit, size in _UNIT_MS.items() if size == milliseconds)
    return f"{value.count}/{unit}"


def address(text: str) -> Address:
    """Read ``"127.0.0.1:8080"``, ``"localhost:8080"`` or ``"[::1]:8080"``."""
    match = _ADDRESS.fullmatch(text)
    if match is None or int(match[3]) > 65535:
        raise ValueError("an address is HOST:PORT; IPv6 hosts stand in brackets")
    if match[1] is not None:
        ipaddress.IPv6Address(match[1])
    return Address(match[1] or match[2], int(match[3]))


def address_text(value: Address) -> str:
    """Return ``HOST:PORT``, IPv6 hosts in brackets."""
    return f"[{value.host}]:{value.port}" if ":" in value.host else f"{value.host}:{value.port}"


def network(text: str) -> str:
    """Read ``"10.0.0.0/8"`` or a single address; return it as CIDR."""
    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        pass
    try:
        enclosing = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError("networks are written as ADDRESS/BITS") from None
    raise ValueError(f'did you mean "{enclosing}"?')


def base_url(text: str) -> str:
    """Read an http or https URL that paths can be added to; return it without a last slash."""
    return _url(text, query=False).rstrip("/")


def url(text: str) -> str:
    """Read an http or https URL, with or without a query."""
    return _url(text, query=True)


def proxy_url(text: str) -> str:
    """Read the URL of a proxy: http, a host, perhaps a port."""
    if urlsplit(text).username is not None:
        raise ValueError("credentials do not belong in a URL: use username and password")
    parts = urlsplit(_url(text, query=False))
    if parts.scheme != "http" or parts.path not in ("", "/"):
        raise ValueError('a proxy is "http://HOST:PORT"; https is tunnelled through it')
    return text.rstrip("/")


def _url(text: str, *, query: bool) -> str:
    if not text.isascii() or re.search(r"[\x00-\x20\x7f\\]", text):
        raise ValueError("URLs hold neither blanks nor backslashes; other signs are %-encoded")
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError('a URL begins with "https://" (or "http://") and a host')
    if parts.username is not None or parts.password is not None:
        raise ValueError("credentials do not belong in a URL: use auth")
    if parts.fragment or text.endswith("#"):
        raise ValueError("leave out the fragment (#…)")
    if not query and (parts.query or text.endswith("?")):
        raise ValueError("leave out the query (?…): it belongs to the route's call")
    if parts.port == 0:  # .port raises ValueError for what is no port at all
        raise ValueError("port 0 cannot be called")
    return text


def header_name(text: str) -> str:
    """Read an HTTP field name."""
    if not _TOKEN.fullmatch(text):
        raise ValueError("a header's name holds letters, digits and dashes")
    return text


def sent_header_name(text: str) -> str:
    """Read the name of a header that the configuration may add to a request."""
    if header_name(text).lower() in _FRAMING_HEADERS:
        raise ValueError("the client sets it itself")
    if text.lower() in ("authorization", "proxy-authorization"):
        raise ValueError('secrets do not belong into headers: use auth = { bearer = "env:NAME" }')
    return text


def header_value(text: str) -> str:
    """Read an HTTP field value: no CR, LF or other control characters."""
    if re.search(r"[\x00-\x08\x0a-\x1f\x7f]", text):
        raise ValueError("a header's value is one line without control characters")
    return text


def source(text: str) -> str:
    """Read where a text stands in a request: ``"header:Name"`` or ``"body:dotted.path"``."""
    if text in ("hash", "none"):
        raise ValueError('write "header:X-Name" or "body:dotted.path"')
    compile_source(text)
    return text


def event_type_source(text: str) -> str:
    """Read a source or ``"none"``."""
    return text if text == "none" else source(text)


def dedupe_source(text: str) -> str:
    """Read a source, ``"hash"`` or ``"none"``."""
    compile_source(text)
    return text


def scheme_source(text: str) -> str:
    """Read a source that may also be a field of the signature header: ``"field:t"``."""
    return text if re.fullmatch(r"field:\S+", text) else source(text)


def kept_header_name(text: str) -> str:
    """Read the name of a header that may be kept with an attempt."""
    if header_name(text).lower() in _SECRET_HEADERS:
        raise ValueError("it holds a secret, and those are never kept")
    return text


def parameter_name(text: str) -> str:
    """Read the name of a URL's query parameter, which needs no escapes."""
    if not re.fullmatch(r"[A-Za-z0-9._~-]+(\[[A-Za-z0-9._~-]*\])*", text):
        raise ValueError("a parameter's name holds letters, digits and - _ . ~")
    return text


def token_parameter(text: str) -> str:
    """Read the name of a parameter of a token request that has no key of its own."""
    if text in ("grant_type", "client_id", "client_secret", "scope", "audience"):
        raise ValueError("it is not set here: it has a key of its own, or is fixed")
    return parameter_name(text)


def field_path(text: str) -> str:
    """Read the path of a body's field: ``"card.number"``, ``"*.token"``."""
    parse_path(text)
    return text


def status(text: str) -> str:
    """Read a status or a class of them: ``"429"``, ``"5xx"``."""
    if not _STATUS.fullmatch(text):
        raise ValueError('a status is three digits ("429") or a class ("5xx")')
    return text


def retry_reason(text: str) -> str:
    """Read what may be tried again: a status, a class, ``"timeout"`` or ``"connect"``."""
    return text if text in ("timeout", "connect") else status(text)


def handler_reference(text: str) -> str:
    """Read ``"package.module:function"``."""
    if not _HANDLER.fullmatch(text):
        raise ValueError('a handler is "package.module:function"')
    return text


def vendor_name(text: str) -> str:
    """Read a vendor's name; ``local`` is the lane of handlers that call nobody."""
    if not _VENDOR_NAME.fullmatch(text):
        raise ValueError(
            "names are up to 63 small letters, digits, - and _, first a letter or digit"
        )
    if text == "local":
        raise ValueError('"local" is the lane of handlers that call nobody; choose another name')
    return text


def route_name(text: str) -> str:
    """Read a route's name."""
    if not _ROUTE_NAME.fullmatch(text):
        raise ValueError("names are up to 100 letters, digits, - _ and ., first a letter or digit")
    return text


def plain_text(text: str) -> str:
    """Read any text that is not blank and holds no control characters."""
    if not text.strip() or re.search(r"[\x00-\x1f\x7f]", text):
        raise ValueError("it is blank or holds control characters")
    return text


def username(text: str) -> str:
    """Read the user of basic authentication, which a colon would cut in two (RFC 7617)."""
    if ":" in text:
        raise ValueError("a colon would end it")
    return plain_text(text)


def database_url(text: str) -> str:
    """Read ``"embedded"`` or a PostgreSQL URL. Errors never repeat the text: it may be secret."""
    if text == "embedded":
        return text
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        raise ValueError("the URL's host or port cannot be read") from None
    if parts.scheme not in ("postgresql", "postgres"):
        raise ValueError('write "embedded", "postgresql://…" or a reference to one')
    return text


def embedded_password(text: str) -> bool:
    """Tell whether a PostgreSQL URL carries its password."""
    parts = urlsplit(text)
    return bool(parts.password) or "password=" in parts.query


def masked_url(text: str) -> str:
    """Return a PostgreSQL URL that can be shown: its password, if any, is ``****``."""
    parts = urlsplit(text)
    query = re.sub(r"(^|&)(password=)[^&]*", r"\1\2****", parts.query)
    netloc = parts.netloc
    if parts.password:
        userinfo, _, host = netloc.rpartition("@")
        netloc = f"{userinfo.partition(':')[0]}:****@{host}"
    return parts._replace(netloc=netloc, query=query).geturl()


def host_reach(host: str) -> Literal["loopback", "private", "public"]:
    """Tell how far away a host is, by its text alone; names other than localhost are public."""
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return "loopback"
    try:
        ip = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return "public"
    if ip.is_loopback:
        return "loopback"
    return "private" if ip.is_private else "public"
