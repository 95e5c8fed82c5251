"""Writes the effective configuration back as TOML: every default spelled out, no secret's value."""

from __future__ import annotations

import json
import re
from typing import Any

from gateway.config.model import Config
from gateway.config.specs.root import ROOT
from gateway.config.walker import Table


def render(config: Config) -> str:
    """Return TOML that loads to the same configuration. Secrets stand as their references.

    Only a password inside a literal ``database.url`` is lost: it is masked.
    """
    spelled = spell(config)
    parts = []
    for name, value in spelled.items():
        if name == "vendors":
            parts += [
                _table(f"[vendors.{_key(vendor)}.{section}]", keys)
                for vendor, sections in value.items()
                for section, keys in sections.items()
            ]
        elif name == "routes":
            parts += [_table("[[routes]]", route) for route in value]
        else:
            parts.append(_table(f"[{name}]", value))
    return "\n".join(parts)


def spell(config: Config) -> dict[str, Any]:
    """Return the same as plain data, for JSON."""
    return Table(ROOT).spell(config)


def _table(header: str, keys: dict[str, Any]) -> str:
    lines = [f"{_key(name)} = {_value(value)}\n" for name, value in keys.items()]
    return f"{header}\n" + "".join(lines)


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _string(name)


def _value(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return _string(value)
        case dict():
            items = ", ".join(f"{_key(name)} = {_value(item)}" for name, item in value.items())
            return f"{{ {items} }}" if items else "{}"
        case list():
            return f"[{', '.join(_value(item) for item in value)}]"
        case _:
            return repr(value)  # int or finite float: Python writes them as TOML does


def _string(text: str) -> str:
    # JSON's escapes are TOML's too, but TOML also wants DEL escaped.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
