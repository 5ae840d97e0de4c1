"""What the vault keeps of one secret or registry login."""

from __future__ import annotations

from enum import StrEnum
from typing import NewType

from services.deployer.model import Body

EntryId = NewType("EntryId", str)  # bu/kind/name


class Kind(StrEnum):
    """What an entry is; also its word in paths and audit lines."""

    SECRET = "secret"
    REGISTRY = "registry"


class Entry(Body):
    """One secret or login. A removed one stays, without its value, until its audit line is out."""

    bu: str
    kind: Kind
    name: str  # of the secret, or the registry's host
    version: int
    boxes: tuple[str, ...]
    sealed_by: str  # the label of the boxes, for the sweep
    text: bool = True  # may be an environment variable: UTF-8 without NUL
    user: str = ""  # of a login
    created_at: float
    updated_at: float
    updated_by: str

    @property
    def removed(self) -> bool:
        """Is nothing but the number of its versions left."""
        return not self.boxes

    @property
    def id(self) -> EntryId:
        """Its document's id."""
        return entry_id(self.bu, self.kind, self.name)

    @property
    def about(self) -> str:
        """What its boxes are bound to."""
        return f"{self.id}@{self.version}"


def entry_id(bu: str, kind: Kind, name: str) -> EntryId:
    """The id of an entry's document."""
    return EntryId(f"{bu}/{kind}/{name}")
