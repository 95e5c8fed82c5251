"""docs/benchmarks.md says what the JSON beside it says, and the plots draw the same."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_page_and_the_plots_are_those_of_the_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import publish

    report, profile, alone = publish.kept()
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    assert publish.rendered(page, report, profile, alone) == page, "run benchmarks.publish"
    drawn = publish.draw(report) | publish.draw_alone(alone)
    assert {path.stem: path.read_text() for path in publish.FIGURES.glob("*.svg")} == drawn
