"""IpamPort on ipam's HTTP API, spoken as this host (its token is good for its own attachments only)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import IPv6Address
from urllib.parse import urlencode

from pydantic import BaseModel, ValidationError

from libs.common.errors import Refused, Unavailable
from libs.common.http import ServiceClient, call_json
from libs.common.serve import segment
from services.hostd.model import Address, Address6, Attachment, AttachmentSpec, PendingRelease

SERVICE = "ipam"
TIMEOUT_S = 4.0


class _OfFamily(BaseModel):
    family: int = 4
    address: str
    prefix_len: int
    gateway: str | None = None
    generation: int


class _Allocated(_OfFamily):
    """The primary address, and in `addresses` one entry a family; an older ipam leaves that out."""

    vlan: int
    mac: str | None = None
    mtu: int | None = None
    addresses: tuple[_OfFamily, ...] = ()


class _KnownOne(BaseModel):
    attachment: str
    address: str
    generation: int


class _Known(BaseModel):
    attachments: tuple[_KnownOne, ...]


class _Room(BaseModel):
    free: int


class HttpIpam:
    """See IpamPort."""

    def __init__(self, peers: ServiceClient, host: str, zone: str = "") -> None:
        self._peers = peers
        self._host = host
        self._zone = zone

    async def allocate(self, attachment: Attachment) -> Address:
        """See IpamPort."""
        return await self._put(attachment.ipam_key, attachment.spec)

    async def release(self, pending: PendingRelease) -> None:
        """See IpamPort.

        Without a generation nobody knows what ipam did: asking again tells, for the same attachment gets the same.
        """
        generations = pending.generation, pending.generation6
        if pending.generation is None:
            try:
                generations = (await self._put(pending.ipam_key, pending.spec)).generations()
            except Refused:
                return  # it never gave one
        path = f"/v1/attachments/{segment(pending.ipam_key)}?generation={generations[0]}&reason=del"
        if generations[1] is not None:
            path += f"&generation6={generations[1]}"
        await call_json(self._peers, SERVICE, "DELETE", path, timeout_s=TIMEOUT_S)

    async def conflict(self, attachment: Attachment, address: str, seen_mac: str) -> None:
        """See IpamPort."""
        parts = attachment.address.parts() if attachment.address else ()
        generation = next(part.generation for part in parts if part.address == address)
        path = f"/v1/attachments/{segment(attachment.ipam_key)}/conflicts"
        content = {"address": address, "generation": generation, "seen_mac": seen_mac}
        await call_json(self._peers, SERVICE, "POST", path, content, timeout_s=TIMEOUT_S)

    async def known(self) -> Mapping[str, frozenset[tuple[str, int]]]:
        """See IpamPort."""
        path = f"/v1/hosts/{segment(self._host)}/attachments"
        answer = await call_json(self._peers, SERVICE, "GET", path, timeout_s=TIMEOUT_S)
        found: dict[str, set[tuple[str, int]]] = {}
        try:
            for each in _Known.model_validate(answer).attachments:
                found.setdefault(each.attachment, set()).add((each.address, each.generation))
        except ValidationError as error:
            raise Unavailable(f"ipam answered what can't be used: {error}") from error
        return {key: frozenset(pairs) for key, pairs in found.items()}

    async def holds(self, attachment: Attachment) -> bool:
        """See IpamPort."""
        parts = attachment.address.parts() if attachment.address is not None else ()
        wanted = frozenset((part.address, part.generation) for part in parts)
        return bool(wanted) and (await self.known()).get(attachment.ipam_key) == wanted

    async def room(self, network: str) -> int:
        """See IpamPort."""
        path = f"/v1/networks/{segment(network)}/room?{urlencode({'zone': self._zone})}"
        answer = await call_json(self._peers, SERVICE, "GET", path, timeout_s=TIMEOUT_S)
        try:
            return _Room.model_validate(answer).free
        except ValidationError as error:
            raise Unavailable(f"ipam answered what can't be used: {error}") from error

    async def report_live(self, keys: Sequence[str], held: Sequence[Attachment] = ()) -> None:
        """See IpamPort."""
        path = f"/v1/hosts/{segment(self._host)}/attachments"
        content = {"live": sorted(keys), "held": [entry for each in held for entry in _held(each)]}
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
            "environment": spec.environment,
            "zone": self._zone,
        }
        path = f"/v1/attachments/{segment(key)}"
        answer = await call_json(self._peers, SERVICE, "PUT", path, content, timeout_s=TIMEOUT_S)
        try:
            return _address(_Allocated.model_validate(answer))
        except ValueError as error:
            raise Unavailable(f"ipam answered what can't be used: {error}") from error


def _address(got: _Allocated) -> Address:
    found = {each.family: each for each in got.addresses or (got,)}
    four, six = found.get(4), found.get(6)
    of_four = {}
    if four is not None:
        of_four = {
            "ip": four.address,
            "prefix": four.prefix_len,
            "gateway": four.gateway or None,
            "generation": four.generation,
        }
    of_six = None
    if six is not None:
        of_six = Address6(
            ip=str(IPv6Address(six.address)),
            prefix=six.prefix_len,
            gateway=six.gateway or None,
            generation=six.generation,
        )
    return Address.model_validate(
        {**of_four, "vlan": got.vlan, "mtu": got.mtu, "mac": got.mac or None, "ip6": of_six}
    )


def _held(attachment: Attachment) -> list[dict[str, object]]:
    """One entry an address, as ipam wants them told."""
    spec, address = attachment.spec, attachment.address
    return [
        {
            "attachment": attachment.ipam_key,
            "network": spec.network,
            "address": part.address,
            "generation": part.generation,
            "instance": spec.instance,
            "attempt": spec.attempt,
            "sticky_key": spec.sticky_key,
            "app": spec.app,
        }
        for part in (address.parts() if address else ())
    ]
