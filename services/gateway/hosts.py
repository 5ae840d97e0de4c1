"""Hosts: one-time tokens, enrolment, renewal of keys, removal. What is sent how: libs/common/claims.py.

A host's key is derived from the cluster's secret, so nothing of it is stored but its generation. A removal begins the
next one; what the host had, its tokens included, is good for nothing from then on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from pydantic import ValidationError

from libs.client.hosts import (
    AgentCredential,
    Enrol,
    HostSecrets,
    HostTokenCreated,
    HostTokenView,
    HostView,
    NewHostToken,
    Renew,
    SealedSecrets,
    decode,
    encode,
)
from libs.client.hosts import Hosts as HostsView
from libs.common.claims import Claim, Sealer, prover
from libs.common.clock import Clock
from libs.common.errors import Conflict, NotFound, Refused, Unauthenticated, Unavailable
from libs.common.http import Kind, Principal, Request, Response, reply
from libs.common.keys import DerivedKeys, Secret, keys_of
from libs.common.store.base import VersionConflict
from libs.common.tokens import derive_key
from services.gateway.auth import Gate
from services.gateway.core import (
    derive,
    hash_secret,
    host_state,
    secret_of,
    token_state,
    why_not_enrol,
)
from services.gateway.model import Host, HostToken
from services.gateway.operations import Operations, made_another
from services.gateway.store import Repository

WRITE_TRIES = 40
TOKENS_SHOWN = 1000
# How old a claim to renew may be: older than clocks differ, too young for who repeats it later.
SKEW_S = 300.0
CALLS_PER_S, CALLS_AT_ONCE = 1.0, 30.0  # of one token or host; of all wrong proofs together
REFUSED = "not let in: the token or key is not good for this host"


def target_of(host: str) -> str:
    """A host, for the audit trail: a thing of all business units."""
    return f"*/hosts/{host}"


class Hosts:
    """All hosts of the cluster."""

    def __init__(
        self,
        repository: Repository,
        operations: Operations,
        gate: Gate,
        clock: Clock,
        cluster_secret: Secret,
        credential_file: Path | None = None,
    ) -> None:
        self.repository = repository
        self.operations = operations
        self._gate = gate
        self._clock = clock
        self._cluster_secrets = keys_of(cluster_secret)
        self._masters = DerivedKeys(cluster_secret, lambda each: derive(each, "host-tokens"))
        self._credential_file = credential_file

    # -- what an admin of the cluster asks -------------------------------------------------------

    async def make_token(self, request: Request, wanted: NewHostToken) -> Response:
        """A new token. Raises Conflict when it can't be shown again."""

        async def perform() -> Response:
            host, _ = await self.repository.host(wanted.host)
            now = self._clock.now()
            token_id = self.operations.id_for(request)
            token = HostToken(
                id=token_id,
                host=wanted.host,
                generation=host.generation,
                secret_hash=hash_secret(self._secrets(token_id)[0]),
                created_at=now,
                created_by=request.principal.name,
                expires_at=now + wanted.ttl_s,
            )
            try:
                await self.repository.save_host_token(token, 0)
            except VersionConflict:
                # This request made it before, and its answer was lost.
                token, _ = await self.repository.host_token(token_id) or (token, 0)
                if token.host != wanted.host or token.revoked_at is not None:
                    raise made_another("token") from None
            return reply(token_view(token, host.generation, now), 201)

        target = target_of(wanted.host)
        response = await self.operations.through(request, "host.token", target, perform)
        made = HostTokenView.model_validate_json(response.body)
        text = f"ht_{made.id}_{await self._secret_again(made.id)}"
        content = HostTokenCreated(**made.model_dump(), token=text)
        return reply(content, response.status, {**response.headers, "cache-control": "no-store"})

    async def listed(self) -> HostsView:
        """All hosts that have enrolled, renewed or were removed, and the newest tokens."""
        hosts = await self.repository.list_hosts()
        tokens = await self.repository.list_host_tokens(TOKENS_SHOWN)
        generations, now = {each.host: each.generation for each in hosts}, self._clock.now()
        return HostsView(
            hosts=tuple(map(host_view, hosts)),
            tokens=tuple(token_view(each, generations.get(each.host, 0), now) for each in tokens),
        )

    async def revoke_token(self, request: Request, token_id: str) -> Response:
        """Revoke a token. Raises NotFound; Conflict for one that was used: remove the host instead."""
        known = await self.repository.host_token(token_id)
        if known is None:
            raise NotFound(f"there is no host token {token_id!r}")

        async def perform() -> Response:
            for _ in range(WRITE_TRIES):
                token, version = await self.repository.host_token(token_id) or known
                if token.used_by:
                    raise Conflict(f"it was used; `gantry host remove {token.host}` undoes that")
                now = self._clock.now()
                revoked = token.model_copy(update={"revoked_at": token.revoked_at or now})
                try:
                    await self.repository.save_host_token(revoked, version)
                except VersionConflict:
                    continue
                host, _ = await self.repository.host(token.host)
                return reply(token_view(revoked, host.generation, now))
            raise Unavailable(f"token {token_id} is being changed by others")

        target = target_of(known[0].host)
        return await self.operations.through(request, "host.token-revoke", target, perform)

    async def remove(self, request: Request, name: str, force: bool) -> Response:
        """Void the host's key and tokens. Raises NotFound for one never heard of, unless `force` says it exists."""

        async def perform() -> Response:
            for _ in range(WRITE_TRIES):
                host, version = await self.repository.host(name)
                if version == 0 and not force:
                    raise NotFound(f"no host {name!r} has enrolled or renewed its key")
                changes = {"generation": host.generation + 1, "removed_at": self._clock.now()}
                removed = host.model_copy(update=changes)
                try:
                    await self.repository.save_host(removed, version)
                except VersionConflict:
                    continue
                return reply(host_view(removed))
            raise Unavailable(f"host {name} is being changed by others")

        return await self.operations.through(request, "host.remove", target_of(name), perform)

    # -- what a host asks ------------------------------------------------------------------------

    async def enrol(self, request: Request, wanted: Enrol) -> Response:
        """A host's secrets, for the first key pair that proves to know its token. Raises Unauthenticated, TooMany.

        Whatever is wrong, the answer is the same; the audit trail has the reason.
        """
        claim = Claim("enrol", wanted.token, wanted.host, decode(wanted.public_key))
        secrets = [each.encode() for each in self._secrets(wanted.token)]
        secret = prover(secrets, claim, [wanted.proof])
        sealer = _sealer(secret, claim)
        who = replace(request, principal=_named(f"host-token#{wanted.token}"))
        if secret is None or sealer is None:
            self._count("enrol")
            await self._refuse(who, "host.enrol", wanted.host, "the proof is wrong")
        self._count(f"enrol:{wanted.token}")
        credential = await self._credential()
        token = await self._win(who, wanted, hash_secret(secret.decode()))
        await self._enrolled(token)
        return self._answer(claim, sealer, token.generation, credential)

    async def renew(self, request: Request, wanted: Renew) -> Response:
        """A host's secrets, for who proves to have its present key. Raises Unauthenticated, TooMany."""
        claim = Claim("renew", str(wanted.at), wanted.host, decode(wanted.public_key))
        host, _ = await self.repository.host(wanted.host)
        secret = prover(self._host_keys(host), claim, wanted.proofs)
        sealer = _sealer(secret, claim)
        who = replace(request, principal=_named(f"host:{wanted.host}"))
        late = abs(self._clock.now() - wanted.at) > SKEW_S
        if sealer is None or late:
            self._count("renew")
            reason = "the proof is old, or made ahead" if sealer else "the proof is wrong"
            await self._refuse(who, "host.renew", wanted.host, reason)
        self._count(f"renew:{wanted.host}")
        credential = await self._credential()
        for _ in range(WRITE_TRIES):
            current, version = await self.repository.host(wanted.host)
            if current.generation != host.generation:
                await self._refuse(who, "host.renew", wanted.host, "the host was just removed")
            renewed = current.model_copy(update={"renewed_at": self._clock.now()})
            line = self.operations.line(who, "host.renew", target_of(wanted.host), "renewed")
            try:
                await self.repository.save_host(renewed, version, line)
            except VersionConflict:
                continue
            self.operations.relay.kick()
            return self._answer(claim, sealer, host.generation, credential)
        raise Unavailable(f"host {wanted.host} is being changed by others")

    # -- parts -----------------------------------------------------------------------------------

    async def _win(self, request: Request, wanted: Enrol, secret_hash: str) -> HostToken:
        """The token, marked as used by this key pair: by compare-and-set, so that one of many wins."""
        action, target = "host.enrol", target_of(wanted.host)
        for _ in range(WRITE_TRIES):
            token, version = await self.repository.host_token(wanted.token) or (None, 0)
            if token is not None and token.secret_hash != secret_hash:
                token = None
            host, _ = await self.repository.host(wanted.host)
            now = self._clock.now()
            reason = why_not_enrol(token, wanted.host, wanted.public_key, host.generation, now)
            if reason or token is None:
                await self._refuse(request, action, wanted.host, reason)
            again = bool(token.used_by)
            used = token.model_copy(
                update={"used_by": wanted.public_key, "used_at": token.used_at or now}
            )
            detail = "the same key pair asked again" if again else "enrolled"
            line = self.operations.line(request, action, target, detail)
            try:
                await self.repository.save_host_token(used, version, line)
            except VersionConflict:
                continue  # the same token, at the same time: see who won
            self.operations.relay.kick()
            return used
        raise Unavailable(f"token {wanted.token} is being used by too many at once")

    async def _enrolled(self, token: HostToken) -> None:
        """Note that the host has enrolled; one that was removed meanwhile stays removed."""
        for _ in range(WRITE_TRIES):
            host, version = await self.repository.host(token.host)
            if host.generation != token.generation:
                return
            changes = {"enrolled_at": token.used_at, "removed_at": None}
            try:
                await self.repository.save_host(host.model_copy(update=changes), version)
            except VersionConflict:
                continue
            return
        raise Unavailable(f"host {token.host} is being changed by others")

    def _answer(
        self,
        claim: Claim,
        sealer: Sealer,
        generation: int,
        credential: AgentCredential | None,
    ) -> Response:
        keys = self._host_keys(Host(host=claim.host, generation=generation))
        content = HostSecrets(
            host_keys=tuple(each.hex() for each in keys),
            generation=generation,
            agent_credential=credential,
        )
        sealed = sealer.seal(content.model_dump_json().encode())
        view = SealedSecrets(
            host=claim.host, public_key=encode(sealed.public_key), box=encode(sealed.box)
        )
        return reply(view, headers={"cache-control": "no-store"})

    def _host_keys(self, host: Host) -> Sequence[bytes]:
        secrets = self._cluster_secrets.current()
        return [derive_key(each, Kind.HOST, host.host, host.generation) for each in secrets]

    def _secrets(self, token_id: str) -> Sequence[str]:
        """The secret that a token has, by each secret of the cluster: one of them made it."""
        return [secret_of(each, token_id) for each in self._masters.current()]

    async def _secret_again(self, token_id: str) -> str:
        known = await self.repository.host_token(token_id)
        for secret in self._secrets(token_id):
            if known is not None and hash_secret(secret) == known[0].secret_hash:
                return secret
        raise Conflict(f"the token {token_id} can't be shown again; make another")

    async def _credential(self) -> AgentCredential | None:
        """The agents' credential as its file has it now. Raises Unavailable: nothing is used up then."""
        if self._credential_file is None:
            return None
        try:
            text = await asyncio.to_thread(self._credential_file.read_text)
            return AgentCredential.model_validate_json(text)
        except (OSError, ValidationError) as error:
            kind = type(error).__name__
            raise Unavailable(f"the agents' credential can't be read: {kind}") from None

    def _count(self, name: str) -> None:
        self._gate.count(name, CALLS_PER_S, CALLS_AT_ONCE)

    async def _refuse(self, request: Request, action: str, host: str, reason: str) -> NoReturn:
        await self.operations.refused(request, action, target_of(host), Refused(reason))
        raise Unauthenticated(REFUSED)


def _named(name: str) -> Principal:
    return Principal(Kind.ANONYMOUS, name)


def _sealer(secret: bytes | None, claim: Claim) -> Sealer | None:
    """None without a secret, and for a public key that no secret can be agreed on with."""
    try:
        return Sealer(secret, claim) if secret is not None else None
    except ValueError:
        return None


def token_view(token: HostToken, generation: int, now: float) -> HostTokenView:
    """The token without its secret; `generation` is that of its host's key today."""
    shown = token.model_dump(exclude={"secret_hash", "used_by", "generation"})
    return HostTokenView(**shown, state=token_state(token, generation, now))


def host_view(host: Host) -> HostView:
    """The host as it is shown."""
    return HostView(**host.model_dump(), state=host_state(host))
