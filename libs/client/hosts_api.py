"""Calls about hosts: an admin's, and a host's own (libs/client/enrolment.py)."""

from __future__ import annotations

from libs.client.doctor import NetworkDiagnosis
from libs.client.hosts import (
    Enrol,
    Hosts,
    HostTokenCreated,
    HostTokenView,
    HostView,
    NewHostToken,
    Renew,
    SealedSecrets,
)
from libs.client.transport import Transport, read
from libs.common.serve import segment

PATH = "/v1/hosts"


class HostCalls:
    """All methods raise the errors of `libs/common/errors`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def list(self) -> Hosts:
        """Hosts that enrolled, renewed or were removed, and their tokens."""
        return read(Hosts, await self._transport.call("GET", PATH))

    async def diagnose(self, host: str) -> NetworkDiagnosis:
        """Have the host look at its network now. Raises NotFound, and Unavailable when its hostd does not answer."""
        path = f"/v1/nodes/{segment(host)}/network"
        return read(NetworkDiagnosis, await self._transport.call("GET", path))

    async def make_token(self, wanted: NewHostToken) -> HostTokenCreated:
        """Make a one-time token; the answer alone shows it."""
        body = wanted.model_dump_json().encode()
        return read(
            HostTokenCreated, await self._transport.call("POST", f"{PATH}/tokens", body=body)
        )

    async def revoke_token(self, token_id: str) -> HostTokenView:
        """Revoke a token. Raises Conflict for one that was used."""
        path = f"{PATH}/tokens/{segment(token_id)}"
        return read(HostTokenView, await self._transport.call("DELETE", path))

    async def remove(self, host: str, *, force: bool = False) -> HostView:
        """Void a host's key and tokens; with `force` also of one that never enrolled."""
        query = {"force": "true"} if force else {}
        path = f"{PATH}/{segment(host)}"
        return read(HostView, await self._transport.call("DELETE", path, query=query))

    async def enrol(self, claim: Enrol) -> SealedSecrets:
        """A host's secrets for a token. May be repeated with the same key pair. Raises Unauthenticated."""
        body = claim.model_dump_json().encode()
        return read(SealedSecrets, await self._transport.call("POST", f"{PATH}/enrol", body=body))

    async def renew(self, claim: Renew) -> SealedSecrets:
        """A host's secrets of today for its present key. Raises Unauthenticated."""
        body = claim.model_dump_json().encode()
        return read(SealedSecrets, await self._transport.call("POST", f"{PATH}/renew", body=body))
