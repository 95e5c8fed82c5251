"""Which line of a TOML text each key stands on; tomllib itself does not tell.

The scanner reads only what tomllib has accepted already, so it may be lenient: it follows
structure and never judges. A property test compares it with tomllib over generated documents.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_left

KeyPath = tuple[str | int, ...]

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_BLANK = re.compile(r"[ \t]*")
_BLANK_LINES = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
# Text up to the closing quotes. Up to two quotes may stand directly before the closing three.
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}'
    r"|'''.*?'{3,5}"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)
_PLAIN = re.compile(r"[^,\]}#\r\n]*")  # numbers, booleans, dates


def key_lines(text: str) -> dict[KeyPath, int]:
    """Return the line (from 1) of every table, key and list item of *text*, a valid TOML document.

    A table that is only implied (``a`` in ``[a.b]``) stands where it is first named. List items,
    and the tables of ``[[a]]``, are numbered from 0: ``("a", 0, "key")``.
    """
    scanner = _Scanner(text)
    scanner.document()
    return scanner.lines


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.lines: dict[KeyPath, int] = {}
        self.last_index: dict[KeyPath, int] = {}  # of each [[array of tables]]
        self.newlines = [match.start() for match in re.finditer("\n", text)]

    def document(self) -> None:
        table: KeyPath = ()
        while self.skip(_BLANK_LINES) < len(self.text):
            if self.text.startswith("[", self.position):
                table = self.header()
            else:
                self.assignment(table)

    def header(self) -> KeyPath:
        """Read ``[a.b]`` or ``[[a.b]]``; return the path of the table that follows."""
        line = self.line()
        is_array = self.text.startswith("[[", self.position)
        self.position += 2 if is_array else 1
        *parents, name = self.dotted_key()
        self.position += 2 if is_array else 1
        path: KeyPath = ()
        for parent in parents:
            path = (*path, parent)
            self.lines.setdefault(path, line)
            if path in self.last_index:
                path = (*path, self.last_index[path])
        path = (*path, name)
        if is_array:
            self.lines.setdefault(path, line)
            self.last_index[path] = self.last_index.get(path, -1) + 1
            path = (*path, self.last_index[path])
        self.lines[path] = line
        return path

    def assignment(self, table: KeyPath) -> None:
        """Read ``a.b = value`` within *table*."""
        line = self.line()
        *parents, name = self.dotted_key()
        path = table
        for parent in parents:
            path = (*path, parent)
            self.lines.setdefault(path, line)
        self.position += 1  # "="
        self.value((*path, name), line)

    def dotted_key(self) -> list[str]:
        """Read a key and its dots; leaves the position at what follows them and their blanks."""
        keys = []
        while True:
            self.skip(_BLANK)
            if self.text[self.position] in "\"'":
                quoted = self.take(_STRING)
                keys.append(str(tomllib.loads(f"key = {quoted}")["key"]))
            else:
                keys.append(self.take(_BARE_KEY))
            self.skip(_BLANK)
            if not self.text.startswith(".", self.position):
                return keys
            self.position += 1

    def value(self, path: KeyPath, line: int) -> None:
        self.lines[path] = line
        self.skip(_BLANK)
        match self.text[self.position]:
            case "[":
                self.array(path)
            case "{":
                self.inline_table(path)
            case '"' | "'":
                self.take(_STRING)
            case _:
                self.take(_PLAIN)

    def array(self, path: KeyPath) -> None:
        self.position += 1
        index = 0
        while self.text[self.skip(_BLANK_LINES)] != "]":
            if self.text[self.position] == ",":
                self.position += 1
                continue
            self.value((*path, index), self.line())
            index += 1
        self.position += 1

    def inline_table(self, path: KeyPath) -> None:
        self.position += 1
        while self.text[self.skip(_BLANK_LINES)] != "}":
            if self.text[self.position] == ",":
                self.position += 1
                continue
            self.assignment(path)
        self.position += 1

    def line(self) -> int:
        return bisect_left(self.newlines, self.position) + 1

    def skip(self, pattern: re.Pattern[str]) -> int:
        self.take(pattern)
        return self.position

    def take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.position)
        if match is None:  # tomllib accepted the text, so this is a fault of the scanner
            raise ValueError(f"line {self.line()}: cannot follow the TOML here")
        self.position = match.end()
        return match.group()
