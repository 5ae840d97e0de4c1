"""API keys: made, listed, revoked; and the first one, without which nobody could make any."""

from __future__ import annotations

from libs.client.model import KeyCreated, KeyView, NewKey, Role
from libs.common.actor import Actor
from libs.common.clock import Clock
from libs.common.errors import Conflict, NotFound
from libs.common.http import Request, Response, reply
from libs.common.keys import DerivedKeys, Secret
from services.gateway.auth import Gate
from services.gateway.core import FIRST_KEY, compose_key, derive, hash_secret, secret_of
from services.gateway.keyfile import KeyFile
from services.gateway.model import ApiKey, KeyId
from services.gateway.operations import Operations, made_another
from services.gateway.store import Repository


class KeyRing:
    """All API keys of the cluster."""

    def __init__(
        self,
        repository: Repository,
        operations: Operations,
        gate: Gate,
        clock: Clock,
        cluster_secret: Secret,
    ) -> None:
        self._repository = repository
        self._operations = operations
        self._gate = gate
        self._clock = clock
        self._masters = DerivedKeys(cluster_secret, lambda each: derive(each, "api-keys"))

    async def make_first(self, file: KeyFile) -> None:
        """Make the first admin key, good for all business units, if there is none yet, and write it to `file`.

        The file comes first: a crash in between leaves a key that the next start saves, not one that nobody has.
        """
        if await self._repository.key(FIRST_KEY) is not None:
            return
        secret = self._new_secret(FIRST_KEY)
        file.write_once(compose_key(FIRST_KEY, secret))
        first = ApiKey(
            id=FIRST_KEY,
            bu="*",
            role=Role.ADMIN,
            label="first-admin",
            secret_hash=hash_secret(secret),
            created_at=self._clock.now(),
            created_by="gateway",
        )
        await self._repository.add_key(first)  # a replica may have been first: with the same key
        self._gate.forget(FIRST_KEY)

    async def create(self, request: Request, wanted: NewKey) -> Response:
        """A new key. Raises NotFound or Forbidden when the asker may not give it."""
        Actor.of_principal(request.principal).require(wanted.bu, Role.ADMIN)

        async def perform() -> Response:
            key_id = KeyId(self._operations.id_for(request))
            now = self._clock.now()
            key = ApiKey(
                id=key_id,
                bu=wanted.bu,
                role=wanted.role,
                label=wanted.label,
                secret_hash=hash_secret(self._new_secret(key_id)),
                created_at=now,
                created_by=request.principal.name,
                expires_at=None if wanted.ttl_s is None else now + wanted.ttl_s,
            )
            if not await self._repository.add_key(key):
                # This request made it before, and its answer was lost.
                made = await self._repository.key(key_id)
                if made is None or made.revoked_at is not None or not _are_alike(made, key):
                    raise made_another("key")
                key = made
            return reply(view(key), 201)

        response = await self._operations.through(
            request, "key.create", f"{wanted.bu}/keys", perform
        )
        made = KeyView.model_validate_json(response.body)
        text = compose_key(KeyId(made.id), await self._secret_again(KeyId(made.id)))
        content = KeyCreated(**made.model_dump(), key=text)
        return reply(content, response.status, {**response.headers, "cache-control": "no-store"})

    def _new_secret(self, key_id: KeyId) -> str:
        return secret_of(self._masters.current()[0], key_id)

    async def _secret_again(self, key_id: KeyId) -> str:
        """The secret of a key that is stored, which a secret of the cluster that is older by now may have made."""
        key = await self._repository.key(key_id)
        for master in self._masters.current():
            secret = secret_of(master, key_id)
            if key is not None and hash_secret(secret) == key.secret_hash:
                return secret
        raise Conflict(f"the key {key_id} can't be shown again: the cluster's secret was replaced")

    async def visible(self, actor: Actor) -> list[KeyView]:
        """The keys that an actor may see."""
        actor.require(actor.bu, Role.ADMIN)
        return [view(key) for key in await self._repository.list_keys(actor.bu)]

    async def revoke(self, request: Request, key_id: KeyId) -> Response:
        """Revoke a key, at once here and within auth.CACHE_S at other replicas. Raises NotFound, Conflict."""
        actor = Actor.of_principal(request.principal)
        key = await self._repository.key(key_id)
        if key is None or not actor.sees(key.bu):
            raise NotFound(f"there is no key {key_id!r}")
        actor.require(key.bu, Role.ADMIN)
        await self._keep_one_admin(key)

        async def perform() -> Response:
            revoked = await self._repository.revoke_key(key_id, self._clock.now())
            if revoked is None:
                raise NotFound(f"there is no key {key_id!r}")
            self._gate.forget(key_id)
            return reply(view(revoked))

        target = f"{key.bu}/keys/{key_id}"
        return await self._operations.through(request, "key.revoke", target, perform)

    async def _keep_one_admin(self, key: ApiKey) -> None:
        if not _opens_all(key, self._clock.now()):
            return
        others = [
            each
            for each in await self._repository.list_keys("*")
            if each.id != key.id and _opens_all(each, self._clock.now())
        ]
        if not others:
            raise Conflict("this is the last admin key for all business units; make another first")


def _opens_all(key: ApiKey, now: float) -> bool:
    alive = key.revoked_at is None and (key.expires_at is None or now < key.expires_at)
    return key.bu == "*" and key.role is Role.ADMIN and alive


def _are_alike(one: ApiKey, other: ApiKey) -> bool:
    asked = ("bu", "role", "label", "created_by")
    return all(getattr(one, each) == getattr(other, each) for each in asked)


def view(key: ApiKey) -> KeyView:
    """The key without its secret."""
    shown = key.model_dump(exclude={"secret_hash"})
    return KeyView(**shown, prefix=f"gk_{key.id}_")
