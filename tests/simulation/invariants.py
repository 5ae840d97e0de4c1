"""What must hold after every step, and at the end. A violation is a line in `cloud.failed`.

| invariant | looked at |
|---|---|
| no address is wired to two attachments, and what is wired is allocated to it | hosts' kernels, ipam's documents |
| no two live containers of an instance, but for one on a host that was given up | engines, scheduler's documents |
| a container runs in the wired namespace of its own attachment | engines, kernels |
| nothing is started without a registration | the shim (it refuses) and the engines' starts |
| no address is of a wrong network | every write |
| generations and versions never go back; an ended instance or deployment stays so | every write |
| an app's instances stay within what its strategy allows | every write of an app |
| the deployer's stops leave as many ready ones as the strategy promises (readiness.py) | every write of an app |
| nothing new is placed on a cordoned or drained host | every write of an instance |
| what is saved of an instance's host is what that host is | every write of an instance |
| a drain takes no more of an app than it can spare | every write of an app |
| nor does who makes room for others, counting all that are missing | every write of an instance |
| no instance is placed on a host that its app's constraints forbid | every write of an instance |
| an update is acknowledged only when what it says is saved | Mesos' wire, the scheduler's documents |
| a container is removed only when nobody has leave to start it (host.py) | engines, kernels |
| no event is taken for news that is older than what was seen | the deployer's documents |
| nothing spins | the loop's steps |
| what runs has its own app's secret, and no other's | engines |
| no secret is written in clear, nor told in an event | every write |
| runs of jobs: jobs/ledger.py (when one starts), jobs/judge.py (at the end) | engines, the scheduler
| what was acknowledged holds in the end, and alerts and their ends are told: promises.py | users, documents, mails |
| no kill of unknown tasks is held back: none are unknown | the scheduler's breaker, by its alert |
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from ipaddress import ip_address
from typing import Any, cast

import orjson

from libs.common.spec import AppSpec, Strategy
from libs.common.store.base import Write
from services.executor.model import LABEL_APP, LABEL_ATTEMPT, LABEL_INSTANCE
from services.ipam.model import IpamConfig
from tests.fakes.docker import FakeContainer
from tests.fakes.network import HOST_INODE
from tests.simulation.cloud import SETTINGS, ZONES, Cloud
from tests.simulation.host import Host
from tests.simulation.readiness import Readiness
from tests.simulation.workload import SECRET_VARIABLE, SECRETS

ENDED_DEPLOYMENT = frozenset(
    {"succeeded", "failed", "rolled_back", "aborted", "superseded", "refused"}
)


GIVEN_UP = (b"unreachable", b"was not adopted in time")
"""The scheduler goes on although a container may still run, on a host that nobody can reach."""

LATELY_S = 60.0
"""By then the scheduler has been asked for whatever is wanted more, if anybody heard of it."""

MAX_STEPS = 500_000
"""Some four times what half an hour takes."""

_BEFORE_END = frozenset({"staged", "starting", "running", "unreachable"})
_UNSAVED: Mapping[str, frozenset[str]] = {
    "TASK_STAGING": frozenset(),
    "TASK_STARTING": frozenset({"staged"}),
    "TASK_RUNNING": frozenset({"staged", "starting"}),
    "TASK_UNREACHABLE": frozenset({"staged", "starting", "running"}),
}
"""What an instance must not be saved as when such an update of its current attempt is acknowledged."""

RANGES = {each.name: each.cidr for each in cast(IpamConfig, SETTINGS["ipam"]).networks if each.cidr}


class Invariants:
    """Checks of one cloud. `after_step` is cheap when nothing has changed."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self._faults, self._loop, self._failed = cloud.faults, cloud.loop, cloud.failed
        self.checks = 0
        self.placements = 0  # with rules that were looked at
        self.evictions = 0
        self.given_up: set[str] = set()  # attempts that the scheduler no longer counts on
        self.recovering = False  # the store has gone back, and knows less than hosts do
        self._generations: dict[str, int] = {}
        self._ended: set[str] = set()
        self._lost: dict[str, int] = {}  # tries of runs that were given up
        self._yielding: dict[str, str] = {}
        self._wanted: dict[str, list[tuple[float, int]]] = defaultdict(list)  # since when, by app
        self._born: set[str] = set()  # instances whose birth was decided
        self._doomed: set[str] = set()  # and those whose end was
        self.readiness = Readiness(cloud, self.fail)
        self.closed: set[str] = set()  # hosts on which nothing new may be placed
        cloud.on_write.append(self.on_write)
        cloud.mesos.on_acknowledge = self.acknowledged

    def after_step(self) -> None:
        """All that can be told from the state of the world."""
        if self._faults.dirty:
            self._faults.dirty = False
            self.checks += 1
            self._networks()
            self._containers()
        if self._loop.steps > MAX_STEPS:
            self.fail(f"something spins: {MAX_STEPS} steps")
        if self._failed:
            self.cloud.check()

    def store_went_back(self) -> None:
        """What was learned of documents does not count any more, until `recovering` is over."""
        self.recovering = True
        self._generations.clear()
        self._ended.clear()
        self._born.clear()
        self._doomed.clear()
        self.readiness.store_went_back()

    def fail(self, what: str) -> None:
        """An invariant is violated."""
        self.cloud.bug(what)

    # -- networks

    def _networks(self) -> None:
        seen: dict[tuple[int, str], str] = {}
        owners = self.cloud.store.stored("ipam_addresses")
        for host in self.cloud.hosts:
            kernel = host.kernel
            attachments, namespaces = kernel.attachments, kernel.namespaces
            for namespace, wire in kernel.wires.items():
                attachment = attachments.get(namespace)
                if attachment is None or attachment.address is None:
                    continue  # being taken down after its document went, or not ours
                if wire.link in kernel.down:
                    continue  # parked, or on its way there or back: nothing passes
                address = attachment.address
                where = (address.vlan, address.ip)
                if where in seen:
                    self.fail(f"{address.ip} is wired to {seen[where]} and {attachment.container}")
                seen[where] = attachment.container
                if namespace in namespaces:
                    stored = owners.get(f"{attachment.spec.network}/{address.ip}")
                    owner = stored.body.get("attachment", "") if stored else ""
                    if owner != attachment.ipam_key and not self.recovering:
                        self.fail(
                            f"{address.ip} is wired to {attachment.ipam_key} on {host.name},"
                            f" but ipam says {owner or 'free'}"
                        )
                assert wire.namespace == namespace

    # -- containers

    def _containers(self) -> None:
        running: dict[str, list[FakeContainer]] = defaultdict(list)
        for host in self.cloud.hosts:
            wires = host.kernel.wires
            inodes = {inode: name for name, inode in host.kernel.namespaces.items()}
            for each in host.docker.containers.values():
                if each.running:
                    running[each.spec.labels[LABEL_INSTANCE]].append(each)
                    if inodes.get(each.netns_inode) not in wires:
                        self._outside(host, each, inodes.get(each.netns_inode))
                    secret = SECRETS.get(each.spec.labels[LABEL_APP])
                    if each.spec.env.get(SECRET_VARIABLE) != secret:
                        self.fail(f"{each.name} runs without its secret, or with another's")
        for instance, found in running.items():
            if len(found) > 1:
                self._only_one(instance, sorted(found, key=_generation))

    def _outside(self, host: Host, each: FakeContainer, namespace: str | None) -> None:
        if each.netns_inode == HOST_INODE:
            self.fail(f"{each.name} runs in the host's namespace")
        elif namespace is None:
            self.fail(f"{each.name} on {host.name} runs, but its namespace is gone")
        else:
            self.fail(f"{each.name} on {host.name} runs, but its network is not up")

    def _only_one(self, instance: str, found: list[FakeContainer]) -> None:
        for older in found[:-1]:
            attempt = older.spec.labels[LABEL_ATTEMPT]
            if attempt not in self.given_up:
                names = [each.name for each in found]
                self.fail(
                    f"{instance} runs {len(found)} times: {names}; {attempt} was not given up"
                )

    # -- writes

    def on_write(self, collection: str, write: Write) -> None:
        """One write took effect."""
        body = write.body
        if any(secret in f"{body} {write.events}" for secret in SECRETS.values()):
            self.fail(f"a secret is written in clear into {collection} {write.id}")
        match collection:
            case "ipam_addresses":
                self._grows(f"address {write.id}", int(body["generation"]))
                if ip_address(body["address"]) not in RANGES[body["network"]]:
                    self.fail(f"{write.id} is not of its network")
            case "scheduler_instances":
                self._scheduled(write)
            case "deployer_instances":
                self._grows(f"instance {write.id} at the deployer", int(body["generation"]))
                self._stays(f"instance {write.id} at the deployer", body["state"] == "gone")
                self._grows(f"what the deployer has seen of {write.id}", int(body["seen"]) + 1)
                self.readiness.wrote(write.id, body)
            case "deployer_deployments":
                self._deployment(write.id, body)
            case "deployer_apps":
                self._app(write.id, body)
            case "monitor_alerts":
                breaker = write.id.startswith("scheduler-breaker-open")
                if breaker and body["firing"] and not self.recovering:
                    self.fail("the scheduler's breaker is open: tasks nobody knows")

    def _scheduled(self, write: Write) -> None:
        instance, body = write.id, write.body
        fresh = int(body["generation"]) != self._generations.get(f"instance {instance}", 0)
        self._grows(f"instance {instance}", int(body["generation"]))
        self._stays(f"instance {instance}", body["state"] == "ended")
        told = body.get("attributes")
        learning = self.recovering or body.get("returned")  # its host is yet to offer something
        if body["state"] in _BEFORE_END and not (told is None and learning):
            zone = ZONES[body["hostname"]]
            if told != {"zone": zone}:
                self.fail(f"{instance} is in zone {zone}, but {told} is saved of its host")
        if fresh and body["state"] == "staged" and body["container"] and not body["adopt"]:
            if body["hostname"] in self.closed and not body.get("cleanup"):
                self.fail(f"{instance} is placed on {body['hostname']}, which is closed")
            self._placed(instance, body)
        yields_to = body.get("yields_to", "")
        if yields_to and self._yielding.get(instance) != yields_to:
            self._made_room(instance, body)
        self._yielding[instance] = yields_to
        lost = int((body.get("run") or {}).get("lost", 0))
        if lost > self._lost.get(instance, 0):  # a job's run, of which nobody knows how far it came
            self._lost[instance] = lost
            self.given_up.update(f"{instance}.{n}" for n in range(1, int(body["generation"]) + 1))
        if body.get("returned"):  # its replacement is killed, but may not know it yet
            self.given_up.update(f"{instance}.{n}" for n in range(1, int(body["generation"]) + 1))
        for event in write.events:
            if event.topic == "container.exited" and any(each in event.value for each in GIVEN_UP):
                # Its container may have been taken over from an earlier attempt, whose name it has.
                generation = int(orjson.loads(event.value)["attempt"].rpartition(".")[2])
                self.given_up.update(f"{instance}.{n}" for n in range(1, generation + 1))

    def _placed(self, instance: str, body: Mapping[str, Any]) -> None:
        """Where others of its app are, when it is placed; what is adopted, or comes back, is where it is."""
        rules = body["spec"]["constraints"]
        limits = [int(each["value"] or 1) for each in rules if _by_host(each)]
        if not limits or self.recovering:
            return
        self.placements += 1
        others = [
            name
            for name, each in self.cloud.store.bodies("scheduler_instances").items()
            if name != instance
            and each["app"] == body["app"]
            and each["hostname"] == body["hostname"]
            and each["state"] in _BEFORE_END
            and not each["stop"]
        ]
        if len(others) + 1 > min(limits):
            self.fail(f"{instance} is placed on {body['hostname']} beside {others}: {rules}")

    def _made_room(self, instance: str, body: Mapping[str, Any]) -> None:
        """Enough of its app stay, by how many have been wanted lately: the scheduler hears of more a little later."""
        if self.recovering:
            return
        self.evictions += 1
        app = self.cloud.store.body("deployer_apps", body["app"])
        now, wishes = self._loop.time(), self._wanted[body["app"]]
        lately = [n for n, (since, _) in enumerate(wishes) if since <= now - LATELY_S]
        wanted = min(count for _, count in wishes[lately[-1] if lately else 0 :])
        assert app is not None
        least = wanted - AppSpec.model_validate(app["spec"]).budget(wanted)
        stay = [
            name
            for name, each in self.cloud.store.bodies("scheduler_instances").items()
            if each["app"] == body["app"] and name != instance and _stays(each)
        ]
        if len(stay) < least:
            self.fail(f"{instance} makes room, and only {stay} of {wanted} of {body['app']} stay")

    def acknowledged(self, task: str, state: str) -> None:
        """The scheduler has acknowledged an update: Mesos will not tell it again."""
        instance, _, generation = task.rpartition(".")
        body = self.cloud.store.body("scheduler_instances", instance)
        if body is None or int(body.get("returned") or body["generation"]) != int(generation):
            return
        if body["state"] in _UNSAVED.get(state, _BEFORE_END):
            self.fail(f"{state} of {task} is acknowledged, but it is saved as {body['state']}")

    def _deployment(self, deployment: str, body: Mapping[str, Any]) -> None:
        ended = body["state"] in ENDED_DEPLOYMENT
        self._stays(f"deployment {deployment}", ended)
        if ended and body["state"] != "succeeded" and not body["reason"]:
            self.fail(f"deployment {deployment} is {body['state']} without a reason")

    def _app(self, app: str, body: Mapping[str, Any]) -> None:
        """Births are decided only up to what the strategy allows beyond the wanted number."""
        deployment = body["deployment"]
        goals = [deployment[each]["wanted"] for each in ("goal", "before")] if deployment else []
        wanted = min(map(int, (body["wanted"], *goals)))
        self._wanted[app].append((self._loop.time(), wanted))
        deaths = {each["id"]: each["reason"] for each in body["intents"]["deaths"]}
        fresh = {name: reason for name, reason in deaths.items() if name not in self._doomed}
        if fresh:
            self._doomed |= fresh.keys()
            self._spared(app, body, fresh, deaths)
            self.readiness.stopped(app, body, fresh, self._doomed)
        made = {each["id"] for each in body["intents"]["births"]} - self._born
        if not made:
            return
        self._born |= made
        # Between deployments and in a pause the wanted number is kept up, whatever is still stopping.
        rolling = deployment is not None and deployment["state"] != "paused"
        existing = [
            each
            for name, each in self.cloud.store.bodies("deployer_instances").items()
            if each["app"] == app and name not in made and _counts(each, rolling)
        ]
        allowed = int(body["wanted"])
        if any(each["leaving"] for each in existing):  # a replacement may be there first
            allowed += Strategy.model_validate(body["spec"]["strategy"]).surge(allowed)
        if deployment is not None:
            goal = int(deployment["goal"]["wanted"])
            strategy = Strategy.model_validate(deployment["strategy"])
            allowed = max(goal + strategy.surge(goal), int(deployment["before"]["wanted"]))
        if len(existing) + len(made) > allowed:
            self.fail(
                f"{app}: {len(made)} instances are made beside {len(existing)}; {allowed} allowed"
            )

    def _spared(
        self,
        app: str,
        body: Mapping[str, Any],
        fresh: Mapping[str, str],
        deaths: Collection[str],
    ) -> None:
        """Whoever is to go for a drain, enough of the app are left; unless a deadline has passed."""
        reasons = [each for each in fresh.values() if " is drained" in each]
        if not reasons or any("deadline has passed" in each for each in reasons):
            return
        spec, wanted = AppSpec.model_validate(body["spec"]), int(body["wanted"])
        least = wanted - max(spec.strategy.unavailable(wanted), spec.budget(wanted))
        left = [
            name
            for name, each in self.cloud.store.bodies("deployer_instances").items()
            if each["app"] == app and _counts(each, False) and name not in deaths
        ]
        if len(left) < least:
            self.fail(
                f"{app}: {sorted(fresh)} are to go for a drain; {left} is too few of {wanted}"
            )

    def _grows(self, what: str, generation: int) -> None:
        if generation < self._generations.get(what, 0):
            self.fail(f"{what} goes back to generation {generation}")
        self._generations[what] = generation

    def _stays(self, what: str, ended: bool) -> None:
        if ended:
            self._ended.add(what)
        elif what in self._ended:
            self.fail(f"{what} had ended and goes on")


def _stays(instance: Mapping[str, Any]) -> bool:
    well = instance["state"] == "running" and instance["healthy"]
    return well and not any(instance.get(each) for each in ("stop", "yields_to", "leaving"))


def _by_host(rule: Mapping[str, Any]) -> bool:
    return rule["attribute"] == "hostname" and rule["operator"] in ("MAX_PER", "UNIQUE")


def _generation(container: FakeContainer) -> int:
    return int(container.spec.labels[LABEL_ATTEMPT].rpartition(".")[2])


def _counts(instance: Mapping[str, Any], rolling: bool) -> bool:
    if instance["state"] == "gone":
        return False
    if instance["wanted"] == "run":
        return True
    return rolling and instance["state"] != "lost"
