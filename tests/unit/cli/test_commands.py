"""The command against a live gateway."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import orjson
import pytest
from joserfc.jwk import OKPKey

from libs.common.bus.faults import BusFaults, BusPoint
from libs.common.errors import Unavailable
from libs.common.events import model as ev
from tests.unit.cli.conftest import Live
from tests.unit.gateway.test_dead import dead_letter

FILE = "app: acme/web\nimage: registry.test/web:1\nnetwork: blue\ninstances: 3\n"


@pytest.fixture
def file(tmp_path: Path) -> str:
    """An app file."""
    path = tmp_path / "app.yaml"
    path.write_text(FILE)
    return str(path)


def test_deploy_shows_each_instances_steps_and_its_end(live: Live, file: str) -> None:
    result = live.gantry("deploy", file)
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    for n, instance in enumerate(live.world.deployer.instances, 1):
        told = [each for each in lines if each.startswith(instance)]
        assert told[-1] == f"{instance}  healthy  10.1.0.{n} on host-1"
    assert lines[-1].endswith("of acme/web: succeeded, release 1")
    assert "acme/web: made" in result.err
    again = live.gantry("deploy", file, "--detach")
    assert again.code == 0 and "accepted" in again.out and "spec written" not in again.err


def test_deploy_of_a_changed_file_writes_the_spec_over_the_known_one(live: Live, file: str) -> None:
    live.gantry("deploy", file)
    Path(file).write_text(FILE.replace("instances: 3", "instances: 4"))
    result = live.gantry("deploy", file, "-o", "json")
    assert result.code == 0 and result.json()["state"] == "succeeded"
    assert result.json()["counts"]["healthy"] == 4
    assert live.world.deployer.apps["acme/web"]["version"] == 2


def test_a_failed_deployment_exits_1_with_its_reason(live: Live, file: str) -> None:
    Path(file).write_text(FILE.replace("web:1", "missing:1"))
    result = live.gantry("deploy", file)
    assert result.code == 1
    assert "failed" in result.err and "missing:1 does not exist" in result.err
    as_json = live.gantry("deploy", file, "-o", "json")
    assert as_json.code == 1 and as_json.json()["state"] == "failed"


def test_a_deployment_that_takes_too_long_exits_6_and_goes_on(live: Live, file: str) -> None:
    live.world.deployer.slow = True
    result = live.gantry("deploy", file, "--timeout", "1")
    assert result.code == 6 and "it goes on: gantry rollout status acme/web" in result.err
    (deployment,) = live.world.deployer.deployments.values()
    assert deployment["state"] == "rolling"


def test_dry_run_shows_the_difference_and_changes_nothing(live: Live, file: str) -> None:
    live.gantry("deploy", file)
    Path(file).write_text(FILE.replace("instances: 3", "instances: 9"))
    result = live.gantry("deploy", file, "--dry-run")
    assert result.code == 0 and "instances: 3 -> 9" in result.out and "release: 2" in result.out
    as_json = live.gantry("deploy", file, "--dry-run", "-o", "json").json()
    assert as_json["spec"] == {"instances": {"before": 3, "after": 9}}
    assert (as_json["plan"]["start"], as_json["plan"]["stop"]) == (9, 3)
    stored = live.gantry("deploy", "acme/web", "--dry-run", "-o", "json").json()
    assert stored["spec"] == {} and stored["plan"]["start"] == 3
    assert live.world.deployer.apps["acme/web"]["version"] == 1
    assert len(live.world.deployer.heard) == 1


def test_a_plan_tells_where_instances_would_go(live: Live, file: str) -> None:
    Path(file).write_text(FILE.replace("instances: 3", "instances: 9"))
    result = live.gantry("plan", file)
    assert result.code == 0, result.err
    assert "5 on host-1 (zone a)" in result.out
    assert "4 would wait: 1 of 1 agent would do, none of them has the memory" in result.out
    assert "of 1 agents failed: 1 mem\n" in result.out
    live.world.others.away.add("scheduler")
    away = live.gantry("plan", file)
    assert away.code == 0 and "is not known: scheduler away" in away.out
    assert not live.world.deployer.apps and not live.world.deployer.heard


def test_ps_says_of_what_waits_how_many_agents_failed_which_filter(live: Live, file: str) -> None:
    live.gantry("deploy", file)
    assert "FAILED" not in live.gantry("ps").out
    live.world.others.why = {
        "agents": 400,
        "failed": {"zone IS b": 12, "mem": 388},
        "nearest": "12 of 400 agents have the memory, none of them is in zone b",
    }
    table = live.gantry("ps").out
    assert "AGENTS THAT FAILED" in table and "388 mem, 12 zone IS b" in table
    assert "12 of 400 agents have the memory" in table


def test_an_image_that_is_none_is_refused_by_name(live: Live, file: str) -> None:
    for more in ([], ["--dry-run"]):
        result = live.gantry("deploy", file, "--image", "Bad Image", *more)
        assert (result.code, "image" in result.err) == (2, True)


def test_dry_run_of_an_app_that_does_not_exist(live: Live, file: str) -> None:
    result = live.gantry("deploy", file, "--dry-run")
    assert result.code == 0, result.err
    assert "acme/web would be made" in result.out and "network: None -> 'blue'" in result.out
    assert "release: 1" in result.out and "image: registry.test/web:1" in result.out
    as_json = live.gantry("deploy", file, "--dry-run", "-o", "json").json()
    assert as_json["spec"]["instances"] == {"before": None, "after": 3}
    assert as_json["plan"]["start"] == 3
    assert not live.world.deployer.apps and not live.world.deployer.heard
    assert live.gantry("deploy", "acme/web", "--dry-run").code == 4


def test_scale_rollback_restart_stop_and_the_tables(live: Live, file: str) -> None:
    for argv in (
        ("deploy", file),
        ("deploy", "acme/web", "--image", "registry.test/web:2"),
        ("scale", "web", "5", "--bu", "acme"),
        ("rollback", "acme/web", "--release", "1"),
        ("restart", "acme/web"),
    ):
        result = live.gantry(*argv)
        assert result.code == 0, (argv, result.err)
    ps = live.gantry("ps", "acme/web")
    assert len(ps.out.splitlines()) == 6 and "10.1.0.5" in ps.out and "CONTAINER" not in ps.out
    assert "gantry-test-acme-web" in live.gantry("ps", "-o", "wide").out
    assert len(live.gantry("ps", "-o", "json").json()["instances"]) == 5
    assert "sha256:" in live.gantry("releases", "acme/web").out
    assert "host-1" in live.gantry("nodes").out and "0.5/8" in live.gantry("nodes").out
    assert (
        "blue" in live.gantry("networks").out
        and "10.1.0.0/24" in live.gantry("networks", "blue").out
    )
    assert live.gantry("alerts").code == 0 and "acme/web" in live.gantry("apps").out
    history = live.gantry("rollout", "history", "acme/web").out
    assert [line.split()[1] for line in history.splitlines()[1:]] == [
        "restart", "rollback", "scale", "release", "release",
    ]  # fmt: skip
    assert live.gantry("stop", "acme/web").code == 0 and not live.world.deployer.instances


def test_rollout(live: Live, file: str) -> None:
    live.world.deployer.slow = True
    live.gantry("deploy", file, "--detach")

    async def known() -> None:
        async def there() -> bool:
            return bool(live.world.deployer.deployments)

        await live.world.eventually(there)

    live.do(known())
    assert "state       rolling" in live.gantry("rollout", "status", "acme/web").out
    assert "state       paused" in live.gantry("rollout", "pause", "acme/web").out
    again = live.gantry("rollout", "pause", "acme/web")
    assert again.code == 7 and "can't be paused" in again.err and "request id" in again.err
    assert live.gantry("rollout", "resume", "acme/web").code == 0
    assert live.gantry("rollout", "abort", "acme/web").code == 0
    assert live.gantry("rollout", "status", "acme/web").code == 0
    followed = live.gantry("rollout", "status", "acme/web", "--follow")
    assert followed.code == 1 and "aborted" in followed.err


def test_exit_codes(live: Live, file: str) -> None:
    assert live.gantry("apps", GANTRY_KEY="").code == 3
    assert live.gantry("apps", GANTRY_KEY="gk_first_" + "0" * 52).code == 3
    assert live.gantry("releases", "acme/none").code in (0, 4)
    assert live.gantry("deploy", "acme/none").code == 4
    assert live.gantry("deploy", "none").code == 2
    assert live.gantry("networks", "none").code == 4
    viewer = live.gantry("keys", "create", "--bu", "acme").out.strip()
    refused = live.gantry("deploy", file, GANTRY_KEY=viewer)
    assert refused.code == 3 and "viewer" in refused.err and "request id: " in refused.err
    data = orjson.loads(live.gantry("deploy", "acme/none", "-o", "json").err)
    assert data["error"] == "NotFound" and len(data["request_id"]) == 36


def test_keys_and_audit(live: Live) -> None:
    made = live.gantry(
        "keys", "create", "--bu", "acme", "--role", "admin", "--label", "ci", "--days", "1"
    )
    key = made.out.strip()
    assert made.code == 0 and key.startswith("gk_")
    listed = live.gantry("keys", "ls", GANTRY_KEY=key)
    assert "ci" in listed.out and key not in listed.out and "first" not in listed.out
    assert live.gantry("keys", "revoke", key.split("_")[1]).code == 0
    assert live.gantry("keys", "ls", GANTRY_KEY=key).code == 3
    assert live.gantry("keys", "create").code == 2

    async def recorded() -> None:
        async def there() -> bool:
            entries = (await live.world.call("GET", "/v1/audit")).json()["entries"]
            return len(entries) >= 2

        await live.world.eventually(there)

    live.do(recorded())
    assert "key.revoke" in live.gantry("audit").out


def test_logs_of_an_instance_and_of_an_app(live: Live, file: str) -> None:
    live.gantry("deploy", file)
    (one, *_) = live.world.deployer.instances
    assert live.gantry("logs", one, "--tail", "1").out == f"line 2 of gantry-test-{one}.1\n"
    lines = live.gantry("logs", "acme/web", "-f").out.splitlines()
    assert len(lines) == 9 and all(
        line.split()[0] in live.world.deployer.instances for line in lines
    )
    as_json = live.gantry("logs", one, "-o", "json").out.splitlines()
    assert orjson.loads(as_json[0])["line"].startswith("line 0")
    assert live.gantry("logs", "nobody").code == 4
    assert live.gantry("logs", "acme/none").code == 4


def test_stats_of_an_instance_and_of_an_app(live: Live, file: str) -> None:
    live.gantry("deploy", file)
    one, two, three = live.world.deployer.instances
    head, row = live.gantry("stats", one, "--interval", "0.1").out.splitlines()
    assert head.split() == ["INSTANCE", "CPUS", "MEM", "MIB", "RX/TX", "MIB", "PIDS"]
    assert row.split() == [one, "0.50", "12.0/64", "0.00/3.00", "3"]
    live.world.deployer.instances[two]["container"] = "gone"
    answer = live.gantry("stats", "acme/web", "--interval", "0.1", "-o", "json").json()
    rows = {each["instance"]: each for each in answer["instances"]}
    assert set(rows) == {one, two, three}
    assert rows[three]["cpus"] == 0.5 and rows[three]["stats"]["network"]["rx_packets"] == 7
    assert rows[two]["cpus"] is None and "gone" in rows[two]["error"]
    assert live.gantry("stats", two).code == 4
    assert live.gantry("stats", "acme/none").code == 4


def test_events_follow_and_resume(live: Live) -> None:
    async def tell(n: int) -> None:
        await live.world.deployer.tell(ev.NodeLost(agent=f"a{n}", hostname=f"h{n}"))

    told = threading.Event()

    def tell_soon() -> None:
        while not told.is_set():
            live.do(tell(1))
            told.wait(0.05)

    teller = threading.Thread(target=tell_soon)
    teller.start()
    first = live.gantry("events", "-t", "node.*", "-o", "json")
    told.set()
    teller.join()
    assert first.code == 0
    cursor = first.json()["cursor"]
    live.do(tell(2))
    rest = live.gantry("events", "-f", "--since", cursor, "--timeout", "0.5", "-o", "json")
    assert rest.code == 0
    assert orjson.loads(rest.out.splitlines()[-1])["subject"] == "a2"
    shown = live.gantry("events", "-f", "--since", cursor, "--timeout", "0.5").out
    assert "node.lost  a2  hostname=h2" in shown


def test_dead_letters_are_listed_shown_and_replayed(live: Live) -> None:
    assert "no dead letters" in live.gantry("dead", "ls").err
    live.do(live.world.bus.publish([dead_letter(), dead_letter(b"{}", group="scheduler")]))
    live.do(live.world.bus.publish([dead_letter(bytes(850_000), group="ipam")]))
    listed = live.gantry("dead", "ls", "--group", "deployer")
    assert listed.code == 0 and "deploy.requested" in listed.out and "no such thing" in listed.out
    letters = live.gantry("dead", "ls", "-o", "json").json()["letters"]
    place = {each["group"]: each["place"] for each in letters}
    shown = live.gantry("dead", "show", "deployer", place["deployer"])
    assert "ce_sequence: 7" in shown.out and '"deployment":"dep-1"' in shown.out
    done = live.gantry("dead", "replay", "deployer", place["deployer"])
    assert done.code == 0 and f"deployer: 1 replayed: {place['deployer']}" in done.out
    assert live.gantry("dead", "replay", "deployer", "--all", "-o", "json").json()["replayed"] == []
    assert live.gantry("dead", "replay", "scheduler", "--all").out.startswith(
        "scheduler: 1 replayed"
    )
    assert " by first-admin" in live.gantry("dead", "show", "deployer", place["deployer"]).out
    cut = live.gantry("dead", "replay", "ipam", place["ipam"])
    assert cut.code == 7 and "only 800000 of its 850000 bytes were kept" in cut.err
    all_of_ipam = live.gantry("dead", "replay", "ipam", "--all")
    assert "ipam: 0 replayed" in all_of_ipam.out and "left: only 800000" in all_of_ipam.err
    audit = live.gantry("audit").out
    assert "dead.replay" in audit and "dead.read" in audit


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (("replay", "deployer"), 2),
        (("replay", "deployer", "0:0", "--all"), 2),
        (("replay", "deployer", "nothing"), 2),
        (("replay", "deployer", *(f"0:{n}" for n in range(101))), 2),
        (("show", "deployer", "0:0"), 4),
        (("ls", "--group", "nobody"), 4),
    ],
)
def test_dead_letters_that_can_not_be_meant(live: Live, argv: tuple[str, ...], code: int) -> None:
    assert live.gantry("dead", *argv).code == code


def test_the_breaker_is_shown_and_released(live: Live) -> None:
    assert "closed; 0 unknown tasks" in live.gantry("breaker", "show").out
    assert live.gantry("breaker", "release").code != 0
    live.world.others.unknown_tasks = ["acme-web-1.1"]
    shown = live.gantry("breaker", "show")
    assert "open; 1 unknown tasks" in shown.out and "acme-web-1.1" in shown.out
    assert live.gantry("breaker", "release", "-o", "json").json()["open"] is False


def test_a_host_is_drained_and_opened(live: Live) -> None:
    done = live.gantry("node", "drain", "host-1", "--deadline", "30m", "--reason", "new disk")
    assert (done.code, "left: 2 of acme/web" in done.out) == (0, True)
    assert live.world.others.doors["host-1"]["deadline_s"] == 1800.0
    assert "draining, 3 left" in live.gantry("nodes").out
    assert live.gantry("node", "cordon", "host-1").code == 0
    assert live.gantry("node", "undrain", "host-1", "-o", "json").json()["door"] == "open"
    assert live.gantry("node", "drain", "host-9").code == 4
    assert live.gantry("node", "drain", "host-1", "--force").code == 2


def test_a_removed_framework_is_shown_and_begins_anew(live: Live) -> None:
    assert "subscribed, framework f1" in live.gantry("scheduler", "show").out
    assert live.gantry("scheduler", "reregister").code != 0
    live.world.others.subscribed = False
    shown = live.gantry("scheduler", "show")
    assert shown.code == 1 and "alarm: Mesos: Framework has been removed" in shown.out
    assert "gantry scheduler reregister" in shown.out
    anew = live.gantry("scheduler", "reregister", "-o", "json").json()
    assert (anew["framework"], anew["removed"]) == ("f1", False)
    assert live.gantry("scheduler", "show").code == 0


def test_producers_come_and_go(live: Live, tmp_path: Path) -> None:
    key = OKPKey.generate_key("Ed25519")
    public, private = tmp_path / "ci.pub", tmp_path / "ci.key"
    public.write_bytes(key.as_pem(private=False))
    private.write_bytes(key.as_pem(private=True))
    added = live.gantry("producer", "add", "ci", str(public), "--bu", "acme")
    assert added.code == 0 and added.out.startswith("pk-")
    listed = live.gantry("producer", "ls", "-o", "json").json()["keys"]
    assert [(each["id"], each["bu"], each["producer"]) for each in listed] == [
        (added.out.strip(), "acme", "ci")
    ]
    assert live.gantry("producer", "rm", added.out.strip()).code == 0
    assert "no producers" in live.gantry("producer", "ls").err
    assert live.gantry("producer", "rm", added.out.strip()).code == 4
    assert live.gantry("producer", "add", "ci", str(public)).code == 2
    assert live.gantry("producer", "add", "ci", str(tmp_path / "none"), "--bu", "acme").code == 2
    refused = live.gantry("producer", "add", "ci", str(private), "--bu", "acme")
    assert refused.code == 2 and "is a private key" in refused.err


def test_secrets_are_read_and_never_shown(
    live: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "value"
    file.write_bytes(b"marker\xff")
    unit = ("--bu", "acme")
    made = live.gantry("bu-secret", "put", "tls", str(file), *unit)
    assert (made.code, made.out.strip()) == (0, "acme/tls: version 1")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"marker\n")))
    made = live.gantry("bu-secret", "put", "db", *unit, "-o", "json")
    assert made.json()["version"] == 1 and "ends with a line break" in made.err
    listed = live.gantry("bu-secret", "ls", *unit)
    assert [line.split()[:2] for line in listed.out.splitlines()[1:]] == [["db", "1"], ["tls", "1"]]
    assert "marker" not in f"{made.out}{listed.out}"
    assert live.gantry("bu-secret", "rm", "db", *unit).code == 0
    assert live.gantry("bu-secret", "rm", "db", *unit, "--force").code == 4
    for words in (("put", "db"), ("ls",), ("rm", "db")):
        assert live.gantry("bu-secret", *words).code == 2  # without --bu
    assert live.gantry("bu-secret", "put", "db", str(tmp_path / "none"), *unit).code == 2
    file.write_bytes(b"")
    assert live.gantry("bu-secret", "put", "db", str(file), *unit).code == 2


def test_registry_logins_come_and_go(live: Live, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("marker\n")
    unit = ("--bu", "acme")
    made = live.gantry("bu-registry", "put", "reg.example:5000", "ci", str(file), *unit)
    assert (made.code, made.out.strip()) == (0, "acme: ci at reg.example:5000, version 1")
    listed = live.gantry("bu-registry", "ls", *unit, "-o", "json")
    assert listed.json()["registries"][0]["user"] == "ci" and "marker" not in listed.out
    assert live.gantry("bu-registry", "rm", "reg.example:5000", *unit).code == 0
    assert "no logins" in live.gantry("bu-registry", "ls", *unit).err
    assert live.gantry("bu-registry", "put", "Not/A/Host", "ci", str(file), *unit).code == 2


class Away(BusFaults):
    """Nothing goes through the bus; nobody can read it either."""

    def draw(self, point: BusPoint, what: str) -> float:
        return float(point in (BusPoint.PUBLISH_FAILS, BusPoint.FETCH_FAILS))


def test_breaking_the_glass_needs_a_reason_and_an_admin(live: Live, file: str) -> None:
    live.gantry("deploy", file)
    for argv in (("--break-glass",), ("--reason", "why"), ("--break-glass", "--reason", " ")):
        refused = live.gantry("stop", "acme/web", *argv)
        assert refused.code == 2 and "--reason" in refused.err
    key = live.do(live.world.key("acme", "deployer"))
    glass = ("--break-glass", "--reason", "fire")
    assert live.gantry("stop", "acme/web", *glass, GANTRY_KEY=key).code == 3
    assert len(live.world.deployer.instances) == 3


def test_the_glass_is_broken_without_events_and_the_state_is_shown(
    live: Live, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    live.gantry("deploy", file)
    live.world.bus.faults = Away()
    monkeypatch.setattr(live.world.bus, "end_offsets", _refuse)
    live.world.deployer.silent = True
    glass = ("--break-glass", "--reason", "fire")
    for argv, left in ((("scale", "acme/web", "2"), 2), (("stop", "acme/web"), 0)):
        done = live.gantry(*argv, *glass)
        assert done.code == 0, done.err
        assert "events are delayed" in done.err and "succeeded" in done.out
        assert len(live.world.deployer.instances) == left
    assert [each.break_glass for each in live.world.deployer.heard] == ["", "fire", "fire"]


def test_a_stop_that_waits_for_the_bus_says_what_can_be_done(
    live: Live, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("libs.cli.watch.DELAYED_S", 1.5)
    monkeypatch.setattr("services.gateway.api_apps.BUS_PATIENCE_S", 0.5)
    live.gantry("deploy", file)
    live.world.bus.faults = Away()
    waits = live.gantry("stop", "acme/web")
    assert waits.code == 6
    assert "the event bus has not taken it for" in waits.err
    assert (
        "--break-glass --reason WHY" in waits.err and "gantry rollout status acme/web" in waits.err
    )
    status = live.gantry("rollout", "status", "acme/web")
    assert "state       accepted" in status.out and "--break-glass" in status.out


async def _refuse(_topics: object) -> dict[tuple[str, int], int]:
    raise Unavailable("connection refused")


def test_the_network_doctor_fails_when_something_is_wrong(live: Live) -> None:
    well = live.gantry("network", "doctor")
    assert (well.code, well.out) == (0, "") and "nothing is wrong" in well.err
    live.world.others.findings = [
        {"check": "wrong-vlan", "what": "its port is in another VLAN", "evidence": "the tag 7, not 8",
         "advice": "wait", "instance": "acme-web-1"},
    ]  # fmt: skip
    ill = live.gantry("network", "doctor", "--host", "host-1")
    assert ill.code == 1 and "acme-web-1" in ill.out and "the tag 7, not 8" in ill.out
    as_json = live.gantry("network", "doctor", "-o", "json")
    assert as_json.code == 1
    assert as_json.json()["hosts"][0]["findings"][0]["check"] == "wrong-vlan"
    assert live.gantry("network", "doctor", "--host", "host-9").code == 4
    live.world.others.hostd_url = ""
    away = live.gantry("network", "doctor")
    assert away.code == 1 and "host-1 could not be asked" in away.err
