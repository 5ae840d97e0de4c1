"""Journal and key space: what is committed is there again, whatever happened to the tail."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.minimesos import journal as journal_module
from libs.minimesos.effects import Delete, Put
from libs.minimesos.journal import Journal
from libs.minimesos.keyspace import KeySpace

KEYS = st.sampled_from(["a", "a/b", "a/b/c", "a/d", "ab", "x/y/z"])
CHANGES = st.lists(
    st.one_of(
        st.builds(Put, KEYS, st.binary(max_size=20)),
        st.builds(Delete, KEYS),
    ),
    max_size=30,
)


def expected(changes: list[Put | Delete]) -> dict[str, bytes]:
    """The slow and obvious way."""
    out: dict[str, bytes] = {}
    for change in changes:
        if isinstance(change, Put):
            out[change.key] = change.value
        else:
            below = change.key + "/"
            out = {k: v for k, v in out.items() if k != change.key and not k.startswith(below)}
    return out


@given(CHANGES)
def test_key_space_equals_the_obvious_one(changes: list[Put | Delete]) -> None:
    """Deleting takes the whole subtree, and nothing else."""
    space = KeySpace()
    for change in changes:
        if isinstance(change, Put):
            space.put(change.key, change.value)
        else:
            space.delete(change.key)
    assert space.values == expected(changes)


def test_a_new_journal_reads_what_the_old_one_wrote(tmp_path: Path) -> None:
    """Over several batches."""
    first = Journal(tmp_path)
    first.commit([Put("a/1", b"one"), Put("a/2", b"two"), Put("b", b"three")])
    first.commit([Delete("a"), Put("b", b"four")])
    first.close()
    assert Journal(tmp_path).saved == {"b": b"four"}


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_a_torn_tail_loses_only_the_last_record(tmp_path: Path, cut: int) -> None:
    """And the journal goes on behind the cut."""
    first = Journal(tmp_path)
    first.commit([Put("kept", b"x" * 10)])
    first.commit([Put("torn", b"y" * 50)])
    first.close()
    path = tmp_path / "journal"
    path.write_bytes(path.read_bytes()[:-cut])
    second = Journal(tmp_path)
    assert second.saved == {"kept": b"x" * 10}
    second.commit([Put("new", b"z")])
    second.close()
    assert Journal(tmp_path).saved == {"kept": b"x" * 10, "new": b"z"}


def test_a_flipped_bit_ends_the_log(tmp_path: Path) -> None:
    """A record whose sum is wrong is not believed."""
    first = Journal(tmp_path)
    first.commit([Put("a", b"1"), Put("b", b"2")])
    first.close()
    path = tmp_path / "journal"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(bytes(raw))
    assert Journal(tmp_path).saved == {"a": b"1"}


def test_a_long_log_is_rewritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only live records stay."""
    monkeypatch.setattr(journal_module, "_REWRITE_MIN_BYTES", 1000)
    made = Journal(tmp_path)
    for number in range(200):
        made.commit([Put("key", b"%d" % number), Put("other", b"x")])
    assert (tmp_path / "journal").stat().st_size < 2000
    made.commit([Put("last", b"y")])
    made.close()
    assert Journal(tmp_path).saved == {"key": b"199", "other": b"x", "last": b"y"}
