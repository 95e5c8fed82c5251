"""``gateway webhooks``: why a captured request is refused, and what every known sender sends."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import BinaryIO

import click

from gateway.cli.options import config_option, load_or_exit, webhook_of
from gateway.cli.output import print_json, print_table
from gateway.config.model import Webhook
from gateway.errors import GatewayError, SignatureRefused
from gateway.webhooks.explain import Explanation, explain
from gateway.webhooks.handshakes import Handshakes
from gateway.webhooks.signed import SignedRequest
from gateway.webhooks.table import senders_markdown, senders_plain
from gateway.webhooks.verify import public_url

EXIT_REFUSED = 1


@click.group()
def webhooks() -> None:
    """Explain refused webhooks, and list the known senders."""


@webhooks.command("explain")
@config_option
@click.argument("vendor")
@click.option("--body", type=click.File("rb"), help="The raw body ('-': standard input).")
@click.option("--header", "headers", multiple=True, metavar="NAME:VALUE", help="As it came.")
@click.option("--method", default="POST", show_default=True, help="As it came.")
@click.option("--query", default="", help="What stood after the '?' of the URL.")
@click.option("--now", type=float, help="Unix time to judge it at.  [default: this moment]")
@click.option(
    "--fetched",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The sender's certificate or key, if it shall not be fetched.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def explain_command(
    config_path: Path,
    *,
    vendor: str,
    body: BinaryIO | None,
    headers: tuple[str, ...],
    method: str,
    query: str,
    now: float | None,
    fetched: Path | None,
    as_json: bool,
) -> None:
    """Tell what the gateway makes of a captured request: exit 0 accepted, 1 refused.

    Shows which header was read, the bytes that should have been signed, the time, which secrets
    were tried (never their values), and the most likely cause.
    """
    webhook = webhook_of(load_or_exit(config_path), vendor)
    target = f"/webhooks/{vendor}" + (f"?{query}" if query else "")
    request = SignedRequest(
        method.upper(),
        public_url(webhook.url, target),
        dict(_header(header) for header in headers),
        body.read() if body is not None else b"",
        query,
    )
    if _is_unsigned_handshake(webhook, request):
        _say_handshake(as_json=as_json)
        return
    scheme = webhook.verify
    if scheme is None:
        raise GatewayError(f'vendors.{vendor}.webhook: verify is "none", so everything is accepted')
    if scheme.needs_secret and not webhook.secrets:
        raise GatewayError(f"vendors.{vendor}.webhook: its sender has not told its secret yet")
    secrets = [(secret.reference, secret.value) for secret in webhook.secrets]
    content = fetched.read_bytes() if fetched else _fetch(webhook, request)
    try:
        found = explain(
            scheme, secrets, request, now=time.time() if now is None else now, fetched=content
        )
    except ValueError as error:
        raise GatewayError(f"vendors.{vendor}.webhook: {error}") from error
    if as_json:
        print_json(found)
    else:
        _print(found)
    sys.exit(0 if found.reason is None else EXIT_REFUSED)


@webhooks.command("senders")
@click.option("--markdown", is_flag=True, help="Print the table of docs/senders.md.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one sender per line.")
def senders_command(markdown: bool, as_json: bool) -> None:
    """List the senders that verify = "NAME" knows."""
    if markdown:
        click.echo(senders_markdown(), nl=False)
        return
    rows = senders_plain()
    if as_json:
        for row in rows:
            print_json(row)
        return
    columns = ("preset", "header", "algorithm", "event type", "dedupe key")
    print_table(columns, [[row[name].replace("`", "") for name in columns] for row in rows])


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise click.BadParameter(f'expected "Name: value", got {text!r}', param_hint="--header")
    return name.strip().lower(), value.strip()


def _is_unsigned_handshake(webhook: Webhook, request: SignedRequest) -> bool:
    scheme = webhook.verify
    own = scheme.handshakes if scheme else ()
    if not own and not webhook.handshakes:
        return False
    token = webhook.verify_token.value if webhook.verify_token else None
    handshakes = Handshakes(
        (*webhook.handshakes, *own),
        scheme=scheme,
        secrets=[secret.value for secret in webhook.secrets],
        verify_token=token,
    )
    try:
        return handshakes.unsigned_answer(request) is not None
    except SignatureRefused as refused:
        raise GatewayError(f"it is a handshake, and refused with 403: {refused.reason}") from None


def _say_handshake(*, as_json: bool) -> None:
    if as_json:
        print_json({"verdict": "handshake"})
    else:
        click.echo("verdict    handshake: it is answered and not stored")


def _fetch(webhook: Webhook, request: SignedRequest) -> bytes:
    """Return what the verifier needs from the sender's host; nothing where it needs nothing."""
    from gateway.webhooks.compile import verifier_for

    if webhook.verify is None:
        return b""
    try:
        verifier = verifier_for(webhook.verify, [secret.value for secret in webhook.secrets])
        need = verifier.needs(request)
    except SignatureRefused:
        return b""  # the explanation says why
    if need is None:
        return b""

    async def fetch() -> bytes:
        from gateway.vendors.fetch import SenderFetcher  # here: it costs a client's import

        fetcher = SenderFetcher()
        try:
            return await fetcher.fetch(need)
        finally:
            await fetcher.close()

    return asyncio.run(fetch())


def _print(found: Explanation) -> None:
    lines = [("scheme", found.scheme)]
    for name, value in found.headers.items():
        lines.append(("header", f"{name}: {value}" if value is not None else f"{name}: missing"))
    if found.signed is not None:
        lines.append(("signed", f"{found.signed_bytes} bytes: {found.signed}"))
    if (stamp := found.timestamp) is not None:
        lines.append(("time", f"{stamp.given} given, {stamp.now} now"))
        fits = "within" if stamp.fits else "outside"
        allowed = f"{fits} ±{stamp.tolerance_seconds:g} s"
        lines.append(("skew", f"{stamp.skew_seconds:.0f} s, {allowed}"))
    lines += [
        ("secret", f"{trial.secret}: {'matches' if trial.matched else trial.reason}")
        for trial in found.tried
    ]
    lines.append(("verdict", found.verdict + (f": {found.reason}" if found.reason else "")))
    if found.cause:
        lines.append(("likely", found.cause))
    for label, text in lines:
        click.echo(f"{label:<10} {text}")
