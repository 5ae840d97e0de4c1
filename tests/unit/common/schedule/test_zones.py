"""Zones by name, and their changes."""

from __future__ import annotations

import zoneinfo
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.errors import InvalidInput
from libs.common.schedule import parse, zones
from libs.common.schedule.zones import zone


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Europe/Berlon", "Europe/Berlin, perhaps?"),
        ("europe/berlin", "Europe/Berlin, perhaps?"),
        ("Mars/Olympus", "such as Europe/Berlin"),
        ("", "such as Europe/Berlin"),
        ("../../etc/passwd", "such as"),
        ("/usr/share/zoneinfo/UTC", ""),
        ("right/Europe/Berlin", ""),
        ("posix/UTC", ""),
        ("Europe", ""),
        ("localtime", ""),
        ("UTC\x00", ""),
        ("x" * 10_000, "such as"),
    ],
)
def test_a_name_that_is_none_is_refused(name: str, expected: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        parse("@daily", name)
    (told,) = raised.value.problems
    assert told.field == "time_zone"
    assert expected in told.expected
    assert len(told.problem) < 120


def test_the_pinned_rules_go_before_those_of_the_machine(tmp_path: Path) -> None:
    package = pytest.importorskip("tzdata")
    (tmp_path / "Indian").mkdir()
    utc = Path(package.__file__).parent / "zoneinfo" / "UTC"
    (tmp_path / "Indian/Chagos").write_bytes(utc.read_bytes())
    zoneinfo.reset_tzpath(to=[tmp_path])
    try:
        assert zone("Indian/Chagos").at(1_800_000_000).offset == 6 * 3600
    finally:
        zoneinfo.reset_tzpath()


def test_every_zone_there_is_can_be_used() -> None:
    names = zoneinfo.available_timezones() - {"Factory", "localtime"}
    assert len(names) > 400
    for name in sorted(names):
        found = parse("30 2 * * *", name).after(1_800_000_000.0)
        assert found is not None and 0 < found - 1_800_000_000.0 <= 90_000


def _seam(number: int) -> int:
    """Where one block of stretches ends and the next begins."""
    return number * zones._BLOCK_S


@settings(deadline=None)
@given(
    st.sampled_from(
        [
            "Europe/Berlin",
            "Australia/Lord_Howe",
            "Pacific/Apia",
            "Africa/Casablanca",
            "Europe/Dublin",
        ]
    ),
    st.one_of(st.integers(-2_000_000_000, 6_000_000_000), st.integers(-60, 180).map(_seam)),
)
def test_stretches_are_what_zoneinfo_says(name: str, second: int) -> None:
    info = zone(name).info
    here = zone(name).at(second)
    assert here.start <= second < here.end
    for t in (here.start, second, here.end - 1):
        offset = datetime.fromtimestamp(t, info).utcoffset()
        assert offset is not None and offset.total_seconds() == here.offset
    before = datetime.fromtimestamp(here.start - 1, info).utcoffset()
    if here.before == here.offset:
        # Not a change, so it must be too long ago for one to matter: `Fixed` looks back for repeated hours.
        assert second - here.start >= 2 * 86_400
    else:
        assert before is not None and before.total_seconds() == here.before


@settings(deadline=None)
@given(
    st.sampled_from(["Europe/Berlin", "Australia/Lord_Howe", "Pacific/Apia", "America/Santiago"]),
    st.integers(-600_000_000, 4_000_000_000).map(
        lambda t: datetime.fromtimestamp(t, UTC).replace(tzinfo=None)
    ),
)
def test_the_first_moment_of_a_local_time(name: str, local: datetime) -> None:
    info = zone(name).info
    t = zone(name).first(int(local.replace(tzinfo=UTC).timestamp()))
    shown = datetime.fromtimestamp(t, info).replace(tzinfo=None)
    before = datetime.fromtimestamp(t - 1, info).replace(tzinfo=None)
    assert shown >= local > before
    if shown == local:
        assert t == local.replace(tzinfo=info, fold=0).timestamp()
