"""The jobs of a seed: of each language of schedules, each concurrency policy and each way to catch up, some."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import product
from typing import Any, Literal
from zoneinfo import ZoneInfo

from tests.cron.workload import draw
from tests.simulation.loop import CHANGE_S, EPOCH_S

BU = "acme"
REGISTRY = "registry.sim"
END_S = 1800.0
TRIES = 2  # after the first
NEED = {"cpus": 0.1, "mem_mib": 32}  # of each run
ZONES = ("Asia/Kathmandu", "Australia/Lord_Howe", "America/St_Johns", "Europe/Berlin")
FORWARD, BACK = "America/Cuiaba", "America/Miquelon"  # at CHANGE_S
POLICIES = ("allow", "forbid", "replace", "queue")

Times = Callable[[float, float], list[float]]
"""All targets of a schedule from one moment to another, ends included."""


@dataclass(frozen=True)
class Timing:
    """When a job is to run: what is put, and what that means by arithmetic that is not the scheduler's.

    `times` None: its start is the moment at which it is taken, so the stored text has to be asked.
    """

    text: str | None = None
    zone: str = "UTC"
    times: Times | None = None
    epsilon_s: float = 25.0


@dataclass(frozen=True)
class Image:
    """Containers of a job's image end by themselves: after so long, so often with exit code 1; and so often never."""

    least_s: float
    most_s: float
    failing: float = 0.0
    hanging: float = 0.0


@dataclass
class Plan:
    """One job, and what will be done to it."""

    name: str
    timing: Timing
    image: Image
    spec: dict[str, Any]
    put_at: float = 20.0  # seconds of the simulation
    mishap: Literal["", "delete", "pause", "put"] = ""
    mishap_at: float = 0.0
    later: Timing | None = None  # its schedule after a second put
    runs_now: int = 0  # so often, somebody asks for a run
    rests_at: float = 1690.0  # from then on it starts nothing more
    refused: bool = False  # it names an image that does not exist

    @property
    def job(self) -> str:
        """`bu/name`."""
        return f"{BU}/{self.name}"

    @property
    def may_overlap(self) -> bool:
        """May two of its runs be under way."""
        return bool(self.spec["concurrency"] == "allow")

    @property
    def parents(self) -> tuple[str, ...]:
        """Names of the jobs it runs after."""
        return tuple(self.spec.get("parents", ()))

    @property
    def image_tag(self) -> str:
        """What its spec names."""
        return f"{REGISTRY}/job-{self.name}:1"

    def body(self, timing: Timing | None = None) -> dict[str, Any]:
        """What is put."""
        timing = timing or self.timing
        body = {"image": self.image_tag, **self.spec}
        if timing.text is not None:
            body |= {"schedule": timing.text, "time_zone": timing.zone}
        return body

    @property
    def longest_run_s(self) -> float:
        """How long a run takes that is tried as often as it may be."""
        delay_s = float(self.spec["retry"]["delay_s"])
        longest_s = max(self.image.most_s, float(self.spec.get("timeout_s", 0.0)) + 6.0)
        return (TRIES + 1) * (longest_s + delay_s + 4.0)

    @property
    def epsilon_s(self) -> float:
        """How late a run may start when nothing is broken, without regard to clocks that differ."""
        wait_s = 10.0 if self.spec["concurrency"] == "replace" else 0.0  # the one before has to end
        return self.timing.epsilon_s + wait_s


def plans(seed: int) -> list[Plan]:
    """The jobs of a seed: a small graph, one that is only run by hand, and some with schedules."""
    rng = random.Random(f"{seed}:jobs")
    made = [*_graph(rng), _by_hand(rng), *_scheduled(rng)]
    if rng.random() < 0.3:
        made.append(_no_image(rng))
    return made


def _spec(rng: random.Random, concurrency: str, **more: Any) -> dict[str, Any]:
    network = rng.choice(["web", "work"])
    spec: dict[str, Any] = {
        "network": network,
        "environment": "lab" if network == "work" else "",
        "resources": dict(NEED),
        "concurrency": concurrency,
        "retry": {"limit": TRIES, "delay_s": float(rng.randint(2, 5))},
        "catch_up": rng.choice([{"policy": "none"}, {"policy": "latest"}]),
        "stop_grace_s": 2.0,
        "reuse": rng.choice(["shared", "shared", "never"]),
        **more,
    }
    if rng.random() < 0.3:
        spec["catch_up"] = {"policy": "all", "limit": rng.randint(2, 3)}
    if concurrency == "queue":
        spec["queue_limit"] = rng.randint(1, 2)
    return spec


# -- schedules -----------------------------------------------------------------------------------------


def _interval(rng: random.Random, least_s: int = 0) -> tuple[Timing, float]:
    """As the generator of the analysis draws one; and how long its runs take."""
    drawn = draw(rng, "", EPOCH_S + rng.randint(10, 60))
    more = max(0, least_s - drawn.interval_s)
    targets = [round(drawn.start + k * (drawn.interval_s + more), 3) for k in range(drawn.count)]
    text = drawn.schedule.replace(f"PT{drawn.interval_s}S", f"PT{drawn.interval_s + more}S")
    times = _of_list(targets)
    return Timing(text, times=times, epsilon_s=drawn.epsilon_s), drawn.duration_s


def _of_list(targets: list[float]) -> Times:
    def times(after: float, until: float) -> list[float]:
        return [each for each in targets if after <= each <= until]

    return times


def _every(rng: random.Random) -> Timing:
    each_s = rng.randint(40, 120)
    if rng.random() < 0.5:
        return Timing(f"@every {each_s}s")
    return Timing(f"R{rng.randint(3, 60)}//PT{each_s}S")


def _cron(rng: random.Random) -> Timing:
    second, step = rng.randrange(60), rng.randint(1, 3)

    def times(after: float, until: float) -> list[float]:
        minutes = range(int(after // 60), int(until // 60) + 1)
        found = [60.0 * minute + second for minute in minutes if minute % step == 0]
        return [each for each in found if after <= each <= until]

    return Timing(f"{second} */{step} * * * *", times=times)


def _zoned(rng: random.Random) -> Timing:
    """Some minutes of an hour of the wall clock, where that is not UTC's."""
    zone, second = rng.choice(ZONES), rng.randrange(60)
    minutes = sorted(rng.sample(range(60), 14))

    def times(after: float, until: float) -> list[float]:
        found = []
        for minute in range(int(after // 60), int(until // 60) + 1):
            shown = datetime.fromtimestamp(60.0 * minute, ZoneInfo(zone))
            if shown.minute in minutes:
                found.append(60.0 * minute + second)
        return [each for each in found if after <= each <= until]

    return Timing(f"{second} {','.join(map(str, minutes))} * * * *", zone, times)


def changing(rng: random.Random) -> Timing:
    """Times of a wall clock that is changed while things go wrong: named ones, each minute of some hours, or daily."""
    zone, second = rng.choice([FORWARD, BACK]), rng.randrange(60)
    match rng.choice(["fixed", "fixed", "every", "daily"]):
        case "fixed":
            minutes = sorted({rng.randrange(48, 60), *rng.sample(range(60), 14)})
            # `*` would follow the time that passes.
            hours = rng.choice(["23,0-2", "0,1,2,23"])
            times = on_the_wall(zone, (0, 1, 2, 23), minutes, second)
            return Timing(f"{second} {','.join(map(str, minutes))} {hours} * * *", zone, times)
        case "every":
            step = rng.randint(2, 4)
            times = on_the_wall(zone, (1, 23), range(0, 60, step), second, every=True)
            return Timing(f"{second} */{step} 1,23 * * *", zone, times)
        case _:
            hour = 0 if zone == FORWARD else 1
            minute = rng.randrange(60) if zone == FORWARD else rng.randrange(51, 60)
            times = on_the_wall(zone, (hour,), (minute,), second)
            return Timing(f"R/2018-11-01T{hour:02}:{minute:02}:{second:02}/P1D", zone, times)


def on_the_wall(
    zone: str,
    hours: Collection[int],
    minutes: Collection[int],
    second: int,
    *,
    every: bool = False,
) -> Times:
    """When a clock shows these times, around CHANGE_S. `every`: whenever it does; else each once, when it does first,
    and those that it leaves out when it is changed: the rules of docs/cron.md, said by `datetime`."""
    here = ZoneInfo(zone)

    def is_left_out(hour: int, minute: int) -> bool:
        wanted = datetime(2018, 11, 4, hour, minute, second, tzinfo=here)
        shown = wanted.astimezone(UTC).astimezone(here)
        return (shown.hour, shown.minute) != (hour, minute)

    def times(after: float, until: float) -> list[float]:
        found = set()
        for at in range(int(after // 60) * 60 + second, int(until) + 1, 60):
            shown = datetime.fromtimestamp(at, here)
            if shown.hour in hours and shown.minute in minutes and (every or not shown.fold):
                found.add(float(at))
        if not every and any(is_left_out(*each) for each in product(hours, minutes)):
            found.add(CHANGE_S)
        return sorted(each for each in found if after <= each <= until)

    return times


# -- jobs ----------------------------------------------------------------------------------------------


def _graph(rng: random.Random) -> list[Plan]:
    """One with a schedule, two that run after it, and sometimes one that runs after both of these."""
    timing, _ = _interval(rng, 90)
    root = Plan(
        "root",
        timing,
        Image(0.5, 5.0, rng.choice([0.0, 0.2])),
        _spec(rng, rng.choice(["forbid", "queue"])),
        put_at=rng.uniform(12, 20),
        rests_at=1600.0,
    )
    made = [root]
    wishes = [("left", ("root",)), ("right", ("root",)), ("tip", ("left", "right"))]
    for name, parents in wishes[: rng.choice([1, 3])]:
        spec = _spec(rng, "forbid", parents=parents, soft_errors=rng.random() < 0.3)
        image = Image(0.5, 4.0, rng.choice([0.0, 0.25]))
        made.append(Plan(name, Timing(), image, spec, put_at=made[-1].put_at + 8.0))
    return made


def _by_hand(rng: random.Random) -> Plan:
    image = Image(1.0, 15.0, rng.choice([0.0, 0.2]))
    spec = _spec(rng, rng.choice(POLICIES))
    return Plan("asked", Timing(), image, spec, rng.uniform(15, 60), runs_now=rng.randint(3, 8))


def _scheduled(rng: random.Random) -> list[Plan]:
    """Three to five, of which one is by a clock that is changed; to three of them something happens in between."""
    timing, duration_s = _interval(rng)
    spec = _spec(rng, "forbid")
    if rng.random() < 0.5:
        spec["start_deadline_s"] = timing.epsilon_s
    image = Image(0.3, max(1.0, duration_s), rng.choice([0.0, 0.1]))
    made = [Plan("jepsen", timing, image, spec, rng.uniform(12, 40))]
    others = {"every": _every, "cron": _cron, "zoned": _zoned, "changing": changing}
    for name in ["changing", *rng.sample(["cron", "every", "zoned"], rng.randint(1, 3))]:
        image = Image(0.5, rng.choice([5.0, 25.0, 70.0]), rng.choice([0.0, 0.2]))
        spec = _spec(rng, rng.choice(POLICIES))
        if rng.random() < 0.4:
            image = Image(0.5, 5.0, hanging=0.2)
            spec["timeout_s"] = float(rng.randint(8, 20))
        if rng.random() < 0.2:
            spec["start_deadline_s"] = 60.0
        timing = others[name](rng)
        made.append(Plan(name, timing, image, spec, rng.uniform(15, 200)))
    mishaps: list[Literal["delete", "pause", "put"]] = ["delete", "pause", "put"]
    for plan, mishap in zip(rng.sample(made, len(made)), mishaps, strict=False):
        plan.mishap, plan.mishap_at = mishap, rng.uniform(300, 1500)
        if mishap == "put":
            plan.later = rng.choice([_every, _cron])(rng)
    for plan in made:
        if not plan.mishap or rng.random() < 0.2:
            plan.runs_now = rng.choice([0, 2])
    return made


def _no_image(rng: random.Random) -> Plan:
    return Plan("none", _cron(rng), Image(1, 1), _spec(rng, "forbid"), 30.0, refused=True)
