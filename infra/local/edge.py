"""The edge of a local cluster: a namespace with a leg in every VLAN, and HAProxy inside it.

The host itself has no address in any VLAN. The edge holds the gateways' addresses and does not forward, so it can reach
every container and connects no VLAN to another.
"""

from __future__ import annotations

from pathlib import Path

from infra.local.layout import Layout, Vlan
from infra.local.processes import Daemon, run
from services.deployer.loadbalancer.haproxy_config import Backend, render


async def up(layout: Layout, bridge: str) -> None:
    """Make the namespace and its legs; harmless when they are there."""
    if layout.edge not in (await run("ip", "netns", "list")).split():
        await run("ip", "netns", "add", layout.edge)
    await _inside(layout, "ip", "link", "set", "lo", "up")
    await _inside(layout, "sysctl", "-qw", "net.ipv4.ip_forward=0")
    for vlan in layout.vlans:
        await _leg(layout, bridge, vlan)


async def _leg(layout: Layout, bridge: str, vlan: Vlan) -> None:
    outer, inner = f"{bridge[-6:]}-e{vlan.tag}", f"eth{vlan.tag}"
    database = f"--db=unix:{layout.ovs_dir / 'db.sock'}"
    if not Path("/sys/class/net", outer).exists():
        await run("ip", "link", "add", outer, "type", "veth", "peer", inner, "netns", layout.edge)
    port = ("--", "set", "Interface", outer, "external_ids:gantry_edge=true")
    await run(
        "ovs-vsctl",
        "--timeout=10",
        database,
        "--may-exist",
        "add-port",
        bridge,
        outer,
        f"tag={vlan.tag}",
        *port,
    )
    await run("ip", "link", "set", outer, "up")
    address = f"{vlan.gateway}/{vlan.cidr.prefixlen}"
    await _inside(layout, "ip", "addr", "replace", address, "dev", inner)
    await _inside(layout, "ip", "link", "set", inner, "up")
    # Userspace OVS does not finish checksums that the kernel left to a network card.
    await _inside(layout, "ethtool", "-K", inner, "tx", "off")


async def _inside(layout: Layout, *command: str) -> str:
    return await run("ip", "netns", "exec", layout.edge, *command)


def haproxy(layout: Layout) -> Daemon:
    """The load balancer's process."""
    return Daemon("haproxy", layout.root / "haproxy.pid", layout.logs / "haproxy.log")


def start_haproxy(layout: Layout) -> None:
    """Start HAProxy inside the edge."""
    config = layout.root / "haproxy.cfg"
    config.write_text(render_config(layout))
    enter = ("ip", "netns", "exec", layout.edge)
    haproxy(layout).start((*enter, "haproxy", "-db", "-f", str(config)), layout.root)


def render_config(layout: Layout) -> str:
    """HAProxy's configuration for the layout's backends."""
    backends = [
        Backend(pool.name, f"*:{pool.port}", pool.slots, pool.check_path) for pool in layout.pools
    ]
    return render(backends, layout.haproxy_socket)


async def down(layout: Layout) -> None:
    """Stop HAProxy and remove the namespace with all its legs."""
    await haproxy(layout).stop()
    await run("ip", "netns", "delete", layout.edge, check=False)
