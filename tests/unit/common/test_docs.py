"""The pages name tests and files that exist, so that nobody has to take their word."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGES = ("docs/threat-model.md", "docs/secrets.md", "docs/producers.md")
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


def _defines(name: str, sources: dict[str, str]) -> bool:
    return any(f"def {name}(" in text for text in sources.values())
