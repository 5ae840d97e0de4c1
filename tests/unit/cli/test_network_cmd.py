"""`gantry network`, `pool`, `address` and `quota` against a live gateway with the real ipam."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.ipam import editing
from tests.unit.cli.conftest import Live


def test_networks_and_pools(live: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(editing, "STALE_S", 0.05)
    made = live.gantry(
        *("network", "put", "web", "--vlan", "30", "--cidr", "10.30.0.0/28"),
        *("--gateway", "10.30.0.1", "--exclude", "10.30.0.2-10.30.0.4", "--unit", "acme"),
    )
    assert made.code == 0 and made.out == "web: version 1\n", made.err
    more = live.gantry("pool", "put", "web", "more", "--cidr", "fd00:30::/64", "--priority", "3")
    assert more.out == "web/more: fd00:30::/64\n", more.err
    rows = live.gantry("network", "ls").out.splitlines()
    assert rows[3].split()[:4] == ["web", "30", "fd00:30::/64,", "10.30.0.0/28"]
    assert rows[3].split()[4:] == ["10", "0", "10", "0", "%", "acme"]  # of IPv4, the scarcer family
    live.do(live.world.attach("acme-web-1", network="web"))
    shown = live.gantry("network", "show", "web").out
    assert "defined by    the API" in shown and 'etag          "2"' in shown
    default = next(line for line in shown.splitlines() if line.startswith("default"))
    assert default.split() == [
        "default",
        "10.30.0.0/28",
        "10.30.0.1",
        "10",
        "1",
        "9",
        "10",
        "%",
        "-",
    ]
    assert "the configuration" in live.gantry("networks", "blue").out
    content = live.gantry("network", "show", "web", "-o", "json").json()
    assert [each["pool"] for each in content["pools"]] == ["more", "default"]
    used = live.gantry("network", "rm", "web")
    assert used.code == 7 and "in use: 1 allocated" in used.err
    stale = live.gantry("pool", "rm", "web", "more", "--if-match", '"1"')
    assert stale.code == 7 and "version 2" in stale.err
    file = tmp_path / "net.yaml"
    file.write_text(
        "vlan: 31\npools:\n- {name: a, cidr: 10.31.0.0/24}\n- {name: b, cidr: 10.32.0.0/24}\n"
    )
    assert live.gantry("network", "put", "files", "-f", str(file)).code == 0
    gone = live.gantry("pool", "rm", "files", "b", "-o", "json")
    assert gone.json()["deleted"] is True, gone.err
    assert live.gantry("network", "rm", "files").out == "files: removed\n"
    for argv, told in (
        (("network", "put", "x", "--vlan", "5000"), "vlan"),
        (("network", "put", "x", "-f", str(file), "--vlan", "5"), "--file"),
        (("network", "put", "x", "-f", str(tmp_path / "none")), "can't be read"),
        (("pool", "put", "web", "y", "--cidr", "10.30.0.1/28"), "cidr"),
    ):
        wrong = live.gantry(*argv)
        assert wrong.code == 2 and told in wrong.err, argv


def test_the_map_of_a_pool(live: Live) -> None:
    for n in range(3):
        live.do(live.world.attach(f"acme-web-{n}"))
    head, *rows, _, legend = live.gantry("pool", "map", "blue", "default").out.splitlines()
    assert "256 addresses; gateway 10.1.0.254" in head
    assert rows[0].split() == ["10.1.0.0", "x###" + "." * 60] and rows[3].endswith("..xx")
    assert "# allocated 3" in legend
    part = live.gantry("pool", "map", "blue", "--from", "10.1.0.2", "--count", "4")
    assert part.out.splitlines()[1] == "10.1.0.2  ##.."
    told = live.gantry("pool", "map", "blue", "--from", "10.1.0.2", "--count", "1", "-o", "json")
    assert told.json()["spans"][0]["instance"] == "acme-web-1"
    assert live.gantry("pool", "map", "blue", "none").code == 4
    assert live.gantry("pool", "map", "blue", "--from", "10.9.0.0").code == 2


def test_addresses_and_reservations(live: Live) -> None:
    given = live.do(live.world.attach("acme-db-1", "acme/db", sticky_key="acme/db/0")).json()
    first = live.gantry("address", "ls", "blue").out.splitlines()[1].split()
    assert first[:2] == ["10.1.0.1", "allocated"] and first[-2:] == ["host-1", "acme-db-1"]
    assert "no addresses" in live.gantry("address", "ls", "blue", "--unit", "other").err
    live.do(live.world.detach("acme-db-1", given["generation"]))
    shown = live.gantry("address", "show", "blue", "10.1.0.1").out
    assert "state       held" in shown and shown.splitlines()[-1].split()[-3:] == [
        "acme-db-1", "host-1", "del",
    ]  # fmt: skip
    freed = live.gantry("address", "release", "blue", "10.1.0.1")
    assert freed.out.startswith("10.1.0.1: "), freed.err
    assert live.gantry("address", "release", "blue", "10.1.0.9").code == 4
    for n in (1, 2):
        live.do(live.world.attach(f"acme-left-{n}"))
    assert live.gantry("address", "release", "blue").code == 2
    assert "has none there" in live.gantry("address", "release", "blue", "--gone", "host-7").err
    dead = live.gantry("address", "release", "blue", "--gone", "host-1", "-o", "json").json()
    assert {each["state"] for each in dead["addresses"]} == {"cooling"}
    assert len(dead["addresses"]) >= 2
    made = live.gantry(
        *("--bu", "acme", "address", "reserve", "blue", "db", "--address", "10.1.0.40"),
        *("--app", "db", "--note", "firewall"),
    )
    assert made.out == "blue/db: 10.1.0.40\n", made.err
    row = live.gantry("address", "reservations", "blue").out.splitlines()[1]
    assert row.split() == ["db", "10.1.0.40", "reserved", "acme/db", "firewall"]
    assert "10.1.0.40" in live.gantry("address", "ls", "blue", "--state", "reserved").out
    assert live.gantry("address", "unreserve", "blue", "db").out == "blue/db: given back\n"
    assert live.gantry("address", "unreserve", "blue", "db").code == 4
    assert live.gantry("address", "reserve", "blue", "db", "--app", "web").code == 2
    assert live.gantry("address", "ls", "blue", "--state", "lost").code == 2


def test_quotas(live: Live) -> None:
    made = live.gantry("quota", "set", "acme", "30", "--network", "blue=5")
    assert made.out == "acme: 0 of 30 in all, 0 of 5 in blue\n", made.err
    live.do(live.world.attach("acme-web-1"))
    rows = [line.split() for line in live.gantry("quota", "ls").out.splitlines()]
    assert rows[1:] == [["acme", "all", "1", "30"], ["acme", "blue", "1", "5"]]
    assert live.gantry("quota", "set", "acme", "--network", "blue").code == 2
    assert live.gantry("quota", "set", "acme", "--network", "blue=many").code == 2
    assert live.gantry("quota", "rm", "acme").out == "acme: no quota\n"
    assert "no quotas" in live.gantry("quota", "ls").err
