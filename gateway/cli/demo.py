"""``gateway demo``: the whole service at work, with senders and a moody vendor, in one process."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO
from urllib.parse import urlsplit
from uuid import UUID

import click
import uuid_utils.compat
import uvloop

from gateway.cli.options import EXIT_BAD_CONFIGURATION, config_option, load_or_exit
from gateway.config.model import Address, Config
from gateway.demo import report, traffic
from gateway.demo.sending import Sending
from gateway.demo.standin import StandIn
from gateway.errors import ConfigInvalid, DatabaseUnavailable, GatewayError
from gateway.service import Service
from gateway.store.database import Database
from gateway.store.embedded_place import choose_account, make_private
from gateway.telemetry.logs import configure_logging

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130

SEND_SECONDS = 6.0  # over which the webhooks are spread, if there is time
SETTLE_SECONDS = 60.0  # how long the last retries may take
LOOK_SECONDS = 0.2  # between looks at the progress
LOOPBACK = ("127.0.0.1", "localhost", "::1")

Show = Callable[[Sending, int], None]  # what was sent, and how many of its jobs are finished


@click.command()
@config_option
@click.option(
    "--seconds",
    type=click.FloatRange(min=0),
    envvar="DEMO_SECONDS",
    show_envvar=True,
    help="End so long after the start, but not before the report."
    "  [default: at Ctrl-C on a terminal, else after the report]",
)
def demo(config_path: Path, seconds: float | None) -> None:
    """Show the gateway at work: signed webhooks in, a vendor that fails now and then out.

    Serves the configuration, plays its vendors, sends some three hundred webhooks, and tells what
    became of them. The service then stays up until Ctrl-C. Needs no network.
    """
    config = load_or_exit(config_path)
    if seconds is None and not sys.stdout.isatty():
        seconds = 0.0
    show = _Demo(config, seconds)
    code = EXIT_FAILED
    try:
        code = uvloop.run(show.run())
    except* ConfigInvalid as group:
        _tell_errors(group)
        code = EXIT_BAD_CONFIGURATION
    except* GatewayError as group:
        _tell_errors(group)
        if show.log_path:
            click.echo(f"The log is in {_near(show.log_path)}.", err=True)
    sys.exit(code)


class _Demo:
    """One run: the service, the stand-in and the senders, and who waits for whom."""

    def __init__(self, config: Config, seconds: float | None) -> None:
        self._config = config
        self._seconds = seconds
        self._service = Service(config)
        self._ready = asyncio.Event()
        self._story: asyncio.Task[int] | None = None
        self._reported: int | None = None
        self.log_path: Path | None = None

    async def run(self) -> int:
        """Return the exit code; raises :class:`GatewayError`."""
        deliveries = traffic.plan(self._config)
        loop = asyncio.get_running_loop()
        async with StandIn(_played_addresses(self._config)) as stand_in:
            with _log_file(self._config) as self.log_path:
                click.echo("Starting PostgreSQL and the gateway …", err=True)
                for number in (signal.SIGINT, signal.SIGTERM):
                    loop.add_signal_handler(number, self._on_signal, number)
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._service.run(on_ready=lambda _: self._ready.set()))
                    self._story = group.create_task(self._tell(deliveries, stand_in))
        if self._reported is None:
            return EXIT_INTERRUPTED
        click.echo("Stopped; the data stay where they are.", err=True)
        return self._reported

    async def _tell(self, deliveries: list[traffic.Delivery], stand_in: StandIn) -> int:
        """Send, watch, report, and stay; whatever ends it, the service is told to drain."""
        try:
            await self._ready.wait()
            loop = asyncio.get_running_loop()
            end = None if self._seconds is None else loop.time() + self._seconds
            db = self._service.db
            assert db is not None  # noqa: S101  # the service is ready
            since = uuid_utils.compat.uuid7()
            address = self._config.server.listen
            sending = Sending(
                deliveries,
                host=address.host,
                port=self._service.public_port,
                seconds=SEND_SECONDS if end is None else min(SEND_SECONDS, self._seconds or 1.0),
            )
            click.echo(f"It runs; its log is in {_near(self.log_path)}.", err=True)
            with _progress() as show:
                await _run_traffic(sending, db, since, show)
            findings = await report.find(db, since)
            ends_now = end is not None and end <= loop.time()
            self._report(findings, sending, stand_in, ends_now=ends_now)
            if end is None:
                click.echo("\nThe gateway goes on until Ctrl-C.", err=True)
                await asyncio.Event().wait()
            else:
                await asyncio.sleep(max(0.0, end - loop.time()))
            return 0
        finally:
            self._service.stop()

    def _report(
        self,
        findings: report.Findings,
        sending: Sending,
        stand_in: StandIn,
        *,
        ends_now: bool,
    ) -> None:
        click.echo()
        for line in report.render(findings, sending, stand_in):
            click.echo(line)
        click.echo()
        for line in _where_to_look(self._config, self._service, findings, ended=ends_now):
            click.echo(line)
        sys.stdout.flush()
        for surprise in sending.surprises:
            click.echo(f"gateway demo: {surprise}", err=True)
        self._reported = EXIT_FAILED if sending.surprises else 0

    def _on_signal(self, number: signal.Signals) -> None:
        """The first signal drains; the second ends at once, and the next start recovers."""
        if self._service.status == "draining" or self._story is None or self._story.done():
            os._exit(128 + number)
        click.echo("\nDraining …", err=True)
        self._story.cancel()


async def _run_traffic(sending: Sending, db: Database, since: UUID, show: Show) -> None:
    """Send everything, and wait until all jobs of it are finished or it takes too long."""
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as group:
        sent = group.create_task(sending.run())
        give_up_at = float("inf")
        while loop.time() < give_up_at:
            try:
                states = await report.job_states(db, since)
            except DatabaseUnavailable:  # the service waits for it, and so do we
                states = {}
            done = report.finished(states)
            show(sending, done)
            if sent.done():
                if states and done == sum(states.values()):
                    return
                give_up_at = min(give_up_at, loop.time() + SETTLE_SECONDS)
            await asyncio.sleep(LOOK_SECONDS)


@contextmanager
def _progress() -> Iterator[Show]:
    """Yield what shows the progress: two bars on a terminal, else a line now and then."""
    if not sys.stderr.isatty():
        yield _Lines().show
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(40), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        sent_bar = progress.add_task("webhooks sent", total=None)
        done_bar = progress.add_task("jobs finished", total=None)

        def show(sending: Sending, done: int) -> None:
            progress.update(sent_bar, completed=sending.sent, total=sending.planned)
            progress.update(done_bar, completed=done, total=sending.jobs)

        yield show


class _Lines:
    """Progress for a file or a pipe: a line a second, if there is something new."""

    def __init__(self) -> None:
        self._looks = 0
        self._told = ""

    def show(self, sending: Sending, done: int) -> None:
        line = (
            f"  {sending.sent} of {sending.planned} webhooks sent,"
            f" {done} of {sending.jobs} jobs finished"
        )
        complete = sending.sent == sending.planned and done == sending.jobs
        if line != self._told and (complete or self._looks % round(1 / LOOK_SECONDS) == 0):
            click.echo(line, err=True)
            self._told = line
        self._looks += 1


def _played_addresses(config: Config) -> list[Address]:
    """Return where the stand-in has to listen to play every called vendor.

    The demo never calls anybody else: a vendor elsewhere is refused before anything is sent.
    """
    addresses = []
    for name, vendor in config.vendors.items():
        if vendor.api is None:
            continue
        url = urlsplit(vendor.api.base_url)
        if url.scheme != "http" or url.hostname not in LOOPBACK or url.port is None:
            raise GatewayError(
                f"{config.source}: vendors.{name}.api.base_url: the demo plays the called vendors"
                f' itself, so it expects "http://127.0.0.1:PORT/…", got {vendor.api.base_url!r};'
                " use the shipped config.toml, or `gateway serve` for real vendors"
            )
        addresses.append(Address(url.hostname, url.port))
    return addresses


@contextmanager
def _log_file(config: Config) -> Iterator[Path]:
    """Send the log lines to a file of this run, so that they do not drown the progress."""
    state_dir = config.gateway.state_dir
    path = state_dir / "demo.log"
    try:
        if config.database.embedded:
            # As the embedded server would make it: its account must be able to pass.
            make_private(state_dir, choose_account(state_dir))
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        stream: TextIO = os.fdopen(os.open(path, flags, 0o600), "w")
    except OSError as error:
        raise GatewayError(
            f"cannot write {path}: {error.strerror}; gateway.state_dir must be writable"
        ) from error
    with stream:
        configure_logging(stream=stream)
        try:
            yield path
        finally:
            configure_logging(level="error")


def _where_to_look(
    config: Config, service: Service, findings: report.Findings, *, ended: bool
) -> Iterator[str]:
    command = _own_command()
    option = (
        f" --config {config.source}"
        if config.source.resolve() != Path.cwd() / "config.toml"
        else ""
    )
    admin = f"http://{_host(config.admin.listen)}:{service.admin_port}"
    public = f"http://{_host(config.server.listen)}:{service.public_port}"
    dead = findings.dead[0].id if findings.dead else "ID"
    sender = next(name for name, vendor in config.vendors.items() if vendor.webhook)
    if ended:
        yield f"Where to look next (start it again first: {command} serve{option})"
    else:
        yield "Where to look next, from another terminal"
    yield f"  {command} jobs list --state dead{option}"
    yield f"  {command} jobs show {dead}{option}"
    yield f"  {command} send {sender}{_example_body(config, sender)}{option}"
    yield f"  {command} psql{option}"
    yield f"  curl -s {admin}/readyz"
    yield f"  curl -si {public}/webhooks/{sender} -d '{{}}'   # unsigned, so refused"
    yield f"  {admin}/   # the dashboard, in a browser"


def _example_body(config: Config, sender: str) -> str:
    """Return the option that sends an event which the shipped routes can do something with."""
    example = config.source.parent / "docs" / "demo" / "order.json"
    return f" --body {_near(example)}" if sender == "shop" and example.exists() else ""


def _own_command() -> str:
    """Return how this command can be called again from here."""
    called = Path(sys.argv[0])
    found = shutil.which("gateway")
    if called.name != "gateway" or (found and Path(found).samefile(called)):
        return "gateway"
    return str(_near(called))


def _near(path: Path | None) -> Path | str:
    """Return *path* relative to the current directory, where it is below."""
    if path is None:
        return ""
    absolute = path.absolute()
    return absolute.relative_to(Path.cwd()) if absolute.is_relative_to(Path.cwd()) else absolute


def _host(address: Address) -> str:
    """Return the host for a URL that this machine can open."""
    match address.host:
        case "0.0.0.0" | "::":  # noqa: S104  # compared, not bound
            return "127.0.0.1"
        case host:
            return f"[{host}]" if ":" in host else host


def _tell_errors(group: BaseExceptionGroup[BaseException]) -> None:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            _tell_errors(error)
        else:
            click.echo(f"gateway demo: {error}", err=True)
