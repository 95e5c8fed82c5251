"""What the pages tell people to type works: commands, TOML, SQL, links, the signed curl."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import asyncpg
import click
import pytest

from gateway.cli import main
from gateway.config.loader import check
from gateway.webhooks.presets import PRESETS
from gateway.webhooks.signed import SignedRequest
from gateway.webhooks.verify import Verifier

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "systemd" / "README.md",
]
SETTING = re.compile(r"\w+=\S*")  # NAME=value before a command


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def commands() -> Iterator[tuple[str, list[str]]]:
    """Yield each ``gateway …`` and ``make …`` of the pages, with its page."""
    for page in PAGES:
        lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
        text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        spans = re.findall(r"`((?:gateway|make|DEMO_SECONDS=\d+) [^`]*)`", text)
        for line in [*lines, *spans]:
            try:
                words = shlex.split(line, comments=True)
            except ValueError:  # a statement over several lines
                continue
            while words and SETTING.fullmatch(words[0]):
                del words[0]
            if words and words[0] in ("gateway", "make"):
                yield page.name, words


def test_the_pages_have_commands() -> None:
    assert len(list(commands())) > 30


@pytest.mark.parametrize(
    ("page", "words"), sorted(commands()), ids=lambda value: "_".join(value)[:60]
)
def test_every_command_and_option_exists(page: str, words: list[str]) -> None:
    if words[0] == "make":
        targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
        assert {word for word in words[1:] if "=" not in word and word != "alone"} <= targets
        return
    command: click.Command = main
    rest = words[1:]
    context = click.Context(main)
    while rest and isinstance(command, click.Group):
        if (word := rest.pop(0)) == "COMMAND" or word.startswith("-"):  # any; the group's own
            continue
        names = word.split("|")
        found = [command.get_command(context, name) for name in names]
        assert None not in found, f"{page}: {words}"
        command = found[0]  # type: ignore[assignment]
    if command.name == "psql":
        return  # the rest is psql's own
    assert all((ROOT / word).exists() for word in rest if word.startswith("docs/"))
    known = {"--help"} | {name for option in command.params for name in option.opts}
    assert {word.partition("=")[0] for word in rest if word.startswith("-")} <= known


@pytest.mark.parametrize(
    ("page", "snippet"),
    [(page.name, block) for page in PAGES for block in blocks(page, "toml")],
    ids=lambda value: value[:20],
)
def test_every_toml_snippet_is_without_faults(page: str, snippet: str, tmp_path: Path) -> None:
    """Alone, or added to the shipped file, as its page says."""
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    for name in re.findall(r'"credential:([\w-]+)"', snippet):
        (credentials / name).write_text("whsec_x")
    environ = dict.fromkeys(re.findall(r'"env:(\w+)"', snippet), "x" * 32)
    environ["CREDENTIALS_DIRECTORY"] = str(credentials)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "demo").symlink_to(ROOT / "docs" / "demo")
    shipped = (ROOT / "config.toml").read_text()
    found = []
    for text in (snippet, f"{shipped}\n{snippet}"):
        file = tmp_path / "config.toml"
        file.write_text(text)
        config, faults, _ = check(file, environ=environ, hostname="host-1")
        if config is not None:
            return
        found.append([str(fault) for fault in faults])
    pytest.fail(f"{page}: alone {found[0]}, added to config.toml {found[1]}")


@pytest.mark.parametrize(
    ("page", "statement"),
    [(page.name, block) for page in PAGES for block in blocks(page, "sql")],
    ids=lambda value: re.sub(r"\W+", "_", value)[:40],
)
async def test_every_sql_block_runs(page: str, statement: str, database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        await _store_some_history(connection)
        await connection.execute(statement)
    finally:
        await connection.close()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target, fragment in re.findall(r"\]\(([^)#\s]*)#?([\w-]*)\)", page.read_text()):
        if target.startswith(("http://", "https://")):
            continue
        linked = page.parent / target if target else page
        assert linked.exists(), f"{page.name}: {target}"
        if fragment:
            titles = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
            assert fragment in anchors, f"{page.name}: {target}#{fragment}"


def test_the_signed_curl_of_the_readme_is_accepted() -> None:
    """Its shell makes the signature that the verifier wants."""
    block = next(block for block in blocks(ROOT / "README.md", "sh") if "openssl" in block)
    assert 'curl -i http://127.0.0.1:8080/webhooks/code -d "$body"' in block
    script = block.partition("curl -i")[0] + 'printf "%s\\n%s" "$signature" "$body"'
    ran = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, check=True)
    signature, _, body = ran.stdout.partition(b"\n")
    headers = {"x-hub-signature-256": f"sha256={signature.decode()}"}
    secret = (ROOT / "docs" / "demo" / "code.secret").read_text().removesuffix("\n")
    verifier = Verifier(PRESETS["github"], [secret])
    verifier.verify(SignedRequest("POST", "/webhooks/code", headers, body), 0.0)


def test_the_pages_count_the_presets_right() -> None:
    for page in ("README.md", "CHANGELOG.md"):
        counts = re.findall(r"(\d+) (?:known senders|presets)", (ROOT / page).read_text())
        assert counts == [str(len(PRESETS))], page


async def _store_some_history(connection: asyncpg.Connection) -> None:
    """An event with a dead, a waiting and a postponed job, so that the functions are called."""
    event_id: UUID = await connection.fetchval(
        """INSERT INTO gateway.events (id, vendor, event_type, correlation_id, headers, body,
                                       received_at)
           VALUES (gateway.uuid7(), 'payments', 'invoice.paid', 'c-1', '{}', '{"data": {}}', now())
           RETURNING id"""
    )
    for state in ("running", "available", "scheduled"):
        await connection.execute(
            """INSERT INTO gateway.jobs (id, event_id, route, vendor, kind, state, max_attempts,
                                         correlation_id, created_at)
               VALUES (gateway.uuid7(), $1, 'orders-to-crm', 'crm', 'call', $2, 5, 'c-1',
                       now() - interval '3 days')""",
            event_id,
            state,
        )
    await connection.execute(
        """UPDATE gateway.jobs SET state = 'dead', finished_at = now(), last_error = 'HTTP 500'
           WHERE state = 'running'"""
    )
