"""What all tests share: the real servers' fixtures, and nothing that hides a failure."""

from __future__ import annotations

pytest_plugins = ["tests.servers"]
