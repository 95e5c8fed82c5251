"""The table of docs/senders.md: every preset in one row, from the data that verifies it."""

from __future__ import annotations

from gateway.webhooks.presets import PRESETS
from gateway.webhooks.scheme import ASYMMETRIC, Handshake, Scheme

_COLUMNS = (
    "preset", "header", "algorithm", "signed", "time", "event type", "dedupe key", "answer",
    "handshake",
)  # fmt: skip


def senders_markdown() -> str:
    """Return the table, each preset linked to its sender's own page."""
    rows = [_COLUMNS, ("---",) * len(_COLUMNS), *(_row(scheme) for scheme in PRESETS.values())]
    return "".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n" for row in rows
    )


def senders_plain() -> list[dict[str, str]]:
    """Return the same rows as data."""
    return [
        dict(zip(_COLUMNS, _row(s), strict=True)) | {"preset": s.name} for s in PRESETS.values()
    ]


def _row(scheme: Scheme) -> tuple[str, ...]:
    return (
        f"[`{scheme.name}`]({scheme.link})" if scheme.link else f"`{scheme.name}`",
        _header(scheme),
        _algorithm(scheme),
        scheme.message or ("nothing" if scheme.algorithm == "token" else f"`{scheme.signed}`"),
        _time(scheme),
        _source(scheme.event_type) or "none",
        _source(scheme.dedupe),
        f"{scheme.accepted_status} within {scheme.patience_seconds:g} s",
        "<br>".join(_handshake(handshake) for handshake in scheme.handshakes) or "none",
    )


def _header(scheme: Scheme) -> str:
    names = (scheme.header,) if isinstance(scheme.header, str) else scheme.header
    if not names:
        return "none"
    if len(names) > 2:
        return f"`{names[0]}` … `{names[-1].rpartition('-')[2]}`"
    if scheme.signature_field:
        form = f" with `{scheme.signature_field}=`"
    else:
        form = f": `{scheme.prefix}…`" if scheme.prefix else ""
    return " or ".join(f"`{name}`" for name in names) + form


def _algorithm(scheme: Scheme) -> str:
    match scheme.check:
        case "basic":
            return "Basic"
        case "ip":
            return "addresses"
        case "microsoft-graph":
            return "shared secret"
        case "jwt":
            return "HS256, RS256 or ES256"
        case _:
            pass
    if scheme.algorithm == "token":
        return "shared secret"
    hashed = scheme.algorithm if scheme.algorithm in ASYMMETRIC else f"HMAC-{scheme.algorithm}"
    other = f", or {scheme.alternative.algorithm}" if scheme.alternative else ""
    return f"{hashed}, {scheme.encoding}{other}"


def _time(scheme: Scheme) -> str:
    if not scheme.timestamp and scheme.check not in ("jwt", "mailgun", "plaid"):
        return "none"
    seconds = scheme.tolerance_seconds
    allowed = f"{seconds:g} s" if seconds <= 300 else f"{seconds / 60:g} min"
    where = f"{_source(scheme.timestamp)}, " if scheme.timestamp else ""
    unit = f" ({scheme.timestamp_unit})" if scheme.timestamp_unit != "s" else ""
    return f"{where}±{allowed}{unit}"


def _source(source: str) -> str:
    return " or ".join(
        part if part in ("hash", "none", "") else f"`{part}`"
        for part in (part.strip() for part in source.split("|"))
    )


def _handshake(handshake: Handshake) -> str:
    spelled = {"*": "", "": " absent"}
    asks = ", ".join(
        f"`{source}`" + spelled.get(text, f" = `{text}`")
        for source, text in handshake.match.items()
    )
    answer = f"`{handshake.body}`" if handshake.body else str(handshake.status)
    if handshake.headers:
        answer += " with " + ", ".join(f"`{name}`" for name in handshake.headers)
    notes = []
    if handshake.signed:
        notes.append("signed")
    if handshake.proof:
        notes.append(f"`{handshake.proof}` = `verify_token`")
    if handshake.learn:
        notes.append("its secret is learnt: `learn_secret`")
    if handshake.confirm:
        notes.append(f"`{handshake.confirm}` is called first")
    more = f" ({'; '.join(notes)})" if notes else ""
    return f"{handshake.method} {asks} → {answer}{more}"
