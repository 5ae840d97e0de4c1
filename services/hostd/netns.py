"""NetworkDriver on Linux: namespaces bound to files, veth pairs into them.

All of it runs in a small pool of threads. A thread that must act inside a namespace enters it only long enough to open
sockets there: a socket stays in its namespace, so the work itself is done from home.

**Invariant**: a job leaves its thread in the host's namespace; a thread that can't get home does no further job.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from libs.common.errors import Conflict, TimedOut, Unavailable
from services.hostd import foreign, netlink
from services.hostd.core import is_link_of
from services.hostd.flows import link_local
from services.hostd.model import LinkCounters, LinkState, Namespace, NetworkView, Wire, WireView
from services.hostd.netlink_routes import add_route

CLONE_NEWNET = 0x40000000
MS_BIND, MNT_DETACH = 0x1000, 0x2
SIOCETHTOOL, ETHTOOL_STXCSUM = 0x8946, 0x17
OWN_NAMESPACE = "/proc/thread-self/ns/net"

LOOPBACK = 1  # its index in every namespace
LINK_LOCAL_PREFIX = 64

THREADS = 4
CALL_TIMEOUT_S = 20.0

# Forwarding is inherited from the host unless said otherwise. IPv6 where there is no address would be unusable (the
# flows drop it); where there is, the addresses are those hostd gives: none made up, none learnt from a router.
_SYSCTLS = (
    ("net/ipv4/ip_forward", "0"),
    ("net/ipv6/conf/all/forwarding", "0"),
    ("net/ipv6/conf/default/addr_gen_mode", "1"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    ("net/ipv6/conf/default/accept_redirects", "0"),
    ("net/ipv6/conf/default/dad_transmits", "0"),
)
_NO_IPV6 = "net/ipv6/conf/{}/disable_ipv6"

_libc = ctypes.CDLL(None, use_errno=True)
T = TypeVar("T")


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"cannot {what}: {os.strerror(code)}")


def _setns(fd: int) -> None:
    _check(_libc.setns(fd, CLONE_NEWNET), "enter a network namespace")


def _bind(path: str) -> None:
    _check(_libc.mount(OWN_NAMESPACE.encode(), path.encode(), None, MS_BIND, None), f"bind {path}")


def _detach(path: str) -> None:
    if _libc.umount2(path.encode(), MNT_DETACH) != 0 and ctypes.get_errno() not in (
        errno.EINVAL,  # not a mount point (any more)
        errno.ENOENT,
    ):
        _check(-1, f"unmount {path}")


def disable_checksum_offload(in_namespace: socket.socket, ifname: str) -> None:
    """Have the kernel fill in checksums: a datapath in user space forwards frames as they are (`ethtool -K tx off`)."""
    value = ctypes.create_string_buffer(struct.pack("=II", ETHTOOL_STXCSUM, 0))
    request = struct.pack("16sP", ifname.encode(), ctypes.addressof(value))
    fcntl.ioctl(in_namespace.fileno(), SIOCETHTOOL, request)


def _set_sysctl(key: str, value: str) -> None:
    with suppress(FileNotFoundError):  # a kernel without IPv6, or no such interface (yet)
        Path("/proc/sys", key).write_text(value)


def _set_inside(index: int, wire: Wire) -> list[netlink.Message]:
    """All that the container's end has; in this order, as a route needs its address, and that the interface up."""
    changes = [netlink.set_up(index, wire.mtu)]
    if wire.ip:
        changes.append(netlink.add_address(index, wire.ip, wire.prefix))
    if wire.ip6 is not None:
        # Neighbours are checked on, and gateways answer, by link-local addresses.
        changes.append(netlink.add_address(index, link_local(wire.mac), LINK_LOCAL_PREFIX))
        changes.append(netlink.add_address(index, wire.ip6.ip, wire.ip6.prefix))
    gateways = (wire.gateway, wire.ip6.gateway if wire.ip6 else None)
    changes += [netlink.add_default_route(index, each) for each in gateways if each is not None]
    changes += [add_route(index, each.dst, each.gw) for each in wire.routes]
    if wire.egress_kbit is not None:
        changes.append(netlink.shape(index, wire.egress_kbit, wire.mtu))
    else:
        changes.append(netlink.unshape(index))
    return changes


def _state(link: netlink.Link | None) -> LinkState | None:
    return LinkState(link.up, link.mtu, link.mac) if link else None


class LinuxNetwork:
    """Namespaces under `directory`, one file each; links named by `core.link_name`."""

    def __init__(self, owner: str, directory: Path, *, checksum_offload: bool) -> None:
        self._owner = owner
        self._directory = directory
        self._offload = checksum_offload
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._netlink = threading.local()
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="hostd-net")

    def close(self) -> None:
        """Let running jobs end, then let go of everything."""
        self._pool.shutdown()
        os.close(self._home)

    # -- the port ----------------------------------------------------------------------------------

    async def ensure(self, wire: Wire) -> Namespace:
        """See NetworkDriver."""
        return await self._run(lambda: self._ensure(wire))

    async def find(self, namespace: str) -> Namespace | None:
        """See NetworkDriver."""
        return await self._run(lambda: self._find(namespace))

    async def inode_of(self, netns: str) -> int | None:
        """See NetworkDriver."""
        return await self._run(lambda: self._inode_of(netns))

    async def complaints(self, wire: Wire) -> tuple[str, ...]:
        """See NetworkDriver."""
        return await self._run(lambda: self._complaints(wire))

    async def remove_namespace(self, name: str) -> None:
        """See NetworkDriver."""
        await self._run(lambda: self._remove_namespace(name))

    async def set_down(self, link: str) -> bool:
        """See NetworkDriver."""
        return await self._run(lambda: self._set_down(link))

    async def remove_link(self, name: str) -> None:
        """See NetworkDriver."""
        await self._run(lambda: self._host_netlink().run([netlink.delete_link(name)]))

    async def view(self) -> NetworkView:
        """See NetworkDriver."""
        return await self._run(self._view)

    async def inspect(self, wire: Wire) -> WireView:
        """See NetworkDriver."""
        return await self._run(lambda: self._inspect(wire))

    async def link(self, name: str) -> LinkState | None:
        """See NetworkDriver."""
        return await self._run(lambda: _state(self._host_netlink().link(name)))

    async def counters(self, link: str) -> LinkCounters | None:
        """See NetworkDriver."""
        return await self._run(lambda: self._counters(link))

    async def host_inode(self) -> int:
        """See NetworkDriver."""
        return os.fstat(self._home).st_ino

    async def _run(self, job: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                return await loop.run_in_executor(self._pool, job)
        except TimeoutError:
            raise TimedOut("the kernel did not finish a network change in time") from None
        except OSError as error:
            raise Unavailable(f"network: {error.strerror or error}") from error

    # -- jobs, in a thread ---------------------------------------------------------------------------

    def _host_netlink(self) -> netlink.NetlinkSocket:
        """This thread's socket in the host's namespace. Raises OSError when the thread has strayed."""
        if Path(OWN_NAMESPACE).stat().st_ino != os.fstat(self._home).st_ino:
            _setns(self._home)
        known: netlink.NetlinkSocket | None = getattr(self._netlink, "socket", None)
        if known is None:
            known = self._netlink.socket = netlink.NetlinkSocket()
        return known

    @contextmanager
    def _inside(self, fd: int) -> Iterator[None]:
        _setns(fd)
        try:
            yield
        finally:
            _setns(self._home)

    def _path(self, name: str) -> str:
        return str(self._directory / name)

    def _find(self, name: str) -> Namespace | None:
        path = self._path(name)
        try:
            status = Path(path).stat()
        except FileNotFoundError:
            return None
        # A file that nothing is bound to lies on the directory's own device.
        if status.st_dev == self._directory.stat().st_dev:
            return None
        return Namespace(name, path, status.st_ino)

    def _make(self, name: str) -> Namespace:
        path = self._path(name)
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        _check(_libc.unshare(CLONE_NEWNET), "make a network namespace")
        try:
            for key, value in _SYSCTLS:
                _set_sysctl(key, value)
            _bind(path)
        finally:
            _setns(self._home)
        return Namespace(name, path, Path(path).stat().st_ino)

    def _inode_of(self, netns: str) -> int | None:
        home = os.fstat(self._home)
        try:
            status = Path(netns).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        if status.st_dev != home.st_dev:
            return None  # a file that nothing is bound to (any more)
        if status.st_ino == home.st_ino:
            raise Conflict(f"{netns} is the host's own network namespace")
        return status.st_ino

    @contextmanager
    def _opened(self, wire: Wire, path: str) -> Iterator[tuple[int, netlink.NetlinkSocket]]:
        """A namespace's descriptor, and a netlink socket in it."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if wire.netns and os.fstat(fd).st_ino != wire.inode:
                raise Unavailable(f"{wire.netns} is not the container's namespace any more")
            with self._inside(fd):
                inner = netlink.NetlinkSocket()
            with closing(inner):
                yield fd, inner
        finally:
            os.close(fd)

    def _ensure(self, wire: Wire) -> Namespace:
        host = self._host_netlink()
        if wire.netns:
            namespace = Namespace(wire.namespace, wire.netns, wire.inode)
        else:
            namespace = self._find(wire.namespace) or self._make(wire.namespace)
        with self._opened(wire, namespace.path) as (fd, inner):
            if wire.netns:
                foreign.refuse_strangers(wire, host, inner)
            with self._inside(fd):
                # An interface that is still to be made starts as `default` says, which in a caller's is not ours.
                for where in () if wire.netns else ("default", wire.ifname):
                    _set_sysctl(_NO_IPV6.format(where), "0" if wire.ip6 else "1")
                plain = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            with closing(plain):
                self._wire(wire, host, inner, plain, fd)
        return namespace

    def _inspect(self, wire: Wire) -> WireView:
        outer = _state(self._host_netlink().link(wire.link))
        own = None if wire.netns else self._find(wire.namespace)
        if own is None and self._inode_of(wire.netns) != wire.inode:
            return WireView(outer)
        with self._opened(wire, own.path if own else wire.netns) as (_, inner):
            link = inner.link(wire.ifname)
            if link is None:
                return WireView(outer)
            found = inner.addresses(link.index), inner.gateways(link.index)
            return WireView(outer, _state(link), *found)

    def _complaints(self, wire: Wire) -> tuple[str, ...]:
        host = self._host_netlink()
        with self._opened(wire, wire.netns or self._path(wire.namespace)) as (_, inner):
            return foreign.complaints(wire, host, inner)

    def _wire(
        self,
        wire: Wire,
        host: netlink.NetlinkSocket,
        inner: netlink.NetlinkSocket,
        plain: socket.socket,
        fd: int,
    ) -> None:
        present, outer = inner.link(wire.ifname), host.link(wire.link)
        if present is None or outer is None:
            # A leftover end would make the new pair fail; the other end goes with it.
            leftover = [netlink.delete_link(wire.ifname)] if present else []
            for end, messages in ((inner, leftover), (host, [netlink.delete_link(wire.link)])):
                if messages:
                    end.run(messages)
            host.run([netlink.add_veth(wire.link, wire.ifname, fd, wire.mac, wire.mtu)])
            present = inner.link(wire.ifname)
            if wire.netns:
                with self._inside(fd):
                    _set_sysctl(_NO_IPV6.format(wire.ifname), "0" if wire.ip6 else "1")
        elif not outer.up or outer.mtu != wire.mtu:
            host.run([netlink.set_up(outer.index, wire.mtu)])
        assert present is not None
        inner.run([netlink.set_up(LOOPBACK), *_set_inside(present.index, wire)])
        if not self._offload:
            disable_checksum_offload(plain, wire.ifname)

    def _remove_namespace(self, name: str) -> None:
        path = self._path(name)
        _detach(path)
        with suppress(FileNotFoundError):
            Path(path).unlink()

    def _set_down(self, name: str) -> bool:
        host = self._host_netlink()
        found = host.link(name)
        if found is None:
            return False
        host.run([netlink.set_down(found.index)])
        return True

    def _view(self) -> NetworkView:
        links = [
            link for link in self._host_netlink().links() if is_link_of(self._owner, link.name)
        ]
        return NetworkView(
            frozenset(each.name for each in self._directory.iterdir()),
            frozenset(link.name for link in links),
            frozenset(link.name for link in links if not link.up),
        )

    def _counters(self, link: str) -> LinkCounters | None:
        found = self._host_netlink().link(link)
        if found is None:
            return None
        # What the host's end receives is what the container sent.
        tx_packets, rx_packets, tx_bytes, rx_bytes, _, _, tx_dropped, rx_dropped = found.stats
        return LinkCounters(rx_bytes, tx_bytes, rx_packets, tx_packets, rx_dropped, tx_dropped)
