"""The tables of docs/configuration.md: every key, what may be written, its default, its meaning."""

from __future__ import annotations

import json
from collections.abc import Iterator

from gateway.config.senders import HANDSHAKE
from gateway.config.signing import SCHEME
from gateway.config.specs import auth, calls, process, route, webhook
from gateway.config.walker import REQUIRED, UNSET, Key, Section, Table

_SECTIONS = (
    ("[gateway]", process.GATEWAY),
    ("[database]", process.DATABASE),
    ("[server]", process.SERVER),
    ("[admin]", process.ADMIN),
    ("[queue]", process.QUEUE),
    ("[vendors.NAME.webhook]", webhook.WEBHOOK),
    ("[vendors.NAME.webhook.response]", webhook.RESPONSE),
    ("[[vendors.NAME.webhook.handshakes]]", HANDSHAKE),
    ("verify = { … }", SCHEME),
    ("[vendors.NAME.api]", calls.API),
    ("auth = { … }", auth.AUTH),
    ("auth = { basic = { … } }", auth.BASIC),
    ("auth = { header = { … } }", auth.HEADER),
    ("auth = { query = { … } }", auth.QUERY),
    ("auth = { oauth2 = { … } }", auth.OAUTH2),
    ("auth = { sign = { … } }", auth.SIGN),
    ("tls = { … }", calls.TLS),
    ("proxy = { … }", calls.PROXY),
    ("retry = { … }", calls.RETRY),
    ("breaker = { … }", calls.BREAKER),
    ("quota = { … }", calls.QUOTA),
    ("[[routes]]", route.ROUTE),
)


def markdown() -> str:
    """Return one heading and one table per section of the file."""
    return "\n".join(line for title, section in _SECTIONS for line in _table(title, section))


def _table(title: str, section: Section) -> Iterator[str]:
    yield f"### `{title}`\n"
    yield f"{section.doc}\n"
    yield "| key | value | default | meaning |"
    yield "|---|---|---|---|"
    for key in section.keys:
        cells = (f"`{key.name}`", key.kind.form, _default(key), key.doc)
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield ""


def _default(key: Key) -> str:
    if key.default is REQUIRED:
        return "**required**"
    if key.default is UNSET:
        return key.unset
    if key.default == {}:
        return "its defaults" if isinstance(key.kind, Table) else "`{}`"
    return f"`{json.dumps(key.default, ensure_ascii=False)}`"
