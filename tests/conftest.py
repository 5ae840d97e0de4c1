"""What all tests share: the real servers' fixtures, and nothing that hides a failure."""

from __future__ import annotations

from hypothesis import settings

pytest_plugins = ["tests.parallel", "tests.servers"]

# The same examples everywhere, no verdict by the clock of a busy machine, nothing left in the tree.
settings.register_profile("gantry", deadline=None, derandomize=True, database=None)
settings.load_profile("gantry")
