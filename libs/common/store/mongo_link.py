"""The way to a MongoDB server, whose password may change while we run.

A connection proves the password once, when it is made: those that there are stay good. So a password is used until the
server refuses it to a new connection. Then its file is read again, and when it holds another one, a client with that
takes over for all calls from then on. The call that met the refusal is Unavailable, as in any outage. What is under
way on the old client ends there, and nothing of it is done twice; then the client is closed.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Any

from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorCollection
from pymongo.errors import OperationFailure, PyMongoError

from libs.common.errors import InvalidInput, Unavailable
from libs.common.store.mongo_documents import Document
from libs.common.store.mongo_errors import AUTHENTICATION_FAILED, guarded
from libs.common.store.mongo_url import MongoSettings

CLOSE_S = 2.0
_OPTIONS: Mapping[str, Any] = {
    "serverSelectionTimeoutMS": 5_000,
    "connectTimeoutMS": 5_000,
    "socketTimeoutMS": 25_000,
    "retryWrites": False,  # a standalone server has no sessions to retry in
    "w": "majority",
    "journal": True,
    "readPreference": "primary",  # an epoch or a version that is read elsewhere may be of the past
    "appname": "gantry",
}


class _Client:
    """A driver's client with one password, and how many calls are under way on it."""

    def __init__(self, settings: MongoSettings) -> None:
        """Raises InvalidInput; connects later."""
        try:
            with warnings.catch_warnings():
                # Of an option or a value that it doesn't know the driver only warns: `tls=yes` is no TLS.
                warnings.simplefilter("error", UserWarning)
                self._motor: Any = AsyncIOMotorClient(
                    settings.url, **settings.arguments(), **_OPTIONS
                )
        except (PyMongoError, ValueError, OSError, UserWarning) as error:
            said = settings.scrub(str(error))
            raise InvalidInput.of("common.store", said, "mongodb://host:port/db") from None
        self.settings = settings
        self.database = self._motor[settings.database]
        self.collections: dict[str, AsyncIOMotorCollection[Document]] = {}
        self.calls = 0

    async def close(self) -> None:
        """It takes leave of the server, in a blocking call; not in the loop's own threads, which are waited for."""
        thread = ThreadPoolExecutor(1, "mongo-close")
        loop = asyncio.get_running_loop()
        with suppress(TimeoutError, PyMongoError):
            async with asyncio.timeout(CLOSE_S):
                await loop.run_in_executor(thread, self._motor.close)
        thread.shutdown(wait=False)


class MongoLink:
    """What calls go through. Raises InvalidInput for settings that the driver refuses."""

    def __init__(self, settings: MongoSettings) -> None:
        self._client = _Client(settings)
        self._retired: list[_Client] = []
        self._closed = False

    @property
    def database(self) -> Any:
        """The database, as it is reached now: not to be kept from call to call."""
        return self._client.database

    def __getitem__(self, collection: str) -> AsyncIOMotorCollection[Document]:
        """A collection, likewise."""
        known = self._client.collections
        if collection not in known:
            known[collection] = self._client.database[collection]
        return known[collection]

    @asynccontextmanager
    async def calling(self, what: str) -> AsyncIterator[None]:
        """Around a call. Raises TimedOut or Unavailable for what goes wrong between us and the server."""
        self.check_open()
        client = self._client
        client.calls += 1
        try:
            async with guarded(what):
                try:
                    yield
                except OperationFailure as error:
                    if error.code == AUTHENTICATION_FAILED:
                        self._renew()
                    raise
        finally:
            client.calls -= 1
            await self._close_retired()

    def _renew(self) -> None:
        """Another client takes over if the file holds another password now."""
        if self._closed:
            return
        try:
            found = self._client.settings.read_again()
            if found == self._client.settings:
                return
            newer = _Client(found)
        except InvalidInput:
            return  # as it is, while files are being replaced
        self._retired.append(self._client)
        self._client = newer

    async def _close_retired(self) -> None:
        """Close those that nothing is under way on, in turn: a call goes on from an older one to those after it."""
        while self._retired and not self._retired[0].calls:
            await self._retired.pop(0).close()

    async def close(self) -> None:
        """For good; whatever is under way fails."""
        self._closed = True
        clients, self._retired = [*self._retired, self._client], []
        await asyncio.gather(*(each.close() for each in clients))

    def check_open(self) -> None:
        """Raise Unavailable after close."""
        if self._closed:
            raise Unavailable("the store is closed")
