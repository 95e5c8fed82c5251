"""Metrics: bounded labels, a registry of their own, a table in the docs that is true."""

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.telemetry.metrics import Metrics

TABLE = Path(__file__).parents[2] / "docs" / "metrics.md"


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(version="1.2.3", vendors=["stripe", "crm"], routes=["paid"])


def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """Every sample by its name and label values (in the labels' order of names)."""
    families = text_string_to_metric_families(metrics.render().decode())
    return {
        (sample.name, *(sample.labels[label] for label in sorted(sample.labels))): sample.value
        for family in families
        for sample in family.samples
    }


def test_what_is_counted_is_rendered(metrics: Metrics) -> None:
    metrics.webhooks_total["stripe", "accepted"].inc()
    metrics.webhooks_total["stripe", "accepted"].inc()
    metrics.delivery_seconds["crm"].observe(0.2)
    metrics.jobs_settled_total["crm", "paid", "dead"].inc()
    metrics.database_up.set(1)
    found = samples(metrics)
    assert found["gateway_webhooks_total", "accepted", "stripe"] == 2
    assert found["gateway_delivery_seconds_count", "crm"] == 1
    assert found["gateway_delivery_seconds_bucket", "0.25", "crm"] == 1
    assert found["gateway_delivery_seconds_bucket", "0.1", "crm"] == 0
    assert found["gateway_jobs_settled_total", "paid", "dead", "crm"] == 1
    assert found["gateway_database_up",] == 1
    assert found["gateway_build_info", "1.2.3"] == 1


def test_a_stranger_cannot_make_the_registry_grow(metrics: Metrics) -> None:
    for number in range(500):
        metrics.webhooks_total[f"nobody-{number}", f"result-{number}"].inc()
        metrics.jobs_settled_total["crm", f"gone-{number}", "completed"].inc()
    found = samples(metrics)
    assert found["gateway_webhooks_total", "other", "other"] == 500
    assert found["gateway_jobs_settled_total", "other", "completed", "crm"] == 500
    assert len(metrics.webhooks_total) == 0
    assert len([name for name in found if name[0] == "gateway_webhooks_total"]) == 1


def test_a_child_is_made_once(metrics: Metrics) -> None:
    assert metrics.claimed_total["crm"] is metrics.claimed_total["crm"]
    assert "crm" in metrics.claimed_total


def test_no_series_tells_only_when_another_began(metrics: Metrics) -> None:
    metrics.claimed_total["crm"].inc()
    assert not [name for name, *_ in samples(metrics) if name.endswith("_created")]


def test_two_processes_worth_of_metrics_do_not_meet(metrics: Metrics) -> None:
    other = Metrics(version="1.2.3", vendors=["crm"])
    metrics.claimed_total["crm"].inc()
    assert ("gateway_claimed_total", "crm") not in samples(other)


def test_gauges_are_refreshed_when_they_are_read(metrics: Metrics) -> None:
    metrics.before_render.append(lambda: metrics.lane_queued["crm"].set(7))
    assert samples(metrics)["gateway_lane_queued", "crm"] == 7


def test_the_process_tells_its_memory_and_descriptors(metrics: Metrics) -> None:
    found = samples(metrics)
    assert found["process_resident_memory_bytes",] > 0
    assert found["process_open_fds",] > 0


def test_the_documented_table_is_the_code(metrics: Metrics) -> None:
    documented = {}
    for line in TABLE.read_text().splitlines():
        if line.startswith("| `"):
            name, kind, labels, _ = (cell.strip() for cell in line.strip("|").split("|", 3))
            documented[name.strip("`")] = (kind, labels)
    parents = metrics.registry._collector_to_names  # the labels of a metric without samples
    labels_of = {
        name: ", ".join(getattr(collector, "_labelnames", ()))
        for collector, names in parents.items()
        for name in names
    }
    actual = {}
    for family in metrics.registry.collect():
        name = family.name + ("_total" if family.type == "counter" else "")
        actual[name] = (family.type, labels_of.get(name, ""))
    assert documented == actual
