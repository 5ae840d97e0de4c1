"""The demo's whole story at a small size: every step of it checks what it says."""

from __future__ import annotations

import pytest

from infra.demo.__main__ import tell
from tests.e2e.conftest import Cloud

pytestmark = [pytest.mark.asyncio(loop_scope="package"), pytest.mark.timeout(900)]


async def test_release_roll_rollback_scale_and_survive(cloud: Cloud) -> None:
    await tell(cloud.story)
    names = [step.name for step in cloud.story.steps]
    assert len(names) == 12
    rolls = [step for step in cloud.story.steps if step.requests]
    assert sum(step.requests for step in rolls) > 100
    assert sum(step.failed for step in rolls if not step.name.startswith("kill a container")) == 0
