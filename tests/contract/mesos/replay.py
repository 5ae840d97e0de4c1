"""Replays a fixture against a live Mesos and compares everything that comes back.

The steps run in the recorded order: requests are sent with the live names put in (headers and
bytes otherwise as recorded), then each recorded answer and event is waited for and compared field
by field. Waiting has a deadline that follows from the recorded delay. At the end no live event may
be left that the recording does not have.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from tests.contract.mesos import offers as offer_matching
from tests.contract.mesos.binder import Binder
from tests.contract.mesos.cluster import Mesos
from tests.contract.mesos.compare import Mismatch, compare, compare_answer
from tests.contract.mesos.executors import ExecutorHub
from tests.contract.mesos.ledger import Ledger
from tests.contract.mesos.steps import Step, stimulus
from tests.contract.mesos.streams import Arrival, Event, Stream, key
from tests.contract.mesos.wire import Answer, Connection, Headers

Action = Callable[["Replay", Step], Awaitable[None]]

SLACK_S = 30.0
"""How much later than recorded something may come: the machine under test may be busy."""
CAUSAL_GAP_S = 0.5
"""Events recorded that far apart on one stream must arrive in that order."""
MAX_MISSING = 4
HEARTBEAT_S = (14.0, 16.5)
PULSE_S = 0.25
_UNORDERED = ("HEARTBEAT", "OFFERS", "RESCIND")


@dataclass(slots=True)
class Replay:
    """The state of one run."""

    steps: list[Step]
    mesos: Mesos
    hub: ExecutorHub
    actions: Mapping[str, Action]
    slack_s: float = SLACK_S
    binder: Binder = field(default_factory=Binder)
    streams: dict[str, Stream] = field(default_factory=dict)
    answers: dict[str, asyncio.Future[Answer]] = field(default_factory=dict)
    recorded: Ledger = field(default_factory=Ledger)
    live: Ledger = field(default_factory=Ledger)
    mismatches: list[Mismatch] = field(default_factory=list)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    stimulus_at_s: float = 0.0
    workers: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    missing: int = 0
    index: int = 0
    beats: list[tuple[float, float]] = field(default_factory=list)
    _kept: dict[str, Connection] = field(default_factory=dict)
    _connections: list[Connection] = field(default_factory=list)
    _matched: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    _tasks: asyncio.TaskGroup | None = None
    _pulse: asyncio.Task[None] | None = None

    async def run(self) -> list[Mismatch]:
        """All steps; what did not match."""
        self.binder.rebind("command", "run-executor", self.hub.command)
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            self._pulse = tasks.create_task(self._beat())
            try:
                for index, step in enumerate(self.steps):
                    self.index = index
                    await getattr(self, f"_step_{step['step']}")(step)
                    if self.missing > MAX_MISSING:
                        self._fail("run", f"{self.missing} things did not come: given up")
                        break
                else:
                    self._leftovers()
            finally:
                await self._clean_up()
        return self.mismatches

    # What the recording side did

    async def _step_request(self, step: Step) -> None:
        body = step.get("body")
        if body is not None:
            await offer_matching.claim(self, step, body)
            body = self.binder.text(body)
        host, port = self.mesos.host_port(step["to"])
        headers = [
            (name, f"{host}:{port}" if value == "{peer}" else self.binder.text(value))
            for name, value in step["headers"]
        ]
        self._mark()
        assert self._tasks is not None
        encoded = None if body is None else body.encode()
        connection = await self._connect(step, host, port)
        if step.get("stream"):
            stream = Stream(step["id"], connection)
            self.streams[stream.id] = stream
            await connection.send(self.binder.text(step["line"]), headers, encoded)
            self._tasks.create_task(stream.read(self._arrived, self.wake))
        else:
            future = asyncio.get_running_loop().create_future()
            self.answers[step["id"]] = future
            line = self.binder.text(step["line"])
            self._tasks.create_task(_ask(connection, line, headers, encoded, future))
        offer_matching.spent(self, step, step.get("body"), body)

    async def _connect(self, step: Step, host: str, port: int) -> Connection:
        kept = step.get("keep")
        if kept in self._kept:
            return self._kept[kept]
        connection = await Connection.open(host, port)
        self._connections.append(connection)
        if kept:
            self._kept[kept] = connection
        return connection

    async def _step_close(self, step: Step) -> None:
        self.streams[step["id"]].close()
        self._mark()
        for ledger in (self.recorded, self.live):
            ledger.stream_gone(step["id"])

    async def _step_do(self, step: Step) -> None:
        self._mark()
        await self.actions[step["do"]](self, step)

    async def _step_wait(self, step: Step) -> None:
        await asyncio.sleep(step["s"])

    async def _step_note(self, step: Step) -> None:
        pass

    async def _step_quiet(self, step: Step) -> None:
        """For a while no such event may come, on any stream."""
        before = {id_: len(stream.arrivals) for id_, stream in self.streams.items()}
        await asyncio.sleep(step["s"])
        for id_, stream in self.streams.items():
            for arrival in stream.arrivals[before.get(id_, 0) :]:
                if arrival.event["type"] in step["types"]:
                    self._fail(f"quiet.{id_}", f"{arrival.key} within {step['s']} s of silence")

    # What came back

    async def _step_response(self, step: Step) -> None:
        if step["id"] in self.streams:
            stream = self.streams[step["id"]]
            await self.until(lambda: stream.answer is not None or stream.ended is not None)
            answer = stream.answer
            if answer is not None and not step.get("stream"):
                await self.until(lambda: stream.ended is not None)
        else:
            answer = await self._answer(step["id"])
        if answer is None:
            self._lack(f"#{step['id']}.response", "no answer")
            return
        found = compare_answer(step, answer, self.binder)
        self.mismatches += [Mismatch(f"#{step['id']}.{m.path}", m.what) for m in found]

    async def _answer(self, id_: str) -> Answer | None:
        try:
            return await asyncio.wait_for(self.answers[id_], self.slack_s)
        except (TimeoutError, asyncio.IncompleteReadError, ConnectionError):
            return None

    async def _step_event(self, step: Step) -> None:
        event = step["event"]
        if event["type"] == "OFFERS":
            await offer_matching.offered(self, step)
            return
        if event["type"] == "RESCIND":
            await offer_matching.rescinded(self, step)
            return
        stream, wanted = self.streams[step["id"]], key(event)
        arrival = await self._take(stream, event, self.wait_s(step))
        if arrival is None:
            self._lack(f"#{step['id']}.{wanted}", f"did not come; recorded {_brief(event)}")
            return
        found = compare(event, arrival.event, f"#{step['id']} {wanted}", self.binder)
        self.mismatches += found
        others = (a for a in stream.arrivals if a.taken and a is not arrival)
        tellings = [a.at_s for a in others if a.event == arrival.event]
        self.in_time(step, arrival.at_s, max(tellings, default=None))
        self._in_order(step, arrival)

    async def _take(self, stream: Stream, event: Event, wait_s: float) -> Arrival | None:
        """The next arrival of that key; a re-sent update counts only where it was recorded."""
        wanted = key(event)
        resent = self.binder.get("uuid", _uuid(event) or "")
        known = self.binder.recorded.get("uuid", {})

        def find() -> Arrival | None:
            for arrival in stream.waiting(wanted):
                uuid = _uuid(arrival.event)
                if uuid == resent if resent else uuid not in known or uuid == _uuid(event):
                    return arrival
            return None

        await self.until(lambda: find() is not None or stream.ended is not None, wait_s)
        arrival = find()
        if arrival is not None:
            arrival.taken = True
        return arrival

    async def _step_end(self, step: Step) -> None:
        stream = self.streams[step["id"]]
        await self.until(lambda: stream.ended is not None)
        if stream.ended != "final chunk":
            self._lack(f"#{step['id']}.end", f"final chunk → {stream.ended}")
        for ledger in (self.recorded, self.live):
            ledger.stream_gone(step["id"])

    async def _step_lost(self, step: Step) -> None:
        stream = self.streams[step["id"]]
        await self.until(lambda: stream.ended is not None)
        if stream.ended is None or stream.ended == "final chunk":
            self._lack(f"#{step['id']}.lost", f"cut → {stream.ended}")
        for ledger in (self.recorded, self.live):
            ledger.stream_gone(step["id"])

    async def _step_environ(self, step: Step) -> None:
        proxy = await self.hub.get(step["env"]["MESOS_EXECUTOR_ID"])
        live = {name: value for name, value in proxy.env.items() if name.startswith("MESOS_")}
        self.mismatches += compare(step["env"], live, "env", self.binder)

    async def _step_raw(self, step: Step) -> None:
        host, port = self.mesos.host_port("master")
        connection = await Connection.open(host, port)
        self._connections.append(connection)
        await connection.send_raw(step["request"].encode())
        for recorded in step["responses"]:
            try:
                async with asyncio.timeout(self.slack_s):
                    answer = await connection.answer(has_body=recorded.get("has_body", True))
            except (TimeoutError, asyncio.IncompleteReadError, ConnectionError) as error:
                self._lack(f"raw {step['note']}", f"no answer: {error!r}")
                return
            found = compare_answer(recorded, answer, self.binder)
            self.mismatches += [Mismatch(f"raw {step['note']}.{m.path}", m.what) for m in found]

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run it beside the replay, until the end at most."""
        assert self._tasks is not None
        return self._tasks.create_task(work)

    # Helpers, also used by offers.py and actions.py

    async def until(self, done: Callable[[], bool], wait_s: float | None = None) -> bool:
        """Wait until `done`, at most `wait_s` (or the slack); whether it is."""
        try:
            async with asyncio.timeout(self.slack_s if wait_s is None else wait_s):
                while not done():
                    self.wake.clear()
                    await self.wake.wait()
        except TimeoutError:
            return done()
        return True

    def wait_s(self, step: Step) -> float:
        """How long to wait for `step`: the recorded delay after its stimulus, and slack."""
        if "within" in step:
            return float(step["within"][1]) + self.slack_s
        before = stimulus(self.steps, self.index)
        recorded_s = step["at"] - before.get("at", step["at"]) if before else 0.0
        return max(0.0, recorded_s) * 1.3 + self.slack_s

    def in_time(self, step: Step, at_s: float, told_at_s: float | None = None) -> None:
        """Complain unless the delay is within the step's bounds: after the last stimulus, or the telling before."""
        if "within" not in step:
            return
        low, high = step["within"]
        since = self.stimulus_at_s if told_at_s is None else told_at_s
        delay_s = at_s - since
        early_s = 0.0 if told_at_s is None else self.late_s(since - high, since)
        if not low - early_s <= delay_s <= high + self.late_s(since, at_s):
            self._fail(
                f"#{step['id']}.{step['event']['type']}",
                f"after {delay_s:.2f} s, allowed {low}…{high} s",
            )

    def late_s(self, since: float, until: float) -> float:
        """How much later things came in that time than on an idle machine, by the beats of it."""
        now = asyncio.get_running_loop().time()
        within = ((max(begin, since), min(end, until, now)) for begin, end in self.beats)
        return sum(max(0.0, end - begin - 1.5 * PULSE_S) for begin, end in within)

    async def _beat(self) -> None:
        """Ask the master for a sign of life again and again: it and we are late when that takes long."""
        time = asyncio.get_running_loop().time
        while True:
            self.beats.append((time(), math.inf))
            await asyncio.sleep(PULSE_S)
            with suppress(OSError, asyncio.IncompleteReadError):  # it may be killed, as recorded
                await self.mesos.get("master", "/health")
            self.beats[-1] = (self.beats[-1][0], time())

    def _mark(self) -> None:
        self.stimulus_at_s = asyncio.get_running_loop().time()

    def _in_order(self, step: Step, arrival: Arrival) -> None:
        before = self._matched.setdefault(step["id"], [])
        if arrival.event["type"] not in _UNORDERED:
            late = [at for recorded, at in before if recorded <= step["at"] - CAUSAL_GAP_S]
            if late and max(late) > arrival.at_s:
                self._fail(f"#{step['id']}.{arrival.key}", "came before what precedes it")
            before.append((step["at"], arrival.at_s))

    def _arrived(self, stream: Stream, event: Event) -> None:
        if event["type"] == "OFFERS":
            self.live.offered(stream.id, event["offers"]["offers"])
        elif event["type"] == "RESCIND":
            offer_id = event["rescind"]["offer_id"]["value"]
            if not self.live.gone(offer_id):
                self._fail(f"#{stream.id}.RESCIND", f"{offer_id} was not open")
        elif event["type"] == "ERROR":
            self.live.stream_gone(stream.id)

    def _fail(self, path: str, what: str) -> None:
        self.mismatches.append(Mismatch(f"step {self.index}: {path}", what))

    def _lack(self, path: str, what: str) -> None:
        self.missing += 1
        self._fail(path, what)

    def fail(self, path: str, what: str, *, lacking: bool = False) -> None:
        """Note a mismatch found elsewhere."""
        (self._lack if lacking else self._fail)(path, what)

    def _leftovers(self) -> None:
        frameworks = set(self.binder.recorded.get("framework", {}))
        arrivals = [arrival for stream in self.streams.values() for arrival in stream.arrivals]
        told = {uuid for arrival in arrivals if arrival.taken and (uuid := _uuid(arrival.event))}
        for stream in self.streams.values():
            for problem in sorted(set(stream.problems)):
                self._fail(f"#{stream.id}", problem)
            self._heartbeats(stream)
            seen: set[str] = set()
            for arrival in stream.arrivals:
                text = json.dumps(arrival.event)
                resent = arrival.event["type"] == "UPDATE" and text in seen
                seen.add(text)
                if arrival.taken or arrival.event["type"] in _UNORDERED or resent:
                    continue
                if stream.closed_here and _uuid(arrival.event) in told:
                    continue  # just before we closed; told again on the stream where it was recorded
                if "framework_id" in text and not any(name in text for name in frameworks):
                    continue  # another framework's, on an operator's stream
                self._fail(f"#{stream.id}.{arrival.key}", f"not in the recording: {text[:200]}")

    def _heartbeats(self, stream: Stream) -> None:
        """One at once after SUBSCRIBED, then one every 15 s."""
        times = [a.at_s for a in stream.arrivals if a.event["type"] in ("SUBSCRIBED", "HEARTBEAT")]
        beats = any(a.event["type"] == "HEARTBEAT" for a in stream.arrivals)
        for number, (before, after) in enumerate(pairwise(times if beats else [])):
            low, high = (0.0, 1.0) if number == 0 else HEARTBEAT_S
            early_s, late_s = self.late_s(before - high, before), self.late_s(before, after)
            if not low - early_s <= after - before <= high + late_s:
                self._fail(
                    f"#{stream.id}.HEARTBEAT", f"{after - before:.2f} s after the one before"
                )

    async def _clean_up(self) -> None:
        """Leave no framework behind, whatever happened."""
        assert self._pulse is not None
        self._pulse.cancel()
        for framework in sorted(self.binder.recorded.get("framework", {})):
            call = {"type": "TEARDOWN", "teardown": {"framework_id": {"value": framework}}}
            host, port = self.mesos.host_port("master")
            try:
                connection = await Connection.open(host, port)
                headers = [("Host", f"{host}:{port}"), ("Content-Type", "application/json")]
                await connection.send("POST /api/v1 HTTP/1.1", headers, json.dumps(call).encode())
                async with asyncio.timeout(2.0):
                    await connection.answer()
                connection.close()
            except (OSError, TimeoutError, asyncio.IncompleteReadError):
                break
        for worker in self.workers.values():
            worker.cancel()
        for stream in self.streams.values():
            stream.close()
        for connection in self._connections:
            connection.close()


async def _ask(
    connection: Connection,
    line: str,
    headers: Headers,
    body: bytes | None,
    future: asyncio.Future[Answer],
) -> None:
    try:
        await connection.send(line, headers, body)
        answer = await connection.answer(has_body=not line.startswith("HEAD "))
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        if not future.done():
            future.set_exception(error)
    else:
        if not future.done():
            future.set_result(answer)


def _uuid(event: Event) -> str | None:
    """The uuid of a scheduler's UPDATE; other events repeat for other reasons."""
    if event["type"] != "UPDATE":
        return None
    uuid = event["update"]["status"].get("uuid")
    return str(uuid) if uuid is not None else None


def _brief(event: Any) -> str:
    return json.dumps(event)[:160]
