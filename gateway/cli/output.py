"""What the commands print: tables, records and JSON, none of which can steer a terminal.

Data go to stdout, messages to stderr. On a terminal tables are drawn by rich, which honours
``NO_COLOR``; elsewhere they are plain aligned columns.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import click
import msgspec

MIN_LAST_COLUMN = 12

STATE_STYLES = {
    "completed": "green",
    "running": "cyan",
    "available": "blue",
    "scheduled": "yellow",
    "blocked": "yellow",
    "dead": "bold red",
    "cancelled": "dim",
}

# What JSON may hold raw although a terminal or a pager may obey it: DEL, C1, marks that reverse
# the reading direction, separators of lines.
_ODD = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


def complain(message: str) -> None:
    """Print a message on stderr."""
    click.echo(clean(message), err=True)


def print_json(value: object) -> None:
    """Print one JSON document on one line."""
    text = msgspec.json.encode(value).decode()
    click.echo(_ODD.sub(lambda match: f"\\u{ord(match[0]):04x}", text))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print *rows* under *columns*; a column named ``state`` is coloured on a terminal."""
    cells = [[one_line(cell) for cell in row] for row in rows]
    table = [list(columns), *cells]
    widths = [max(len(row[place]) for row in table) for place in range(len(columns))]
    if sys.stdout.isatty() and _print_rich_table(columns, cells, widths):
        return
    for row in table:
        padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(padded).rstrip())


def print_record(fields: Iterable[tuple[str, object]], *, title: str = "") -> None:
    """Print names and values below each other; what is None or empty is left out."""
    shown = [(name, one_line(value)) for name, value in fields if value not in (None, "", [], {})]
    if title:
        print_title(title)
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        click.echo(f"{name.ljust(width)}  {value}")


def print_title(title: str) -> None:
    """Print the heading of what follows, after an empty line."""
    click.echo()
    click.echo(click.style(title, bold=True) if _colourful() else title)


def print_text(text: str) -> None:
    """Print lines as they are, but for what would steer a terminal."""
    for line in text.splitlines():
        click.echo(clean(line, keep="\t"))


def one_line(value: object) -> str:
    """Return *value* as a person reads it, on one line."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case datetime():
            return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"
        case float():
            return f"{value:g}"
        case dict() | msgspec.Raw():
            return clean(msgspec.json.encode(value).decode())
        case list() | tuple():
            return ", ".join(one_line(item) for item in value)
        case _:
            return clean(str(value))


def clean(text: str, *, keep: str = "") -> str:
    """Return *text* with everything that is not plainly visible written as an escape."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() or sign in keep else _escape(sign) for sign in text)


def cut(text: str | None, width: int) -> str:
    """Return at most *width* characters of *text*."""
    text = text or ""
    return text if len(text) <= width else text[: width - 1] + "…"


def pretty_json(raw: Any) -> str:
    """Return JSON for people to read, indented; a JSON string as its text."""
    decoded = msgspec.json.decode(raw)
    if isinstance(decoded, str):
        return decoded
    return msgspec.json.format(msgspec.json.encode(raw), indent=2).decode()


def _escape(sign: str) -> str:
    code = ord(sign)
    if sign in "\n\r\t":
        return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}[sign]
    return (
        f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"
    )


def _print_rich_table(
    columns: Sequence[str], cells: Sequence[Sequence[str]], widths: Sequence[int]
) -> bool:
    """Draw the table, its last column folded if need be; return False where it does not fit."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=sys.stdout, highlight=False)
    if sum(widths[:-1]) + 3 * len(columns) + MIN_LAST_COLUMN > console.width:
        return False
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(Text(column), no_wrap=column != columns[-1], overflow="fold")
    for row in cells:
        table.add_row(
            *(
                Text(cell, style=STATE_STYLES.get(cell, "") if column == "state" else "")
                for column, cell in zip(columns, row, strict=True)
            )
        )
    console.print(table)
    return True


def _colourful() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")
