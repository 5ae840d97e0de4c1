"""The whole life of an app on a cluster of many processes: one replica of each service, and two."""

from __future__ import annotations

import pytest

from infra.demo.__main__ import finish, releases
from infra.provision import OvsServer
from tests.e2e.distributed import distributed

SIZE = 4


@pytest.mark.timeout(400)
@pytest.mark.parametrize("replicas", [1, 2])
async def test_an_app_lives_on_a_cluster_of_many_processes(ovs: OvsServer, replicas: int) -> None:
    async with distributed(ovs.data_dir, replicas, SIZE) as cloud:
        story = cloud.story
        await releases(story)
        hosts = {each.hostname for each in await story.instances()}
        assert hosts == {"h1", "h2"}
        await finish(story)
        assert sum(step.requests for step in story.steps) > 100
        assert sum(step.failed for step in story.steps) == 0
