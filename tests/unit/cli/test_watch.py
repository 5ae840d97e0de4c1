"""Watching a deployment while the gateway is away: it goes on, and what is wrong in the end is told as itself."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import cast

import pytest

from libs.cli import watch
from libs.cli.main import Streams
from libs.cli.rollout_cmd import newest
from libs.client import GantryClient
from libs.client.model import Deployments, DeploymentView
from libs.common.errors import Unavailable

ENDED = DeploymentView(deployment="d1", app="acme/web", state="succeeded")


@dataclass
class Client:
    """Of a gateway that does not answer so many times."""

    away: int

    async def deployment(self, deployment: str) -> DeploymentView:
        """See GantryClient."""
        self.away -= 1
        if self.away >= 0:
            raise Unavailable("the gateway can't be reached")
        return ENDED


class Lister:
    """Of a gateway whose deployer is away."""

    def __init__(self, *known: DeploymentView) -> None:
        self._known = known

    async def deployments(self, app: str, limit: int) -> Deployments:
        """See GantryClient."""
        return Deployments(deployments=self._known, incomplete=("deployer",))


@pytest.mark.parametrize("known", [(), (ENDED.model_copy(update={"state": "accepted"}),)])
async def test_what_only_its_owner_knows_is_not_made_up(known: tuple[DeploymentView, ...]) -> None:
    with pytest.raises(Unavailable, match="no answer from deployer"):
        await newest(cast(GantryClient, Lister(*known)), "acme/web")


async def watched(client: Client, err: io.StringIO) -> DeploymentView:
    printer = Streams(io.StringIO(), err, {}).printer()
    return await watch.watch(
        cast(GantryClient, client), printer, "acme/web", "d1", place=None, timeout_s=20
    )


async def test_a_gateway_that_comes_back_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "POLL_S", 0.001)
    err = io.StringIO()
    assert await watched(Client(watch.ASKED_TIMES - 1), err) == ENDED
    assert err.getvalue().count("trying again") == 1


async def test_one_that_does_not_is_unavailable_and_no_failed_deployment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch, "POLL_S", 0.001)
    with pytest.raises(Unavailable, match="can't be reached"):
        await watched(Client(1000), io.StringIO())
