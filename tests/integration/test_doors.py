"""Every route of every service, over real HTTP: closed without a token, and to tokens of the wrong kind.

The services' own parts are left out on purpose: no handler may be reached, and one that is fails with 500.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from joserfc import jwt
from joserfc.jwk import OctKey

from libs.common.clock import SystemClock
from libs.common.direct import inbox
from libs.common.http import Access, Front, HttpApp, Kind, Route
from libs.common.keys import SecretFile, keys_of, write_secrets
from libs.common.runtime import CommonConfig, Runtime, open_runtime, open_shared
from libs.common.serve import serve
from libs.common.tokens import TokenSigner, derive_key, scraper_token
from services.deployer.api import routes as deployer_routes
from services.deployer.desk import Desk
from services.gateway.api import routes as gateway_routes
from services.gateway.auth import Gate
from services.gateway.model import GatewayConfig
from services.gateway.parts import Gateway
from services.gateway.store import Repository
from services.hostd.api import read_routes
from services.hostd.main import make_app, make_verifier
from services.hostd.settings import HostdConfig
from services.ipam.api import routes as ipam_routes
from services.ipam.model import IpamConfig
from services.ipam.service import Ipam
from services.monitor.api import routes as monitor_routes
from services.monitor.service import Monitor
from services.scheduler.api import routes as scheduler_routes
from services.scheduler.service import Scheduler
from tests.fakes.gateway import gateway_world
from tests.fakes.hostd import fake_hostd
from tests.fakes.ipam import FakeIpam
from tests.fakes.network import FakeHost

SERVICES = ("gateway", "deployer", "scheduler", "ipam", "monitor", "hostd")
HOST = "host-1"

PUBLIC = {("GET", "/healthz"), ("GET", "/readyz")}
GATEWAYS_OWN = {
    # What hosts prove by the body that they send: tests/unit/gateway/test_hosts.py.
    ("POST", "/v1/hosts/enrol"),
    ("POST", "/v1/hosts/renew"),
    # Pages and forms of the console, which ask for the session themselves; tested below.
    ("GET", "/v1/openapi.json"),
    ("GET", "/"),
    ("GET", "/login"),
    ("POST", "/login"),
    ("POST", "/logout"),
    ("GET", "/console/state"),
    ("GET", "/console/events"),
    ("GET", "/console/static/{file}"),
    ("GET", "/networks"),
    ("GET", "/networks/{network}"),
    ("GET", "/console/networks"),
    ("GET", "/console/networks/{network}"),
    ("GET", "/jobs"),
    ("GET", "/jobs/{bu}/{job}"),
    ("GET", "/console/jobs"),
    ("GET", "/console/jobs/{bu}/{job}"),
    ("GET", "/console/jobs/{bu}/{job}/runs/{run}/output"),
    ("POST", "/jobs/{bu}/{job}/run"),
    ("POST", "/jobs/{bu}/{job}/pause"),
    ("POST", "/jobs/{bu}/{job}/resume"),
    ("GET", "/console/job-events"),
    # As Chronos has it: "pong".
    ("GET", "/ping"),
}

SEEN_BY_STRANGERS = {
    "/console/state": 401,
    "/console/events": 401,
    "/console/networks": 401,
    "/console/networks/web": 401,
    "/console/jobs": 401,
    "/console/jobs/acme/nightly": 401,
    "/console/jobs/acme/nightly/runs/nightly-1/output": 401,
    "/console/job-events": 401,
    "/": 303,
    "/networks": 303,
    "/networks/web": 303,
    "/jobs": 303,
    "/jobs/acme/nightly": 303,
    "/login": 200,
}

BUTTONS = [f"/jobs/acme/nightly/{each}" for each in ("run", "pause", "resume")]

Headers = dict[str, str]


@dataclass
class Door:
    """A service behind a socket."""

    service: str
    app: HttpApp
    url: str
    secret: bytes
    clock: SystemClock

    def token(self, kind: Kind, name: str, secret: bytes = b"") -> Headers:
        """A header of this cluster, or of another."""
        key = derive_key(secret or self.secret, kind, name)
        return TokenSigner(kind, name, key, self.clock).headers()

    def closed(self) -> Sequence[Route]:
        """The routes that are not public."""
        return [route for route in self.app.routes if route.access is not Access.PUBLIC]


def bare(of: type) -> object:
    """Something that the tables of routes can be made of, and no handler can work with."""
    return object.__new__(of)


async def app_of(service: str, rt: Runtime, secret: SecretFile, stack: AsyncExitStack) -> HttpApp:
    """The app as its service makes it."""
    if service == "hostd":
        hostd = await stack.enter_async_context(
            fake_hostd(FakeHost(), FakeIpam(), rt.clock, rt.rng)
        )
        verifier = make_verifier(HostdConfig(host=HOST), secret, SystemClock())
        return make_app(hostd.service, read_routes(hostd.service), verifier)
    if service == "gateway":
        gate = Gate(await Repository.open(rt.store), rt.verify, GatewayConfig(), rt.clock)
        gateway = bare(Gateway)  # which of Chronos' faces there are, is configured
        object.__setattr__(gateway, "config", GatewayConfig())
        object.__setattr__(gateway, "clock", rt.clock)
        return rt.http_app(gateway_routes(gateway), authenticate=gate)  # type: ignore[arg-type]
    tables: dict[str, Callable[[], Sequence[Route]]] = {
        "deployer": lambda: (*deployer_routes(bare(Desk)), inbox(service, [])),  # type: ignore[arg-type]
        "scheduler": lambda: (*scheduler_routes(bare(Scheduler)), inbox(service, [])),  # type: ignore[arg-type]
        "ipam": lambda: ipam_routes(bare(Ipam), rt.clock),  # type: ignore[arg-type]
        "monitor": lambda: monitor_routes(bare(Monitor)),  # type: ignore[arg-type]
    }
    return rt.http_app(tables[service]())


@pytest.fixture(params=SERVICES)
async def door(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Door]:
    """Each service's."""
    common = CommonConfig(data_dir=tmp_path, bus="memory:", store="memory:", log_level="critical")
    async with open_shared(common, {}) as shared, AsyncExitStack() as stack:
        rt = await stack.enter_async_context(open_runtime(shared, request.param))
        assert isinstance(shared.secret, SecretFile)
        app = await app_of(request.param, rt, shared.secret, stack)
        url = await stack.enter_async_context(serve(app, "127.0.0.1:0"))
        (secret,) = shared.secret.current()
        yield Door(request.param, app, url, secret, SystemClock())


def path_of(route: Route) -> str:
    return re.sub(r"\{\w+(:path)?\}", "x", route.path)


async def knock(door: Door, headers: Headers, routes: Sequence[Route]) -> dict[str, int]:
    """What each route answers."""
    found = {}
    async with aiohttp.ClientSession() as session:
        for route in routes:
            target = door.url + path_of(route)
            async with session.request(route.method, target, headers=headers, data=b"{}") as answer:
                found[f"{route.method} {route.path}"] = answer.status
    return found


def all_with(status: int, routes: Sequence[Route]) -> dict[str, int]:
    return {f"{route.method} {route.path}": status for route in routes}


async def test_what_is_public_is_listed_here(door: Door) -> None:
    open_to_all = {
        (route.method, route.path) for route in door.app.routes if route.access is Access.PUBLIC
    }
    assert open_to_all == PUBLIC | (GATEWAYS_OWN if door.service == "gateway" else set())
    assert len(door.closed()) >= 4


def bad_credentials(door: Door) -> dict[str, Headers]:
    """Headers that prove nothing."""
    now = door.clock.now()
    claims = {"iss": "gantry", "sub": "service:deployer"}
    key = OctKey.import_key(derive_key(door.secret, Kind.SERVICE, "deployer"))
    kid = {"alg": "HS256", "kid": "service:deployer"}
    old = jwt.encode(kid, {**claims, "exp": int(now - 3600)}, key)
    own = OctKey.import_key(derive_key(door.secret, Kind.HOST, HOST))
    posing = jwt.encode(kid, {**claims, "exp": int(now + 60)}, own)
    unsigned = (
        "eyJhbGciOiJub25lIiwia2lkIjoic2VydmljZTpkZXBsb3llciJ9.eyJzdWIiOiJzZXJ2aWNlOmRlcGxveWVyIn0."
    )
    good = door.token(Kind.SERVICE, "deployer")["authorization"]
    return {
        "nothing": {},
        "no token": {"authorization": "Bearer "},
        "nonsense": {"authorization": "Bearer nonsense"},
        "another scheme": {"authorization": good.replace("Bearer", "Basic")},
        "another cluster": door.token(Kind.SERVICE, "deployer", b"x" * 32),
        "an old token": {"authorization": f"Bearer {old}"},
        "a host that poses as a service": {"authorization": f"Bearer {posing}"},
        "alg none": {"authorization": f"Bearer {unsigned}"},
        "an API key that nobody has": {"authorization": f"Bearer gk_nobody00_{'0' * 52}"},
        "a name alone": {"x-gantry-actor": "ann", "x-gantry-bu": "*", "x-gantry-role": "admin"},
        "a token in the wrong place": {"x-gantry-tokens": good.removeprefix("Bearer ")},
    }


async def test_without_good_credentials_every_route_answers_401(door: Door) -> None:
    closed = door.closed()
    for what, headers in bad_credentials(door).items():
        assert await knock(door, headers, closed) == all_with(401, closed), what


async def test_tokens_of_the_wrong_kind_open_nothing(door: Door) -> None:
    by_access = {access: [r for r in door.closed() if r.access is access] for access in Access}
    foreign = door.token(Kind.HOST, "host-2")
    for access in (Access.SERVICE, Access.KEY):
        assert await knock(door, foreign, by_access[access]) == all_with(403, by_access[access])
    service = door.token(Kind.SERVICE, "deployer")
    assert await knock(door, service, by_access[Access.KEY]) == all_with(403, by_access[Access.KEY])
    if door.service != "ipam":  # nobody else listens to hosts
        assert by_access[Access.HOST] == []
    assert [route.path for route in by_access[Access.METRICS]] == ["/metrics"]
    refused = await knock(door, foreign, by_access[Access.METRICS])
    # A hostd knows its own host's key only; the others know the host, and don't let it.
    assert refused == all_with(403, by_access[Access.METRICS])


def scraping(door: Door, secret: bytes, life_s: float = 60.0) -> Headers:
    """The header of who scrapes."""
    now = door.clock.now()
    return {"authorization": f"Bearer {scraper_token(secret, 'prometheus', now, now + life_s)}"}


async def test_a_scrapers_token_reads_metrics_and_opens_nothing_else(door: Door) -> None:
    metrics = [route for route in door.closed() if route.path == "/metrics"]
    others = [route for route in door.closed() if route.path != "/metrics"]
    good = scraping(door, door.secret)
    assert len(others) >= 3
    assert await knock(door, good, metrics) == all_with(200, metrics)
    assert await knock(door, good, others) == all_with(403, others)
    name = {"x-gantry-actor": "ann", "x-gantry-bu": "*", "x-gantry-role": "admin"}
    assert await knock(door, {**good, **name}, others) == all_with(403, others)
    foreign = derive_key(door.secret, Kind.HOST, "host-2")
    for bad in (
        scraping(door, door.secret, -3600.0),
        scraping(door, b"x" * 32),
        scraping(door, foreign),
    ):
        assert await knock(door, bad, door.closed()) == all_with(401, door.closed())


async def test_a_hostd_with_its_own_key_only_knows_nobody_else(tmp_path: Path) -> None:
    cluster, file = b"c" * 32, tmp_path / "host.key"
    write_secrets(file, [derive_key(cluster, Kind.HOST, HOST)])
    clock, config = SystemClock(), HostdConfig(host=HOST, host_key_file=file)
    common = CommonConfig(data_dir=tmp_path, bus="memory:", store="memory:", log_level="critical")
    async with (
        open_shared(common, {}) as shared,
        open_runtime(shared, "x") as rt,
        fake_hostd(FakeHost(), FakeIpam(), rt.clock, rt.rng) as hostd,
    ):
        verifier = make_verifier(config, SecretFile(file), clock)
        app = make_app(hostd.service, read_routes(hostd.service), verifier)
        async with serve(app, "127.0.0.1:0") as url:
            door = Door("hostd", app, url, cluster, clock)
            closed = door.closed()
            another = derive_key(cluster, Kind.HOST, "host-2")
            for headers in (
                door.token(Kind.HOST, "host-2"),
                door.token(Kind.SERVICE, "gateway"),
                door.token(Kind.HOST, HOST, b"x" * 32),
                scraping(door, another),
            ):
                assert await knock(door, headers, closed) == all_with(401, closed)
            own = await knock(door, door.token(Kind.HOST, HOST), closed)
            assert own["GET /v1/attachments"] == own["GET /metrics"] == 200
            # Who scrapes hosts has a token for each: the cluster's is not known here.
            assert await knock(door, scraping(door, cluster), closed) == all_with(401, closed)
            key = derive_key(cluster, Kind.HOST, HOST)
            assert await knock(door, scraping(door, key, -3600.0), closed) == all_with(401, closed)
            scraped = await knock(door, scraping(door, key), closed)
            assert scraped.pop("GET /metrics") == 200
            assert set(scraped.values()) == {403}


async def test_a_host_speaks_for_itself_only(tmp_path: Path) -> None:
    network = {"name": "red", "vlan": 100, "cidr": "10.0.0.0/24", "gateway": "10.0.0.1"}
    common = CommonConfig(data_dir=tmp_path, bus="memory:", store="memory:", log_level="critical")
    config = IpamConfig.model_validate({"networks": [network]})
    async with open_shared(common, {"ipam": config}) as shared, AsyncExitStack() as stack:
        rt = await stack.enter_async_context(open_runtime(shared, "ipam"))
        ipam = await Ipam.open(rt, config)
        door_app = rt.http_app(ipam_routes(ipam, rt.clock))
        url = await stack.enter_async_context(serve(door_app, "127.0.0.1:0"))
        (secret,) = keys_of(shared.secret).current()
        door = Door("ipam", door_app, url, secret, SystemClock())
        mine, other = door.token(Kind.HOST, HOST), door.token(Kind.HOST, "host-2")
        claim = {"network": "red", "instance": "i-1", "attempt": "i-1.1", "host": HOST}
        async with aiohttp.ClientSession(url) as session:

            async def call(method: str, path: str, headers: Headers, body: object = None) -> int:
                async with session.request(method, path, headers=headers, json=body) as answer:
                    return answer.status

            attachment, report = "/v1/attachments/i-1.eth0", f"/v1/hosts/{HOST}/attachments"
            assert await call("PUT", attachment, other, claim) == 403
            assert await call("PUT", attachment, mine, claim) == 200
            assert await call("PUT", attachment, other, {**claim, "host": "host-2"}) == 409
            assert await call("DELETE", f"{attachment}?generation=1", other) == 403
            assert await call("POST", report, other, {"live": []}) == 403
            assert await call("POST", report, mine, {"live": ["i-1.eth0"]}) == 200
            assert await call("DELETE", f"{attachment}?generation=1", mine) == 200


async def test_the_console_shows_nothing_to_strangers(tmp_path: Path) -> None:
    async with gateway_world(tmp_path) as world:
        answers = {
            path: (await world.call("GET", path, key="")).status for path in SEEN_BY_STRANGERS
        }
        assert answers == SEEN_BY_STRANGERS
        home = await world.call("GET", "/", key="", headers={"cookie": "gantry_session=forged.0"})
        assert home.status == 303
        origin = {"origin": "http://evil.test", "host": "gantry.test"}
        for path in ("/login", "/logout", *BUTTONS):
            assert (await world.call("POST", path, key="", headers=origin)).status == 403
        for path in BUTTONS:
            assert (await world.call("POST", path, key="")).status in (303, 403)


async def test_a_socket_is_its_owners_alone(tmp_path: Path) -> None:
    async with serve(Front("hostd"), f"unix:{tmp_path}/s.sock"):
        assert (tmp_path / "s.sock").stat().st_mode & 0o077 == 0
