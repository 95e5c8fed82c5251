"""``gateway vendors``: who sends, who is called, and what waits for whom."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import click
import msgspec

from gateway.cli.jobs import json_option
from gateway.cli.options import config_option, load_or_exit
from gateway.cli.output import print_json, print_table
from gateway.cli.session import ask
from gateway.cli.switching import add_switches
from gateway.config.model import Config, Vendor
from gateway.config.values import rate_text
from gateway.errors import NotFound, Refused
from gateway.store import operators, steering
from gateway.store.records import VendorFigures

LOCAL = "local"  # the lane of handlers


class VendorRow(msgspec.Struct, frozen=True, kw_only=True):
    """One vendor as configured and as the database counts it."""

    name: str
    verify: str | None  # None: it sends nothing
    base_url: str | None  # None: it is not called
    rate: list[str]
    concurrency: int | None
    backlog: int
    scheduled: int
    dead: int
    paused: bool
    parked_until: datetime | None  # it asked to be left alone until then
    breaker: str | None  # over all nodes; None: it has none


@click.group()
def vendors() -> None:
    """List vendors and what waits for them; pause and resume calls."""


@vendors.command("list")
@config_option
@json_option
def list_command(config_path: Path, *, as_json: bool) -> None:
    """List vendors, with the jobs of their lanes over all nodes.

    What one node's lane does at this moment is at GET /api/v1/vendors.
    """
    config = load_or_exit(config_path)
    rows = _rows(config, ask(config, operators.vendor_figures))
    if as_json:
        for row in rows:
            print_json(row)
        return
    print_table(
        ("vendor", "verify", "calls", "rate", "concurrency",
         "backlog", "scheduled", "dead", "paused", "parked until", "breaker"),
        [
            (row.name, row.verify, row.base_url, row.rate, row.concurrency,
             row.backlog, row.scheduled, row.dead, row.paused,
             row.parked_until, row.breaker)
            for row in rows
        ],
    )  # fmt: skip


def _check(config: Config, name: str) -> None:
    vendor = config.vendors.get(name)
    if name != LOCAL and vendor is None:
        raise NotFound(
            f"vendor {name}: not configured; `gateway vendors list` names those that are"
        )
    if vendor is not None and vendor.api is None:
        raise Refused(f"vendor {name}: is not called, so there is nothing to pause")


add_switches(
    vendors,
    what="vendor",
    check=_check,
    pause=(
        steering.pause_vendor,
        "Have no node call a vendor; its jobs wait, and calls under way end by themselves.",
    ),
    resume=(
        steering.resume_vendor,
        "Let the nodes call a vendor again, now: whatever its Retry-After or its breaker say.",
    ),
)


def _rows(config: Config, counted: Mapping[str, VendorFigures]) -> list[VendorRow]:
    rows = []
    for name in sorted({*config.vendors, *counted, LOCAL}):
        vendor = config.vendors.get(name, Vendor(name=name))
        figures = counted.get(name, VendorFigures())
        concurrency = config.queue.local_concurrency if name == LOCAL else None
        rows.append(
            VendorRow(
                name=name,
                verify=_verify(vendor),
                base_url=vendor.api.base_url if vendor.api else None,
                rate=[rate_text(rate) for rate in vendor.api.rate] if vendor.api else [],
                concurrency=vendor.api.concurrency if vendor.api else concurrency,
                backlog=figures.backlog,
                scheduled=figures.scheduled,
                dead=figures.dead,
                paused=figures.paused,
                parked_until=figures.parked_until,
                breaker=figures.breaker if vendor.api and vendor.api.breaker else None,
            )
        )
    return rows


def _verify(vendor: Vendor) -> str | None:
    if vendor.webhook is None:
        return None
    return vendor.webhook.verify.name if vendor.webhook.verify else "none"
