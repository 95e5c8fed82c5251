"""Where the reading of the file stands, and what it has found wrong so far."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from gateway.config.lines import KeyPath
from gateway.errors import Fault


class Bad(Enum):
    """Stands for a value whose fault has been reported."""

    BAD = "bad"


BAD = Bad.BAD

_LONGEST_ECHO = 60


@dataclass(kw_only=True)
class Report:
    """The surroundings of one reading, and everything it found."""

    environ: Mapping[str, str]
    folder: Path  # of the TOML file: relative paths start here
    lines: Mapping[KeyPath, int] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Place:
    """A key path of the file, to which faults can be pinned."""

    report: Report
    path: KeyPath = ()

    def at(self, *steps: str | int) -> Place:
        """Return the place below this one."""
        return Place(self.report, (*self.path, *steps))

    def fault(self, problem: str, remedy: str = "") -> Bad:
        """Report a fault here. Neither text may hold a secret."""
        self.report.faults.append(Fault(path_text(self.path), self.line, problem, remedy))
        return BAD

    def unfit(self, expected: str, raw: object, remedy: str = "") -> Bad:
        """Report that *raw* is not what is *expected*, and repeat it."""
        return self.fault(f"expected {expected}, got {echo(raw)}", remedy)

    def warn(self, text: str) -> None:
        """Report what is allowed and yet worth knowing."""
        line = f" (line {self.line})" if self.line else ""
        self.report.warnings.append(f"{path_text(self.path)}{line}: {text}")

    @property
    def line(self) -> int | None:
        """The line of this key, or of the nearest table around it that is written out."""
        for length in range(len(self.path), 0, -1):
            line = self.report.lines.get(self.path[:length])
            if line is not None:
                return line
        return None


def path_text(path: KeyPath) -> str:
    """Return ``vendors.acme.api`` or ``routes[0].call``, quoting what needs quotes."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            bare = re.fullmatch(r"[A-Za-z0-9_-]+", step)
            text += ("." if text else "") + (step if bare else json.dumps(step))
    return text


def echo(raw: object) -> str:
    """Return a value as TOML writes it, cut to a readable length; containers by their type."""
    if isinstance(raw, str):
        text = json.dumps(raw, ensure_ascii=False)
        return text if len(text) <= _LONGEST_ECHO else f'{text[:_LONGEST_ECHO]}…"'
    if isinstance(raw, bool):
        return "true" if raw else "false"
    if isinstance(raw, int | float):
        text = format(raw, "d") if isinstance(raw, int) and raw.bit_length() < 128 else ""
        return text or (str(raw) if isinstance(raw, float) else "a huge number")
    return type_text(raw)


def type_text(raw: object) -> str:
    """Return the type of a value in TOML's words: what may be said of a secret."""
    match raw:
        case str():
            return "a string"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case list():
            return "a list"
        case dict():
            return "a table"
        case _:
            return "a date or time"


def nearest(name: str, known: Iterable[str], *, what: str) -> str:
    """Return a remedy for an unknown *name*: the known one it resembles, or all of them."""
    choices = sorted(known)
    close = difflib.get_close_matches(name.lower(), choices, n=1)
    if close:
        return f'did you mean "{close[0]}"?'
    if not choices:
        return f"there is no {what}"
    return f"{what}: " + ", ".join(choices)
