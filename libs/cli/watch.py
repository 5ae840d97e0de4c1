"""Watching a deployment until it ends: events wake, the deployment's own state decides."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from libs.cli.exits import DeployFailed
from libs.cli.output import Printer, cell
from libs.cli.progress import TOPICS, Progress
from libs.client import GantryClient
from libs.client.api import ENDED
from libs.client.model import DeploymentView
from libs.common.errors import TimedOut, Unavailable
from libs.common.waiting import TaskGroup

POLL_S = 1.0
ASKED_TIMES = 30  # without an answer, before the watching ends
LAST_WORDS_S = 2.0
LATE_S = 5.0
DELAYED_S = 30.0  # so long a request may wait for the event bus before the watching ends
SHOWN = 16
_BUSY = ("requested", "placed", "waiting", "started", "unhealthy", "exited", "lost", "stopping")


async def watch(
    client: GantryClient,
    printer: Printer,
    app: str,
    deployment: str,
    place: str | None,
    timeout_s: float | None,
) -> DeploymentView:
    """Show the deployment's steps until it has ended, and return it. `place` is where in the events to begin.

    Without one, or where events are late, its state alone is shown. Raises TimedOut when it has not ended in time, or
    could not begin for DELAYED_S because the event bus is away (it goes on), Unavailable after ASKED_TIMES without an
    answer, DeployFailed when it ended badly.
    """
    progress = Progress(deployment, app)
    woken = asyncio.Event()
    try:
        async with asyncio.timeout(timeout_s):
            with Shown(printer, progress, LATE_S if place is not None else 0.0) as shown:
                async with TaskGroup() as group:
                    follower = group.create_task(
                        _follow(client, app, place, progress, shown, woken)
                    )
                    ended = await _until_ended(client, deployment, shown, woken)
                    if place is not None and ended.state in ENDED:
                        await _last_words(shown)
                    follower.cancel()
    except TimeoutError:
        raise TimedOut(
            f"{deployment} has not ended within {timeout_s:g} s; it goes on: gantry rollout status {app}"
        ) from None
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None  # as itself, which has an exit code
    if ended.state not in ENDED:
        raise TimedOut(
            f"{deployment}: {ended.reason}; to see how it goes: gantry rollout status {app}"
        )
    return ended


def verdict(view: DeploymentView) -> str:
    """How it ended, in words. Raises DeployFailed when it ended badly."""
    text = f"{view.deployment} of {view.app}: {view.state}"
    if view.release is not None:
        text += f", release {view.release}"
    if view.reason:
        text += f": {view.reason}"
    if view.state != "succeeded":
        raise DeployFailed(text)
    return text


async def _until_ended(
    client: GantryClient, deployment: str, shown: Shown, woken: asyncio.Event
) -> DeploymentView:
    """The deployment once it has ended, or for DELAYED_S could not begin."""
    delayed_s, failures = 0.0, 0
    while True:
        try:
            view = await client.deployment(deployment)
        except Unavailable as error:  # a gateway that starts anew, say: the deployment goes on
            failures += 1
            if failures >= ASKED_TIMES:
                raise
            shown.away(error)
            await asyncio.sleep(POLL_S)
            continue
        failures = 0
        delayed_s = delayed_s + POLL_S if view.delayed else 0.0
        if view.state in ENDED or delayed_s > DELAYED_S:
            return view
        shown.state(view)
        woken.clear()
        try:
            async with asyncio.timeout(POLL_S):
                await woken.wait()
        except TimeoutError:
            pass


async def _last_words(shown: Shown) -> None:
    """The state may be ahead of the events: let those that tell of the way there come in."""
    try:
        async with asyncio.timeout(LAST_WORDS_S):
            await shown.over.wait()
    except TimeoutError:
        pass


async def _follow(
    client: GantryClient,
    app: str,
    place: str | None,
    progress: Progress,
    shown: Shown,
    woken: asyncio.Event,
) -> None:
    if place is None:
        return
    async with aclosing(client.events(TOPICS, app, place)) as events:
        async for event in events:
            said = progress.observe(event)
            if said:
                shown.step(said)
            final = event.topic in ("deploy.succeeded", "deploy.failed")
            if final and event.data.get("deployment") == progress.deployment:
                woken.set()
                shown.over.set()


class Shown:
    """Steps as lines, or as a table that moves where somebody watches. Events may be `late_s` behind the state."""

    def __init__(self, printer: Printer, progress: Progress, late_s: float) -> None:
        self._printer = printer
        self._progress = progress
        self._live: Live | None = None
        self.over = asyncio.Event()  # its last event has been shown
        self._patience_s = late_s
        self._late_s = 0.0
        self._noted: set[str] = set()

    def __enter__(self) -> Shown:
        if self._printer.out.is_terminal and not self._printer.is_json:
            self._live = Live(
                console=self._printer.out, get_renderable=self._render, refresh_per_second=8
            )
            self._live.__enter__()
        return self

    def __exit__(self, *_error: object) -> None:
        if self._live is not None:
            self._live.refresh()
            self._live.stop()

    def state(self, view: DeploymentView) -> None:
        """How it stands by itself: shown where events are too late to tell."""
        progress, counts = self._progress, view.counts or {}
        if view.delayed:
            self._note_once("delayed", view.reason)
        if (view.state, counts) == (progress.state, progress.counts):
            self._late_s = 0.0
            return
        self._late_s += POLL_S
        if self._late_s > self._patience_s:
            if self._patience_s:
                self._note_once("late", "events are delayed; what follows is the state")
            progress.state, progress.counts = view.state, counts
            self.step(f"{view.state}: {progress.summary()}")

    def away(self, error: Unavailable) -> None:
        """How it stands can't be had for now."""
        self._note_once("away", f"{error}; trying again")

    def _note_once(self, what: str, said: str) -> None:
        if what not in self._noted:
            self._noted.add(what)
            self._printer.note(said)

    def step(self, said: str) -> None:
        """Something happened."""
        if self._live is None and not self._printer.is_json:
            self._printer.out.print(Text(said), soft_wrap=True)

    def _render(self) -> Group:
        progress = self._progress
        counts = progress.counts
        wanted, ready = counts.get("wanted", 0), counts.get("ready", 0)
        bar = ProgressBar(total=max(wanted, 1), completed=ready, width=40)
        busy = [step for step in progress.steps.values() if step.state in _BUSY]
        table = Table(box=None, pad_edge=False, show_header=False)
        for step in busy[:SHOWN]:
            shown = (step.instance, step.release, step.state, step.host, step.address, step.detail)
            table.add_row(*(cell(each) for each in shown))
        more = Text(f"… and {len(busy) - SHOWN} more" if len(busy) > SHOWN else "", style="dim")
        head = Text(f"{progress.app}  {progress.state}  {progress.summary()}", style="bold")
        return Group(head, bar, table, more)
