"""The world's store hands bodies out as it keeps them, and finds out who changes one."""

from __future__ import annotations

from typing import Any

import pytest

from libs.common.store.base import CollectionSpec, Write
from tests.simulation.loop import World, virtual
from tests.simulation.tap import TapStore


@virtual
async def test_a_reader_that_changes_a_body_is_found_out(_world: World) -> None:
    told: list[Any] = []
    store = TapStore(lambda collection, write: told.append((collection, write.id)))
    things = await store.collection(CollectionSpec("things"))
    await things.replace_many([Write("one", 0, {"list": [1, 2]}), Write("two", 0, {"n": 1.5})])
    assert told == [("things", "one"), ("things", "two")]
    assert store.spoiled() == []
    doc = await things.get("one")
    assert doc is not None
    doc.body["list"].append(3)
    assert store.spoiled() == ["things/one"]
    with pytest.raises(AssertionError, match="things/one: a reader changed what is stored"):
        await things.replace_many([Write("one", 1, {"list": []})])
