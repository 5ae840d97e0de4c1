"""What can go wrong, how often, and how often it did. Everything is drawn from the seed.

A *point* is a place in the world where a fault may strike. `Rates` are chances a draw; `Chaos` (chaos.py) brings about
what does not belong to a single call, such as the loss of a host.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from enum import StrEnum

from libs.common.bus.faults import BusFaults, BusPoint
from libs.common.store.faults import StoreFaults, StorePoint
from tests.simulation.life import Life
from tests.simulation.trace import Trace


class Point(StrEnum):
    """Every fault that the simulation knows; a test asserts that each was hit."""

    __hash__ = str.__hash__  # Enum's own is Python, and a draw looks its rate up

    STORE_DELAY = "store: a call is slow"
    STORE_FAILS = "store: a call fails"
    STORE_REPLY_LOST = "store: done, but the answer is lost"
    STORE_BATCH_CUT = "store: a batch is cut"
    STORE_AWAY = "store: away for a while"
    BUS_DELAY = "bus: a publish is slow"
    BUS_PUBLISH_FAILS = "bus: a publish fails"
    BUS_PUBLISH_CUT = "bus: a publish is cut"
    BUS_REPLY_LOST = "bus: published, but the answer is lost (events doubled)"
    BUS_OFFSET_GAP = "bus: a gap in the offsets"
    BUS_RETENTION = "bus: events lost to retention"
    BUS_REORDERED = "bus: a partition is held back (events late and out of order)"
    BUS_FETCH_FAILS = "bus: a fetch fails"
    BUS_REDELIVERED = "bus: events delivered again"
    BUS_REBALANCE = "bus: a rebalance in the middle of a handler"
    BUS_COMMIT_FAILS = "bus: a commit fails"
    BUS_COMMIT_LOST = "bus: committed, but the answer is lost"
    BUS_AWAY = "bus: away for a while"
    BUS_AWAY_LONG = "bus: away for minutes, and somebody breaks the glass"
    HTTP_DELAY = "http: a request is slow"
    HTTP_REQUEST_LOST = "http: a request is lost"
    HTTP_RESPONSE_LOST = "http: done, but the response is lost"
    HTTP_PARTITION = "http: a host or service is cut off"
    MESOS_REQUEST_LOST = "mesos: a call is lost"
    MESOS_RESPONSE_LOST = "mesos: done, but the response is lost"
    MESOS_STREAM_SLOW = "mesos: events are late"
    MESOS_STREAM_CUT = "mesos: a stream is cut"
    MESOS_UPDATE_LOST = "mesos: a status update is lost on its way"
    MESOS_UPDATE_DOUBLED = "mesos: a status update arrives twice"
    MASTER_CRASH = "mesos: the master dies and comes back"
    MASTER_FAILOVER = "mesos: the leading master dies and the standby takes over"
    AGENT_CRASH = "mesos: an agent dies and comes back"
    AGENT_PARTITION_SHORT = "mesos: an agent is cut off for a moment"
    AGENT_PARTITION_LONG = "mesos: an agent is unreachable and comes back"
    DRAIN = "a host is drained or cordoned, and opened again"
    CRASH_BEFORE_WRITE = "crash before a write"
    CRASH_AFTER_WRITE = "crash after a write"
    CRASH = "a service is killed"
    LEADER_PAUSED = "a leader is paused, replaced, and goes on"
    MONITOR_PAUSED = "the leading monitor is paused, replaced, and goes on"
    CLOCK_SKEW = "a service goes by a wrong clock"
    HOST_CLOCK_SKEW = "hostd or an executor goes by its host's wrong clock"
    WORKER_KILLED = "executor: the worker is killed"
    SUPERVISOR_KILLED = "executor: the supervisor is killed"
    JOURNAL_CRASH_BEFORE = "executor: killed before a line of its journal"
    JOURNAL_CRASH_AFTER = "executor: killed after a line of its journal"
    EXECUTOR_GONE = "executor: it dies, and none can be started on its host for long"
    HOSTD_KILLED = "hostd is killed"
    HOSTD_CRASH_BEFORE = "hostd is killed before a write of its state"
    HOSTD_CRASH_AFTER = "hostd is killed after a write of its state"
    HOSTD_DISK = "hostd: its disk or kernel fails before or after a step"
    SWITCH_RESTART = "the switch is restarted"
    DOCKER_AWAY = "docker: away for a while"
    DOCKER_FAILS = "docker: a call fails, before or after the deed"
    CONTAINER_DIES = "a container dies by itself"
    RUN_DIES = "a job's run dies by itself in a shared container"
    RUN_HANGS = "a job's run does not end by itself"
    INIT_CUT = "executor: the connections to inits of shared containers are cut"
    MANUAL_START = "somebody starts a stopped container by hand"
    STALE_RELEASE = "a release of an older generation arrives late"
    REGISTRY_FAILS = "the image registry fails"
    BALANCER_FAILS = "the load balancer fails, before or after the deed"
    SMTP_FAILS = "mail fails"


RATES: Mapping[Point, float] = {
    Point.STORE_DELAY: 0.05,
    Point.STORE_FAILS: 0.001,
    Point.STORE_REPLY_LOST: 0.003,
    Point.STORE_BATCH_CUT: 0.002,
    Point.BUS_DELAY: 0.05,
    Point.BUS_PUBLISH_FAILS: 0.01,
    Point.BUS_PUBLISH_CUT: 0.01,
    Point.BUS_REPLY_LOST: 0.02,
    Point.BUS_OFFSET_GAP: 0.05,
    Point.BUS_RETENTION: 0.003,
    Point.BUS_REORDERED: 0.1,
    Point.BUS_FETCH_FAILS: 0.0005,
    Point.BUS_REDELIVERED: 0.001,
    Point.BUS_REBALANCE: 0.003,
    Point.BUS_COMMIT_FAILS: 0.005,
    Point.BUS_COMMIT_LOST: 0.005,
    Point.HTTP_DELAY: 0.1,
    Point.HTTP_REQUEST_LOST: 0.01,
    Point.HTTP_RESPONSE_LOST: 0.015,
    Point.MESOS_REQUEST_LOST: 0.005,
    Point.MESOS_RESPONSE_LOST: 0.005,
    Point.MESOS_STREAM_SLOW: 0.05,
    Point.MESOS_STREAM_CUT: 0.001,
    Point.MESOS_UPDATE_LOST: 0.02,
    Point.MESOS_UPDATE_DOUBLED: 0.02,
    Point.CRASH_BEFORE_WRITE: 0.002,
    Point.CRASH_AFTER_WRITE: 0.002,
    Point.JOURNAL_CRASH_BEFORE: 0.0005,
    Point.JOURNAL_CRASH_AFTER: 0.0005,
    Point.HOSTD_CRASH_BEFORE: 0.002,
    Point.HOSTD_CRASH_AFTER: 0.002,
    Point.HOSTD_DISK: 0.003,
    Point.DOCKER_FAILS: 0.005,
    Point.REGISTRY_FAILS: 0.1,
    Point.BALANCER_FAILS: 0.03,
    Point.SMTP_FAILS: 0.1,
}


class Faults:
    """Draws whether a fault strikes, and counts those that did. None does while `on` is false."""

    def __init__(self, rng: random.Random, trace: Trace) -> None:
        self.rng = rng
        self.on = False
        self.dirty = True  # something happened that the invariants look at
        self.rates: Mapping[Point, float] = RATES
        self.hits: Counter[Point] = Counter()
        self.away: Counter[str] = Counter()  # "store", "bus", "docker:<host>": how many reasons
        self._random = rng.random
        self._trace = trace

    def strike(self, point: Point) -> bool:
        """Does it strike now."""
        if not self.on or self._random() >= self.rates[point]:
            return False
        self.hit(point)
        return True

    def hit(self, point: Point, about: str = "") -> None:
        """It struck."""
        self.hits[point] += 1
        self._trace.add("fault", f"{point}{' ' if about else ''}{about}")

    def delay_s(self, point: Point, mean_s: float) -> float:
        """How much longer something takes; mostly 0."""
        return self.rng.expovariate(1 / mean_s) if self.strike(point) else 0.0


class StoreHandleFaults(StoreFaults):
    """The faults of one process' handle on the store: its own death and pauses, and those of the store."""

    def __init__(self, faults: Faults, life: Life) -> None:
        self._faults = faults
        self._life = life

    def draw(self, point: StorePoint, what: str) -> float:
        """See StoreFaults."""
        faults, life = self._faults, self._life
        if point is StorePoint.CALL_DELAY:
            return life.paused_s() or (
                faults.delay_s(Point.STORE_DELAY, 0.02) if faults.on else 0.0
            )
        if point is StorePoint.CALL_FAILS:
            if life.dead or faults.away["store"]:
                return 1
            if not faults.on:
                return 0
            if _writes(what) and faults.strike(Point.CRASH_BEFORE_WRITE):
                life.kill()
                return 1
            return float(faults.strike(Point.STORE_FAILS))
        if not faults.on or not _writes(what):
            return 0
        if point is StorePoint.BATCH_CUT:
            return 1 + faults.rng.randrange(3) if faults.strike(Point.STORE_BATCH_CUT) else 0
        if faults.strike(Point.CRASH_AFTER_WRITE):
            life.kill()
            return 1
        return float(faults.strike(Point.STORE_REPLY_LOST))


_WRITES = ("replace_many", "delete", "mark_sent", "take_lease", "drop_lease", "raise_epoch")


def _writes(what: str) -> bool:
    return what.endswith(_WRITES)


_BUS_POINTS: Mapping[BusPoint, Point] = {
    BusPoint.PUBLISH_FAILS: Point.BUS_PUBLISH_FAILS,
    BusPoint.REPLY_LOST: Point.BUS_REPLY_LOST,
    BusPoint.FETCH_FAILS: Point.BUS_FETCH_FAILS,
    BusPoint.REDELIVER: Point.BUS_REDELIVERED,
    BusPoint.REBALANCE: Point.BUS_REBALANCE,
    BusPoint.COMMIT_FAILS: Point.BUS_COMMIT_FAILS,
    BusPoint.COMMIT_LOST: Point.BUS_COMMIT_LOST,
}
_BUS_CALLS = frozenset({BusPoint.PUBLISH_FAILS, BusPoint.FETCH_FAILS, BusPoint.COMMIT_FAILS})
_KEPT_TOPICS = frozenset({"deploy.requested", "job.requested", "audit.recorded"})
"""Nothing can bring these back, so their retention must outlive every outage; it does here."""


class BusHandleFaults(BusFaults):
    """The faults of one process' handle on the bus."""

    def __init__(self, faults: Faults, life: Life) -> None:
        self._faults = faults
        self._life = life

    def draw(self, point: BusPoint, what: str) -> float:
        """See BusFaults."""
        faults, life = self._faults, self._life
        if point in _BUS_CALLS and (life.dead or faults.away["bus"]):
            return 1
        if point is BusPoint.PUBLISH_DELAY and life.paused_s():
            return life.paused_s()
        if not faults.on:
            return 0
        match point:
            case BusPoint.PUBLISH_DELAY:
                return faults.delay_s(Point.BUS_DELAY, 0.05)
            case BusPoint.FETCH_DELAY:
                return faults.delay_s(Point.BUS_REORDERED, 2.0)
            case BusPoint.PUBLISH_CUT:
                cut = faults.strike(Point.BUS_PUBLISH_CUT)
                return 1 + faults.rng.randrange(3) if cut else 0
            case BusPoint.OFFSET_GAP:
                gap = faults.strike(Point.BUS_OFFSET_GAP)
                return 1 + faults.rng.randrange(3) if gap else 0
            case BusPoint.RETENTION:
                if what in _KEPT_TOPICS or not faults.strike(Point.BUS_RETENTION):
                    return 0
                return 1 + faults.rng.randrange(20)
            case _:
                return float(faults.strike(_BUS_POINTS[point]))
