"""The tables of docs/configuration.md: every key, what may be written, its default, its meaning."""

from __future__ import annotations

import json
from collections.abc import Iterator

from gateway.config import specs
from gateway.config.senders import HANDSHAKE
from gateway.config.signing import SCHEME
from gateway.config.walker import REQUIRED, UNSET, Key, Section

_SECTIONS = (
    ("[gateway]", specs.GATEWAY),
    ("[database]", specs.DATABASE),
    ("[server]", specs.SERVER),
    ("[admin]", specs.ADMIN),
    ("[queue]", specs.QUEUE),
    ("[vendors.NAME.webhook]", specs.WEBHOOK),
    ("[vendors.NAME.webhook.response]", specs.RESPONSE),
    ("[[vendors.NAME.webhook.handshakes]]", HANDSHAKE),
    ("verify = { … }", SCHEME),
    ("[vendors.NAME.api]", specs.API),
    ("auth = { … }", specs.AUTH),
    ("auth = { basic = { … } }", specs.BASIC),
    ("auth = { header = { … } }", specs.HEADER),
    ("auth = { query = { … } }", specs.QUERY),
    ("auth = { oauth2 = { … } }", specs.OAUTH2),
    ("auth = { sign = { … } }", specs.SIGN),
    ("tls = { … }", specs.TLS),
    ("proxy = { … }", specs.PROXY),
    ("retry = { … }", specs.RETRY),
    ("breaker = { … }", specs.BREAKER),
    ("quota = { … }", specs.QUOTA),
    ("[[routes]]", specs.ROUTE),
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
        return "its defaults" if key.kind.form == "table" else "`{}`"
    return f"`{json.dumps(key.default, ensure_ascii=False)}`"
