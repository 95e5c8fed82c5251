"""``gateway send``: a webhook as its vendor would send it, to the gateway that runs here."""

from __future__ import annotations

import http.client
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, TextIO
from urllib.parse import urlsplit

import click
import msgspec

from gateway.cli.jobs import json_option
from gateway.cli.options import config_option, load_or_exit, webhook_of
from gateway.cli.output import print_json, print_table
from gateway.cli.sample import choose_event_type, choose_fields, make_sample
from gateway.config.model import Address, Webhook
from gateway.errors import GatewayError

TIMEOUT_SECONDS = 30.0
MAX_ANSWER_BYTES = 64 << 10

_HINTS = {
    401: "does the running gateway have the same secrets? It reads them at its start",
    403: "allow_ips of this vendor does not name this machine",
    404: "the running gateway does not know this vendor; was it started with this configuration?",
    413: "max_body of this vendor is smaller",
    429: "the vendor's rate is used up; wait a moment",
    503: "it drains, its database is away, or its backlog is full: see /readyz",
}


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What the gateway said to one webhook; null where ``webhook.response`` replaces its words."""

    status: int
    event_id: str | None = None
    jobs: int | None = None
    duplicate: bool | None = None


@click.command()
@config_option
@click.argument("vendor")
@click.option("--body", type=click.File("rb"), help="Send this file ('-': standard input).")
@click.option(
    "--count",
    type=click.IntRange(1, 1_000_000),
    default=1,
    show_default=True,
    help="How many, each with an id of its own.",
)
@click.option("--event-type", help="Default: one that the vendor's routes take.")
@click.option("--header", "headers", multiple=True, metavar="NAME:VALUE", help="Send this, too.")
@click.option("--url", help="POST there instead of to server.listen.")
@click.option(
    "--key",
    type=click.File("r"),
    help="A private key (PEM), for senders that sign with one; secrets must name its public half.",
)
@json_option
def send(
    config_path: Path,
    *,
    vendor: str,
    body: BinaryIO | None,
    count: int,
    event_type: str | None,
    headers: tuple[str, ...],
    url: str | None,
    key: TextIO | None,
    as_json: bool,
) -> None:
    """Send a signed webhook to the running gateway.

    Signed with the first of the vendor's secrets, or with --key; without --body a small made-up
    event is sent.
    """
    config = load_or_exit(config_path)
    webhook = webhook_of(config, vendor)
    target = url or _local_url(config.server.listen, vendor)
    given = body.read() if body is not None else None
    extra = dict(_header(header) for header in headers)
    event_type = event_type or choose_event_type(config, vendor)
    fields = choose_fields(config, vendor)
    private_key = key.read() if key is not None else ""
    answers = []
    with _Connection(target) as connection:
        for number in range(count):
            answer = connection.post(
                webhook,
                given,
                event_type=event_type,
                fields=fields,
                fresh=number > 0,
                headers=extra,
                private_key=private_key,
            )
            if as_json:
                print_json(answer)
            else:
                answers.append(answer)
    if not as_json:
        print_table(
            ("status", "event", "jobs", "duplicate"),
            [(a.status, a.event_id, a.jobs, a.duplicate) for a in answers],
        )


class _Connection:
    """One connection to the gateway, used for every webhook."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise click.BadParameter(
                'expected "http://host:port/webhooks/vendor"', param_hint="--url"
            )
        kind = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        self._http = kind(parts.hostname, parts.port, timeout=TIMEOUT_SECONDS)
        self._url = url
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")

    def __enter__(self) -> _Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def post(
        self,
        webhook: Webhook,
        body: bytes | None,
        *,
        event_type: str,
        fields: Sequence[str],
        fresh: bool,
        headers: Mapping[str, str],
        private_key: str,
    ) -> Answer:
        """Send one webhook; raises :class:`GatewayError` unless it was taken."""
        try:
            sample = make_sample(
                webhook,
                event_type=event_type,
                now=time.time(),
                url=self._path,
                body=body,
                fresh=fresh,
                fields=fields,
                private_key=private_key,
            )
        except ValueError as error:
            raise GatewayError(f"vendors.{webhook.vendor}.webhook: {error}") from error
        try:
            self._http.request("POST", self._path, sample.body, {**sample.headers, **headers})
            response = self._http.getresponse()
            answer = response.read(MAX_ANSWER_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise GatewayError(
                f"no answer from {self._url}: {error or type(error).__name__};"
                " is `gateway serve` running, with this configuration?"
            ) from error
        return _read(response.status, answer)


def _local_url(listen: Address, vendor: str) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(listen.host, listen.host)  # noqa: S104  # compared, not bound
    if listen.port == 0:
        raise click.UsageError("server.listen has port 0: name the gateway's with --url")
    return f"http://{f'[{host}]' if ':' in host else host}:{listen.port}/webhooks/{vendor}"


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise click.BadParameter(f'expected "Name: value", got {text!r}', param_hint="--header")
    return name.strip(), value.strip()


def _read(status: int, body: bytes) -> Answer:
    try:
        said = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        said = None
    if not isinstance(said, dict):
        said = {}
    if not 200 <= status < 300:
        words = said.get("error") or body[:200].decode("utf-8", "replace") or "no words"
        hint = f"; {_HINTS[status]}" if status in _HINTS else ""
        raise GatewayError(f"refused with {status}: {words}{hint}")
    try:
        return msgspec.convert({**said, "status": status}, Answer)
    except msgspec.ValidationError:
        return Answer(status=status)
