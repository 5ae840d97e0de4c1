"""The document store as Gantry sees it: single-document compare-and-set, and an outbox in each document.

A document is `(id, version, epoch, body, outbox)`. Every write names the version it replaces; the new
version is one more. Events ride in the same write (`Write.events`) and stay in the outbox until the relay
has published them, so state and events can't come apart, without transactions. Every adapter (memory,
sqlite, mongo) passes `tests/contract/store/`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

Body = Mapping[str, Any]
Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class OutboxEvent:
    """An event waiting to be published; `id` is the ce_id. `headers` and `value` are what goes on the bus."""

    id: str
    topic: str
    key: str
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Doc:
    """A stored document. `body` must be treated as read-only."""

    id: str
    version: int
    body: Body
    epoch: int = 0
    outbox: tuple[OutboxEvent, ...] = ()


@dataclass(frozen=True, slots=True)
class Write:
    """Replace document `id` at `version` by `body` (version 0: insert). The new version is `version` + 1.

    `events` are appended to what the outbox still holds. `schema` is the newest version of the collection's schema that
    may be overwritten (0: any); SchemaStore sets it.
    """

    id: str
    version: int
    body: Body
    events: tuple[OutboxEvent, ...] = ()
    schema: int = 0


class Outcome(enum.Enum):
    """What became of one write."""

    OK = "ok"
    CONFLICT = "conflict"  # another version is stored (or none, or one where none was expected)
    DUPLICATE = "duplicate"  # a unique index holds the same values in another document
    FENCED = "fenced"  # the fence's epoch is an old one
    NEWER = "newer"  # the stored document is of a newer schema than the write allows for


@dataclass(frozen=True, slots=True)
class WriteResult:
    """The outcome of the write at the same place of the batch. `index` names the violated unique index."""

    outcome: Outcome
    index: str = ""

    @property
    def ok(self) -> bool:
        """True when the write took effect."""
        return self.outcome is Outcome.OK


@dataclass(frozen=True, slots=True)
class Fence:
    """A leader's claim: writes with an epoch older than the newest of `name` are refused.

    A collection's fenced writes all use one name. What each adapter can and can't promise: see mongo.py.
    """

    name: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Index:
    """An index over body fields (dotted paths).

    A unique one ignores documents in which one of its fields is missing or null. `by_id`: the id comes last in it, so
    that a page of a query which is ordered by its last field (equal ones by id) costs no more than the page.
    """

    name: str
    fields: tuple[str, ...]
    unique: bool = False
    by_id: bool = False


Reshape = Callable[[Body], Body]
"""A pure function from a body to a body; it must not change what it is given."""


@dataclass(frozen=True, slots=True)
class Schema:
    """How a collection's documents look to this code; `docs/adr/0015` says how they change.

    `version` counts the shapes that the collection has had. `upgrades` lead up to it from the oldest shape that can
    still be read, one step each: the last takes a body of `version` - 1. `readable_by` is the oldest version whose
    code may read and write what this code writes. `known` is what this code understands of a body of newer code.
    """

    version: int = 1
    readable_by: int = 1
    upgrades: tuple[Reshape, ...] = ()
    known: Reshape | None = None

    @property
    def oldest(self) -> int:
        """The oldest version that can be read."""
        return self.version - len(self.upgrades)


@dataclass(frozen=True, slots=True)
class CollectionSpec:
    """A collection's name, indexes and schema; equality and range filters should be covered by an index."""

    name: str
    indexes: tuple[Index, ...] = ()
    schema: Schema = Schema()


class Op(enum.Enum):
    """Comparison in a filter."""

    EQ = "eq"
    IN = "in"
    LT = "lt"
    LE = "le"
    GT = "gt"
    GE = "ge"
    EXISTS = "exists"


@dataclass(frozen=True, slots=True)
class Where:
    """One condition on a body field (dotted path, through objects only). Conditions of a query are and-ed.

    EQ with None matches a field that is null or missing; the others match only values of their own kind (true is
    not 1, 2 is not less than "a"). Names in paths are letters, digits, _ and -. Fields that are filtered, ordered or
    indexed hold null, booleans, numbers or strings: nothing is promised for lists and objects.
    """

    field: str
    op: Op
    value: Scalar | tuple[Scalar, ...]


def eq(name: str, value: Scalar) -> Where:
    """`field == value`."""
    return Where(name, Op.EQ, value)


def is_in(name: str, values: Sequence[Scalar]) -> Where:
    """`field` is one of `values`."""
    return Where(name, Op.IN, tuple(values))


@dataclass(frozen=True, slots=True)
class Query:
    """A page of documents. `order` is a body field of one kind (missing first) or "" for the id.

    Ties are broken by id, ascending. `after` is the id of the last document of the page before, for queries ordered
    by id.
    """

    where: tuple[Where, ...] = ()
    order: str = ""
    descending: bool = False
    after: str = ""
    limit: int = 1000


@dataclass(frozen=True, slots=True)
class Lease:
    """A named, expiring claim; `epoch` grows each time the holder changes."""

    name: str
    holder: str
    epoch: int
    until: float


@dataclass(frozen=True, slots=True)
class Page:
    """Documents of a query and whether more follow."""

    docs: tuple[Doc, ...]
    more: bool = field(default=False)


@dataclass(frozen=True, slots=True)
class Versions:
    """The documents of a query's page without what is in them: versions by id, in the query's order."""

    of: dict[str, int]
    more: bool = field(default=False)


class Collection(Protocol):
    """One collection. All methods raise Unavailable or TimedOut when the store can't be reached."""

    async def get(self, doc_id: str) -> Doc | None:
        """The document, or None."""
        ...

    async def get_many(self, doc_ids: Sequence[str]) -> dict[str, Doc]:
        """Those of the documents that exist, by id."""
        ...

    async def find(self, query: Query) -> Page:
        """A page of documents."""
        ...

    async def versions(self, query: Query) -> Versions:
        """Which documents `find` would find, and in which versions: for who knows what is in them."""
        ...

    async def count(self, where: Sequence[Where] = ()) -> int:
        """How many documents match."""
        ...

    async def replace_many(
        self, writes: Sequence[Write], fence: Fence | None = None
    ) -> list[WriteResult]:
        """Do each write on its own, all in one round trip; a result per write, in order.

        Within a batch a document may be written once only (ValueError), and no order of its writes is promised: one
        that needs a unique value which another gives up goes into a later batch. Of several reasons to refuse a
        write, FENCED is told before CONFLICT before NEWER before DUPLICATE. On TimedOut any of the writes may have been
        done.
        Raises InvalidInput for a body that JSON can't hold or of more than 8 MB.
        """
        ...

    async def rewrite(self, changes: Sequence[tuple[Doc, Body]]) -> int:
        """Say the same in other words: replace bodies where documents are exactly as read; returns how many.

        Versions don't change and no fence is asked: whoever has read one before may write on top of it. What a unique
        index refuses stays as it is.
        """
        ...

    async def delete(self, doc_id: str, version: int, fence: Fence | None = None) -> WriteResult:
        """Delete the document if it is at `version` and its outbox is empty (else CONFLICT)."""
        ...

    async def unsent(self, limit: int) -> Mapping[str, tuple[OutboxEvent, ...]]:
        """The outboxes of up to `limit` documents that have events in it, by id, in no particular order."""
        ...

    async def mark_sent(self, sent: Mapping[str, Sequence[str]]) -> None:
        """Take the events (ids by document) out of the outboxes; versions don't change."""
        ...


class Store(Protocol):
    """A set of collections, leases and epochs."""

    async def collection(self, spec: CollectionSpec) -> Collection:
        """The collection, made with its indexes if need be."""
        ...

    async def raise_epoch(self, name: str) -> int:
        """Begin a new epoch for the leader `name` and return it; older fences are refused from now on."""
        ...

    async def take_lease(self, name: str, holder: str, now: float, ttl_s: float) -> Lease | None:
        """Take or renew the lease; None when another holder's has not expired at `now`."""
        ...

    async def drop_lease(self, name: str, holder: str) -> None:
        """Give the lease up if `holder` has it."""
        ...

    def archive(self) -> Archive:
        """For backup and restore."""
        ...

    async def close(self) -> None:
        """Release everything; later calls raise Unavailable."""
        ...


class Archive(Protocol):
    """What of an adapter backup and restore need. Nobody else may be at work when it writes."""

    def snapshot(self) -> AbstractAsyncContextManager[Archive]:
        """The store at one moment, where the adapter can tell; else the store itself."""
        ...

    async def collections(self) -> list[str]:
        """The names of all collections, sorted."""
        ...

    async def page(self, collection: str, after: str, limit: int) -> list[Doc]:
        """The next documents by id, exactly as they are stored."""
        ...

    async def epochs(self) -> dict[str, int]:
        """All leaders' epochs."""
        ...

    async def put(self, collection: str, docs: Sequence[Doc]) -> None:
        """Store documents exactly as given, in place of those of the same ids."""
        ...

    async def put_epochs(self, epochs: Mapping[str, int]) -> None:
        """Set leaders' epochs."""
        ...

    async def clear(self) -> None:
        """Forget all documents, epochs and leases."""
        ...


class VersionConflict(Exception):
    """A repository raises it when the outcome was CONFLICT: load again and decide anew."""
