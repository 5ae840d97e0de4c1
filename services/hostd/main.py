"""hostd's own wiring: it opens neither bus nor store, so it has no Runtime, only its adapters and places to serve."""

from __future__ import annotations

import fcntl
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

from libs.common.clock import Clock, RngIds, SystemClock, system_rng
from libs.common.disk import measure
from libs.common.errors import Conflict
from libs.common.http import (
    Access,
    Authenticator,
    HttpApp,
    Kind,
    Request,
    Response,
    Route,
    reply,
)
from libs.common.keys import Keys, SecretFile, open_secret
from libs.common.peers import PeerClient
from libs.common.runtime import CommonConfig
from libs.common.serve import serve
from libs.common.spans import open_sinks
from libs.common.telemetry import Telemetry, make_log
from libs.common.tokens import TokenSigner, TokenVerifier, party_keys
from services.hostd.api import SocketAuthenticator, read_routes, socket_routes
from services.hostd.auth import OwnKeyVerifier
from services.hostd.cni.api import cni_routes, replaying
from services.hostd.cni.delegates import ProgramPlugins
from services.hostd.cni.plugin import CniPlugin
from services.hostd.cni.queue import FileQueue
from services.hostd.deployer import HttpDeliveries
from services.hostd.docker import DockerEngine
from services.hostd.ipam import HttpIpam
from services.hostd.netns import LinuxNetwork
from services.hostd.outputs import FileOutputs
from services.hostd.ovs import OvsSwitch
from services.hostd.ports import Ports
from services.hostd.registry import FileRegistry
from services.hostd.rows import BridgeSettings
from services.hostd.service import HostdService
from services.hostd.settings import HostdConfig
from services.hostd.state import open_state


async def run(common: CommonConfig, config: HostdConfig) -> None:
    """Serve until cancelled."""
    secret = open_keys(common, config)
    async with open_service(common, config, secret) as service, AsyncExitStack() as stack:
        await stack.enter_async_context(service.running())
        socket = config.socket_path(common.cluster)
        authenticate = SocketAuthenticator(config.host_name())
        queue = FileQueue(config.cni_queue or common.data_dir / "hostd" / "cni")
        cni = CniPlugin(service, ProgramPlugins(service.telemetry.log), queue)
        await stack.enter_async_context(replaying(service, cni, queue))
        routes = [*socket_routes(service), *cni_routes(cni)]
        local = make_app(service, routes, authenticate, metrics=Access.HOST)
        await stack.enter_async_context(serve(local, f"unix:{socket}"))
        if config.listen:
            verifier = make_verifier(config, secret, service.clock)
            remote = make_app(service, read_routes(service), verifier)
            await stack.enter_async_context(serve(remote, config.listen))
        service.telemetry.log.info("hostd is up", host=config.host_name(), socket=str(socket))
        await secret.watch(service.clock, service.telemetry.log)


@asynccontextmanager
async def open_service(
    common: CommonConfig, config: HostdConfig, secret: SecretFile
) -> AsyncIterator[HostdService]:
    """The service on its real adapters, not running yet; they are closed at the end."""
    cluster, host, owner = common.cluster, config.host_name(), config.owner(common.cluster)
    clock, rng = SystemClock(), system_rng()
    log, sinks = make_log("hostd", level=common.log_level), open_sinks(common.trace_file)
    telemetry = Telemetry("hostd", log, sinks)
    async with AsyncExitStack() as stack:
        data_dir = common.data_dir / "hostd"
        stack.enter_context(_only_one(data_dir))
        run_dir = config.run_path(cluster)
        offload = config.datapath_type == "system"
        network = LinuxNetwork(owner, run_dir / "netns", checksum_offload=offload)
        stack.callback(network.close)
        state = open_state(data_dir / "state.db")
        stack.callback(state.close)
        own_keys = host_keys(config, secret)
        signer = TokenSigner(Kind.HOST, host, own_keys, clock)
        peers = PeerClient(signer, common.peers)
        stack.push_async_callback(peers.close)
        engine = DockerEngine(cluster, config.docker)
        stack.push_async_callback(engine.close)
        name = config.bridge_name(cluster)
        bridge = BridgeSettings(name, owner, config.datapath_type, config.fail_mode, config.uplinks)
        ports = Ports(
            network=network,
            switch=OvsSwitch(config.ovsdb, bridge, clock=clock, log=telemetry.log),
            registry=FileRegistry(run_dir / "netns-reg"),
            state=state,
            ipam=HttpIpam(peers, host, config.zone),
            engine=engine,
            outputs=FileOutputs(config.runs_path(cluster), clock),
            deliveries=HttpDeliveries(peers, host, own_keys, rng),
            measure=measure,
        )
        yield HostdService(
            owner,
            ports,
            config,
            data_dir=data_dir,
            clock=clock,
            ids=RngIds(rng),
            rng=rng,
            telemetry=telemetry,
        )


@contextmanager
def _only_one(data_dir: Path) -> Iterator[None]:
    """Two hostds on one state would undo each other's work; the kernel drops the lock with its holder."""
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (data_dir / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"another hostd is at work on {data_dir}") from None
        yield


def make_app(
    service: HostdService,
    routes: Sequence[Route],
    authenticate: Authenticator,
    metrics: Access = Access.METRICS,
) -> HttpApp:
    """Routes with /healthz, /readyz and, for whom `metrics` says, /metrics; measured and traced."""
    telemetry = service.telemetry

    def observe(route: Route | None, request: Request, status: int, took_s: float) -> None:
        template = route.path if route else "unmatched"
        telemetry.http_seconds.labels(request.method, template, str(status)).observe(took_s)

    def on_error(request: Request, error: BaseException) -> None:
        telemetry.log.error(
            "handler failed", method=request.method, path=request.path, exc_info=error
        )

    return HttpApp(
        [*routes, *_standard_routes(service, metrics)],
        authenticate,
        monotonic=service.clock.monotonic,
        observe=observe,
        on_error=on_error,
        tracer=telemetry,
    )


def _standard_routes(service: HostdService, access: Access) -> Sequence[Route]:
    async def healthz(_request: Request) -> Response:
        content = {"service": "hostd", "status": "alive", "disk_low": service.disks.low}
        return reply(content)

    async def readyz(_request: Request) -> Response:
        # What a CNI caller may ask does without the engine; nothing of ours starts without it.
        reason = service.not_ready() or service.pulse.missing
        status = "not ready" if reason else "ready"
        content = {
            "service": "hostd",
            "status": status,
            "reason": reason,
            # Not its own work, but whoever asks for that wants to know.
            "executor_silent": service.executors.silent,
            "executor_restarted": service.executors.restarted,
        }
        return reply(content, 503 if reason else 200)

    async def metrics(_request: Request) -> Response:
        text = "text/plain; version=0.0.4; charset=utf-8"
        return Response(200, service.telemetry.exposition(), content_type=text)

    return (
        Route("GET", "/healthz", healthz, Access.PUBLIC, "Is the process alive", traced=False),
        Route("GET", "/readyz", readyz, Access.PUBLIC, "Can it do its work", traced=False),
        Route("GET", "/metrics", metrics, access, "Metrics", produces="text/plain", traced=False),
    )


def open_keys(common: CommonConfig, config: HostdConfig) -> SecretFile:
    """The file with this host's own keys; on a machine of the control plane, with the cluster's secrets."""
    if config.host_key_file is not None:
        return SecretFile(config.host_key_file)
    return open_secret(common.secret_file or common.data_dir / "cluster.secret")


def host_keys(config: HostdConfig, secret: SecretFile) -> Keys:
    """This host's own keys, derived where the file has the cluster's secrets."""
    if config.host_key_file is not None:
        return secret
    return party_keys(secret, Kind.HOST, config.host_name())


def make_verifier(config: HostdConfig, secret: SecretFile, clock: Clock) -> Authenticator:
    """Whoever knows this host's key; on a machine with the cluster's secrets, services by their own, too."""
    services = TokenVerifier(secret, clock) if config.host_key_file is None else None
    return OwnKeyVerifier(config.host_name(), host_keys(config, secret), clock, services)
