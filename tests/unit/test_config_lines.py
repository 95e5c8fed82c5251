"""The line scanner agrees with tomllib about structure, and with an editor about lines."""

from __future__ import annotations

import json
import re
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.lines import KeyPath, key_lines

# Documents are generated with "@" in every scalar, which is then replaced by the number of the
# line it stands on: each decoded value tells where it ought to be found.
_NAMES = st.sampled_from(["a", "b", "c-1", "7", "", "x.y", "q\"'#=[", "é", "new\nline"])
_NEWLINES = st.sampled_from(["\n", "\r\n"])
_COMMENT = st.sampled_from(["", " # c = [\"'''", "  "])
_GAP = st.sampled_from(["", "\n", "# [x]\n", "\t\n\n"])


@st.composite
def _key(draw: st.DrawFn, name: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9_-]+", name) and draw(st.booleans()):
        return name
    if "'" not in name and "\n" not in name and draw(st.booleans()):
        return f"'{name}'"
    return json.dumps(name)


@st.composite
def _scalar(draw: st.DrawFn) -> str:
    return draw(
        st.sampled_from(
            [
                "@",
                '"@ # \\" ] }"',
                "'@ \\'",
                '"""@\n [a]\n\\"""" """',
                '"""@ "two""quotes"""""',
                "'''@\n''b = 1\n'''",
                "'''@'''''",
            ]
        )
    )


@st.composite
def _inline(draw: st.DrawFn, depth: int = 2) -> str:
    kind = draw(st.sampled_from(["scalar", "array", "table"] if depth else ["scalar"]))
    if kind == "scalar":
        return draw(_scalar())
    if kind == "array":
        items = draw(st.lists(_inline(depth - 1), max_size=3))
        gaps = [draw(_GAP) + draw(st.sampled_from([" ", ""])) for _ in range(len(items) + 1)]
        body = "".join(f"{gap}{item} ," for gap, item in zip(gaps, items, strict=False))
        return f"[{body}{gaps[-1]}]"
    names = draw(st.lists(_NAMES, max_size=3, unique=True))
    pairs = [f"{draw(_key(name))} = {draw(_inline(depth - 1))}" for name in names]
    return "{ " + ", ".join(pairs) + " }"


@st.composite
def _document(draw: st.DrawFn) -> str:
    text = ""
    for _ in range(draw(st.integers(0, 6))):
        kind = draw(st.sampled_from(["pair", "pair", "dotted", "table", "array"]))
        names = draw(st.lists(_NAMES, min_size=1, max_size=3))
        dotted = draw(st.sampled_from([".", " . "])).join([draw(_key(name)) for name in names])
        line = {
            "pair": f"{draw(_key(names[0]))}={draw(_inline())}",
            "dotted": f"{dotted} = {draw(_inline())}",
            "table": f"[{dotted}]",
            "array": f"[[ {dotted} ]]",
        }[kind]
        candidate = text + draw(_GAP) + line + draw(_COMMENT) + "\n"
        try:
            tomllib.loads(candidate.replace("@", "0"))
        except tomllib.TOMLDecodeError:
            continue  # names collide with earlier ones: leave this part out
        text = candidate
    numbered = "".join(
        line.replace("@", str(number))
        for number, line in enumerate(text.splitlines(keepends=True), start=1)
    )
    return numbered.replace("\n", draw(_NEWLINES))


@given(_document())
def test_every_key_and_item_is_found_on_its_line(text: str) -> None:
    lines = key_lines(text)
    values = dict(_walk(tomllib.loads(text), ()))
    assert set(lines) == set(values)
    for path, value in values.items():
        if isinstance(value, int | str):
            assert lines[path] == int(re.match(r"\d+", str(value)).group()), path  # type: ignore[union-attr]


def _walk(value: object, path: KeyPath) -> list[tuple[KeyPath, object]]:
    found: list[tuple[KeyPath, object]] = [(path, value)] if path else []
    items = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list):
        items = enumerate(value)  # type: ignore[assignment]
    for step, item in items:
        found += _walk(item, (*path, step))
    return found


@pytest.mark.parametrize(
    ("text", "path", "line"),
    [
        ("[a.b]\nc = 1\n[a]\nd = 2", ("a",), 3),  # the explicit header wins
        ("\n[a.b]\nc = 1", ("a",), 2),
        ("[[r]]\nx=1\n[[r]]\n[r.s]\ny=1", ("r", 1, "s", "y"), 5),
        ("[[r]]\n[[r.s]]\n[[r.s]]\n[[r]]\n[[r.s]]", ("r", 1, "s", 0), 5),
        ("d = 1979-05-27 07:32:00 # [x]\ne = 1", ("e",), 2),
        ("", ("nothing",), None),
    ],
)
def test_lines_of_tables(text: str, path: KeyPath, line: int | None) -> None:
    assert key_lines(text).get(path) == line
