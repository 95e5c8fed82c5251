"""The keys of a route: from events to jobs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gateway.config import values
from gateway.config.kinds import (
    Body,
    Choice,
    Number,
    Text,
    call,
    duration,
    expression,
    intake_template,
    response_expression,
    template,
)
from gateway.config.model import Route
from gateway.config.specs.calls import RETRY
from gateway.config.specs.shared_kinds import PLAIN, RETRY_REASONS, STATUSES, VENDORS
from gateway.config.walker import REQUIRED, UNSET, Key, ListOf, MapOf, Section, Table

ROUTE_RETRY = replace(
    RETRY,
    doc="A route's own retry policy; what it leaves out is the called vendor's.",
    make=dict,  # completed with the vendor's policy once that is known
    keys=tuple(replace(key, default=UNSET, unset="the called vendor's") for key in RETRY.keys),
)


def _take_route(route: Route, key: Key) -> Any:
    if key.name == "events":
        return route.events or ("*",)
    if key.name == "headers":
        return route.headers if route.call else None  # a handler has none
    return getattr(route, key.target)


ROUTE = Section(
    doc="Which events of one vendor become which job.",
    make=Route,
    take=_take_route,
    keys=(
        Key(name="name", kind=Text("name", values.route_name), default=REQUIRED, doc="unique"),
        Key(
            name="from",
            kind=Text("vendor's name", str),
            default=REQUIRED,
            field="source",
            doc="the vendor that sends",
        ),
        Key(
            name="events",
            kind=ListOf(PLAIN, min_items=1),
            default=["*"],
            doc="types of events, with * and ? as in a shell",
        ),
        Key(
            name="where",
            kind=expression(),
            unset="every event",
            doc="a condition over the event; what is missing is false",
        ),
        Key(name="priority", kind=Number(0, 9), default=5, doc="0 is most urgent, 9 least"),
        Key(name="call", kind=call(), doc="the request to make; its path is a template"),
        Key(
            name="handler",
            kind=Text('"package.module:function"', values.handler_reference),
            doc="the Python function to run, in place of a call",
        ),
        Key(
            name="lane",
            kind=Text("vendor's name", str),
            unset='the called vendor; "local" for a handler',
            doc="whose limits a handler's jobs run under",
        ),
        Key(
            name="body",
            kind=Body(),
            unset="the raw bytes as received",
            doc="what is sent",
        ),
        Key(
            name="body_format",
            kind=Choice(("json", "form", "multipart", "raw")),
            unset="raw for a string or without body, else json",
            doc="how it is written; in multipart a table { content or base64, filename, "
            "content_type } is a file",
        ),
        Key(
            name="headers",
            kind=MapOf(
                template(check=values.header_value),
                name=values.sent_header_name,
                what="header name",
                fold_case=True,
            ),
            default={},
            doc="sent in addition to the vendor's",
        ),
        Key(
            name="ordering_key",
            kind=intake_template(),
            doc="at most one job in flight per key, oldest first",
        ),
        Key(
            name="on_dead",
            kind=Choice(("continue", "block")),
            default="continue",
            doc="when a job dies: go on with its key, or hold the key until someone decides",
        ),
        Key(
            name="delay",
            kind=duration(least="0s"),
            default="0s",
            field="delay_seconds",
            doc="how long a job waits before its first attempt",
        ),
        Key(
            name="retry",
            kind=Table(ROUTE_RETRY),
            unset="the called vendor's",
            doc="the route's own retry policy",
        ),
        Key(name="retry_on", kind=RETRY_REASONS, unset=VENDORS, doc="what is tried again"),
        Key(name="success", kind=STATUSES, unset=VENDORS, doc="answers that complete a job"),
        Key(
            name="fail_when",
            kind=response_expression(),
            unset=VENDORS,
            doc="what makes a failure of such an answer",
        ),
        Key(
            name="retry_when",
            kind=response_expression(),
            unset=VENDORS,
            doc="what makes any answer one to try again",
        ),
    ),
)
