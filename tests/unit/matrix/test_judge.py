"""The matrix' judge: what is there twice, what was promised and not kept, and who ended before his time."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from infra.local.distributed import Part
from tests.matrix.parts import together
from tests.matrix.runner import Row, beside, missed
from tests.matrix.sight import Seen, Silence, both, doubles, local_addresses
from tests.matrix.writer import lost, open_ends

APP = "acme/web"
A = Seen("aaa", "h1", APP, "i-1", "web@v2", ("10.110.0.5",))
B = Seen("bbb", "h2", APP, "i-2", "web@v2", ("10.110.0.6",))
POOL = Seen("ccc", "h2", "acme/job.clock", "", "clock@v1", ("10.110.0.7",))
NEXT = replace(A, id="ddd", host="h2", addresses=("10.110.0.8",))  # of the same instance
SILENCE = Silence("h1", since=100.0, replace_after_s=30.0, released="web@v2")


def test_what_is_there_once_is_right() -> None:
    assert doubles([A, B, POOL, replace(POOL, id="eee", addresses=())], APP, 2, 0.0) == []


def test_an_instance_in_two_containers_is_doubled() -> None:
    (said,) = doubles([A, B, NEXT], APP, 3, 0.0)
    assert said == "instance i-1 has 2 running containers: aaa on h1, ddd on h2"


def test_more_containers_than_surge_allows_are_told() -> None:
    assert doubles([A, B, POOL], APP, 1, 0.0) == [f"2 containers of {APP} run, which may have 1"]


def test_an_address_at_two_containers_is_doubled_also_at_one_of_jobs() -> None:
    (said,) = doubles([A, B, replace(POOL, addresses=A.addresses)], APP, 2, 0.0)
    assert said == "address 10.110.0.5 has 2 running containers: aaa on h1, ccc on h2"


def test_what_moved_from_a_silent_host_may_linger_there_once_its_patience_is_over() -> None:
    assert doubles([A, B, NEXT], APP, 2, 130.0, SILENCE) == []
    assert len(doubles([A, B, NEXT], APP, 2, 129.0, SILENCE)) == 2


def test_nothing_else_may_be_doubled_because_a_host_is_silent() -> None:
    two_there = replace(NEXT, host="h1")
    assert doubles([A, two_there], APP, 2, 130.0, SILENCE)
    two_elsewhere = replace(NEXT, id="fff", addresses=())
    assert doubles([A, NEXT, two_elsewhere], APP, 2, 130.0, SILENCE)
    same_address = replace(NEXT, addresses=A.addresses)
    assert doubles([A, same_address], APP, 2, 130.0, SILENCE)
    assert doubles([A, B, NEXT], APP, 1, 130.0, SILENCE)  # and two elsewhere are two


def test_what_is_to_be_stopped_on_a_silent_host_does_not_count_but_is_no_double() -> None:
    old = replace(A, image="web@v1")
    assert doubles([old, B], APP, 1, 101.0, SILENCE) == []
    assert doubles([old, B], APP, 1, 101.0) != []
    assert doubles([old, replace(B, image="web@v1")], APP, 0, 101.0, SILENCE) != []  # of h2
    assert doubles([replace(A, id="fff", addresses=()), old, B], APP, 2, 101.0, SILENCE) != []


def test_only_what_ran_at_both_answers_ran_between_them() -> None:
    assert both([A, B], [B, NEXT]) == [B]


def test_the_addresses_of_a_namespace_are_read() -> None:
    trie = """Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 10.110.0.0/22 2 0 2
        |-- 10.110.0.0
           /22 link UNICAST
        |-- 10.110.0.5
           /32 host LOCAL
     +-- 127.0.0.0/8 2 0 2
        |-- 127.0.0.1
           /32 host LOCAL
Local:
        |-- 10.110.0.5
           /32 host LOCAL
        |-- 10.110.3.255
           /32 link BROADCAST
"""
    inet6 = """00000000000000000000000000000001 01 80 10 80       lo
fe80000000000000585cd5fffe3b1a2c 02 40 20 80     eth0
fd000110000000000000000000000005 02 40 00 80     eth0
"""
    assert local_addresses(trie, inet6) == ("10.110.0.5", "fd000110000000000000000000000005")


def test_an_acknowledged_write_is_there_or_a_newer_one() -> None:
    kept = {"acme/w0": 10, "acme/w1": 12}
    assert lost(kept, {"acme/w0": 10, "acme/w1": 15}) == []
    assert lost(kept, {"acme/w0": 5, "acme/w1": 12}) == [
        "write 10 of acme/w0 was acknowledged and is not there"
    ]


@pytest.mark.parametrize("state", ["accepted", "rolling", "pending", "running", "NotFound: no"])
def test_a_request_that_was_accepted_must_end(state: str) -> None:
    ends = {"scale d-1": "succeeded", "scale d-2": "refused", "run r-1": "failed"}
    assert open_ends(ends) == []
    assert open_ends({**ends, "job request q-1": state}) == [
        f"job request q-1 was accepted and is {state}"
    ]


async def test_who_ends_before_his_time_is_told_of() -> None:
    begun = asyncio.Event()

    async def goes_on() -> None:
        begun.set()
        await asyncio.Event().wait()

    async def dies() -> None:
        begun.set()
        raise ValueError("of this")

    async def ends() -> None:
        begun.set()

    errors: list[str] = []
    for each in (goes_on(), dies(), ends()):
        begun.clear()
        async with beside("the writer", each, errors):
            await begun.wait()
    assert errors == [
        "the writer ended before its time: ValueError('of this')",
        "the writer ended before its time: None",
    ]


def test_a_release_that_was_over_did_not_meet_the_outage() -> None:
    assert missed(Row("kafka", "stop", release_s=0.1)) == []
    assert missed(Row("kafka", "stop", release_s=-2.0)) == [
        "the release had ended 2.0 s before kafka was away"
    ]
    assert missed(Row("kafka", "stop", release_s=math.inf)) == [
        "no event told of the release's end"
    ]


async def test_parts_that_fail_as_one_do_all_at_once() -> None:
    done: list[str] = []
    both = asyncio.Barrier(2)

    def noting(what: str) -> Callable[[], Awaitable[None]]:
        async def note() -> None:
            await both.wait()  # neither waits for the other to be done
            done.append(what)

        return note

    kinds = ("start", "stop", "kill9", "pause", "resume")
    one, other = (Part(name, *(noting(f"{kind} {name}") for kind in kinds)) for name in "ab")
    whole = together("ab", [one, other])
    for kind in kinds:
        await getattr(whole, kind)()
        assert sorted(done) == [f"{kind} a", f"{kind} b"]
        done.clear()
