"""Calls about networks, addresses and quotas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel

from libs.client.networks import (
    Addresses,
    AddressMap,
    AddressView,
    Defined,
    NetworkBody,
    Networks,
    NetworkView,
    PoolBody,
    QuotaBody,
    Quotas,
    QuotaView,
    Removed,
    ReservationBody,
    Reservations,
    ReservationView,
)
from libs.client.transport import Transport, read
from libs.common.serve import segment

ViewT = TypeVar("ViewT", bound=BaseModel)


class NetworkCalls:
    """The calls, as `GantryClient.addressing`. Where a thing is written, `if_match` is the ETag that it must have."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def networks(self) -> Networks:
        """The networks that the key's business unit may use."""
        return await self._get(Networks, "/v1/networks")

    async def network(self, network: str) -> tuple[NetworkView, str]:
        """One network and its ETag."""
        response = await self._transport.call("GET", _network(network))
        return read(NetworkView, response), response.headers.get("etag", "")

    async def put_network(self, network: str, body: NetworkBody, *, if_match: str = "") -> Defined:
        """Make or change a network. Raises Conflict for one of the configuration, Stale for an old ETag."""
        return await self._put(Defined, _network(network), body, if_match)

    async def remove_network(self, network: str, *, if_match: str = "") -> Removed:
        """Remove a network that nobody uses. Raises Conflict."""
        return await self._delete(Removed, _network(network), if_match)

    async def put_pool(
        self, network: str, pool: str, body: PoolBody, *, if_match: str = ""
    ) -> Defined:
        """Make or change a pool."""
        return await self._put(Defined, _pool(network, pool), body, if_match)

    async def remove_pool(self, network: str, pool: str, *, if_match: str = "") -> Removed:
        """Remove a pool that nobody uses. Raises Conflict."""
        return await self._delete(Removed, _pool(network, pool), if_match)

    async def map(
        self, network: str, pool: str, *, first: str = "", count: int = 1024, states: bool = False
    ) -> AddressMap:
        """`count` addresses of a pool from `first` ("": its first one) on, as far as one answer goes.

        With `states` whose they are is left out: one answer goes much further then.
        """
        query = {"from": first, "count": str(count), "states": "true" if states else ""}
        return await self._get(AddressMap, f"{_pool(network, pool)}/map", query)

    async def addresses(
        self,
        network: str,
        *,
        pool: str = "",
        state: str = "",
        bu: str = "",
        limit: int = 100,
        after: str = "",
    ) -> Addresses:
        """A page of a network's addresses that are or were used."""
        query = {"pool": pool, "state": state, "bu": bu, "limit": str(limit), "after": after}
        return await self._get(Addresses, f"{_network(network)}/addresses", query)

    async def address(self, network: str, address: str) -> AddressView:
        """One address with its history."""
        return await self._get(AddressView, _address(network, address))

    async def release_address(self, network: str, address: str, gone: str = "") -> AddressView:
        """Free an address that is held or in quarantine, or of a host that is `gone`. Raises Conflict for any other."""
        path, query = f"{_address(network, address)}/release", {"gone": gone} if gone else None
        return read(AddressView, await self._transport.call("POST", path, query=query))

    async def release_all(self, network: str, gone: str) -> Addresses:
        """Free all addresses that a host has in a network, which is `gone` for good."""
        freed: list[AddressView] = []
        after = ""
        while True:
            page = await self.addresses(network, state="allocated", limit=1000, after=after)
            mine = [each.address for each in page.addresses if each.host == gone]
            freed += [await self.release_address(network, each, gone) for each in mine]
            if not page.next:
                return Addresses(addresses=tuple(freed))
            after = page.next

    async def reservations(self, network: str) -> Reservations:
        """A network's reservations, as far as they are for the key's business unit."""
        return await self._get(Reservations, f"{_network(network)}/reservations")

    async def reservation(self, network: str, name: str) -> tuple[ReservationView, str]:
        """One of them and its ETag."""
        response = await self._transport.call("GET", _reservation(network, name))
        return read(ReservationView, response), response.headers.get("etag", "")

    async def reserve(
        self, network: str, name: str, body: ReservationBody, *, if_match: str = ""
    ) -> ReservationView:
        """Keep an address for a name."""
        return await self._put(ReservationView, _reservation(network, name), body, if_match)

    async def unreserve(self, network: str, name: str) -> Removed:
        """Give a reserved address back."""
        return await self._delete(Removed, _reservation(network, name), "")

    async def quotas(self) -> Quotas:
        """Quotas and what is used of them."""
        return await self._get(Quotas, "/v1/quotas")

    async def put_quota(self, bu: str, body: QuotaBody, *, if_match: str = "") -> QuotaView:
        """Write a business unit's quota."""
        return await self._put(QuotaView, f"/v1/quotas/{segment(bu)}", body, if_match)

    async def remove_quota(self, bu: str) -> Removed:
        """Let a business unit have as many addresses as there are."""
        return await self._delete(Removed, f"/v1/quotas/{segment(bu)}", "")

    # -- parts -----------------------------------------------------------------------------------

    async def _get(
        self, kind: type[ViewT], path: str, query: Mapping[str, str] | None = None
    ) -> ViewT:
        kept = {name: value for name, value in (query or {}).items() if value}
        return read(kind, await self._transport.call("GET", path, query=kept))

    async def _put(self, kind: type[ViewT], path: str, body: BaseModel, if_match: str) -> ViewT:
        content = body.model_dump_json(exclude_unset=True).encode()
        sent = _condition(if_match)
        return read(kind, await self._transport.call("PUT", path, body=content, headers=sent))

    async def _delete(self, kind: type[ViewT], path: str, if_match: str) -> ViewT:
        sent = _condition(if_match)
        return read(kind, await self._transport.call("DELETE", path, headers=sent))


def _condition(if_match: str) -> dict[str, str]:
    return {"if-match": if_match} if if_match else {}


def _network(network: str) -> str:
    return f"/v1/networks/{segment(network)}"


def _pool(network: str, pool: str) -> str:
    return f"{_network(network)}/pools/{segment(pool)}"


def _address(network: str, address: str) -> str:
    return f"{_network(network)}/addresses/{segment(address)}"


def _reservation(network: str, name: str) -> str:
    return f"{_network(network)}/reservations/{segment(name)}"
