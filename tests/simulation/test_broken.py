"""The invariants have teeth: each of these cripples one safeguard, and some seed soon says so.

Nothing is edited: the world is built with the crippled part in the place of the real one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import pytest

from libs.common.errors import Unavailable
from libs.common.events.model import DeployAction
from libs.common.spec import InstanceSpec
from libs.mesos.messages import TaskStatus
from services.deployer import core as deployer_core
from services.deployer import observations, rolling
from services.deployer.model import App, Deployment
from services.deployer.model import Instance as DeployedInstance
from services.deployer.observe import ObservedEvent, observe
from services.executor import launching
from services.executor.ends import Ends
from services.executor.model import Attachment, AttachmentSpec, ContainerName
from services.executor.ports import Network
from services.executor.runs.keeper import Keeper
from services.gateway.core import operation_id
from services.ipam import core as ipam_core
from services.ipam.model import Address
from services.monitor.model import Alert
from services.scheduler import nodes, runs
from services.scheduler.budgets import Budgets
from services.scheduler.cluster import Draft
from services.scheduler.jobs import starting
from services.scheduler.jobs.model import Due, Job
from services.scheduler.model import Acknowledge, Instance, InstanceId
from services.scheduler.policy import Shape
from services.scheduler.service import Scheduler
from services.scheduler.settings import SchedulerConfig
from services.scheduler.store import Saved
from tests.simulation.cloud import Cloud
from tests.simulation.faults import RATES, Point
from tests.simulation.host import Host
from tests.simulation.loop import EPOCH_S, World
from tests.simulation.parts import Mailbox
from tests.simulation.run import MakeCloud, Plan, simulate, told

SEEDS = range(1, 9)
FULL = Plan()
BRIEF = Plan(
    faults_until_s=450.0, work_until_s=500.0, settled_s=650.0, end_s=800.0, jobs=False
)  # where a few releases tell


def caught(
    said: str | tuple[str, ...],
    make: MakeCloud = Cloud,
    seeds: Iterable[int] = SEEDS,
    plan: Plan = FULL,
) -> str:
    """The violation that the first of a few seeds shows: `said`, or one of those."""
    texts = (said,) if isinstance(said, str) else said
    for seed in seeds:
        result = simulate(seed, plan, make)
        if result.error:
            assert any(each in result.error for each in texts), told(result, 30)
            return result.error
    raise AssertionError("all seeds passed as if nothing were broken")


@pytest.mark.timeout(600)
def test_due_runs_wait_for_a_minute_in_the_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    real = starting.begin

    def drowsy(draft: Draft, job: Job, due: Due, now: float, config: SchedulerConfig) -> Job:
        after = real(draft, job, due, now, config)
        if 300.0 < now - EPOCH_S < 1000.0:  # in the middle of the faults, which excuse it no longer
            instance = draft.changed[InstanceId(due.run)]
            draft.put(replace(instance, not_before=now + 60.0))
        return after

    monkeypatch.setattr(starting, "begin", drowsy)
    caught("missing: ")


@pytest.mark.timeout(600)
def test_runs_of_healthy_hosts_are_given_up_by_the_scheduler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = runs.ended

    def distrustful(draft: Draft, instance: Instance, status: TaskStatus, *rest: Any) -> None:
        if status["state"] == "TASK_FINISHED" and not instance.stop:
            runs.give_up(draft, instance, rest[-1], "its host was lost")
        else:
            real(draft, instance, status, *rest)

    monkeypatch.setattr(runs, "ended", distrustful)
    caught("given up, and nothing was wrong with its host")


@pytest.mark.timeout(600)
def test_generation_check_removed_in_ipam(monkeypatch: pytest.MonkeyPatch) -> None:
    real = ipam_core.release

    def unchecked(current: Address | None, generation: int, *args: Any, **more: Any) -> Any:
        return real(current, current.generation if current else generation, *args, **more)

    monkeypatch.setattr(ipam_core, "release", unchecked)
    caught("is wired to")


@pytest.mark.timeout(600)
def test_constraints_are_not_looked_at_by_the_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Shape.of

    def lawless(app: str, spec: InstanceSpec, *where: Any) -> Shape:
        return real(app, spec.model_copy(update={"constraints": ()}), *where)

    monkeypatch.setattr(Shape, "of", lawless)
    caught(" beside ", seeds=(7, *SEEDS), plan=BRIEF)


@pytest.mark.timeout(600)
def test_closed_hosts_are_open_to_the_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "closed", lambda draft: [])
    caught(", which is closed", plan=BRIEF)


@pytest.mark.timeout(600)
def test_those_who_make_room_are_not_spared_by_the_scheduler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Budgets, "left", lambda budgets, app: 100)
    caught(" makes room, and only ", plan=Plan(jobs=False))


class Hasty(Scheduler):
    """Acknowledges what it is about to save."""

    async def _save(self, draft: Draft, now: float) -> Saved:
        for action in draft.actions:
            if isinstance(action, Acknowledge):
                await self.membership.do(action)
        return await super()._save(draft, now)


@pytest.mark.timeout(600)
def test_acknowledge_before_save_in_the_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.scheduler.service.Scheduler", Hasty)
    caught("is acknowledged, but it is saved as")


@pytest.mark.timeout(600)
def test_stale_sequences_accepted_by_the_deployer(monkeypatch: pytest.MonkeyPatch) -> None:
    real = observe

    def credulous(
        instance: DeployedInstance, event: ObservedEvent, sequence: int, now: float
    ) -> DeployedInstance:
        forgetful = instance.model_copy(update={"seen": -1, "seen_topics": ()})
        return real(forgetful, event, sequence, now)

    monkeypatch.setattr(observations, "observe", credulous)
    caught("what the deployer has seen of")


class Unrevoked:
    """hostd as an executor sees it that never takes back a leave to start."""

    def __init__(self, network: Network) -> None:
        self._network = network

    async def attach(self, spec: AttachmentSpec) -> Attachment:
        """See Network."""
        return await self._network.attach(spec)

    async def register(self, container: ContainerName, container_id: str, generation: int) -> None:
        """See Network."""
        await self._network.register(container, container_id, generation)

    async def revoke(self, container: ContainerName) -> None:
        """Forgotten."""

    async def detach(self, container: ContainerName) -> None:
        """See Network."""
        await self._network.detach(container)


class CarelessCloud(Cloud):
    """Its executors don't revoke."""

    def wrap_network(self, network: Network, _host: Host) -> Network:
        """See Cloud."""
        return Unrevoked(network)


@pytest.mark.timeout(600)
def test_registration_not_revoked_before_del_in_the_executor() -> None:
    caught("before its leave to start is revoked", CarelessCloud)


class FragileCloud(Cloud):
    """Many an executor dies, supervisor and all, when a run has just ended."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        for host in self.hosts:
            host.fragile = True


@pytest.mark.timeout(600)
def test_runs_that_ended_unseen_are_begun_again_by_the_executor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launching, "_adopt_ended", launching._start_anew)
    caught("doubles: 1", FragileCloud, (2, *SEEDS))


@pytest.mark.timeout(600)
def test_what_runs_is_given_up_by_an_executors_successor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Keeper, "_orphans_of", lambda *_: [])
    caught("given up, and nothing was wrong with its host", FragileCloud, (3, *SEEDS))


@pytest.mark.timeout(600)
def test_what_had_ended_is_given_up_by_an_executors_successor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Ends, "of", lambda *_: None)
    caught("given up, and nothing was wrong with its host", FragileCloud)


@pytest.mark.timeout(600)
def test_an_executors_successor_gives_nothing_up() -> None:
    """So it is the broken part that is caught above."""
    result = simulate(SEEDS[0], FULL, FragileCloud)
    assert not result.error, told(result, 30)


@pytest.mark.timeout(600)
def test_all_old_ones_are_stopped_at_once_by_the_deployer(monkeypatch: pytest.MonkeyPatch) -> None:
    def hasty(
        _new: object, old: Sequence[DeployedInstance], *_: object
    ) -> Sequence[DeployedInstance]:
        return old

    monkeypatch.setattr(rolling, "replaced", hasty)
    caught("were ready and are stopped", plan=BRIEF)


@pytest.mark.timeout(600)
def test_the_number_of_a_scale_is_forgotten_by_the_deployer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = deployer_core._after_success

    def forgetful(app: App, deployment: Deployment) -> dict[str, object]:
        kept = real(app, deployment)
        if deployment.action is DeployAction.SCALE:
            kept.pop("spec", None)
        return kept

    monkeypatch.setattr(deployer_core, "_after_success", forgetful)
    caught("but its spec has", plan=BRIEF)


class DeafCloud(Cloud):
    """Many an answer is lost."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.faults.rates = {**RATES, Point.HTTP_RESPONSE_LOST: 0.1}


@pytest.mark.timeout(600)
def test_repetitions_are_not_recognised_by_the_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = iter(range(1 << 20))

    def forgetful(actor: str, key: str) -> str:
        return operation_id(actor, f"{key}-{next(asked)}")

    monkeypatch.setattr("services.gateway.operations.operation_id", forgetful)
    caught("nobody was told of deployment", DeafCloud, plan=BRIEF)


@dataclass
class Resigned(Mailbox):
    """A monitor's way to tell people that does not try again."""

    async def tell(self, alert: Alert) -> None:
        """See Notifier."""
        with suppress(Unavailable):
            await super().tell(alert)


class ResignedCloud(Cloud):
    """Alerts whose mail failed count as told."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.faults.rates = {**RATES, Point.SMTP_FAILS: 0.5}
        self.mailbox = Resigned(self.faults)


@pytest.mark.timeout(600)
def test_mails_that_fail_are_not_sent_again_by_the_monitor() -> None:
    said = ("of which nobody was told", "but never that it is over")
    caught(said, ResignedCloud, plan=BRIEF)
