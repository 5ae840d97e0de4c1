"""Room on the host's disk: which images go, when nothing new is started, and that no image goes that is needed."""

from __future__ import annotations

import asyncio

import pytest

from libs.common.errors import Unavailable
from services.executor.config import ExecutorConfig
from services.executor.images import removable, uses
from services.executor.ledger import FileLedger
from services.executor.model import Image
from tests.disks import small_disk
from tests.fakes.docker import FakeImage
from tests.simulation.loop import World, virtual
from tests.unit.executor.world import IMAGE, ExecutorWorld

CONFIG = ExecutorConfig(image_min_age_s=100)


def other(number: int) -> str:
    return f"registry/other-{number}@sha256:{number}"


def room(world: World, *, images: int, **settings: object) -> ExecutorWorld:
    """A disk of a thousand MiB; each image takes a hundred of them, and `images` were pulled here long ago."""
    it = ExecutorWorld(
        world, **{"image_min_age_s": 100, "min_free_mib": 50, "clean_s": 10, **settings}
    )
    it.disk.total_mib, it.disk.image_mib = 1000, 100
    for number in range(images):
        it.docker.images[other(number)] = FakeImage()
        it.ledger.kept[other(number)] = world.clock.now() - 1000 + number
    return it


@virtual
async def test_the_longest_unused_go_until_there_is_room(world: World) -> None:
    it = room(world, images=5)
    it.ledger.kept[other(1)] = 0.0
    it.disk.used_mib = 320  # with six images: 92 %
    async with asyncio.TaskGroup() as group:
        it.start(group)
        it.launch("web.1")
        await it.settle(5)
        assert it.agent.states("web.1") == ["TASK_RUNNING"]
        left = [other(number) for number in (2, 3, 4)]
        assert sorted(it.docker.images) == sorted([IMAGE, *left])
        await it.settle(300)  # 72 %: nothing more has to go
        assert len(it.docker.images) == 4
        await it.crash()


@virtual
async def test_below_the_high_water_mark_nothing_goes(world: World) -> None:
    it = room(world, images=5)
    it.disk.used_mib = 240  # 84 %
    async with asyncio.TaskGroup() as group:
        it.start(group)
        await it.settle(300)
        assert len(it.docker.images) == 6
        await it.crash()


@virtual
async def test_what_others_brought_stays_by_default(world: World) -> None:
    it = room(world, images=2)
    it.docker.images["their-tool:v1"] = FakeImage()
    it.disk.used_mib = 700
    async with asyncio.TaskGroup() as group:
        it.start(group)
        await it.settle(300)
        assert sorted(it.docker.images) == sorted([IMAGE, "their-tool:v1"])
        await it.crash()


@virtual
async def test_all_may_go(world: World) -> None:
    await all_or_nothing(world, "all", 0)


@virtual
async def test_none_may_go(world: World) -> None:
    await all_or_nothing(world, "off", 4)


async def all_or_nothing(world: World, cleanup: str, left: int) -> None:
    it = room(world, images=2, image_cleanup=cleanup)
    it.docker.images["their-tool:v1"] = FakeImage()
    it.disk.used_mib = 790
    async with asyncio.TaskGroup() as group:
        it.start(group)
        await it.settle(50)
        # Nobody knew since when it was of no use: its age counts from when it was first seen.
        assert "their-tool:v1" in it.docker.images
        await it.settle(100)
        assert len(it.docker.images) == left
        await it.crash()


@virtual
async def test_an_image_that_was_just_pulled_is_there_when_the_container_is_created(
    world: World,
) -> None:
    """Pulled, cleaned up, created: the disk is full all the time, and there is no minimum age."""
    it = room(world, images=0, image_min_age_s=0, clean_s=0.1, min_free_mib=0)
    it.docker.registry[other(7)] = FakeImage()
    it.disk.used_mib = 990
    it.docker.latency_s = {"create": 5.0, "pull": 3.0}
    async with asyncio.TaskGroup() as group:
        it.start(group)
        it.launch("web.1", image=other(7))
        await it.settle(30)
        assert it.agent.states("web.1")[-1] == "TASK_RUNNING"
        pulls = [each for each in it.docker.log if each[0] == "pull"]
        assert len(pulls) == 1
        it.kill("web.1")
        await it.settle(30)
        assert other(7) not in it.docker.images  # now nobody needs it
        await it.crash()


@virtual
async def test_an_attempt_that_comes_while_its_image_is_being_removed_pulls_it_again(
    world: World,
) -> None:
    it = room(world, images=3)
    it.docker.registry.update({other(n): FakeImage() for n in range(3)})
    it.disk.used_mib = 500
    it.docker.latency_s = {"remove_image": 2.0}
    async with asyncio.TaskGroup() as group:
        it.start(group)
        await it.settle(1)
        it.launch("web-0.1", image=other(0))  # is being removed
        it.launch("web-1.1", image=other(1))  # would be next
        await it.settle(30)
        for name in ("web-0.1", "web-1.1"):
            assert it.agent.states(name)[-1] == "TASK_RUNNING"
        assert {other(0), other(1)} <= it.docker.images.keys()
        assert ("remove_image", other(1)) not in it.docker.log
        await it.crash()


@virtual
async def test_without_room_nothing_new_is_started_and_what_runs_runs_on(world: World) -> None:
    it = room(world, images=0)
    async with asyncio.TaskGroup() as group:
        it.start(group)
        it.launch("web.1")
        await it.settle()
        it.disk.used_mib = 870  # 30 MiB are left, the image takes 100
        it.launch("more.1")
        await it.settle()
        assert it.agent.states("more.1") == ["TASK_FAILED"]
        report = it.agent.report("more.1")
        assert report.refused == "disk"
        assert "30 MiB (3 %) left" in report.detail
        assert it.agent.states("web.1") == ["TASK_RUNNING"]
        await it.restart(group)  # a worker's restart takes all up
        await it.settle()
        it.kill("web.1")
        await it.settle()
        assert it.agent.states("web.1")[-1] == "TASK_KILLED"
        it.disk.used_mib = 0
        it.launch("more.2")
        await it.settle()
        assert it.agent.states("more.2") == ["TASK_RUNNING"]
        it.disk.free_inodes_pct = 1
        it.launch("inodes.1")
        await it.settle()
        assert "inodes" in it.agent.report("inodes.1").detail
        await it.crash()


@virtual
async def test_a_refusal_makes_room_at_once(world: World) -> None:
    it = room(world, images=3, clean_s=3600, image_high_pct=100)
    it.disk.used_mib = 300
    async with asyncio.TaskGroup() as group:
        it.start(group)
        await it.settle(10)
        it.disk.used_mib = 570  # 97 %
        it.launch("web.1")
        await it.settle(1)
        assert it.agent.report("web.1").refused == "disk"
        it.launch("web.2")
        await it.settle(1)
        assert it.agent.states("web.2") == ["TASK_RUNNING"]
        await it.crash()


@virtual
async def test_an_engine_without_room_says_so(world: World) -> None:
    """Pull, create and start may fail of it, whatever we measured before: no failure of the app either."""
    it = ExecutorWorld(world, engine_deadline_s=1)

    async def fail(what: str, _name: str) -> None:
        if what == "before:create":
            raise Unavailable("mkdir /var/lib/docker/overlay2: no space left on device")

    it.docker.fault = fail
    async with asyncio.TaskGroup() as group:
        it.start(group)
        it.launch("web.1")
        await it.settle(10)
        assert it.agent.states("web.1")[-1] == "TASK_FAILED"
        assert it.agent.report("web.1").refused == "disk"
        await it.crash()


def test_names_that_people_gave_protect_an_image() -> None:
    ours = Image("i1", (), ("r/web@sha256:1",))
    tagged_by_hand = Image("i2", ("keep:me",), ("r/web@sha256:2",))
    by_tag = Image("i3", ("web:v1",), ("web@sha256:3",))
    nameless = Image("i4")
    images = (ours, tagged_by_hand, by_tag, nameless)
    known = {"r/web@sha256:1": 2.0, "r/web@sha256:2": 1.0, "web:v1": 0.0}
    # What is of use, but was not pulled by us, is not ours; a pull that is under way is.
    wanted = ["docker.io/library/web:v9", "their:v1"]
    used_at = uses(images, {**known, "web:v9": 1.0}, wanted, 1000.0, CONFIG)
    assert used_at == {**known, "web:v9": 1000.0}
    assert uses((), {"just:pulled": 950.0, "gone": 1.0}, (), 1000.0, CONFIG) == {
        "just:pulled": 950.0
    }
    assert removable(images, used_at, (), 1000.0, CONFIG) == [("web:v1",), ("r/web@sha256:1",)]
    assert removable(images, used_at, ["web:v1"], 1000.0, CONFIG) == [("r/web@sha256:1",)]
    every = ExecutorConfig(image_cleanup="all", image_min_age_s=100)
    used_at = uses(images, known, (), 1000.0, every)
    assert len(removable(images, used_at, (), 1100.0, every)) == 4


def test_a_container_counts_as_use() -> None:
    used = Image("i1", (), ("r/web@sha256:1",), used=True)
    known = {"r/web@sha256:1": 2.0, "gone": 3.0}
    used_at = uses([used], known, (), 1000.0, CONFIG)
    assert used_at == {"r/web@sha256:1": 1000.0}
    assert removable([used], used_at, (), 5000.0, CONFIG) == []
    assert len(removable([Image("i1", (), used.digests)], used_at, (), 1100.0, CONFIG)) == 1


def test_what_is_known_of_images_survives_a_full_disk(tmp_path: object) -> None:
    with small_disk(tmp_path / "disk") as disk:  # type: ignore[operator]
        ledger = FileLedger(disk.root / "c" / "images.json")
        assert ledger.load() == {}
        ledger.save({"web": 1.0})
        disk.fill()
        with pytest.raises(Unavailable, match="the disk is full"):
            ledger.save({"web": 2.0, "x" * 100_000: 1.0})
        assert FileLedger(disk.root / "c" / "images.json").load() == {"web": 1.0}
