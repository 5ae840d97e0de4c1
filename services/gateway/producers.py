"""Public keys of business units' producers: registered, listed, removed; and told to the services that ask."""

from __future__ import annotations

from dataclasses import dataclass

from libs.client.model import NewProducerKey, ProducerKeyView
from libs.common.actor import Actor
from libs.common.clock import Clock
from libs.common.errors import Conflict, NotFound
from libs.common.http import Request, Response, Role, reply
from libs.common.producers import read_public_key
from services.gateway.model import ProducerKey
from services.gateway.operations import Operations, made_another
from services.gateway.store import Repository

MAX_KEYS = 100  # of a business unit


@dataclass(frozen=True)
class Producers:
    """All producers' keys of the cluster. A producer has as many as it needs to replace them one by one."""

    repository: Repository
    operations: Operations
    clock: Clock

    async def add(self, request: Request, wanted: NewProducerKey) -> Response:
        """Register a key. Raises NotFound, Forbidden, InvalidInput, Conflict."""
        Actor.of_principal(request.principal).require(wanted.bu, Role.ADMIN)
        public_key = read_public_key(wanted.public_key)

        async def perform() -> Response:
            if await self.repository.count_producer_keys(wanted.bu) >= MAX_KEYS:
                raise Conflict(f"{wanted.bu} has {MAX_KEYS} producers' keys; remove some first")
            key = ProducerKey(
                id=f"pk-{self.operations.id_for(request)}",
                bu=wanted.bu,
                producer=wanted.producer,
                public_key=public_key,
                created_at=self.clock.now(),
                created_by=request.principal.name,
            )
            if not await self.repository.add_producer_key(key):
                # This request made it before, and its answer was lost.
                made = await self.repository.producer_key(key.id)
                if made is None or made.public_key != public_key:
                    raise made_another("key")
                key = made
            return reply(view(key), 201)

        target = f"{wanted.bu}/producers/{wanted.producer}"
        return await self.operations.through(request, "producer.add", target, perform)

    async def visible(self, actor: Actor) -> list[ProducerKeyView]:
        """The keys that an actor may see."""
        actor.require(actor.bu, Role.ADMIN)
        return [view(key) for key in await self.repository.list_producer_keys(actor.bu)]

    async def remove(self, request: Request, key_id: str) -> Response:
        """Remove a key; what it signs is refused within producers.KNOWN_S. Raises NotFound, Forbidden."""
        actor = Actor.of_principal(request.principal)
        key = await self.repository.producer_key(key_id)
        if key is None or not actor.sees(key.bu):
            raise NotFound(f"there is no producer's key {key_id!r}")
        actor.require(key.bu, Role.ADMIN)

        async def perform() -> Response:
            await self.repository.remove_producer_key(key.id)
            return reply(view(key))

        target = f"{key.bu}/producers/{key.producer}"
        return await self.operations.through(request, "producer.remove", target, perform)

    async def tell(self, request: Request) -> Response:
        """A key, to a service that has something signed with it. Raises NotFound."""
        key = await self.repository.producer_key(request.params["key"])
        if key is None:
            raise NotFound(f"there is no producer's key {request.params['key']!r}")
        return reply(view(key))


def view(key: ProducerKey) -> ProducerKeyView:
    """The key as it is shown."""
    return ProducerKeyView(**key.model_dump())
