"""RecordIO: any records, cut into any chunks, come out whole; broken framing is refused."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.mesos.errors import RecordError
from libs.mesos.recordio import Decoder, encode


def _cut(data: bytes, borders: list[int]) -> list[bytes]:
    points = sorted({border % (len(data) + 1) for border in borders} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(points)]


@given(
    st.lists(st.binary(max_size=200), max_size=20), st.lists(st.integers(0, 10_000), max_size=40)
)
def test_any_chunking_gives_the_records(records: list[bytes], borders: list[int]) -> None:
    """Chunk borders mean nothing."""
    data = b"".join(encode(record) for record in records)
    decoder = Decoder()
    found = [record for chunk in _cut(data, borders) for record in decoder.feed(chunk)]
    decoder.end()
    assert found == records


@given(st.binary(min_size=1, max_size=50), st.integers(0, 51))
def test_an_end_within_a_record_is_an_error(record: bytes, cut: int) -> None:
    """Only an end between records is an end."""
    data = encode(record)
    cut = min(cut, len(data) - 1)
    decoder = Decoder()
    assert decoder.feed(data[:cut]) == []
    if cut == 0:
        decoder.end()
    else:
        with pytest.raises(RecordError):
            decoder.end()


@pytest.mark.parametrize("junk", [b"x", b"-1\n", b"1x\nab", b"\n", b" 1\na", b"+1\na", b"1" * 21])
def test_bad_lengths_are_refused(junk: bytes) -> None:
    """A length is digits and a newline."""
    with pytest.raises(RecordError):
        Decoder().feed(junk)


def test_a_bound_on_the_length() -> None:
    """The bound itself is allowed, one more is not."""
    assert Decoder(10).feed(b"10\n0123456789") == [b"0123456789"]
    with pytest.raises(RecordError):
        Decoder(10).feed(b"11\n")


@given(st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=10))
def test_garbage_never_hangs_or_crashes(data: bytes, borders: list[int]) -> None:
    """Whatever comes, the outcome is records or RecordError, the same for every chunking."""

    def outcome(chunks: list[bytes]) -> list[bytes] | None:
        decoder, found = Decoder(1000), []
        try:
            for chunk in chunks:
                found += decoder.feed(chunk)
        except RecordError:
            return None
        return found

    assert outcome([data]) == outcome(_cut(data, borders))
