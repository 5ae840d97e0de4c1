"""That a store has been restored from a backup, for those who must know: what happened since is not in it."""

from __future__ import annotations

from libs.common.errors import Unavailable
from libs.common.store.base import CollectionSpec, Store, Write

RESTORES = CollectionSpec("gantry_restores")
_DOC = "last"
_TRIES = 8


async def restored_at(store: Store) -> float:
    """When the store was restored last (Unix seconds); 0 when it never was."""
    doc = await (await store.collection(RESTORES)).get(_DOC)
    return float(doc.body["at"]) if doc else 0.0


async def note_restore(store: Store, now: float) -> None:
    """Say that it has been restored just now."""
    restores = await store.collection(RESTORES)
    for _ in range(_TRIES):
        doc = await restores.get(_DOC)
        at = (
            max(now, float(doc.body["at"]) + 1.0) if doc else now
        )  # a later one, whatever the clock says
        (result,) = await restores.replace_many(
            [Write(_DOC, doc.version if doc else 0, {"at": at})]
        )
        if result.ok:
            return
    raise Unavailable("the note of the restore is being changed by others")
