"""Which drivers the configuration asks for: of the registry and of load balancers."""

from __future__ import annotations

import asyncio
from pathlib import Path

from libs.common.clock import Clock
from libs.common.errors import InvalidInput
from services.deployer.loadbalancer.base import LoadBalancerDriver
from services.deployer.loadbalancer.haproxy import HaproxyDriver
from services.deployer.loadbalancer.webhook import WebhookConfig, WebhookDriver
from services.deployer.model import DeployerConfig
from services.deployer.registry import DigestsOnly, ImageResolver, RegistryResolver


def open_images(config: DeployerConfig) -> ImageResolver:
    """What pins images."""
    if not config.resolve_images:
        return DigestsOnly()
    return RegistryResolver(config.default_registry, config.plain_http_registries)


async def open_balancers(config: DeployerConfig, clock: Clock) -> dict[str, LoadBalancerDriver]:
    """The load-balancer drivers that are configured, by name. Raises InvalidInput for a secret it can't read."""
    drivers: dict[str, LoadBalancerDriver] = {}
    if config.haproxy_sockets:
        drivers["haproxy"] = HaproxyDriver(config.haproxy_sockets, clock)
    if config.webhook_url:
        token = await _secret("webhook_token_file", config.webhook_token_file)
        key = await _secret("webhook_signing_key_file", config.webhook_signing_key_file)
        webhook = WebhookConfig(config.webhook_url, token, key.encode())
        drivers["webhook"] = WebhookDriver(webhook)
    return drivers


async def _secret(field: str, file: Path | None) -> str:
    if file is None:
        return ""
    try:
        return (await asyncio.to_thread(file.read_text)).strip()
    except OSError as error:
        text = f"can't be read: {error.strerror}"
        raise InvalidInput.of(f"deployer.{field}", text, "a readable file") from None
