"""How recorded offers find live ones. What is demanded of them is in ledger.py's docstring.

Recorded offer ids are bound to live offers when an OFFERS step is matched, or at the latest when a
request uses one. Two calls that are not in the recordings keep a run on its track: declining with
no filter, so that split offers come back as one, and declining for a second, so that the other
framework gets its turn. Neither says anything about the master under test.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from tests.contract.mesos.compare import compare
from tests.contract.mesos.ledger import Open, describe
from tests.contract.mesos.wire import Connection

if TYPE_CHECKING:
    from tests.contract.mesos.replay import Replay
    from tests.contract.mesos.steps import Step

CYCLE_S = 2.5
"""Two batches of the allocator and some."""


async def offered(replay: Replay, step: Step) -> None:
    """An OFFERS step: wait until the live sums equal the recorded ones, then match each offer."""
    offers = step["event"]["offers"]["offers"]
    replay.recorded.offered(step["id"], offers)
    _bind_agents(replay, offers)
    if not await replay.until(lambda: _sums_equal(replay), replay.wait_s(step)):
        replay.fail(
            f"#{step['id']}.OFFERS",
            f"open offers {describe(replay.recorded.sums())} → {describe(replay.live.sums())}",
            lacking=True,
        )
        return
    _check_time(replay, step)
    for offer in offers:
        entry = replay.recorded.known[offer["id"]["value"]]
        live = await _counterpart(replay, entry)
        if live is not None:
            _match(replay, entry, live)
    _take_all(replay, "OFFERS")


async def rescinded(replay: Replay, step: Step) -> None:
    """A RESCIND step: the live offer that stands for this one goes, or the sums become equal."""
    recorded_id = step["event"]["rescind"]["offer_id"]["value"]
    bound = replay.binder.get("offer", recorded_id)
    was_open = replay.recorded.gone(recorded_id)

    def done() -> bool:
        if bound in replay.live.known:
            return bound not in replay.live.open
        return _sums_equal(replay)

    if not was_open or not await replay.until(done, replay.wait_s(step)):
        replay.fail(
            f"#{step['id']}.RESCIND",
            f"open offers {describe(replay.recorded.sums())} → {describe(replay.live.sums())}",
            lacking=True,
        )
        return
    for stream in replay.streams.values():
        for arrival in stream.waiting("RESCIND"):
            arrival.taken = True
            shape = compare(
                {"type": "RESCIND", "rescind": {"offer_id": {}}},
                {**arrival.event, "rescind": {"offer_id": _without(arrival.event)}},
                f"#{stream.id} RESCIND",
                replay.binder,
            )
            replay.mismatches += shape
            if arrival.at_s >= replay.stimulus_at_s:
                replay.in_time(step, arrival.at_s)


async def claim(replay: Replay, step: Step, body: str) -> None:
    """Before a request goes out: every recorded offer in it needs a live one that is open."""
    for offer_id in _offer_ids(body):
        entry = replay.recorded.open.get(offer_id)
        if entry is None:
            continue  # stale on purpose, or made up: what is bound, if anything, goes out
        bound = replay.binder.get("offer", offer_id)
        if bound in replay.live.open and replay.live.open[bound].stream == entry.stream:
            continue
        live = await _counterpart(replay, entry)
        if live is None:
            replay.fail(f"#{step['id']}", f"no live offer stands for {offer_id}", lacking=True)
        else:
            replay.binder.rebind("offer", offer_id, live.id)


def spent(replay: Replay, step: Step, recorded: str | None, live: str | None) -> None:
    """After a request went out: the offers in it are gone, on both sides."""
    for offer_id in _offer_ids(recorded or ""):
        replay.recorded.gone(offer_id)
    for offer_id in _offer_ids(live or ""):
        replay.live.gone(offer_id)


def _offer_ids(body: str) -> list[str]:
    try:
        call = json.loads(body)
    except ValueError:
        return []
    if not isinstance(call, dict) or call.get("type") not in ("ACCEPT", "DECLINE"):
        return []
    part = call.get(call["type"].lower()) or {}
    return [offer_id["value"] for offer_id in part.get("offer_ids", [])]


def _bind_agents(replay: Replay, offers: list[dict[str, Any]]) -> None:
    """Agents are told apart by their hostname and attributes where there are several."""
    for offer in offers:
        recorded = offer["agent_id"]["value"]
        if replay.binder.get("agent", recorded) in {e.agent for e in replay.live.open.values()}:
            continue
        taken = set(replay.binder.recorded.get("agent", {}))
        for entry in replay.live.open.values():
            same = entry.offer.get("attributes") == offer.get("attributes")
            if entry.agent not in taken and same:
                replay.binder.rebind("agent", recorded, entry.agent)


def _sums_equal(replay: Replay) -> bool:
    _bind_agents(replay, [dict(entry.offer) for entry in replay.recorded.open.values()])
    recorded = {
        replay.binder.get("agent", agent) or agent: total
        for agent, total in replay.recorded.sums().items()
    }
    return recorded == replay.live.sums()


async def _counterpart(replay: Replay, entry: Open) -> Open | None:
    """The live offer that stands for this one: the same agent, stream and amounts."""

    def exact() -> Open | None:
        agent = replay.binder.get("agent", entry.agent)
        return next(
            (
                live
                for live in replay.live.of(agent or "")
                if live.stream == entry.stream and live.sum == entry.sum and not live.matched
            ),
            None,
        )

    for _ in range(math.ceil(replay.slack_s / CYCLE_S)):
        await replay.until(lambda: exact() is not None, CYCLE_S)
        if (found := exact()) is not None:
            return found
        await _shake(replay, entry)
    agent = replay.binder.get("agent", entry.agent) or ""
    return next((live for live in replay.live.of(agent) if live.stream == entry.stream), None)


async def _shake(replay: Replay, entry: Open) -> None:
    """Give open offers of the agent back: ours for a merge, others' so that it becomes our turn."""
    agent = replay.binder.get("agent", entry.agent) or ""
    by_stream: dict[str, list[str]] = {}
    for live in replay.live.of(agent):
        if not live.matched:
            by_stream.setdefault(live.stream, []).append(live.id)
    for stream_id, offer_ids in by_stream.items():
        refuse_s = 0.0 if stream_id == entry.stream else 1.2
        await _decline(replay, stream_id, offer_ids, refuse_s)
        for offer_id in offer_ids:
            replay.live.gone(offer_id)


async def _decline(replay: Replay, stream_id: str, offer_ids: list[str], refuse_s: float) -> None:
    stream = replay.streams[stream_id]
    framework = replay.live.known[offer_ids[0]].offer["framework_id"]
    call = {
        "type": "DECLINE",
        "framework_id": framework,
        "decline": {
            "offer_ids": [{"value": offer_id} for offer_id in offer_ids],
            "filters": {"refuse_seconds": refuse_s},
        },
    }
    host, port = replay.mesos.host_port("master")
    connection = await Connection.open(host, port)
    try:
        headers = [
            ("Host", f"{host}:{port}"),
            ("Content-Type", "application/json"),
            (
                "Mesos-Stream-Id",
                (stream.answer.header("Mesos-Stream-Id") or "") if stream.answer else "",
            ),
        ]
        await connection.send("POST /api/v1/scheduler HTTP/1.1", headers, json.dumps(call).encode())
        await connection.answer()
    finally:
        connection.close()


def _match(replay: Replay, entry: Open, live: Open) -> None:
    live.matched = True
    replay.binder.rebind("offer", entry.id, live.id)
    path = f"#{entry.stream} OFFERS.offers.offers[]"
    found = compare(dict(entry.offer), dict(live.offer), path, replay.binder)
    if entry.sum != live.sum:
        # The sums are right already: only how they fall into offers differs.
        found = [mismatch for mismatch in found if ".resources" not in mismatch.path]
    replay.mismatches += found


def _check_time(replay: Replay, step: Step) -> None:
    times = [
        arrival.at_s
        for stream in replay.streams.values()
        for arrival in stream.waiting("OFFERS")
        if arrival.at_s >= replay.stimulus_at_s
    ]
    if times:
        replay.in_time(step, max(times))
    elif "within" in step:
        replay.fail(f"#{step['id']}.OFFERS", "no offer after the call", lacking=True)


def _take_all(replay: Replay, key: str) -> None:
    for stream in replay.streams.values():
        for arrival in stream.waiting(key):
            arrival.taken = True


def _without(event: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in event["rescind"]["offer_id"].items() if k != "value"}
