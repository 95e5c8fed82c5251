"""The keys of this process: its database, its listeners, its queue."""

from __future__ import annotations

from gateway.config.kinds import DatabaseUrl, Folder, Number, SecretReference, duration, size
from gateway.config.model import (
    AdminSection,
    DatabaseSection,
    GatewaySection,
    QueueSection,
    ServerSection,
)
from gateway.config.specs.shared_kinds import ADDRESS, NETWORKS, PLAIN, RATE, take_burst
from gateway.config.walker import Key, Section

GATEWAY = Section(
    doc="This process.",
    make=GatewaySection,
    keys=(
        Key(
            name="state_dir",
            kind=Folder(),
            default="var",
            doc="embedded PostgreSQL and sockets; relative to this file's folder",
        ),
        Key(
            name="drain",
            kind=duration(least="0s", most="1h"),
            default="30s",
            field="drain_seconds",
            doc="how long running attempts may go on after SIGTERM",
        ),
        Key(name="node", kind=PLAIN, unset="the host's name", doc="this process in jobs and logs"),
    ),
)

DATABASE = Section(
    doc="PostgreSQL, where everything is kept.",
    make=DatabaseSection,
    keys=(
        Key(
            name="url",
            kind=DatabaseUrl(),
            default="embedded",
            doc="which server; embedded: the gateway runs its own in state_dir",
        ),
        Key(
            name="retention",
            kind=duration(least="1h"),
            default="90d",
            field="retention_seconds",
            doc="how long finished history is kept; dropped by partition",
        ),
        Key(
            name="pool",
            kind=Number(1, 1000),
            default=8,
            doc="connections of this process, besides three for webhooks and outcomes",
        ),
    ),
)

SERVER = Section(
    doc="The public listener: webhooks and nothing else.",
    make=ServerSection,
    take=take_burst,
    keys=(
        Key(
            name="listen",
            kind=ADDRESS,
            default="127.0.0.1:8080",
            doc="host and port; port 0 lets the system choose",
        ),
        Key(
            name="max_body",
            kind=size(),
            default="1MiB",
            field="max_body_bytes",
            doc="largest webhook, for vendors that do not say their own; beyond it 413",
        ),
        Key(
            name="trusted_proxies",
            kind=NETWORKS,
            default=[],
            doc="proxies whose word about the caller's address is believed",
        ),
        Key(
            name="rate",
            kind=RATE,
            doc="of all vendors together, after each one's own; beyond it 429 + Retry-After",
        ),
        Key(
            name="burst",
            kind=Number(1, 1_000_000_000),
            unset="the rate's count",
            doc="webhooks that may come at once within the rate",
        ),
        Key(
            name="concurrency",
            kind=Number(1, 1_000_000),
            default=1000,
            doc="requests under way at once, their bodies in memory; beyond it 503 + Retry-After",
        ),
        Key(
            name="connections",
            kind=Number(1, 1_000_000),
            default=5000,
            doc="open at once, idle ones included; a further one hears 503 and is closed",
        ),
    ),
)

ADMIN = Section(
    doc="The operators' listener: health, metrics, API, dashboard.",
    make=AdminSection,
    keys=(
        Key(
            name="listen",
            kind=ADDRESS,
            default="127.0.0.1:8081",
            doc="host and port; never the public listener's",
        ),
        Key(
            name="token",
            kind=SecretReference(one_line=True),
            unset="none; required when not on loopback",
            doc="the API's bearer token",
        ),
    ),
)

QUEUE = Section(
    doc="Jobs in this process and in the backlog.",
    make=QueueSection,
    keys=(
        Key(
            name="lease",
            kind=duration(least="100ms", most="1h"),
            default="15s",
            field="lease_seconds",
            doc="a node not heard of for this long is dead, and its jobs run elsewhere",
        ),
        Key(name="memory", kind=Number(1, 10_000_000), default=10_000, doc="jobs held in process"),
        Key(
            name="max_backlog",
            kind=Number(1, 10**12),
            default=1_000_000,
            doc="unfinished jobs beyond which the intake answers 503 + Retry-After",
        ),
        Key(
            name="local_concurrency",
            kind=Number(1, 10_000),
            default=16,
            doc="handlers of the lane local that run at once",
        ),
        Key(
            name="handler_timeout",
            kind=duration(least="1ms", most="1h"),
            default="60s",
            field="handler_timeout_seconds",
            doc="how long one attempt of a Python handler may take; its calls' time in line for a"
            " `rate` does not count",
        ),
        Key(
            name="excerpt",
            kind=size(least=0, most=1 << 20),
            default="2KiB",
            field="excerpt_bytes",
            doc="how much of a request's or response's body is kept with the attempt",
        ),
    ),
)
