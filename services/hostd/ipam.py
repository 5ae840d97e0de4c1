"""IpamPort on ipam's HTTP API, spoken as this host (its token is good for its own attachments only)."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ValidationError

from libs.common.errors import Refused, Unavailable
from libs.common.http import ServiceClient, call_json
from libs.common.serve import segment
from services.hostd.model import Address, Attachment, AttachmentSpec, PendingRelease

SERVICE = "ipam"
TIMEOUT_S = 4.0


class _Allocated(BaseModel):
    address: str
    prefix_len: int
    gateway: str | None = None
    vlan: int
    generation: int
    mac: str | None = None
    mtu: int | None = None


class HttpIpam:
    """See IpamPort."""

    def __init__(self, peers: ServiceClient, host: str) -> None:
        self._peers = peers
        self._host = host

    async def allocate(self, attachment: Attachment) -> Address:
        """See IpamPort."""
        return await self._put(attachment.ipam_key, attachment.spec)

    async def release(self, pending: PendingRelease) -> None:
        """See IpamPort.

        Without a generation nobody knows what ipam did: asking again tells, for the same attachment gets the same.
        """
        generation = pending.generation
        if generation is None:
            try:
                generation = (await self._put(pending.ipam_key, pending.spec)).generation
            except Refused:
                return  # it never gave one
        path = f"/v1/attachments/{segment(pending.ipam_key)}?generation={generation}&reason=del"
        await call_json(self._peers, SERVICE, "DELETE", path, timeout_s=TIMEOUT_S)

    async def report_live(self, keys: Sequence[str], held: Sequence[Attachment] = ()) -> None:
        """See IpamPort."""
        path = f"/v1/hosts/{segment(self._host)}/attachments"
        content = {"live": sorted(keys), "held": [_held(each) for each in held if each.address]}
        await call_json(self._peers, SERVICE, "POST", path, content, timeout_s=TIMEOUT_S)

    async def _put(self, key: str, spec: AttachmentSpec) -> Address:
        content = {
            "network": spec.network,
            "instance": spec.instance,
            "attempt": spec.attempt,
            "host": self._host,
            "sticky_key": spec.sticky_key,
            "requested": spec.ip or "",
            "reservation": spec.reservation,
            "app": spec.app,
        }
        path = f"/v1/attachments/{segment(key)}"
        answer = await call_json(self._peers, SERVICE, "PUT", path, content, timeout_s=TIMEOUT_S)
        try:
            got = _Allocated.model_validate(answer)
            return Address(
                ip=got.address,
                prefix=got.prefix_len,
                gateway=got.gateway or None,
                vlan=got.vlan,
                mtu=got.mtu,
                mac=got.mac or None,
                generation=got.generation,
            )
        except ValidationError as error:
            raise Unavailable(f"ipam answered what can't be used: {error}") from error


def _held(attachment: Attachment) -> dict[str, object]:
    spec, address = attachment.spec, attachment.address
    assert address is not None
    return {
        "attachment": attachment.ipam_key,
        "network": spec.network,
        "address": address.ip,
        "generation": address.generation,
        "instance": spec.instance,
        "attempt": spec.attempt,
        "sticky_key": spec.sticky_key,
    }
