"""What every Registry does, as the runtime that reads it sees it."""

from __future__ import annotations

from tests.contract.network.conftest import RegistryWorld, wire

ONE, TWO = "1" * 64, "2" * 64


async def test_a_registration_is_good_for_one_start(registry: RegistryWorld) -> None:
    namespace = await registry.network.ensure(wire(1))
    assert "no network namespace is registered" in await registry.start(ONE)
    registration = await registry.driver.register(ONE, namespace)
    assert registration.namespace == namespace
    assert await registry.driver.registered() == ((ONE, namespace.name),)
    assert await registry.start(ONE) == ""
    assert await registry.driver.registered() == ()
    assert "no network namespace is registered" in await registry.start(ONE)
    await registry.driver.register(ONE, namespace)
    assert await registry.start(ONE) == ""


async def test_a_revoked_one_is_good_for_none(registry: RegistryWorld) -> None:
    namespace = await registry.network.ensure(wire(1))
    await registry.driver.register(ONE, namespace)
    assert await registry.driver.revoke(ONE, namespace.name) is True
    assert "no network namespace is registered" in await registry.start(ONE)
    assert await registry.driver.revoke(ONE, namespace.name) is False
    assert await registry.driver.revoke(None, "unknown") is False


async def test_a_used_one_cannot_be_revoked(registry: RegistryWorld) -> None:
    namespace = await registry.network.ensure(wire(1))
    await registry.driver.register(ONE, namespace)
    assert await registry.start(ONE) == ""
    assert await registry.driver.revoke(ONE, namespace.name) is False


async def test_revoking_voids_what_others_were_given_for_the_namespace(
    registry: RegistryWorld,
) -> None:
    namespace = await registry.network.ensure(wire(1))
    await registry.driver.register(ONE, namespace)
    await registry.driver.revoke(None, namespace.name)
    assert "generation" in await registry.start(ONE)
    await registry.driver.register(TWO, namespace)
    assert await registry.start(TWO) == ""


async def test_a_namespace_that_was_replaced(registry: RegistryWorld) -> None:
    namespace = await registry.network.ensure(wire(1))
    other = await registry.network.ensure(wire(2))
    wrong = type(namespace)(namespace.name, namespace.path, other.inode)
    await registry.driver.register(ONE, wrong)
    assert "another" in await registry.start(ONE)


async def test_a_forgotten_namespace(registry: RegistryWorld) -> None:
    namespace = await registry.network.ensure(wire(1))
    await registry.driver.register(ONE, namespace)
    await registry.driver.forget(namespace.name)
    assert "generation" in await registry.start(ONE)
    await registry.driver.forget(namespace.name)


async def test_the_next_process_finds_it_all(registry: RegistryWorld) -> None:
    namespace = await registry.network.ensure(wire(1))
    await registry.driver.register(ONE, namespace)
    again = registry.reopen()
    assert await again.registered() == ((ONE, namespace.name),)
    assert await registry.start(ONE) == ""
    await again.register(ONE, namespace)
    assert await again.revoke(ONE, namespace.name) is True
