"""The pages name tests and files that exist, so that nobody has to take their word."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

from libs.common.events import model

ROOT = Path(__file__).parents[3]
PAGES = (
    *("docs/threat-model.md", "docs/secrets.md", "docs/producers.md", "docs/networks.md"),
    "docs/cron.md",
    "ARCHITECTURE.md",
)
PLACES = re.compile(r"`((?:tests|libs|services|docs|infra)/[\w./-]+)`")
TESTS = re.compile(r"`(test_\w+)(\.py)?`")


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_names_is_there(page: str) -> None:
    text = (ROOT / page).read_text()
    missing = [name for name in PLACES.findall(text) if not (ROOT / name).exists()]
    sources = {file.name: file.read_text() for file in (ROOT / "tests").rglob("test_*.py")}
    for name, suffix in TESTS.findall(text):
        known = name + suffix in sources if suffix else _defines(name, sources)
        if not known:
            missing.append(name + suffix)
    assert not missing


def _writers() -> dict[str, str]:
    """Topic → who writes it, as ARCHITECTURE.md has it; `.b` beside `a.x` in a row is short for `a.b`."""
    below = (ROOT / "ARCHITECTURE.md").read_text().split("\n## Events\n")[1]
    told: dict[str, str] = {}
    for line in re.findall(r"^\| `.*$", below, re.MULTILINE):
        topics, writers, _ = line.strip("| ").split(" | ")
        first, *more = re.findall(r"`([a-z_.*]+)`", topics)
        stem = first.rpartition(".")[0]
        for name in (first, *(f"{stem}{each}" if each[0] == "." else each for each in more)):
            told |= {each.TOPIC: writers for each in model.ALL if fnmatch(each.TOPIC, name)}
    return told


def test_the_map_tells_who_writes_each_event() -> None:
    told = _writers()
    assert told.keys() == {event.TOPIC for event in model.ALL}
    sources = {
        service.name: "".join(file.read_text() for file in service.rglob("*.py"))
        for service in (ROOT / "services").iterdir()
        if service.is_dir()
    }
    for event in model.ALL:
        naming = {each for each, text in sources.items() if event.__name__ in text}
        writers = set(re.findall(r"\b[a-z]+\b", told[event.TOPIC].partition(", other BUs")[0]))
        if naming:
            assert writers and writers <= naming, event.TOPIC
        else:
            assert told[event.TOPIC] == "(contract only, so far)", event.TOPIC


def _defines(name: str, sources: dict[str, str]) -> bool:
    return any(f"def {name}(" in text for text in sources.values())
