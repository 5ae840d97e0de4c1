"""The bench of placement measures what its keys say."""

from __future__ import annotations

from pathlib import Path

from libs.common.spec import ConstraintOperator
from services.scheduler.policy import Agents, Shape
from services.scheduler.policy.rules import relations
from tests.bench.placement import KINDS, RULED, SHAPES, Kind, _candidates, _spec, policy
from tests.bench.report import Report

ROWS = Agents.of(_candidates(1_000)).rows


def _shapes(kind: Kind) -> list[Shape]:
    return [Shape.of("bench/app", _spec(n, kind)) for n in range(SHAPES)]


def test_every_operator_is_timed() -> None:
    timed = {rule.operator for k in (*KINDS, *RULED) for s in _shapes(k) for rule in s.constraints}
    assert timed == set(ConstraintOperator)


def test_a_rule_is_one_of_all_shapes_of_its_kind() -> None:
    for kind in RULED:
        bound = [relations(ROWS, shape, {}) for shape in _shapes(kind)]
        assert {each.crossing for each in bound} == {kind.rule == "crossing"}
        soft = {sum(not level.hard for level in each.levels) for each in bound}
        assert soft == {2 if kind.rule == "levels" else 0}
        assert len({shape.sizes for shape in _shapes(kind)}) > 1 or not kind.unlike


def test_each_kind_has_keys_of_its_own(tmp_path: Path) -> None:
    report = Report(tmp_path / "bench.json")
    policy(report, (1_000,), (50,), (50,))
    names = [kind.key(1_000, 50) for kind in (*KINDS, *RULED)]
    every = {f"placement_{what}_{name}" for what in ("per_s", "peak_mib") for name in names}
    growth = {"placement_growth_1000", "placement_growth_1000_spread"}
    assert set(report.figures) == every | growth
    assert len(every) == 2 * len(names)
    bound = {key for key, each in report.figures.items() if each.least is not None}
    assert bound == {f"placement_per_s_{kind.key(1_000, 50)}" for kind in KINDS}
    assert {key for key, each in report.figures.items() if each.most is not None} == growth
