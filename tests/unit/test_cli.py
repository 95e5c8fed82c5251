"""The command line without a database: help, exit codes, output that cannot steer a terminal."""

import importlib
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from gateway import __version__
from gateway.cli import _COMMANDS, main, output
from gateway.cli.psql import without_password
from gateway.errors import GatewayError, NotFound

CONFIG = """
[database]
url = "postgresql://nobody@127.0.0.1:1/none"
[vendors.shop.webhook]
verify = "none"
"""


@pytest.fixture
def config_path(tmp_path: Path) -> str:
    path = tmp_path / "config.toml"
    path.write_text(CONFIG)
    return str(path)


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, arguments)
    return result.exit_code, result.stdout, result.stderr


# The command itself -----------------------------------------------------------------------------


def test_help_names_every_command_and_imports_none() -> None:
    script = (
        "import sys; from gateway.cli import main; main(['--help'], standalone_mode=False);"
        "heavy = {'asyncpg', 'aiohttp', 'msgspec', 'rich', 'jinja2', 'gateway.config.model'};"
        "sys.exit(sorted(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    for name in _COMMANDS:
        assert f"  {name} " in done.stdout


def test_every_command_is_where_it_is_said_to_be() -> None:
    for place, _ in _COMMANDS.values():
        module, _, attribute = place.partition(":")
        assert isinstance(getattr(importlib.import_module(module), attribute), click.Command)


def test_version_is_printed() -> None:
    assert run("version") == (0, f"{__version__}\n", "")
    assert run("--version") == (0, f"{__version__}\n", "")


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("jobs", "show"),
        ("jobs", "show", "12"),
        ("jobs", "list", "--state", "done"),
        ("jobs", "list", "--since", "yesterday"),
        ("jobs", "list", "--limit", "0"),
        ("jobs", "replay"),
        ("send",),
    ],
)
def test_wrong_usage_exits_2(arguments: tuple[str, ...], config_path: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("Usage: ")


def test_a_bad_configuration_exits_78(tmp_path: Path) -> None:
    for command in (("jobs", "list"), ("vendors", "list"), ("migrate",), ("psql",), ("send", "x")):
        code, out, err = run(*command, "--config", str(tmp_path / "none.toml"))
        assert (code, out) == (78, "")
        assert "cannot be read" in err


@pytest.mark.parametrize("command", [("jobs", "list"), ("vendors", "list"), ("migrate",)])
def test_no_database_exits_1_with_one_line(command: tuple[str, ...], config_path: str) -> None:
    code, out, err = run(*command, "--config", config_path)
    assert (code, out) == (1, "")
    assert err.startswith("error: PostgreSQL: ")
    assert err.count("\n") == 1


def test_an_embedded_database_that_does_not_run_is_said_to_be_so(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(f'[gateway]\nstate_dir = "{tmp_path / "var"}"\n[database]\nurl = "embedded"\n')
    code, _, err = run("jobs", "list", "--config", str(path))
    assert code == 1
    assert "start `gateway serve` first" in err
    assert not (tmp_path / "var").exists()


@pytest.mark.parametrize(("error", "code"), [(NotFound("x\x1b[2J"), 3), (GatewayError("x"), 1)])
def test_our_errors_become_exit_codes(
    error: GatewayError, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr("gateway.cli.version", click.Command("version", callback=fail))
    result = run("version")
    assert (result[0], result[1]) == (code, "")
    assert result[2].startswith("error: x")
    assert "\x1b" not in result[2]


# Output -----------------------------------------------------------------------------------------

HOSTILE = "a\x1b[2Jb\x9b31mc\rd\ne\u202ef\u2028g"


@given(st.text())
def test_nothing_invisible_reaches_the_terminal(text: str) -> None:
    shown = output.clean(text)
    assert shown.isprintable()
    assert output.clean(shown) == shown
    if text.isprintable():
        assert shown == text


def test_a_table_is_aligned_and_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    moment = datetime(2026, 1, 31, 8, 30, tzinfo=UTC)
    output.print_table(("id", "state", "n"), [(1, "dead", None), (HOSTILE, moment, True)])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)
    assert lines[0].index("state") == lines[1].index("dead") == lines[2].index("2026-01-31 08:30")


def test_json_is_one_line_that_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_json({"text": HOSTILE, "emoji": "😀"})
    printed = capsys.readouterr().out
    assert json.loads(printed) == {"text": HOSTILE, "emoji": "😀"}
    assert printed.count("\n") == 1
    assert not set(printed) & set("\x1b\x9b\r\u202e\u2028")


def test_a_record_leaves_out_what_is_empty(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_record([("id", 7), ("error", None), ("node", ""), ("attempt", 0)])
    assert capsys.readouterr().out == "id       7\nattempt  0\n"


@pytest.mark.parametrize(
    ("raw", "shown"),
    [(b'{"a":[1]}', '{\n  "a": [\n    1\n  ]\n}'), (b'"two\\nlines"', "two\nlines"), (b"1", "1")],
)
def test_a_body_is_shown_to_be_read(raw: bytes, shown: str) -> None:
    import msgspec

    assert output.pretty_json(msgspec.Raw(raw)) == shown


# psql -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dsn", "bare", "password"),
    [
        ("postgresql://u:p%40s@h:1/d?sslmode=allow", "postgresql://u@h:1/d?sslmode=allow", "p@s"),
        ("postgresql://u@h/d?password=x", "postgresql://u@h/d", "x"),
        ("postgresql://u:s@/d?host=%2Frun&port=1", "postgresql://u@/d?host=%2Frun&port=1", "s"),
        ("postgresql://h/d", "postgresql://h/d", None),
        ("postgresql:///d", "postgresql:///d", None),
    ],
)  # fmt: skip
def test_the_password_never_stands_on_a_command_line(
    dsn: str, bare: str, password: str | None
) -> None:
    assert without_password(dsn) == (bare, password)


def test_psql_is_given_its_arguments_as_they_are(
    config_path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "psql"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    called: list[list[str]] = []
    monkeypatch.setattr(
        "os.execve", lambda _path, arguments, _environment: called.append(arguments)
    )
    run("psql", "--config", config_path, "-Atc", "SELECT 1", "--csv", "-h")
    database = "--dbname=postgresql://nobody@127.0.0.1:1/none"
    assert called == [[str(program), database, "-Atc", "SELECT 1", "--csv", "-h"]]
