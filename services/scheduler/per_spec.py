"""What is worked out of a spec once for all instances that share it, as most of an app's do. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from libs.common.spec import InstanceSpec

T = TypeVar("T")

KEPT = 4096


class PerSpec(Generic[T]):
    """`make` of a spec, kept for the object; what it returns is not to be changed."""

    def __init__(self, make: Callable[[InstanceSpec], T]) -> None:
        self._make = make
        self._known: dict[
            int, tuple[InstanceSpec, T]
        ] = {}  # by id, which is a living object's alone

    def __call__(self, spec: InstanceSpec) -> T:
        """Of this spec."""
        known = self._known.get(id(spec))
        if known is None:
            if len(self._known) >= KEPT:
                self._known.clear()
            known = self._known[id(spec)] = (spec, self._make(spec))
        return known[1]
