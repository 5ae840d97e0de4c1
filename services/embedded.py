"""minimesos inside the control plane's process: the embedded form's cluster engine."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from libs.common.disk import create_file
from libs.common.runtime import Shared
from libs.minimesos.config import AgentConfig, MasterConfig
from libs.minimesos.embedded import EmbeddedConfig, embedded

PRINCIPAL = "gantry"
BACKOFF_MAX_S = 0.5
"""Between an executor's knocks while this process is away: its agent waits 2 s for it when it is back."""


class AgentSection(BaseModel):
    """One agent of the embedded engine, in Mesos' own notation of resources and attributes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    port: int = Field(5051, ge=0, le=65535)
    hostname: str = "localhost"
    resources: str = "cpus:4;mem:4096;disk:10000"
    attributes: str = "zone:a;class:thin"


class MinimesosSection(BaseModel):
    """The section `minimesos`; no agents means that a Mesos of your own is used."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    master_port: int = Field(5050, ge=0, le=65535)
    agents: tuple[AgentSection, ...] = ()
    agent_ping_timeout_s: float = Field(3.0, gt=0)


@asynccontextmanager
async def cluster_engine(shared: Shared) -> AsyncIterator[None]:
    """Run minimesos while the block lasts, if the configuration asks for it."""
    section = shared.settings.get("minimesos")
    if not isinstance(section, MinimesosSection) or not section.agents:
        yield
        return
    data_dir = shared.common.data_dir
    credentials = {PRINCIPAL: read_credential(data_dir / "mesos.secret")}
    executor_key = read_credential(data_dir / "executor.secret").encode()
    master = MasterConfig(
        port=section.master_port,
        hostname="127.0.0.1",
        cluster=shared.common.cluster,
        agent_ping_timeout_s=section.agent_ping_timeout_s,
        authenticate_http_frameworks=True,
        authenticate_http_readonly=True,
        authenticate_http_readwrite=True,
        credentials=credentials,
    )
    agents = tuple(
        AgentConfig(
            port=each.port,
            hostname=each.hostname,
            resources=each.resources,
            attributes=each.attributes,
            authenticate_http_readonly=True,
            authenticate_http_readwrite=True,
            authenticate_http_executors=True,
            jwt_secret_key=executor_key,
            credentials=credentials,
            subscription_backoff_max_s=BACKOFF_MAX_S,
        )
        for each in section.agents
    )
    config = EmbeddedConfig(work_dir=data_dir / "mesos", master=master, agents=agents)
    async with embedded(config, clock=shared.clock, ids=shared.ids):
        yield


def read_credential(file: Path) -> str:
    """The framework's secret, or the one that signs executors' tokens; made at the first start, mode 0600."""
    if not file.exists():
        create_file(file, f"{secrets.token_urlsafe(32)}\n".encode())
    return file.read_text().strip()
