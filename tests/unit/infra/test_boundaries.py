"""The boundaries in pyproject.toml: every core is among those that touch nothing, and no task floats free."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text())
OUTSIDE = {"aiodocker", "aiohttp", "aiokafka", "asyncio", "motor", "os", "pathlib", "random"}
OUTSIDE |= {"socket", "sqlite3", "subprocess", "threading", "time"}
LOOPS = frozenset({"get_event_loop", "get_running_loop", "new_event_loop"})


def contract(name: str) -> dict[str, Any]:
    """An import-linter contract."""
    found = CONFIG["tool"]["importlinter"]["contracts"]
    (one,) = (each for each in found if each["name"] == name)
    return dict(one)


def test_every_core_is_one_that_touches_nothing() -> None:
    held = contract("Cores decide, and touch nothing")
    cores = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for file in ROOT.glob("services/**/core.py")
    }
    assert cores and cores <= set(held["source_modules"])
    assert set(held["forbidden_modules"]) >= OUTSIDE


@pytest.mark.parametrize(
    "expression",
    [
        "random.choice([1])",
        "random.random()",
        "time.perf_counter()",
        "time.monotonic_ns()",
        "time.time_ns()",
        "os.urandom(8)",
    ],
)
def test_clocks_and_chance_are_refused(expression: str) -> None:
    module = expression.partition(".")[0]
    command = [sys.executable, "-m", "ruff", "check", "-q", "--select", "TID251", "-"]
    done = subprocess.run(
        [*command, "--stdin-filename", "services/monitor/core.py"],
        input=f"import {module}\n\n{expression}\n".encode(),
        cwd=ROOT,
        capture_output=True,
    )
    assert done.returncode == 1 and b"TID251" in done.stdout, done.stdout


def free_tasks(tree: ast.AST) -> Iterator[int]:
    """Lines where a loop makes a task, which ruff can't see: a loop is a value, not a name it could resolve."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        owner = node.func.value
        called = owner.func if isinstance(owner, ast.Call) else owner
        name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
        if node.func.attr == "create_task" and (name in LOOPS or name.strip("_") == "loop"):
            yield node.lineno


def test_no_loop_makes_a_task_outside_the_common_library() -> None:
    assert list(free_tasks(ast.parse("asyncio.get_running_loop().create_task(x)"))) == [1]
    assert list(free_tasks(ast.parse("self._loop.create_task(x)"))) == [1]
    assert not list(free_tasks(ast.parse("group.create_task(x)")))
    found = [
        f"{file.relative_to(ROOT)}:{line}"
        for directory in ("services", "libs")
        for file in (ROOT / directory).rglob("*.py")
        if not file.is_relative_to(ROOT / "libs/common")
        for line in free_tasks(ast.parse(file.read_text()))
    ]
    assert not found, "use a TaskGroup: a task that nobody owns loses its errors"
