"""Figures of a bench, and what was promised of them."""

from __future__ import annotations

import json
from pathlib import Path

from tests.bench.report import Report


def test_what_is_above_its_bound_is_told(tmp_path: Path) -> None:
    report = Report(tmp_path / "bench.json")
    report.add("start_s", 2.5, "s", peer=0.5, most=2.0)
    report.add("stop_s", 10.0, "s", most=10.0)
    report.add("rate", 1e6, "1/s")
    assert report.exceeded() == ["start_s is 2.5 s, and at most 2 was promised"]
    written = json.loads((tmp_path / "bench.json").read_text())
    assert (written["start_s"]["ratio"], written["start_s"]["most"]) == (5.0, 2.0)
