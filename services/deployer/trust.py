"""Whose word a request is: one of our own services', or a registered producer's for its own business unit.

Requests are believed for their proof alone, never for what they call themselves.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from libs.common.errors import Forbidden
from libs.common.events import Envelope
from libs.common.events import model as ev
from libs.common.http import Role
from libs.common.keys import Secret
from libs.common.producers import ProducerKeys
from libs.common.proofs import SOURCES, ServiceProofs, service_of
from services.deployer import asks

_TAIL = re.compile(r"[a-z0-9][a-z0-9._-]{0,79}")


class Trust:
    """Lets requests in, as whom they come from."""

    def __init__(
        self, secret: Secret, trusted_sources: Collection[str], producers: ProducerKeys
    ) -> None:
        self._proofs = ServiceProofs(secret)
        self._trusted = frozenset(trusted_sources)
        self._producers = producers

    async def admit(self, event: ev.DeployRequested, envelope: Envelope) -> ev.DeployRequested:
        """The request in the name of its true actor.

        Raises Forbidden saying why not, Unavailable when the signer's key can't be asked for now.
        """
        proof, source = envelope.proof, envelope.source
        if proof is None:
            raise Forbidden(f"the request of {source} is not signed")
        if source.startswith(SOURCES):
            if source not in self._trusted or not self._proofs.proves(service_of(source), proof):
                raise Forbidden(f"{source} did not write the request")
            return event
        key = await self._producers.signer(proof)
        named = {"actor": key.actor, "actor_bu": key.bu, "actor_role": Role.DEPLOYER.value}
        event = event.model_copy(update=named)
        if reason := asks.authorise(event):
            raise Forbidden(reason)
        bu, _, tail = event.deployment.partition(".")
        # Or one could take the id of a deployment that another is about to ask for.
        if bu != key.bu or not _TAIL.fullmatch(tail):
            raise Forbidden(f"deployment: must be {key.bu}.<a name of yours>, in lower case")
        return event
