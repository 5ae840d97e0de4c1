"""What an `Engine` promises, asked of the fake and of a real Docker engine with the runtime shim."""

from __future__ import annotations

import asyncio

import pytest

from libs.common.clock import SystemClock
from libs.common.errors import NotFound, Refused
from services.executor.errors import ImageMissing, NameTaken, StartRefused
from services.executor.model import (
    LABEL_AGENT,
    LABEL_CLUSTER,
    Begun,
    ContainerName,
    Destroyed,
    Died,
    Phase,
    Ref,
    SecretFile,
)
from tests.contract.engine.conftest import AGENT, CLUSTER, HOSTS, OTHER_AGENT, EngineWorld


async def died(it: EngineWorld, ref: Ref) -> Died:
    """Wait until it is seen to end."""

    def ends() -> list[Died]:
        return [each for each in it.seen if isinstance(each, Died) and each.name == ref.name]

    await it.until(lambda: bool(ends()), f"nobody told that {ref.name} ended")
    return ends()[0]


async def test_what_is_created_is_there_and_does_not_run(it: EngineWorld) -> None:
    ref = await it.create()
    view = await it.engine.inspect(ref)
    assert (view.id, view.name, view.phase) == (ref.id, ref.name, Phase.CREATED)
    assert (view.runtime, view.netns_inode, view.started_at) == ("gantry", None, 0.0)
    assert (
        view.labels.items() >= {LABEL_CLUSTER: CLUSTER, LABEL_AGENT: AGENT, "mine": "yes"}.items()
    )
    assert await it.engine.inspect(Ref(ref.name)) == view
    listed = {each.name: each for each in await it.engine.containers()}
    assert listed[ref.name].id == ref.id
    assert listed[ref.name].phase is Phase.CREATED
    assert abs(listed[ref.name].created_at - SystemClock().now()) < 30


async def test_each_agent_sees_its_own(it: EngineWorld) -> None:
    mine = await it.create()
    theirs = it.spec(labels={LABEL_CLUSTER: CLUSTER, LABEL_AGENT: OTHER_AGENT})
    await it.other.create(theirs)
    assert mine.name in {each.name for each in await it.engine.containers()}
    assert {each.name for each in await it.other.containers()} == {theirs.name}


async def test_a_name_is_given_once(it: EngineWorld) -> None:
    spec = it.spec()
    await it.engine.create(spec)
    with pytest.raises(NameTaken):
        await it.engine.create(spec)


async def test_what_can_not_be_created(it: EngineWorld) -> None:
    with pytest.raises(ImageMissing):
        await it.engine.create(it.spec(image="no-such-image:v1"))
    with pytest.raises(Refused):
        await it.engine.create(it.spec(runtime="no-such-runtime"))


async def test_images_are_pulled_by_digest(it: EngineWorld) -> None:
    await it.engine.pull(it.pullable)
    await it.engine.create(it.spec(image=it.pullable))
    repository = it.pullable.partition("@")[0]
    for missing in (f"{repository}@sha256:{'0' * 64}", f"{repository}-not:v1"):
        with pytest.raises(ImageMissing):
            await it.engine.pull(missing)


async def test_nothing_starts_without_leave(it: EngineWorld) -> None:
    ref = await it.create()
    with pytest.raises(StartRefused, match="no network namespace is registered"):
        await it.engine.start(ref, HOSTS)
    assert (await it.engine.inspect(ref)).phase is not Phase.RUNNING
    # The refusal does no harm: with leave it starts.
    inode = await it.around.give_leave(ref.id)
    await it.engine.start(ref, HOSTS)
    assert (await it.engine.inspect(ref)).netns_inode == inode


async def test_nothing_is_left_over_of_what_was_never_started_or_is_gone(it: EngineWorld) -> None:
    created, ran = await it.create(), await it.run()
    await it.engine.remove(ran)
    for ref in (created, ran, Ref(created.name)):
        assert not await it.engine.has_leftover(ref)
        assert not await it.engine.end_leftover(ref)
    assert (await it.engine.inspect(created)).phase is Phase.CREATED


async def test_what_is_started_runs_in_its_namespace(it: EngineWorld) -> None:
    before = SystemClock().now()
    ref = await it.create()
    inode = await it.around.give_leave(ref.id)
    await it.engine.start(ref, HOSTS)
    view = await it.engine.inspect(ref)
    assert (view.phase, view.netns_inode) == (Phase.RUNNING, inode)
    assert before - 1 <= view.started_at <= SystemClock().now() + 1
    assert await it.around.hosts(ref.name) == HOSTS
    await it.engine.start(ref, HOSTS)  # it runs: no leave is needed, and nothing changes
    assert await it.engine.inspect(ref) == view


async def test_leave_is_for_one_start(it: EngineWorld) -> None:
    ref = await it.run()
    async with it.following(SystemClock().now() - 1):
        await it.engine.signal(ref, "SIGKILL")
        await died(it, ref)
    with pytest.raises(StartRefused):
        await it.engine.start(ref, HOSTS)


async def test_what_does_not_exist(it: EngineWorld) -> None:
    nobody = Ref(ContainerName(f"gantry-{CLUSTER}-nobody.1"))
    with pytest.raises(NotFound):
        await it.engine.inspect(nobody)
    with pytest.raises(NotFound):
        await it.engine.start(nobody, HOSTS)
    await it.engine.signal(nobody, "SIGTERM")
    await it.engine.remove(nobody)


async def test_a_life_is_told_by_events(it: EngineWorld) -> None:
    async with it.following(SystemClock().now()):
        ref = await it.run()
        await it.engine.signal(ref, "SIGTERM")
        end = await died(it, ref)
        assert (end.exit_code, end.oom_killed, end.container_id) == (0, False, ref.id)
        await it.engine.remove(ref)

        def removed() -> bool:
            return any(isinstance(e, Destroyed) and e.name == ref.name for e in it.seen)

        await it.until(removed, "nobody told that it was removed")
    mine = [each for each in it.seen if each.name == ref.name]
    assert [type(each) for each in mine] == [Begun, Died, Destroyed]
    assert [each.at for each in mine] == sorted(each.at for each in mine)


async def test_events_can_be_asked_for_afterwards(it: EngineWorld) -> None:
    since = SystemClock().now()
    ref = await it.run("exits-3")
    async with it.following(since):
        assert (await died(it, ref)).exit_code == 3
    view = await it.engine.inspect(ref)
    assert (view.phase, view.exit_code, view.netns_inode) == (Phase.EXITED, 3, None)
    listed = {each.name: each.phase for each in await it.engine.containers()}
    assert listed[ref.name] is Phase.EXITED


async def test_events_of_others_are_not_told(it: EngineWorld) -> None:
    since = SystemClock().now()
    spec = it.spec(labels={LABEL_CLUSTER: CLUSTER, LABEL_AGENT: OTHER_AGENT})
    theirs = Ref(spec.name, await it.other.create(spec))
    await it.around.give_leave(theirs.id)
    async with it.following(since):
        await it.other.start(theirs, HOSTS)
        ref = await it.run("exits-3")
        await died(it, ref)
    assert {each.name for each in it.seen} == {ref.name}


async def test_signals(it: EngineWorld) -> None:
    async with it.following(SystemClock().now()):
        stubborn = await it.run("ignores-term")
        await it.engine.signal(stubborn, "SIGTERM")
        ended = await it.run("exits-3")
        await died(it, ended)
        assert (await it.engine.inspect(stubborn)).phase is Phase.RUNNING
        await it.engine.signal(stubborn, "SIGKILL")
        assert (await died(it, stubborn)).exit_code == 137
        await it.engine.signal(stubborn, "SIGTERM")  # it does not run: fine


async def test_running_out_of_memory_is_told(it: EngineWorld) -> None:
    async with it.following(SystemClock().now()):
        ref = await it.run("eats-memory")
        end = await died(it, ref)
    view = await it.engine.inspect(ref)
    assert view.phase is Phase.EXITED
    assert end.oom_killed or view.oom_killed
    assert view.oom_killed


async def test_others_may_kill_and_remove(it: EngineWorld) -> None:
    async with it.following(SystemClock().now()):
        one, two = await asyncio.gather(it.run(), it.run())
        await it.around.by_hand("kill", one.name)
        await it.around.by_hand("remove", two.name)
        assert (await died(it, one)).exit_code == 137
        await died(it, two)
    with pytest.raises(NotFound):
        await it.engine.inspect(two)


async def test_removal_takes_running_ones_too(it: EngineWorld) -> None:
    ref = await it.run("ignores-term")
    await it.engine.remove(ref)
    with pytest.raises(NotFound):
        await it.engine.inspect(ref)
    await it.engine.remove(ref)
    assert ref.name not in {each.name for each in await it.engine.containers()}
    assert await it.engine.create(it.spec(name=ref.name)) != ref.id


FILES = (SecretFile("/run/secrets/one", b"first\0\xff"), SecretFile("/opt/two", b"second\n"))


@pytest.mark.parametrize(("user", "uid"), [(None, 65534), ("12345:99", 12345), ("root", 0)])
async def test_secret_files_are_the_users_own_and_go_with_the_container(
    it: EngineWorld, user: str | None, uid: int
) -> None:
    spec = it.spec(secret_files=FILES, user=user)
    ref = Ref(spec.name, await it.engine.create(spec))
    for _ in range(2):
        found = it.around.secret_files(ref.name)
        assert found == [(each.content, 0o400, uid) for each in FILES]
        with pytest.raises(NameTaken):  # a worker that did not see the first answer asks again
            await it.engine.create(spec)
    await it.engine.containers()  # looks for files of nobody
    assert len(it.around.secret_files(ref.name)) == 2
    await it.engine.remove(ref)
    assert it.around.secret_files(ref.name) == []


async def test_secret_files_of_what_is_not_created_are_gone_at_once(it: EngineWorld) -> None:
    spec = it.spec(image="no-such-image:v1", secret_files=FILES)
    with pytest.raises(ImageMissing):
        await it.engine.create(spec)
    assert it.around.secret_files(spec.name) == []
    if it.real:
        spec = it.spec(user="stranger", secret_files=FILES)
        with pytest.raises(Refused, match="'stranger' is not in the image's /etc/passwd"):
            await it.engine.create(spec)
        assert it.around.secret_files(spec.name) == []


async def test_images_go_when_no_container_has_them(it: EngineWorld) -> None:
    await it.images_store.remove_image(it.pullable)
    await it.engine.pull(it.pullable)

    async def found() -> list[bool]:
        every = await it.images_store.images()
        return [each.used for each in every if it.pullable in (*each.tags, *each.digests)]

    ref = await it.create(image=it.pullable)
    assert await found() == [True]
    if (
        not it.real
    ):  # the real one has another name, by which the tests have it, and loses only this one
        assert not await it.images_store.remove_image(it.pullable)
    await it.engine.remove(ref)
    assert await found() == [False]
    assert await it.images_store.remove_image(it.pullable)
    assert await found() == []
    assert await it.images_store.remove_image(it.pullable)
    assert (await it.images_store.root()).is_absolute()


async def test_an_image_that_a_container_has_is_not_removed(it: EngineWorld) -> None:
    """Running or not, and whoever's it is."""
    name = it.images["exits-3"]
    spec = it.spec("exits-3", labels={LABEL_CLUSTER: "somebody", LABEL_AGENT: "else"})
    container = await it.other.create(spec)
    every = await it.images_store.images()
    assert [each.used for each in every if name in (*each.tags, *each.digests)] == [True]
    (image,) = [each for each in every if name in (*each.tags, *each.digests)]
    assert not await it.images_store.remove_image(image.id if it.real else name)
    await it.other.remove(Ref(spec.name, container))
