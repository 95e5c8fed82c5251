"""The keys of the whole file, from which all others hang."""

from __future__ import annotations

from gateway.config import values
from gateway.config.model import Config, Vendor
from gateway.config.specs.calls import API
from gateway.config.specs.process import ADMIN, DATABASE, GATEWAY, QUEUE, SERVER
from gateway.config.specs.route import ROUTE
from gateway.config.specs.webhook import WEBHOOK
from gateway.config.walker import Key, ListOf, MapOf, Section, Table

_VENDOR_NAME_PATTERN = f"^{values.VENDOR_NAME_PATTERN}$"

VENDOR = Section(
    doc="An outside system: it sends webhooks, is called, or both.",
    make=Vendor,
    keys=(
        Key(name="webhook", kind=Table(WEBHOOK), doc="what it sends"),
        Key(name="api", kind=Table(API), doc="what we call"),
    ),
)

ROOT = Section(
    doc="The configuration of the integration gateway.",
    make=Config,
    keys=(
        Key(name="gateway", kind=Table(GATEWAY), default={}, doc="this process"),
        Key(name="database", kind=Table(DATABASE), default={}, doc="where everything is kept"),
        Key(name="server", kind=Table(SERVER), default={}, doc="the public listener"),
        Key(name="admin", kind=Table(ADMIN), default={}, doc="the operators' listener"),
        Key(name="queue", kind=Table(QUEUE), default={}, doc="jobs in process and in the backlog"),
        Key(
            name="vendors",
            kind=MapOf(
                Table(VENDOR),
                name=values.vendor_name,
                what="vendor's name",
                name_pattern=_VENDOR_NAME_PATTERN,
            ),
            default={},
            doc="the outside systems",
        ),
        Key(name="routes", kind=ListOf(Table(ROUTE)), default=[], doc="from events to jobs"),
    ),
)
