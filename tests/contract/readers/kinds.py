"""What one process writes and another one reads, besides events and the services' documents: on hosts, and in answers.

Host and control plane are upgraded one after the other, and a host may go back; so each may read what the other
release has written.
"""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import orjson
from pydantic import BaseModel

from libs.client.jobs import JobView
from libs.common.delivery import Delivery
from libs.common.http import Response
from libs.common.jobs import JobSpec
from libs.common.task import MakeReady, TaskPayload, TaskReport, TellAnew
from libs.mesos.messages import TaskInfo, TaskStatus
from services.deployer import delivery
from services.executor import journal, mesos
from services.executor.hostd import HostdClient
from services.executor.model import Attempt, AttemptId
from services.gateway.chronos.telling import Entry
from services.hostd import model as hostd
from services.hostd.executors import Sign
from services.hostd.state import ATTACHMENT, RELEASE, open_state
from services.scheduler import updates

GOLDEN = Path(__file__).parent / "golden"


@dataclass(frozen=True)
class Kind:
    """One kind of text: its model, and what the reader makes of it."""

    name: str
    model: type[BaseModel]
    read: Callable[[bytes], BaseModel]

    @property
    def file(self) -> Path:
        """What a release has written. It is never written again; a shape that can't be told from it is a file more."""
        return GOLDEN / f"{self.name}.json"


class Answers:
    """A peer that says this to whatever it is asked."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def call(
        self,
        service: str,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 10.0,
    ) -> Response:
        """See ServiceClient."""
        return Response(body=self._body)


def _task(data: bytes) -> BaseModel:
    return mesos.payload_of(cast(TaskInfo, {"data": b64encode(data).decode()}))


def _report(data: bytes) -> BaseModel:
    return updates._report(cast(TaskStatus, {"data": b64encode(data).decode()}))


def _ahead(data: bytes) -> BaseModel:
    return MakeReady(ahead=mesos.ahead_of(data))


def _anew(data: bytes) -> BaseModel:
    return TellAnew(attempts=mesos.asked_anew(data))


def _journal(data: bytes) -> BaseModel:
    """A worker starts on what an other one has left."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "journal")
        file.write_bytes(
            orjson.dumps({"attempt": orjson.loads(data), "task": {}, "updates": [], "next": 1})
        )
        (record,) = journal.FileJournal(file).load()
    return record.attempt


def _state(kind: str) -> Callable[[bytes], BaseModel]:
    """hostd starts on what an other one has left."""

    def read(data: bytes) -> BaseModel:
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory, "state.db")
            state = open_state(file)
            db = sqlite3.connect(file)
            with db:
                db.execute("INSERT INTO thing VALUES (?, 'one', ?)", (kind, data.decode()))
            db.close()
            attachments, releases = asyncio.run(state.load())
            state.close()
        found: list[BaseModel] = [*attachments, *releases]
        assert len(found) == 1
        return found[0]

    return read


def _delivery(data: bytes) -> BaseModel:
    client = HostdClient(Answers(data))
    return asyncio.run(client.of_attempt(AttemptId("one.1")))


def _needs(data: bytes) -> BaseModel:
    nothing = cast(Any, None)
    asking = delivery.Deliveries(nothing, nothing, Answers(data), *[nothing] * 4)
    found = asyncio.run(asking._asked("/v1/runs/one", delivery._Run))
    assert found is not None
    return found


def _job(data: bytes) -> BaseModel:
    view = JobView(
        job="shop/nightly",
        bu="shop",
        name="nightly",
        version=1,
        state="idle",
        spec=orjson.loads(data),
    )
    return Entry.of(view, {}).spec


def _sign(data: bytes) -> BaseModel:
    return Sign.model_validate_json(data)


KINDS = (
    Kind("task", TaskPayload, _task),  # scheduler → executor
    Kind("report", TaskReport, _report),  # executor → scheduler
    Kind("make_ready", MakeReady, _ahead),  # scheduler → executor
    Kind("tell_anew", TellAnew, _anew),  # scheduler → executor
    Kind("journal", Attempt, _journal),  # executor → its successor
    Kind("attachment", hostd.Attachment, _state(ATTACHMENT)),  # hostd → its successor
    Kind("release", hostd.PendingRelease, _state(RELEASE)),  # hostd → its successor
    Kind("sign", Sign, _sign),  # executor → hostd
    Kind("delivery", Delivery, _delivery),  # deployer → hostd → executor
    Kind("run_needs", delivery._Run, _needs),  # scheduler → deployer
    Kind("job", JobSpec, _job),  # scheduler → gateway, for Chronos' API
)
