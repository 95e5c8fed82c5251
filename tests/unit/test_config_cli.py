"""``gateway config``: data on stdout, messages on stderr, 78 for a bad file."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gateway.cli.config import config

GOOD = """\
[vendors.acme.webhook]
verify = "none"
[vendors.acme.api]
base_url = "https://acme.example"
auth = { bearer = "env:TOKEN" }
[[routes]]
name = "one"
from = "acme"
call = "POST acme:/x"
"""


def run(*arguments: str, **environ: str) -> Result:
    return CliRunner().invoke(config, arguments, env={"TOKEN": "tops3cret", **environ})


@pytest.fixture
def good(tmp_path: Path) -> str:
    path = tmp_path / "good.toml"
    path.write_text(GOOD)
    return str(path)


@pytest.fixture
def bad(tmp_path: Path) -> str:
    path = tmp_path / "bad.toml"
    path.write_text('[gatway]\n[queue]\nlease = "soon"\n"a\\u001b[31m\\n" = 1\n')
    return str(path)


def test_check_says_what_it_found(good: str) -> None:
    result = run("check", "--config", good)
    assert result.exit_code == 0
    assert result.stdout == f"{good}: ok, 1 vendor, 1 route\n"
    assert "warning: vendors.acme.webhook.verify (line 2)" in result.stderr


def test_check_prints_one_fault_per_line_and_exits_78(bad: str) -> None:
    result = run("check", "--config", bad)
    assert result.exit_code == 78
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert [line.split(": ")[1] for line in lines] == [
        "gatway (line 1)",
        "queue.lease (line 3)",
        'queue."a\\u001b[31m\\n" (line 4)',
    ]
    assert "\x1b" not in result.stderr


def test_the_file_can_be_named_by_the_environment(bad: str) -> None:
    assert run("check", GATEWAY_CONFIG=bad).exit_code == 78


def test_check_as_json(good: str, bad: str) -> None:
    found = json.loads(run("check", "--json", "--config", good).stdout)
    assert (found["ok"], found["faults"], found["vendors"], found["routes"]) == (True, [], 1, 1)
    result = run("check", "--json", "--config", bad)
    assert result.exit_code == 78
    found = json.loads(result.stdout)
    assert found["faults"][1]["path"] == "queue.lease"
    assert found["faults"][1]["line"] == 3


def test_show_prints_toml_and_json_without_secrets(good: str, bad: str) -> None:
    shown = run("show", "--config", good)
    assert tomllib.loads(shown.stdout)["vendors"]["acme"]["api"]["auth"] == {"bearer": "env:TOKEN"}
    assert json.loads(run("show", "--json", "--config", good).stdout)["queue"]["lease"] == "15s"
    assert "tops3cret" not in shown.output
    assert run("show", "--config", bad).exit_code == 78


def test_schema_is_json_and_its_tables_are_markdown() -> None:
    assert json.loads(run("schema").stdout)["additionalProperties"] is False
    assert "### `[gateway]`" in run("schema", "--markdown").stdout
