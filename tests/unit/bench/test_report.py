"""Figures of a bench, and what was promised of them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tests.bench.__main__ import main
from tests.bench.report import Report


@pytest.fixture
def report(tmp_path: Path) -> Report:
    """One on a file of its own."""
    return Report(tmp_path / "bench.json")


def test_what_is_above_its_bound_is_told(tmp_path: Path, report: Report) -> None:
    report.add("start_s", 2.5, "s", peer=0.5, most=2.0)
    report.add("stop_s", 10.0, "s", most=10.0)
    report.add("rate", 1e6, "1/s")
    assert report.missed() == ["start_s is 2.5 s, and at most 2 was promised"]
    written = json.loads((tmp_path / "bench.json").read_text())
    assert (written["start_s"]["ratio"], written["start_s"]["most"]) == (5.0, 2.0)


def test_what_is_below_its_bound_is_told(tmp_path: Path, report: Report) -> None:
    report.add("per_s", 29_999.0, "1/s", peer=3000.0, least=30_000)
    report.add("ratio", 20.0, "", least=20)
    assert report.missed() == ["per_s is 29999 1/s, and at least 30000 was promised"]
    written = json.loads((tmp_path / "bench.json").read_text())
    assert (written["per_s"]["least"], written["per_s"]["most"]) == (30_000, None)


@pytest.mark.parametrize(("value", "misses"), [(0.9, 1), (1.0, 0), (2.0, 0), (2.1, 1)])
def test_a_figure_may_have_both_bounds(report: Report, value: float, misses: int) -> None:
    report.add("ratio", value, "", least=1.0, most=2.0)
    assert len(report.missed()) == misses


def test_what_is_no_number_keeps_no_promise(report: Report) -> None:
    report.add("low", math.nan, "s", most=1.0)
    report.add("high", math.nan, "", least=1.0)
    report.add("free", math.nan, "s")
    assert report.missed() == [
        "low is nan s, and at most 1 was promised",
        "high is nan, and at least 1 was promised",
    ]


def test_the_table_shows_bounds(report: Report, capsys: pytest.CaptureFixture[str]) -> None:
    report.add("a", 1.0, "s", most=60)
    report.add("b", 1.0, "s", least=20)
    report.print()
    told = capsys.readouterr().out
    assert "≤ 60" in told and "≥ 20" in told


async def test_a_bound_that_is_missed_is_what_the_bench_ends_with(report: Report) -> None:
    def slow(report: Report) -> None:
        report.add("per_s", 1.0, "1/s", least=2.0)

    assert await main({"slow": slow}, report) == ["per_s is 1 1/s, and at least 2 was promised"]
