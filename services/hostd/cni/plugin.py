"""The commands: what a runtime asks, done by hostd's attachments.

As main plugin an attachment is a port of ours into the caller's namespace, as IPAM plugin an address alone. Either is
found by (container, interface), belongs to one network configuration by name, and lives until its DEL or a GC.

**Invariant**: a DEL that was kept while hostd was down is done before the next ADD of the same attachment.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from libs.common.errors import GantryError
from services.hostd import core, flows
from services.hostd.cni.delegation import Delegation
from services.hostd.cni.model import (
    LATEST,
    NEVER,
    VERSIONS,
    Answer,
    CniError,
    Code,
    Command,
    Interface,
    Ip,
    Result,
    as_cni,
)
from services.hostd.cni.ports import DelQueue, IpamPlugins, entry_of
from services.hostd.cni.request import Ask, mac_of, parse, routes_of, spec_of, unframe
from services.hostd.cni.result import render
from services.hostd.model import Attachment, AttachmentSpec, Caller, Hop, Phase
from services.hostd.service import HostdService
from services.hostd.table import KeyLocks

DEFAULT, DEFAULT6 = "0.0.0.0/0", "::/0"


class CniPlugin:
    """Answers calls of the shim. Calls for one attachment are done one after another."""

    def __init__(self, service: HostdService, plugins: IpamPlugins, queue: DelQueue) -> None:
        self._service = service
        self._delegation = Delegation(plugins)
        self._queue = queue
        self._locks = KeyLocks()
        self._commands = {
            Command.ADD: self._add,
            Command.DEL: self._del,
            Command.CHECK: self._check,
            Command.GC: self._gc,
            Command.STATUS: self._status,
            Command.VERSION: self._version,
        }
        self._calls = service.telemetry.counter(
            "hostd_cni_calls_total", "Calls of CNI, by error code (0: none)", "command", "code"
        )

    async def handle(self, body: bytes) -> Answer:
        """Answer one call; errors are answers, too."""
        command, version, code = "", LATEST, 0
        try:
            call = unframe(body)
            command = call.env.get("CNI_COMMAND", "")
            ask = parse(call)
            version = ask.conf.version
            content = await self._commands[ask.command](ask)
            return Answer(True, b"" if content is None else orjson.dumps(content))
        except GantryError as error:
            failure = as_cni(error)
            code = failure.code
            self._log("refused", command, failure)
            return Answer(False, orjson.dumps(_said(failure, version)))
        finally:
            known = command if command in Command.__members__ else "other"
            listed = code == 0 or code in Code.__members__.values()
            self._calls.labels(known, str(int(code)) if listed else "other").inc()

    def _log(self, what: str, command: str, error: CniError) -> None:
        self._service.telemetry.log.warning(
            f"CNI call {what}", command=command, code=int(error.code), reason=str(error)
        )

    # -- ADD -----------------------------------------------------------------------------------------

    async def _add(self, ask: Ask) -> Mapping[str, Any]:
        spec, mac = spec_of(ask), mac_of(ask)
        if ask.conf.vlan is not None and not ask.delegate:
            raise CniError(Code.CONFIG, "vlan is the network's", f"remove {ask.conf.vlan}")
        default, routes = routes_of(ask)
        caller = Caller(conf=ask.conf.name, default_route=default, routes=routes, dns=ask.conf.dns)
        if not ask.call.is_ipam:
            inode = await self._inode(ask)
            caller = caller.model_copy(update={"netns": ask.netns, "inode": inode, "mac": mac})
        async with self._locks.hold([ask.key]):
            await self._catch_up(ask)
            known = self._service.table.find(*ask.key)
            if known is not None and known.phase is not Phase.RELEASING:
                attachment = await self._again(ask, known, spec, caller)
            else:
                attachment = await self._new(ask, spec, caller)
        prev = None if ask.call.is_ipam else ask.conf.prev
        return render(made(self._service.owner, attachment), ask.conf.version, prev)

    async def _inode(self, ask: Ask) -> int:
        try:
            inode = await self._service.ports.network.inode_of(ask.netns)
        except GantryError as error:
            raise CniError(Code.ENVIRONMENT, "CNI_NETNS can't be used", str(error)) from None
        if inode is None:
            raise CniError(Code.ENVIRONMENT, "CNI_NETNS is no network namespace", ask.netns)
        return inode

    async def _again(
        self, ask: Ask, known: Attachment, spec: AttachmentSpec, caller: Caller
    ) -> Attachment:
        """The same ADD once more, whose answer may have been lost."""
        theirs = known.caller
        same = theirs is not None and (theirs.conf, theirs.netns, theirs.inode) == (
            caller.conf,
            caller.netns,
            caller.inode,
        )
        if not same or core.differs(known.spec, spec):
            raise CniError(
                Code.REFUSED,
                f"{ask.container} has an interface {ask.ifname} already",
                f"of {theirs.conf if theirs else 'another owner'}; DEL it first",
            )
        await self._service.add(*ask.key, known.spec, theirs)
        return self._present(ask)

    async def _new(self, ask: Ask, spec: AttachmentSpec, caller: Caller) -> Attachment:
        try:
            caller = await self._delegation.add(ask, caller)
            await self._service.add(*ask.key, spec, caller)
            return self._present(ask)
        except GantryError:
            await self._undo(ask)
            raise

    async def _undo(self, ask: Ask) -> None:
        """An ADD that failed leaves nothing that would come to life later."""
        try:
            await self._remove(ask)
        except GantryError as error:  # a DEL is due anyway
            self._log("not undone yet", ask.command, as_cni(error))

    def _present(self, ask: Ask) -> Attachment:
        attachment = self._service.table.find(*ask.key)
        if attachment is None or attachment.address is None:
            raise CniError(Code.TRY_AGAIN, "it was taken down meanwhile")
        return attachment

    # -- DEL -----------------------------------------------------------------------------------------

    async def _del(self, ask: Ask) -> None:
        async with self._locks.hold([ask.key]):
            await self._remove(ask)

    async def _remove(self, ask: Ask) -> None:
        """Ours first: its address may be given away once the other plugin has let it go."""
        known = self._service.table.find(*ask.key)
        if known is not None and _is_of(known, ask):
            await self._service.delete(*ask.key)
        await self._delegation.delete(ask)

    async def _catch_up(self, ask: Ask) -> None:
        """Do the DEL of this attachment that the shim kept, if there is one. Under the attachment's lock."""
        name = entry_of(ask.call.plugin, *ask.key)
        body = await self._queue.take(name)
        kept = await self._kept(name, body) if body is not None else None
        if kept is not None:
            await self._do_kept(name, kept)

    async def replay(self, name: str) -> bool:
        """Do a DEL that the shim kept; False: it can never be done, and was set aside.

        Raises GantryError when it must be tried again.
        """
        body = await self._queue.take(name)
        kept = await self._kept(name, body) if body is not None else None
        if kept is None:
            return False
        async with self._locks.hold([kept.key]):
            # An ADD that came first has done it already, and what is there now is newer.
            return await self._queue.take(name) is None or await self._do_kept(name, kept)

    async def _kept(self, name: str, body: bytes) -> Ask | None:
        try:
            ask = parse(unframe(body))
            if ask.command is not Command.DEL:
                raise CniError(Code.ENVIRONMENT, "what was kept is no DEL", ask.command)
        except CniError as error:
            await self._set_aside(name, error)
            return None
        return ask

    async def _do_kept(self, name: str, ask: Ask) -> bool:
        try:
            await self._remove(ask)
        except CniError as error:
            if error.code not in NEVER:
                raise
            await self._set_aside(name, error)
            return False
        await self._queue.done(name)
        return True

    async def _set_aside(self, name: str, error: CniError) -> None:
        self._log("kept and set aside", Command.DEL, error)
        await self._queue.refuse(name)

    # -- CHECK, GC, STATUS, VERSION ------------------------------------------------------------------

    async def _check(self, ask: Ask) -> None:
        if ask.conf.prev is None:
            raise CniError(Code.CONFIG, "prevResult is missing", "CHECK compares with it")
        known = self._service.table.find(*ask.key)
        if known is None or not _is_of(known, ask) or known.phase is not Phase.ADDRESSED:
            raise CniError(
                Code.UNKNOWN_CONTAINER, f"{ask.container} has no {ask.ifname} of {ask.conf.name}"
            )
        wrong = [*self._unlike_before(ask, known), *await self._wrong(ask, known)]
        if wrong:
            raise CniError(Code.BROKEN, "the attachment is not as it was made", "; ".join(wrong))
        await self._delegation.check(ask)

    def _unlike_before(self, ask: Ask, known: Attachment) -> list[str]:
        listed = {each.get("address") for each in (ask.conf.prev or {}).get("ips") or ()}
        ours = [each.address for each in made(self._service.owner, known).ips]
        return [f"prevResult does not have {each}" for each in ours if each not in listed]

    async def _wrong(self, ask: Ask, known: Attachment) -> list[str]:
        ports, owner = self._service.ports, self._service.owner
        found = []
        if known.ipam_key and not await ports.ipam.holds(known):
            found.append("ipam does not have the address as this attachment's (any more)")
        if not known.wired:
            return found
        assert known.caller is not None
        if await self._inode(ask) != known.caller.inode:
            return [*found, f"{ask.netns} is another namespace than at the ADD"]
        found += await ports.network.complaints(core.wire_of(owner, known))
        wanted = core.port_of(owner, known)
        seen = await ports.switch.inspect(lambda: [wanted])
        port = next((each for each in seen.ports if each.name == wanted.name), None)
        if port is None:
            found.append(f"the switch has no port {wanted.name}")
        elif port.error or (port.vlan, port.ofport) != (wanted.vlan, wanted.ofport):
            found.append(f"the switch's port {wanted.name} is not as it should be")
        if flows.OWNER_COOKIE | wanted.ofport in seen.missing:
            found.append(f"the switch has no flows for {wanted.name}")
        return found

    async def _gc(self, ask: Ask) -> None:
        failures = []
        if ask.conf.valid is not None:
            valid = {(each.container, each.ifname) for each in ask.conf.valid}
            for each in self._service.table.all():
                key = (each.container, each.ifname)
                if key in valid or not _is_of(each, ask):
                    continue
                try:
                    async with self._locks.hold([key]):
                        await self._service.delete(*key)
                except GantryError as error:
                    failures.append(f"{each.container} {each.ifname}: {error}")
        try:
            await self._delegation.gc(ask)
        except GantryError as error:
            failures.append(str(error))
        if failures:
            text = "; ".join(failures)
            raise CniError(Code.TRY_AGAIN, f"{len(failures)} could not be removed", text)

    async def _status(self, ask: Ask) -> None:
        service = self._service
        if not ask.call.is_ipam:
            reason = service.not_ready()
            if reason:
                connected = service.ports.switch.is_connected()
                raise CniError(Code.UNAVAILABLE if connected else Code.LIMITED, reason)
        if ask.delegate:
            await self._delegation.status(ask)
            return
        try:
            room = await service.ports.ipam.room(ask.network)
        except GantryError as error:
            raise CniError(Code.UNAVAILABLE, "no address can be had", str(error)) from None
        if room < 1:
            raise CniError(Code.UNAVAILABLE, "no address is free", f"network {ask.network} is full")

    async def _version(self, ask: Ask) -> Mapping[str, Any]:
        return {"cniVersion": ask.raw.get("cniVersion") or LATEST, "supportedVersions": VERSIONS}


def _is_of(attachment: Attachment, ask: Ask) -> bool:
    """Was it made by the same plugin for the same network configuration."""
    caller = attachment.caller
    return (
        caller is not None
        and caller.conf == ask.conf.name
        and attachment.wired is not ask.call.is_ipam
    )


def made(owner: str, attachment: Attachment) -> Result:
    """What an ADD of the attachment answers."""
    address, caller = attachment.address, attachment.caller
    assert address is not None
    assert caller is not None
    wire = core.wire_of(owner, attachment)
    interfaces: tuple[Interface, ...] = ()
    if attachment.wired:
        inner = Interface(wire.ifname, wire.mac, wire.mtu, wire.netns)
        interfaces = (Interface(wire.link), inner)
    at = 1 if interfaces else None
    ips = [Ip(f"{part.address}/{part.prefix_len}", part.gateway, at) for part in address.parts()]
    defaults = [
        Hop(dst=DEFAULT if ":" not in each.gateway else DEFAULT6, gw=each.gateway)
        for each in ips
        if caller.default_route and each.gateway
    ]
    return Result(interfaces, tuple(ips), (*defaults, *wire.routes), caller.dns)


def _said(error: CniError, version: str) -> dict[str, Any]:
    content: dict[str, Any] = {
        "cniVersion": version if version in VERSIONS else LATEST,
        "code": int(error.code),
        "msg": _plain(error.msg),
    }
    if error.details:
        content["details"] = _plain(error.details)
    return content


def _plain(text: str) -> str:
    """Without what the environment had that is not UTF-8."""
    return text.encode(errors="replace").decode()
