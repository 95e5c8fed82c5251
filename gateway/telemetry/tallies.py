"""Counters and histograms for one thread: what every webhook and every job adds to.

The library's own take a lock for each addition, and a histogram looks for its bucket from the
first; eight of them for each job were a fortieth of its cost. These are plain numbers that become
the library's families when somebody asks for them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import accumulate
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

Tally = TypeVar("Tally", "Count", "Spread")


class Count:
    """A number that only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1.0) -> None:
        """Add *amount*, which must not be negative."""
        if amount < 0:
            raise ValueError(f"a counter only grows, got {amount}")
        self.value += amount


class Spread:
    """How many observations fell into each bucket, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count *value* in the bucket of the smallest bound that is not below it."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class _Tallies(Collector, Generic[Tally]):
    """One metric: its tallies by the values of their labels."""

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str],
        *,
        make: Callable[[], Tally],
        registry: CollectorRegistry,
    ) -> None:
        self._make: Callable[[], Tally] = make
        self._name = f"gateway_{name}"
        self._documentation = documentation
        self._labelnames = tuple(labels)
        self._tallies: dict[tuple[str, ...], Tally] = {}
        if not labels:
            self.labels()  # shows as 0 from the start
        registry.register(self)

    def labels(self, *values: str) -> Tally:
        """Return the tally of these labels' *values*."""
        if len(values) != len(self._labelnames):
            raise ValueError(f"{self._name}: expected values for {self._labelnames}, got {values}")
        tally = self._tallies.get(values)
        if tally is None:
            tally = self._tallies[values] = self._make()
        return tally


class Counter(_Tallies[Count]):
    """A counter as :class:`prometheus_client.Counter` shows it."""

    def __init__(
        self, name: str, documentation: str, labels: Sequence[str], *, registry: CollectorRegistry
    ) -> None:
        super().__init__(name, documentation, labels, make=Count, registry=registry)

    def inc(self, amount: float = 1.0) -> None:
        """Add to a counter without labels."""
        self.labels().inc(amount)

    def collect(self) -> Iterable[Metric]:
        """See prometheus_client's Collector."""
        family = CounterMetricFamily(self._name, self._documentation, labels=self._labelnames)
        for values, count in self._tallies.items():
            family.add_metric(values, count.value)
        yield family


class Histogram(_Tallies[Spread]):
    """A histogram as :class:`prometheus_client.Histogram` shows it; *buckets* are upper bounds."""

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str],
        *,
        buckets: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        self._bounds = tuple(map(float, buckets))
        self._shown = [*map(floatToGoString, self._bounds), "+Inf"]
        super().__init__(
            name,
            documentation,
            labels,
            make=partial(Spread, self._bounds),
            registry=registry,
        )

    def collect(self) -> Iterable[Metric]:
        """See prometheus_client's Collector."""
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labelnames)
        for values, spread in self._tallies.items():
            reached = map(float, accumulate(spread.counts))
            buckets = list(zip(self._shown, reached, strict=True))
            family.add_metric(values, buckets, spread.total)
        yield family
