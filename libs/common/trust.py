"""Whose word a request is: one of our own services', or a registered producer's for its own business unit.

Requests are believed for their proof alone, never for what they call themselves.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from libs.common.errors import Forbidden
from libs.common.events import Envelope
from libs.common.keys import Secret
from libs.common.producers import ProducerKey, ProducerKeys
from libs.common.proofs import SOURCES, ServiceProofs, service_of

_TAIL = re.compile(r"[a-z0-9][a-z0-9._-]{0,79}")


class Writers:
    """Tells who wrote a request. `trusted_sources` are those of our own services that may write such ones."""

    def __init__(
        self, secret: Secret, trusted_sources: Collection[str], producers: ProducerKeys
    ) -> None:
        self._proofs = ServiceProofs(secret)
        self._trusted = frozenset(trusted_sources)
        self._producers = producers

    async def writer(self, envelope: Envelope) -> ProducerKey | None:
        """The producer that wrote it; None: one of our own services.

        Raises Forbidden saying why it is nobody's, Unavailable when the signer's key can't be asked for now.
        """
        proof, source = envelope.proof, envelope.source
        if proof is None:
            raise Forbidden(f"the request of {source} is not signed")
        if not source.startswith(SOURCES):
            return await self._producers.signer(proof)
        if source not in self._trusted or not self._proofs.proves(service_of(source), proof):
            raise Forbidden(f"{source} did not write the request")
        return None


def named_by(key: ProducerKey, name: str) -> bool:
    """May a producer give this name to something: or one could take that which another is about to ask for."""
    bu, _, tail = name.partition(".")
    return bu == key.bu and bool(_TAIL.fullmatch(tail))
