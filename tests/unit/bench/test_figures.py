"""Files of figures keep what a run did not measure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests import figures
from tests.bench.report import Report


@pytest.fixture(autouse=True)
def _commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "commit", lambda: "abc123")


def read(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text())
    return content


def test_a_part_leaves_the_figures_of_others(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    old = {"value": 1.0, "unit": "s", "peer": None, "ratio": None, "note": ""}
    figures.merge(file, {"a": old, "b": old}, at=1000.4)
    Report(file).add("b", 6, "ms", 2)
    assert read(file)["a"] == {**old, "commit": "abc123", "at": 1000}
    new = read(file)["b"]
    assert (new["value"], new["unit"], new["peer"], new["ratio"]) == (6, "ms", 2, 3.0)
    assert new["commit"] == "abc123" and new["at"] > 1000


@pytest.mark.parametrize("content", ["", "[1, 2]", '{"a": 1}', '{"a": {"val'])
def test_a_file_that_is_none_of_ours_is_begun_anew(tmp_path: Path, content: str) -> None:
    file = tmp_path / "bench.json"
    file.write_text(content)
    figures.merge(file, {"a": {"value": 2}}, at=1000.0)
    assert read(file) == {"a": {"value": 2, "commit": "abc123", "at": 1000}}
