"""Log lines: one line each, bounded, harmless to a terminal, without secrets."""

import ast
import asyncio
import contextlib
import io
import json
import logging
import os
import pty
import re
import uuid
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.model import Secret
from gateway.telemetry.logs import MAX_LINE_CHARS, configure_logging, get_logger

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "docs" / "logs.md"


def logged(*, level: str = "info", event: str = "thing_happened", **fields: Any) -> dict[str, Any]:
    """Log one line as JSON and return it, decoded."""
    stream = io.StringIO()
    configure_logging(json=True, stream=stream)
    getattr(get_logger("gateway.test"), level)(event, **fields)
    (line,) = stream.getvalue().splitlines()
    return json.loads(line)


def shown(event: str = "thing_happened", **fields: Any) -> str:
    stream = io.StringIO()
    configure_logging(json=False, stream=stream)
    get_logger("gateway.test").info(event, **fields)
    return stream.getvalue()


def test_a_line_has_a_utc_time_a_level_an_event_and_its_logger() -> None:
    line = logged(job_id=uuid.UUID(int=7), attempt=3)
    assert list(line)[:4] == ["timestamp", "level", "event", "logger"]
    assert datetime.fromisoformat(line["timestamp"]).utcoffset() == timedelta(0)
    assert (line["level"], line["event"], line["logger"]) == (
        "info",
        "thing_happened",
        "gateway.test",
    )
    assert line["job_id"] == str(uuid.UUID(int=7))
    assert line["attempt"] == 3


def test_what_is_bound_to_the_context_is_on_every_line() -> None:
    structlog.contextvars.bind_contextvars(correlation_id="c-1")
    assert logged()["correlation_id"] == "c-1"


@pytest.mark.parametrize(
    "name",
    ["Authorization", "admin_token", "client_secret", "PASSWORD", "x_signature", "Set-Cookie",
     "api_key", "apiKey", "X-Api-Key"],
)  # fmt: skip
def test_a_sensitive_name_hides_its_value_at_any_depth(name: str) -> None:
    line = json.dumps(logged(**{name: "hunter2"}, headers={"deep": [{name: ["hunter2"]}]}))
    assert "hunter2" not in line
    assert line.count("***") == 2


def test_a_secret_of_the_configuration_never_shows_its_value() -> None:
    line = logged(reference=Secret("env:CRM", "hunter2"), several=[Secret("env:CRM", "hunter2")])
    assert line["reference"] == "Secret(env:CRM)"
    assert "hunter2" not in json.dumps(line)


@pytest.mark.parametrize(
    "text",
    [
        "cannot connect to postgresql://gateway:hunter2@db:5432/gateway",
        "sent Authorization: Bearer hunter2hunter2 to them",
        "x" * 2030 + " postgresql://gateway:hunter2" + "2" * 500 + "@db/",
    ],
)
def test_credentials_inside_a_text_are_masked(text: str) -> None:
    assert "hunter2" not in json.dumps(logged(error=text, exc=ValueError(text)))


def test_credentials_inside_a_traceback_are_masked() -> None:
    try:
        raise ValueError("postgresql://gateway:" + "hunter2" + "@db")
    except ValueError:
        line = logged(level="exception")
    assert "postgresql://gateway:***@db" in line["exception"]


def test_an_exception_is_one_field_of_bounded_length() -> None:
    try:
        raise ValueError("first " + "x" * 100_000 + " last")
    except ValueError:
        line = logged(level="exception", event="work_failed")
    assert line["level"] == "error"
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith(" last")
    assert len(line["exception"]) < 10_000


def test_a_long_value_is_cut_and_says_so() -> None:
    line = logged(body="x" * 10_000)
    assert len(line["body"]) < 2100
    assert "10000 characters" in line["body"]


def test_a_huge_structure_makes_a_bounded_line() -> None:
    wide: Any = {f"k{i}": {f"k{j}": ["y" * 100] * 100 for j in range(100)} for i in range(100)}
    deep: Any = []
    for _ in range(500):
        deep = [deep]
    assert len(json.dumps(logged(wide=wide, deep=deep))) < 3 * MAX_LINE_CHARS


def test_a_broken_repr_does_not_break_the_work() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError

    assert logged(thing=Broken())["thing"] == "<unprintable Broken>"


def test_a_closed_or_full_stream_does_not_break_the_work() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(writer, "w")
    configure_logging(json=True, stream=stream)
    get_logger("gateway.test").info("thing_happened")
    with contextlib.suppress(BrokenPipeError):  # what is left in the stream's own buffer
        stream.close()
    get_logger("gateway.test").info("thing_happened")


JSON_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.binary()
    | st.text(st.characters(categories=None)),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(categories=None)), inner),
    max_leaves=10,
)  # fmt: skip
RAW_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


@given(event=st.text(st.characters(categories=None)), value=JSON_LIKE)
def test_nothing_breaks_a_json_line(event: str, value: Any) -> None:
    stream = io.StringIO()
    configure_logging(json=True, stream=stream)
    get_logger("gateway.test").info(event, value=value)
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert text.endswith("\n")
    assert not RAW_CONTROL.search(text)
    json.loads(text)


@given(event=st.text(st.characters(categories=None)), value=JSON_LIKE)
def test_nothing_breaks_a_line_on_the_terminal(event: str, value: Any) -> None:
    text = shown(event, value=value)
    assert text.count("\n") == 1
    assert not RAW_CONTROL.search(text)


@pytest.mark.parametrize("odd", ["\x7f", "\x9b", "\u2028", "\u2029", "\u200f", "\u202e", "\ud800"])
def test_a_character_that_json_leaves_raw_is_written_as_its_code(odd: str) -> None:
    code = f"\\x{ord(odd):02x}" if ord(odd) < 256 else f"\\u{ord(odd):04x}"
    assert logged(value=f"a{odd}b")["value"] == f"a{code}b"
    assert odd not in shown(odd, value=[odd])


def test_a_traceback_on_the_terminal_cannot_pass_for_a_line_of_the_log() -> None:
    stream = io.StringIO()
    configure_logging(json=False, stream=stream)
    try:
        raise ValueError("\x1b[31m\n2026-01-01T00:00:00+00:00 [info] forged")
    except ValueError:
        get_logger("gateway.test").exception("work_failed")
    first, *rest = stream.getvalue().splitlines()
    assert "work_failed" in first
    assert all(line.startswith("  ") for line in rest)
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize(("no_color", "colored"), [("", True), ("1", False)])
def test_a_terminal_gets_colours_unless_no_color(
    monkeypatch: pytest.MonkeyPatch, no_color: str, colored: bool
) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("TERM", "xterm")
    master, slave = pty.openpty()
    with os.fdopen(slave, "w") as terminal:
        configure_logging(stream=terminal)
        get_logger("gateway.test").info("thing_happened")
        written = os.read(master, 65536).decode()
    os.close(master)
    assert "thing_happened" in written
    assert not written.startswith("{")
    assert ("\x1b[" in written) is colored


def test_what_is_no_terminal_gets_json() -> None:
    stream = io.StringIO()
    configure_logging(stream=stream)
    get_logger("gateway.test").info("thing_happened")
    assert json.loads(stream.getvalue())["event"] == "thing_happened"


def test_debug_is_silent_unless_asked_for() -> None:
    stream = io.StringIO()
    configure_logging(json=True, stream=stream)
    get_logger("gateway.a").debug("thing_happened")
    assert stream.getvalue() == ""
    configure_logging(json=True, stream=stream, level="debug")
    get_logger("gateway.b").debug("thing_happened")
    assert json.loads(stream.getvalue())["level"] == "debug"


def test_the_standard_library_speaks_through_us_from_warning_on() -> None:
    stream = io.StringIO()
    configure_logging(json=True, stream=stream)
    logging.getLogger("aiohttp.server").info("not this")
    logging.getLogger("aiohttp.server").error("bad %s", "line\n")
    logging.getLogger("asyncio").warning("%d arguments", "no number")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert (first["event"], first["level"], first["logger"], first["message"]) == (
        "library_logged",
        "error",
        "aiohttp.server",
        "bad line\n",
    )
    assert second["message"] == "%d arguments"


def test_warnings_speak_through_us() -> None:
    stream = io.StringIO()
    configure_logging(json=True, stream=stream)
    with warnings.catch_warnings():
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        warnings.simplefilter("always")
        warnings.warn("old thing", stacklevel=1)
        logging.captureWarnings(False)
    assert "old thing" in json.loads(stream.getvalue())["message"]


async def test_an_exception_that_nobody_awaited_is_logged() -> None:
    stream = io.StringIO()
    configure_logging(json=True, stream=stream)
    try:
        raise ValueError("lost")
    except ValueError as error:
        asyncio.get_running_loop().call_exception_handler({"message": "m", "exception": error})
    line = json.loads(stream.getvalue())
    assert line["logger"] == "asyncio"
    assert "ValueError: lost" in line["exception"]


def test_the_time_is_now() -> None:
    before = datetime.now(UTC)
    assert before <= datetime.fromisoformat(logged()["timestamp"]) <= datetime.now(UTC)


def events_in_code() -> dict[str, set[str]]:
    """Every ``log.info("event", …)`` of the package: event → levels it is logged at."""
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / "gateway").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(
                    func=ast.Attribute(
                        attr="debug" | "info" | "warning" | "error" | "exception" as level,
                        value=ast.Name(id="log" | "_log" | "logger")
                        | ast.Attribute(attr="log" | "_log" | "logger")
                        | ast.Call(func=ast.Name(id="get_logger")),
                    ),
                    args=[first, *_],
                ):
                    events = [first.body, first.orelse] if isinstance(first, ast.IfExp) else [first]
                    for event in events:
                        assert isinstance(event, ast.Constant), f"{path}:{node.lineno}: no constant"
                        found.setdefault(event.value, set()).add(
                            level.replace("exception", "error")
                        )
    found["library_logged"] = {"warning", "error"}  # the one that goes through a variable
    return found


def test_every_log_event_is_in_the_documented_table() -> None:
    documented = {}
    for line in TABLE.read_text().splitlines():
        if line.startswith("| `"):
            name, levels, _ = (cell.strip() for cell in line.strip("|").split("|", 2))
            documented[name.strip("`")] = set(levels.split(", "))
    assert documented == events_in_code()


def test_log_events_are_constants_in_snake_case() -> None:
    assert [name for name in events_in_code() if not re.fullmatch(r"[a-z]+(_[a-z]+)+", name)] == []
