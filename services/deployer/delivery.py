"""What an attempt needs to start, told to the host that it is placed on now, and to nobody else.

The scheduler says where an attempt is; which secrets it gets is the deployer's own record of its release or, of a
job's run, what the scheduler made the run of. The answer is sealed with the host's own key, as HTTP is plain.
"""

from __future__ import annotations

import random

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
    """What of the scheduler's answer counts. `app` is the job (`bu/job`) of a run; `run` is of runs only."""

    model_config = ConfigDict(extra="ignore")

    attempt: str
    hostname: str
    state: str
    app: str
    run: _Needs | None = None


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
        placed = await self._placed(instance)
        if placed is None or placed.attempt != attempt or placed.hostname != host:
            raise NotFound(f"no attempt {attempt!r} is placed on {host}")
        if placed.state == UNSEEN:
            raise Unavailable(f"the scheduler does not hear of {host} now")
        if placed.state not in LAUNCHING:
            raise NotFound(f"no attempt {attempt!r} is placed on {host}")
        needs = placed.run if placed.run is not None else await self._released(instance, placed.app)
        delivery = await self._gather(placed.app.partition("/")[0], needs)
        names = [each.name for each in delivery.secrets]
        self._log.info("secrets delivered", attempt=attempt, host=host, names=names)
        keys = party_keys(self._secret, Kind.HOST, host, self._generations.current().get(host, 0))
        sealer = Sealer(keys, ATTEMPT_PURPOSE, self._rng)
        content = delivery.model_dump_json().encode()
        return Sealed(boxes=sealer.seal(content, about_attempt(host, attempt)))

    async def _placed(self, instance: str) -> _Placed | None:
        path = f"/v1/instances/{segment(instance)}"
        try:
            return _Placed.model_validate(await call_json(self._peers, "scheduler", "GET", path))
        except NotFound:
            return None
        except ValidationError:
            raise Unavailable("the scheduler's answer can't be read") from None

    async def _released(self, instance: str, app: str) -> _Needs:
        """What an app's instance needs, by the release that it is of."""
        kept = (await self._repo.get_instances([instance])).get(instance)
        if kept is None or kept.value.app != app:
            raise NotFound(f"{instance} is an instance that nobody asked for")
        release = await self._repo.release(app, kept.value.release)
        if release is None:
            raise NotFound(f"there is no release {kept.value.release} of {app}")
        secrets = release.spec.secrets
        return _Needs(image=release.image, registry_login=release.login, secrets=secrets)

    async def _gather(self, bu: str, needs: _Needs) -> Delivery:
        values = await self._vault.secrets(bu, [ref.name for ref in needs.secrets])
        login = await self._vault.login(bu, needs.image) if needs.registry_login else None
        return Delivery(
            secrets=tuple(_delivered(bu, ref, values[ref.name]) for ref in needs.secrets),
            login=DeliveredLogin(user=login.user, password=login.password) if login else None,
        )


def _delivered(bu: str, ref: SecretRef, value: bytes) -> DeliveredSecret:
    if ref.env is not None and not is_text(value):
        raise Conflict(
            f"secret {ref.name!r} of {bu} is not text: it can't be a variable, only a file"
        )
    return DeliveredSecret.of(ref.name, ref.env, ref.file, value)
