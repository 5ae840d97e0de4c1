"""Who asks for jobs: with a key of their business unit, each request repeated until it is known what came of it."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.fakes.docker import FakeImage
from tests.simulation.cloud import Cloud, SimulationFailed
from tests.simulation.faults import Point
from tests.simulation.jobs.drawing import BU, Plan, Timing, plans
from tests.simulation.loop import EPOCH_S
from tests.simulation.promises import Acked
from tests.simulation.workload import User

LOOK_S = 2.0
HANGS_S = 100_000.0
PATIENCE_S = 900.0
"""A request that is accepted is handled when the bus and the scheduler are well again, which takes no longer."""


@dataclass
class Word:
    """Something that was asked of a job, and what came of it. True times, Unix seconds."""

    action: str
    asked: float
    answered: float
    done: bool
    problem: str = ""
    run: str = ""


@dataclass
class Kept:
    """A job and all that was asked of it, in order."""

    plan: Plan
    words: list[Word] = field(default_factory=list)
    timings: list[Timing] = field(default_factory=list)  # of each put that was done

    def done(self, action: str) -> list[Word]:
        """What was asked and done."""
        return [each for each in self.words if each.action == action and each.done]


def stock(cloud: Cloud, made: list[Plan]) -> None:
    """Put the jobs' images into the registry and onto the hosts."""
    for plan in made:
        if plan.refused:
            continue
        digest = "sha256:" + hashlib.sha256(plan.image_tag.encode()).hexdigest()
        cloud.registry.digests[plan.image_tag] = digest
        rng = random.Random(f"{cloud.seed}:lives:{plan.name}")
        ends_on_term_s = rng.choice([0.0, 0.5, None])
        name = plan.image_tag.rpartition(":")[0]
        cloud.images[f"{name}@{digest}"] = FakeImage(
            ends_on_term_s=ends_on_term_s, lives=_lives(cloud, rng, plan)
        )


def _lives(cloud: Cloud, rng: random.Random, plan: Plan) -> Callable[[], tuple[float, int]]:
    image = plan.image

    def drawn() -> tuple[float, int]:
        if image.hanging and rng.random() < image.hanging:
            cloud.faults.hit(Point.RUN_HANGS, plan.job)
            return HANGS_S, 0
        return rng.uniform(image.least_s, image.most_s), int(rng.random() < image.failing)

    return drawn


class JobUser(User):
    """Looks after all jobs of a seed, side by side."""

    def __init__(self, cloud: Cloud) -> None:
        super().__init__(cloud, "jobs", Acked())
        self.kept = [Kept(plan) for plan in plans(cloud.seed)]
        stock(cloud, [each.plan for each in self.kept])
        self.may_overlap = {each.plan.job: each.plan.may_overlap for each in self.kept}

    def now(self) -> float:
        """The true time."""
        return EPOCH_S + self.cloud.loop.time()

    async def all(self) -> None:
        """All that is to be done with the jobs; nothing of them starts any more when it returns."""
        content = {"bu": BU, "role": "deployer", "label": "jobs"}
        made = await self.call("POST", "/v1/keys", content)
        if made.status != 201:
            raise SimulationFailed(f"no key for {BU}: {made.body.decode()}")
        self.key = str(made.json()["key"])
        async with asyncio.TaskGroup() as group:
            for kept in self.kept:
                group.create_task(self._life(kept))
                group.create_task(self._runs_now(kept))

    async def _until(self, at_s: float) -> None:
        await asyncio.sleep(max(0.0, at_s - self.cloud.loop.time()))

    async def _life(self, kept: Kept) -> None:
        plan = kept.plan
        await self._until(plan.put_at)
        for parent in plan.parents:
            await self._is_there(parent)
        await self._put(kept, plan.timing)
        if plan.refused:
            return
        if plan.mishap:
            await self._until(plan.mishap_at)
        match plan.mishap:
            case "put":
                assert plan.later is not None
                await self._put(kept, plan.later)
            case "pause":
                await self.change(kept, "pause")
                await asyncio.sleep(self.rng.uniform(20, 180))
                await self.change(kept, "resume")
            case "delete":
                await self.change(kept, "delete")
                return
            case _:
                pass
        if plan.parents or plan.timing.text is None:
            return
        await self._until(plan.rests_at)
        await self.change(kept, "pause", told="rest")
        await asyncio.sleep(25.0)
        await self.change(kept, "kill_queued")

    async def _is_there(self, name: str) -> None:
        while not any(each.plan.name == name and each.done("put") for each in self.kept):
            await asyncio.sleep(1.0)

    async def _put(self, kept: Kept, timing: Timing) -> None:
        word = await self.change(kept, "put", kept.plan.body(timing))
        if word.done:
            kept.timings.append(timing)
        if word.done == kept.plan.refused:
            raise SimulationFailed(f"a put of {kept.plan.job}: {word}")

    async def _runs_now(self, kept: Kept) -> None:
        await self._until(kept.plan.put_at + 30.0)
        for _ in range(kept.plan.runs_now):
            await asyncio.sleep(self.rng.uniform(20, 300))
            late = self.cloud.loop.time() > 1600.0
            if late or kept.done("delete") or not kept.done("put"):
                continue
            await self.change(kept, "run")

    # -- talking

    async def change(self, kept: Kept, action: str, content: Any = None, told: str = "") -> Word:
        """Ask for it until it is known what came of it; what was answered is said the same again when repeated."""
        job = f"/v1/jobs/{kept.plan.job}"
        ways = {
            "put": ("PUT", job),
            "delete": ("DELETE", job),
            "kill_queued": ("POST", f"{job}/kill"),
        }
        method, path = ways.get(action, ("POST", f"{job}/{action}"))
        key, asked = self.ids.uuid(), self.now()
        word = await self._ask(
            method, path, content, key, Word(told or action, asked, asked, False)
        )
        kept.words.append(word)
        if action == "run" and self.rng.random() < 0.5:
            await asyncio.sleep(self.rng.uniform(0, 60))
            again = await self._ask(
                method, path, content, key, Word("again", asked, self.now(), False)
            )
            if (again.done, again.run) != (word.done, word.run):
                raise SimulationFailed(f"{kept.plan.job}: {word}; and when repeated {again}")
        return word

    async def _ask(self, method: str, path: str, content: Any, key: str, word: Word) -> Word:
        response = await self.call(method, path, content, key=key)
        until = self.now() + PATIENCE_S
        told: Mapping[str, Any] = response.json()
        if response.status == 202:
            while told["state"] == "accepted":
                if self.now() > until:
                    raise SimulationFailed(f"{method} {path}: never handled: {told}")
                await asyncio.sleep(LOOK_S)
                told = await self._get(str(told["url"]))
            word.done = told["state"] == "done"
        elif response.status in (200, 404, 409, 422):
            word.done = response.status == 200
        else:
            raise SimulationFailed(f"{method} {path}: {response.status} {told}")
        word.answered = self.now()
        word.run = str(told.get("run", ""))
        word.problem = "" if word.done else str(told.get("problem") or told)
        return word

    async def _get(self, url: str) -> Mapping[str, Any]:
        response = await self.call("GET", url)
        told: Mapping[str, Any] = response.json()
        if response.status != 200:
            raise SimulationFailed(f"{url}: {response.status} {told}")
        return told
