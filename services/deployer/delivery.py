"""What an attempt needs to start, told to the host that it is placed on now, and to nobody else.

The scheduler says where an attempt is; which secrets it gets is the deployer's own record of its release or, of a
job's run, what the scheduler made the run of. The answer is sealed with the host's own key, as HTTP is plain.
"""

from __future__ import annotations

import random
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from libs.common.delivery import (
    ATTEMPT_PURPOSE,
    DeliveredLogin,
    DeliveredSecret,
    Delivery,
    Sealed,
    about_attempt,
    is_text,
)
from libs.common.errors import Conflict, NotFound, Unavailable
from libs.common.generations import Generations
from libs.common.http import Kind, ServiceClient, call_json
from libs.common.keys import Secret
from libs.common.sealing import Sealer
from libs.common.serve import segment
from libs.common.spec import SecretRef
from libs.common.telemetry import Log
from libs.common.tokens import party_keys
from services.deployer.model import Instance
from services.deployer.store import Repository
from services.deployer.vault import Vault

LAUNCHING = frozenset({"staged", "starting", "running"})
UNSEEN = "unreachable"  # the scheduler can't say now whether it is still there


class _Needs(BaseModel):
    """What an attempt is to be given: secrets by name, and the login at the registry of its image."""

    model_config = ConfigDict(extra="ignore")

    image: str
    registry_login: bool = False
    secrets: tuple[SecretRef, ...] = ()


class _Placed(BaseModel):
    """What of the scheduler's answer about an app's instance counts."""

    model_config = ConfigDict(extra="ignore")

    app: str
    attempt: str
    hostname: str
    state: str


class _Run(_Needs):
    """What of its answer about a job's run counts. A run that is over, or waits for its turn, has no attempt."""

    job: str
    attempt: str = ""
    hostname: str = ""
    placement: str = ""


AnswerT = TypeVar("AnswerT", _Placed, _Run)


class Deliveries:
    """Answers hosts."""

    def __init__(
        self,
        repo: Repository,
        vault: Vault,
        peers: ServiceClient,
        secret: Secret,
        generations: Generations,
        rng: random.Random,
        log: Log,
    ) -> None:
        self._repo = repo
        self._vault = vault
        self._peers = peers
        self._secret = secret
        self._generations = generations
        self._rng = rng
        self._log = log

    async def of_attempt(self, host: str, attempt: str) -> Sealed:
        """The values of an attempt. Raises NotFound, Conflict, Unavailable; none of them tells a value."""
        instance = attempt.rpartition(".")[0]
        kept = (await self._repo.get_instances([instance])).get(instance)
        if kept is not None:
            needs = await self._needs(kept.value, host, attempt)
            delivery = await self._gather(kept.value.app, needs)
        else:
            run = await self._needs_of_run(instance, host, attempt)
            delivery = await self._gather(run.job, run)
        names = [each.name for each in delivery.secrets]
        self._log.info("secrets delivered", attempt=attempt, host=host, names=names)
        keys = party_keys(self._secret, Kind.HOST, host, self._generations.current().get(host, 0))
        sealer = Sealer(keys, ATTEMPT_PURPOSE, self._rng)
        content = delivery.model_dump_json().encode()
        return Sealed(boxes=sealer.seal(content, about_attempt(host, attempt)))

    async def _needs(self, instance: Instance, host: str, attempt: str) -> _Needs:
        """What an app's instance needs, by the release that it is of."""
        placed = await self._asked(f"/v1/instances/{segment(instance.id)}", _Placed)
        if placed is None or placed.app != instance.app:
            raise _nobody(attempt, host)
        _check_place(attempt, host, placed.attempt, placed.hostname, placed.state)
        release = await self._repo.release(instance.app, instance.release)
        if release is None:
            raise NotFound(f"there is no release {instance.release} of {instance.app}")
        secrets = release.spec.secrets
        return _Needs(image=release.image, registry_login=release.login, secrets=secrets)

    async def _needs_of_run(self, run: str, host: str, attempt: str) -> _Run:
        """What a run of a job needs, by what the scheduler made it of."""
        found = await self._asked(f"/v1/runs/{segment(run)}", _Run)
        if found is None:
            raise _nobody(attempt, host)
        _check_place(attempt, host, found.attempt, found.hostname, found.placement)
        return found

    async def _asked(self, path: str, kind: type[AnswerT]) -> AnswerT | None:
        try:
            answer = await call_json(self._peers, "scheduler", "GET", path)
            return kind.model_validate(answer, extra="ignore")  # also of a newer scheduler
        except NotFound:
            return None
        except ValidationError:
            raise Unavailable("the scheduler's answer can't be read") from None

    async def _gather(self, owner: str, needs: _Needs) -> Delivery:
        """The values, from the vault of the business unit of the app or job."""
        bu = owner.partition("/")[0]
        values = await self._vault.secrets(bu, [ref.name for ref in needs.secrets])
        login = await self._vault.login(bu, needs.image) if needs.registry_login else None
        return Delivery(
            secrets=tuple(_delivered(bu, ref, values[ref.name]) for ref in needs.secrets),
            login=DeliveredLogin(user=login.user, password=login.password) if login else None,
        )


def _check_place(attempt: str, host: str, placed: str, hostname: str, state: str) -> None:
    """Raises NotFound unless the attempt is the one that is on the host now, Unavailable when nobody can say."""
    if placed != attempt or hostname != host:
        raise _nobody(attempt, host)
    if state == UNSEEN:
        raise Unavailable(f"the scheduler does not hear of {host} now")
    if state not in LAUNCHING:
        raise _nobody(attempt, host)


def _nobody(attempt: str, host: str) -> NotFound:
    return NotFound(f"no attempt {attempt!r} is placed on {host}")


def _delivered(bu: str, ref: SecretRef, value: bytes) -> DeliveredSecret:
    if ref.env is not None and not is_text(value):
        raise Conflict(
            f"secret {ref.name!r} of {bu} is not text: it can't be a variable, only a file"
        )
    return DeliveredSecret.of(ref.name, ref.env, ref.file, value)
