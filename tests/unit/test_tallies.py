"""Our tallies show what the library's own counters and histograms would show."""

from __future__ import annotations

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.telemetry.tallies import Counter, Histogram

BOUNDS = (0.001, 0.5, 1.0, 60.0, 86400.0)

amounts = st.one_of(
    st.sampled_from(BOUNDS), st.floats(min_value=0, max_value=1e9, allow_nan=False), st.just(0.0)
)


@given(
    additions=st.lists(
        st.tuples(st.sampled_from(["crm", "shop"]), st.sampled_from(["a", 'q"\\\n']), amounts)
    )
)
def test_the_text_is_the_librarys(additions: list[tuple[str, str, float]]) -> None:
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    ours, theirs = (prometheus_client.CollectorRegistry(auto_describe=True) for _ in range(2))
    names = ("vendor", "result")
    count = Counter("done_total", "Done.", names, registry=ours)
    spread = Histogram("took_seconds", "Took.", names, buckets=BOUNDS, registry=ours)
    alone = Counter("alone_total", "Alone.", (), registry=ours)
    their_count = prometheus_client.Counter("gateway_done_total", "Done.", names, registry=theirs)
    their_spread = prometheus_client.Histogram(
        "gateway_took_seconds", "Took.", names, buckets=BOUNDS, registry=theirs
    )
    their_alone = prometheus_client.Counter("gateway_alone_total", "Alone.", registry=theirs)
    for vendor, result, amount in additions:
        count.labels(vendor, result).inc(amount)
        spread.labels(vendor, result).observe(amount)
        alone.inc()
        their_count.labels(vendor, result).inc(amount)
        their_spread.labels(vendor, result).observe(amount)
        their_alone.inc()
    assert prometheus_client.generate_latest(ours) == prometheus_client.generate_latest(theirs)


def test_a_counter_never_shrinks_and_labels_are_counted() -> None:
    registry = prometheus_client.CollectorRegistry()
    counter = Counter("done_total", "Done.", ("vendor",), registry=registry)
    with pytest.raises(ValueError, match="only grows, got -1"):
        counter.labels("crm").inc(-1)
    with pytest.raises(ValueError, match="gateway_done_total: expected values for"):
        counter.labels("crm", "more")
