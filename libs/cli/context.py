"""What every command is handed, and how it talks to the server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import typer

from libs.cli.output import Printer
from libs.cli.settings import Settings
from libs.client import GantryClient

T = TypeVar("T")


@dataclass(frozen=True)
class Context:
    """Settings and a printer."""

    settings: Settings
    printer: Printer

    def ask(self, what: Callable[[GantryClient], Awaitable[T]], *, key: str | None = None) -> T:
        """Run `what` with a client of its own, by default with the key of the settings."""
        used = self.settings.key if key is None else key

        async def with_client() -> T:
            async with GantryClient.open(self.settings.url, used) as client:
                return await what(client)

        return asyncio.run(with_client())


def context_of(ctx: typer.Context) -> Context:
    """The context that the main callback made."""
    found = ctx.find_object(Context)
    if found is None:
        raise RuntimeError("the command was called without its context")
    return found
