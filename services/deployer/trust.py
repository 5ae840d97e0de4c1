"""In whose name a deployment is asked for; see libs/common/trust.py."""

from __future__ import annotations

from libs.common.errors import Forbidden
from libs.common.events import Envelope
from libs.common.events import model as ev
from libs.common.http import Role
from libs.common.trust import Writers, named_by
from services.deployer import asks


class Trust:
    """Lets requests in, as whom they come from."""

    def __init__(self, writers: Writers) -> None:
        self._writers = writers

    async def admit(self, event: ev.DeployRequested, envelope: Envelope) -> ev.DeployRequested:
        """The request in the name of its true actor.

        Raises Forbidden saying why not, Unavailable when the signer's key can't be asked for now.
        """
        key = await self._writers.writer(envelope)
        if key is None:
            return event
        named = {"actor": key.actor, "actor_bu": key.bu, "actor_role": Role.DEPLOYER.value}
        event = event.model_copy(update=named)
        if reason := asks.authorise(event):
            raise Forbidden(reason)
        if not named_by(key, event.deployment):
            raise Forbidden(f"deployment: must be {key.bu}.<a name of yours>, in lower case")
        return event
