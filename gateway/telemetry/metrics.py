"""The gateway's numbers, for Prometheus. Tabulated in ``docs/metrics.md``.

``metrics.webhooks_total["stripe", "accepted"].inc()`` costs a dictionary look-up and an
addition. Labels are bounded: a value that is not known from the configuration, or not one of a
label's fixed words, is counted as ``other``, so nobody outside can make the registry grow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector, generate_latest

from gateway.model import JobState
from gateway.telemetry.tallies import Count, Counter, Histogram, Spread

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OTHER = "other"

RESULTS = frozenset(
    {
        "accepted",
        "duplicate",
        "handshake",
        "overloaded",
        "refused",
        "too_large",
        "throttled",
        "unavailable",
        "unverified",
    }
)
SECRET_POSITIONS = frozenset({"none", *(str(number) for number in range(1, 17))})
OUTCOMES = frozenset({"completed", "retry", "snooze", "cancel", "dead", "released", "lost"})
BREAKER_STATES = frozenset({"closed", "open", "half-open"})
BATCHES = frozenset({"accept", "settle"})
TABLES = frozenset(
    {
        "events",
        "jobs",
        "attempts",
        "dedupe_keys",
        "ordering_keys",
        "nodes",
        "vendor_state",
        "rate_books",
        "rate_use",
        "rate_shares",
    }
)
AGES = frozenset({"whole", "default", "ahead", "today", "yesterday", "older"})
STATES = frozenset(state.value for state in JobState)

_ANSWER_SECONDS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
_ATTEMPT_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_DELIVERY_SECONDS = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 60.0, 300.0, 3600.0, 86400.0,
)  # fmt: skip
_COMMIT_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
_COMMIT_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

Key = TypeVar("Key", str, tuple[str, str], tuple[str, str, str])
Child = TypeVar("Child", Count, Gauge, Spread)


class Family(dict[Key, Child], Generic[Key, Child]):
    """The children of one metric by their label values; made on first use, then only looked up."""

    def __init__(self, child: Callable[..., Child], words: tuple[frozenset[str], ...]) -> None:
        super().__init__()
        self._child: Callable[..., Child] = child
        self._words = words  # what each label may say

    def __missing__(self, key: Key) -> Child:
        values = (key,) if isinstance(key, str) else key
        bounded = tuple(
            value if value in words else OTHER
            for value, words in zip(values, self._words, strict=True)
        )
        child: Child = self._child(*bounded)
        if bounded == values:  # a foreign value is never kept: it would be the growth we prevent
            self[key] = child
        return child


class Metrics:
    """Every metric of one process, on a registry of its own.

    *vendors* and *routes* are the names of the configuration: the only ones that become labels.
    """

    def __init__(
        self, *, version: str, vendors: Iterable[str] = (), routes: Iterable[str] = ()
    ) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self.before_render: list[Callable[[], None]] = []
        vendor = frozenset(vendors) | {"local"}
        route = frozenset(routes)

        self.webhooks_total: Family[tuple[str, str], Count] = Family(
            self._counter("webhooks_total", "Webhooks answered.", "vendor", "result").labels,
            (vendor, RESULTS),
        )
        self.webhook_secrets_total: Family[tuple[str, str], Count] = Family(
            self._counter(
                "webhook_secrets_total",
                "Verified webhooks, by the secret that matched.",
                "vendor",
                "secret",
            ).labels,
            (vendor, SECRET_POSITIONS),
        )
        self.webhook_seconds: Family[str, Spread] = Family(
            self._histogram(
                "webhook_seconds",
                "From a webhook's request to its answer, COMMIT included.",
                _ANSWER_SECONDS,
                "vendor",
            ).labels,
            (vendor,),
        )
        self.requests_under_way = self._gauge(
            "requests_under_way", "Requests of the public listener that are not answered yet."
        )
        self.requests_waiting = self._gauge(
            "requests_waiting", "Requests of the public listener that nobody has looked at yet."
        )
        self.connections = self._gauge("connections", "Connections of the public listener.")
        self.connections_refused_total = self._counter(
            "connections_refused_total", "Connections turned away because there were too many."
        )
        self.jobs_settled_total: Family[tuple[str, str, str], Count] = Family(
            self._counter(
                "jobs_settled_total",
                "Outcomes recorded, by the state the job went to.",
                "vendor",
                "route",
                "state",
            ).labels,
            (vendor, route, STATES),
        )
        self.attempts_total: Family[tuple[str, str], Count] = Family(
            self._counter("attempts_total", "Executions of jobs.", "vendor", "outcome").labels,
            (vendor, OUTCOMES),
        )
        self.attempt_seconds: Family[str, Spread] = Family(
            self._histogram(
                "attempt_seconds", "Duration of one execution.", _ATTEMPT_SECONDS, "vendor"
            ).labels,
            (vendor,),
        )
        self.delivery_seconds: Family[str, Spread] = Family(
            self._histogram(
                "delivery_seconds",
                "From the webhook's arrival to the job's completion, waits and retries included.",
                _DELIVERY_SECONDS,
                "vendor",
            ).labels,
            (vendor,),
        )
        self.handed_off_total: Family[str, Count] = Family(
            self._counter(
                "handed_off_total", "Jobs that went from the intake straight to memory.", "vendor"
            ).labels,
            (vendor,),
        )
        self.claimed_total: Family[str, Count] = Family(
            self._counter("claimed_total", "Jobs claimed from the backlog.", "vendor").labels,
            (vendor,),
        )
        self.rescued_total = self._counter(
            "rescued_total", "Jobs taken back from nodes that were not heard of."
        )
        self.lost_leases_total = self._counter(
            "lost_leases_total", "Outcomes not recorded because the job was no longer ours."
        )
        self.lane_queued: Family[str, Gauge] = Family(
            self._gauge("lane_queued", "Jobs in memory, not yet executing.", "vendor").labels,
            (vendor,),
        )
        self.lane_running: Family[str, Gauge] = Family(
            self._gauge("lane_running", "Jobs executing.", "vendor").labels, (vendor,)
        )
        self.lane_parked: Family[str, Gauge] = Family(
            self._gauge(
                "lane_parked",
                "1 while the lane may not call: paused, breaker open, or told to wait.",
                "vendor",
            ).labels,
            (vendor,),
        )
        self.breaker_transitions_total: Family[tuple[str, str], Count] = Family(
            self._counter(
                "breaker_transitions_total",
                "Changes of vendors' circuit breakers, by the state they went to.",
                "vendor",
                "state",
            ).labels,
            (vendor, BREAKER_STATES),
        )
        self.breaker_state: Family[str, Gauge] = Family(
            self._gauge(
                "breaker_state",
                "A vendor's circuit breaker: 0 closed, 1 half-open, 2 open.",
                "vendor",
            ).labels,
            (vendor,),
        )
        self.rate_orders_total: Family[str, Count] = Family(
            self._counter(
                "rate_orders_total", "Orders for calls within the limit all nodes share.", "vendor"
            ).labels,
            (vendor,),
        )
        self.backlog: Family[tuple[str, str], Gauge] = Family(
            self._gauge("backlog", "Unfinished jobs in the database.", "vendor", "state").labels,
            (vendor, STATES),
        )
        self.group_commit_rows: Family[str, Spread] = Family(
            self._histogram(
                "group_commit_rows", "Members of one group commit.", _COMMIT_ROWS, "batch"
            ).labels,
            (BATCHES,),
        )
        self.group_commit_seconds: Family[str, Spread] = Family(
            self._histogram(
                "group_commit_seconds", "Duration of one group commit.", _COMMIT_SECONDS, "batch"
            ).labels,
            (BATCHES,),
        )
        self.dead_rows: Family[str, Gauge] = Family(
            self._gauge("dead_rows", "Rows that vacuum has yet to remove.", "table").labels,
            (TABLES,),
        )
        self.table_bytes: Family[tuple[str, str], Gauge] = Family(
            self._gauge("table_bytes", "Size on disk, with indexes.", "table", "age").labels,
            (TABLES, AGES),
        )
        self.partitions: Family[tuple[str, str], Gauge] = Family(
            self._gauge("partitions", "Partitions of a table.", "table", "age").labels,
            (TABLES, AGES),
        )
        self.oldest_xmin_seconds = self._gauge(
            "oldest_xmin_seconds", "For how long the oldest snapshot has been held."
        )
        self.oldest_xmin_transactions = self._gauge(
            "oldest_xmin_transactions", "Transactions begun since the oldest snapshot was taken."
        )
        self.database_up = self._gauge("database_up", "1 while PostgreSQL answers.")
        self._gauge("build_info", "Always 1; the label tells the version.", "version").labels(
            version
        ).set(1)
        ProcessCollector(registry=self.registry)

    def render(self) -> bytes:
        """Return the text that ``GET /metrics`` answers, as :data:`CONTENT_TYPE`.

        ``before_render`` is called first: the place to set gauges that are read, not counted.
        """
        for refresh in self.before_render:
            refresh()
        return generate_latest(self.registry)

    def _counter(self, name: str, documentation: str, *labels: str) -> Counter:
        return Counter(name, documentation, labels, registry=self.registry)

    def _gauge(self, name: str, documentation: str, *labels: str) -> Gauge:
        return Gauge(name, documentation, labels, namespace="gateway", registry=self.registry)

    def _histogram(
        self, name: str, documentation: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(name, documentation, labels, buckets=buckets, registry=self.registry)
