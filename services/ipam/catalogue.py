"""All networks that this replica knows: those of the configuration, and those made over the API.

The latter are one document, so that what must hold of all of them together (no VLAN twice, no address in two pools) is
one compare-and-set. Replicas read it again every REFRESH_S, before they use networks of it after that time, and at once
when somebody asks for one that they don't know.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from pydantic import ValidationError

from libs.common.clock import Clock
from libs.common.errors import Unavailable
from libs.common.events import Event, seal
from libs.common.store.base import Body, Collection, Store, Write
from libs.common.telemetry import Log
from services.ipam.definition import NetworkConfig, clashes, dumped
from services.ipam.model import IpamConfig
from services.ipam.pools import Network, Pool
from services.ipam.store import NETWORKS

REFRESH_S = 2.0
STALE_S = 5.0
"""Networks of the API are not used when what is known of them is older."""
_DOC = "networks"


@dataclass(frozen=True, slots=True)
class Entry:
    """A network that the API made. `version` counts its definitions; `closing` are pools that are being deleted."""

    config: NetworkConfig
    version: int = 1
    closing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Made:
    """All networks that the API made: the document."""

    entries: Mapping[str, Entry]
    version: int = 0


class Catalogue:
    """One replica's view."""

    def __init__(self, collection: Collection, config: IpamConfig, clock: Clock, log: Log) -> None:
        self.collection = collection
        self._clock = clock
        self._log = log
        self._fixed = {each.name: Network.of(each) for each in config.networks}
        self._made = Made({})
        self._networks: dict[str, Network] = dict(self._fixed)
        self._read_at = float("-inf")

    @classmethod
    async def open(cls, store: Store, config: IpamConfig, clock: Clock, log: Log) -> Catalogue:
        """Open the collection."""
        return cls(await store.collection(NETWORKS), config, clock, log)

    def __iter__(self) -> Iterator[Network]:
        return iter(self._networks.values())

    def get(self, name: str) -> Network | None:
        """As of the last look."""
        return self._networks.get(name)

    @property
    def fixed(self) -> tuple[NetworkConfig, ...]:
        """The configuration's definitions."""
        return tuple(each.config for each in self._fixed.values())

    def families(self) -> tuple[int, ...]:
        """Of all networks."""
        return tuple(sorted({family for network in self for family in network.families}))

    def pools(self) -> list[Pool]:
        """Of all networks."""
        return [pool for network in self for pool in network.pools]

    async def find(self, name: str) -> Network | None:
        """The network, as it is defined now or was a moment ago. Raises Unavailable."""
        fixed = self._fixed.get(name)
        if fixed is not None:
            return fixed
        age_s = self._clock.monotonic() - self._read_at
        if age_s >= REFRESH_S or name not in self._networks:
            try:
                await self.refresh()
            except Unavailable:
                if age_s >= STALE_S:
                    raise
        return self._networks.get(name)

    async def refresh(self) -> Made:
        """Read the document again. Raises Unavailable."""
        asked_at = self._clock.monotonic()
        doc = await self.collection.get(_DOC)
        made = Made({})
        if doc is not None:
            made = Made({each["id"]: _entry(each) for each in doc.body["networks"]}, doc.version)
        self._take(made, asked_at)
        return made

    def _take(self, made: Made, at: float) -> None:
        self._read_at = at
        if made.version == self._made.version:
            return
        self._made = made
        networks = dict(self._fixed)
        for name, entry in made.entries.items():
            clash = clashes([*self.fixed, entry.config])
            if clash:  # the configuration was written after it, and counts
                self._log.error("a network is left out", network=name, reason=clash)
            else:
                networks[name] = Network.of(entry.config, False, entry.version, entry.closing)
        self._networks = networks

    async def save(self, made: Made, events: tuple[Event, ...]) -> bool:
        """Compare-and-set of them all; False when somebody else was first."""
        asked_at = self._clock.monotonic()
        body = {
            "networks": [
                {
                    "id": name,
                    "version": each.version,
                    "config": dumped(each.config),
                    "closing": list(each.closing),
                }
                for name, each in made.entries.items()
            ]
        }
        sealed = seal(
            events,
            source="ipam",
            sequence=made.version + 1,
            now=self._clock.now(),
            aggregate=NETWORKS.name,
        )
        (result,) = await self.collection.replace_many([Write(_DOC, made.version, body, sealed)])
        if result.ok:
            self._take(replace(made, version=made.version + 1), asked_at)
        return result.ok


def _entry(body: Body) -> Entry:
    try:
        config = NetworkConfig.model_validate(body["config"], extra="ignore")
    except ValidationError as error:
        raise Unavailable(f"a stored network can't be read: {error}") from error
    return Entry(config, int(body["version"]), tuple(body["closing"]))
