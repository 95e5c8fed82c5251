"""What the benchmarks make of their figures: ratios, targets, plots, stages, the page."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def benchmarks_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


@pytest.fixture
def peers() -> ModuleType:
    from benchmarks.peers import report

    return report


def drained(rate: float) -> Any:
    from benchmarks.peers.drain import Drained

    return Drained(jobs=1000, seconds=1000 / rate, per_second=rate)


def sample(rate: float, p99_ms: float = 1.0) -> Any:
    from benchmarks.measure import Sample

    return Sample(per_second=rate, p50_ms=1.0, p99_ms=p99_ms, max_ms=9.0, load_cpu_us=1.0)


def report(peers: ModuleType, **measured: Any) -> Any:
    options = peers.Options()
    return peers.Report(machine={}, started_at=0.0, options=options, versions={}, **measured)


def test_a_ratio_pairs_the_gateway_with_its_peer_of_the_same_round(peers: ModuleType) -> None:
    rounds = {
        "gateway": [drained(100.0), drained(400.0)],
        "pgqueuer": [drained(50.0), drained(100.0)],
    }
    assert peers.ratios(rounds, "pgqueuer") == pytest.approx([2.0, 4.0])


def test_a_target_is_the_median_of_the_ratios_and_only_of_what_was_measured(
    peers: ModuleType,
) -> None:
    found = report(
        peers,
        drain={
            "gateway": [drained(100.0), drained(149.0), drained(151.0)],
            "pgqueuer": [drained(100.0)] * 3,
        },
        half_load_per_second=10.0,
        half_load=[sample(10.0, 14.0), sample(10.0, 16.0), sample(10.0, 15.1)],
    ).targets()
    assert [(target.value, target.met) for target in found] == [(1.49, False), (15.1, False)]


def test_every_subject_says_what_its_figure_was_bought_with(peers: ModuleType) -> None:
    from benchmarks.peers.drain import POSTGRES_QUEUES
    from benchmarks.peers.install import Installed
    from benchmarks.peers.subjects import webhook_peers

    installed = Installed(
        folder=ROOT, python="", node="", redis="", redis_libraries="", versions={}, missing={}
    )
    subjects = {*POSTGRES_QUEUES, *webhook_peers(installed), "BullMQ", "Celery", "gateway"}
    assert subjects | {"bare handler", "bare forwarder"} == set(peers.DURABILITY)


def test_every_program_of_a_queue_is_there() -> None:
    from benchmarks.peers.drain import POSTGRES_QUEUES
    from benchmarks.peers.install import PROGRAMS

    assert [
        q.program for q in POSTGRES_QUEUES.values() if not (PROGRAMS / q.program).exists()
    ] == []


def test_a_plot_is_well_formed_and_its_longest_bar_is_the_fastest() -> None:
    from benchmarks.plots import bars

    drawing = bars("A & B", "per second", {"a<b": [1.0, 3.0], "gateway": [8.0]}, ours="gateway")
    root = ElementTree.fromstring(drawing)  # noqa: S314  # our own
    rects = root.findall("{http://www.w3.org/2000/svg}rect")
    assert [rect.get("class") for rect in rects] == ["bar ours", "bar"]
    widths = [float(rect.get("width", "0")) for rect in rects]
    assert widths[0] == pytest.approx(4 * widths[1], rel=0.01)


def test_the_innermost_frame_of_ours_tells_the_stage() -> None:
    from benchmarks.stages import stages_of

    stacks = (
        "/x/gateway/cli/serve.py;/x/aiohttp/web_protocol.py;/x/gateway/web/intake.py;"
        "/x/gateway/webhooks/verify.py;hmac.py 7\n"
        "/x/gateway/cli/serve.py;/x/gateway/store/events.py;/x/asyncpg/pool.py 5\n"
        "/x/gateway/cli/serve.py;/x/asyncpg/protocol.py 4\n"
        "/x/gateway/cli/serve.py;/usr/lib/python3.11/asyncio/runners.py 3\n"
    )
    assert stages_of(stacks) == {
        "verify": 7,
        "commit": 5,
        "PostgreSQL's answers": 4,
        "event loop and sockets": 3,
    }


def test_publishing_replaces_what_is_marked_and_nothing_else() -> None:
    from benchmarks.publish import replaced

    page = "a\n<!-- x -->\nold\n<!-- /x -->\nb\n"
    assert replaced(page, "x", "new\n") == "a\n<!-- x -->\nnew\n<!-- /x -->\nb\n"
    with pytest.raises(SystemExit, match="put them back"):
        replaced(page, "y", "new")


def test_what_cannot_be_installed_is_named_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.peers import install

    def refuse(command: list[str], **_: Any) -> str:
        raise install._Failed(f"{Path(command[0]).name}: no network")

    monkeypatch.setattr(install, "_run", refuse)
    monkeypatch.setattr(install.shutil, "which", lambda _: None)
    found = install.install(tmp_path, lambda _: None)
    assert "no network" in found.missing["python"]
    assert "PyPI" in found.missing["node"]
    assert "redis-server" in found.missing["redis"]


def test_what_runs_alone_is_published_with_its_plots_and_targets() -> None:
    from benchmarks.publish import Alone, _alone, draw_alone
    from benchmarks.several import Processes
    from benchmarks.targets import Target
    from benchmarks.year import Figures, Year, targets

    def figures(rate: float) -> Figures:
        return Figures(intake=rate, drain=rate, list_ms={"all": 100 / rate})

    year = Year(
        finished=10,
        waiting=1,
        days=365,
        gib=1.0,
        fill_seconds=1.0,
        held_seconds=1800.0,
        fresh=[figures(80.0), figures(120.0)],
        filled=[figures(70.0), figures(110.0)],
        held=[figures(75.0)],
        fresh_meanwhile=[figures(100.0)],
        dead_rows=5,
    )
    processes = [
        Processes(count=count, intake=rate * count, delivered=10.0)
        for rate in (90.0, 110.0)
        for count in (1, 2, 4)
    ]
    common: Any = {"started_at": 0.0, "machine": {"cpus": 2}}
    found = {
        "year": Alone(year=year, **common),
        "processes": Alone(processes=processes, **common),
    }
    shares = [target.value for target in targets(year)]
    assert shares == pytest.approx([(70 / 80 + 110 / 120) / 2] * 3 + [0.75] * 3)
    assert [target.met for target in targets(year)] == [True] * 3 + [False] * 3
    row = "| intake, per second | 100 (80-120) | 90 (70-110) | 100 | 75 |"
    assert row in _alone(found["year"])
    assert "| intake | 4 | 400 (360-440) | 400% |" in _alone(found["processes"])
    for drawing in draw_alone(found).values():
        assert ElementTree.fromstring(drawing).tag.endswith("svg")  # noqa: S314  # our own
    assert Target("a", 2.0, 1.0, at_most=True).bound == "≤ 1.00"
