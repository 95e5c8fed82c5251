"""``gateway serve``: the service itself, until a signal ends it."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from pathlib import Path

import click
import uvloop

from gateway.cli.options import config_option, load_or_exit
from gateway.config.model import Config
from gateway.errors import ConfigInvalid, GatewayError
from gateway.service import Service
from gateway.telemetry.logs import configure_logging, get_logger

EXIT_FAILED = 1
EXIT_CONFIG = 78


@click.command()
@config_option
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    envvar="GATEWAY_LOG_LEVEL",
)
def serve(config_path: Path, log_level: str) -> None:
    """Serve webhooks and run jobs until SIGTERM or SIGINT; a second one ends at once."""
    config = load_or_exit(config_path)
    configure_logging(level=log_level)  # type: ignore[arg-type]
    sys.exit(run(config))


def run(config: Config) -> int:
    """Run the service on uvloop; return the exit code."""
    log = get_logger("gateway.serve")
    code = 0
    try:
        uvloop.run(_serve(config))
    except* ConfigInvalid as group:
        for error in _leaves(group):
            log.error("config_refused", error=str(error))
        code = EXIT_CONFIG
    except* GatewayError as group:
        for error in _leaves(group):
            log.error("service_failed", error=str(error))
        code = EXIT_FAILED
    return code


async def _serve(config: Config) -> None:
    service = Service(config)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _on_signal, service, number)
    loop.add_signal_handler(signal.SIGHUP, service.reload)
    await service.run(on_ready=_settle_memory)


def _settle_memory(_: Service) -> None:
    """Tune the garbage collector for a server: what is here now stays, what comes is short-lived.

    A full collection of what the imports left takes some 25 ms, which every request would feel.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def _on_signal(service: Service, number: signal.Signals) -> None:
    """The first signal drains; the second ends at once, and the next start recovers."""
    if service.stopping:
        get_logger("gateway.serve").error("ended_at_once", signal=number.name)
        os._exit(128 + number)
    service.stop()


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
