"""docs/benchmarks.md says what the JSON beside it says, and the plots draw the same."""

from pathlib import Path

import msgspec
import pytest

ROOT = Path(__file__).parents[2]


def test_the_page_and_the_plots_are_those_of_the_figures(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import publish
    from benchmarks.peers.report import Report
    from benchmarks.profile import Profile

    figures = ROOT / "docs" / "benchmarks"
    report = msgspec.json.decode((figures / "peers.json").read_bytes(), type=Report)
    profile = msgspec.json.decode((figures / "profile.json").read_bytes(), type=Profile)
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    assert publish.rendered(page, report, profile) == page, "run python -m benchmarks.publish"
    drawn = publish.draw(report)
    assert {path.stem: path.read_text() for path in figures.glob("*.svg")} == drawn
