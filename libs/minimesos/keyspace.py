"""A map of slash-separated keys in which whole subtrees can be deleted quickly."""

from __future__ import annotations


class KeySpace:
    """Keys to bytes; `delete` removes a key and everything below it."""

    __slots__ = ("_children", "values")

    def __init__(self, values: dict[str, bytes] | None = None) -> None:
        self.values: dict[str, bytes] = {}
        self._children: dict[str, set[str]] = {}
        for key, value in (values or {}).items():
            self.put(key, value)

    def put(self, key: str, value: bytes) -> None:
        """Set a key."""
        if key not in self.values:
            self._link(key)
        self.values[key] = value

    def delete(self, key: str) -> None:
        """Forget `key` and every key below `key + "/"`."""
        for child in self._children.pop(key, ()):
            self._drop(child)
        if self.values.pop(key, None) is not None:
            parent = key.rpartition("/")[0]
            self._children.get(parent, set()).discard(key)

    def weight_bytes(self) -> int:
        """The bytes in keys and values."""
        return sum(len(k) + len(v) for k, v in self.values.items())

    def _link(self, key: str) -> None:
        while True:
            parent = key.rpartition("/")[0]
            siblings = self._children.setdefault(parent, set())
            if key in siblings or not parent:
                siblings.add(key)
                return
            siblings.add(key)
            key = parent

    def _drop(self, key: str) -> None:
        self.values.pop(key, None)
        for child in self._children.pop(key, ()):
            self._drop(child)
