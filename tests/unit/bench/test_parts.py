"""The parts of the bench: one that fails takes nothing of the others with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench.__main__ import main, parts_of
from tests.bench.report import Report


async def test_a_part_that_fails_is_said_and_the_rest_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def breaks(_report: Report) -> None:
        raise RuntimeError("no such server")

    def one(report: Report) -> None:
        report.add("one", 1.0, "s")

    async def two(report: Report) -> None:
        report.add("two", 2.0, "s")

    report = Report(tmp_path / "bench.json")
    assert await main({"one": one, "breaks": breaks, "two": two}, report) == ["breaks failed"]
    assert set(json.loads((tmp_path / "bench.json").read_text())) == {"one", "two"}
    told = capsys.readouterr()
    assert "no such server" in told.err and "breaks failed" in told.err and "two" in told.out
    assert await main({"one": one}, Report(tmp_path / "again.json")) == []


def test_containers_and_the_bus_come_first() -> None:
    assert list(parts_of(1))[:2] == ["containers", "bus"]
