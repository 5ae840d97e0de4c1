"""Network and Deliveries on hostd's HTTP API, through any `ServiceClient`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import orjson
from pydantic import ValidationError

from libs.common.delivery import Delivery
from libs.common.errors import NotFound, Unavailable
from libs.common.http import ServiceClient, raise_problem
from services.executor.model import Attachment, AttachmentSpec, AttemptId, ContainerName

IFNAME = "eth0"
OPTIONAL = ("sticky_key", "ip", "reservation", "app", "environment")
ATTACH_TIMEOUT_S = 20.0  # hostd itself waits for ipam for some seconds
TIMEOUT_S = 10.0


class HostdClient:
    """See Network and Deliveries."""

    def __init__(self, client: ServiceClient) -> None:
        self._client = client

    async def attach(self, spec: AttachmentSpec) -> Attachment:
        """See Network."""
        body = {
            "network": spec.network,
            "instance": spec.instance,
            "attempt": spec.attempt,
            "generation": spec.generation,
            # Left out where there is nothing to say: an older hostd refuses what it does not know.
            **{name: value for name in OPTIONAL if (value := getattr(spec, name))},
            **spec.options.model_dump(exclude_defaults=True),
        }
        answer = await self._call("PUT", _path(spec.container), body, timeout_s=ATTACH_TIMEOUT_S)
        return Attachment(
            ip=answer["ip"],
            namespace=answer["namespace"],
            inode=answer["inode"],
            host_inode=answer.get("host_inode", 0),
        )

    async def register(self, container: ContainerName, container_id: str, generation: int) -> None:
        """See Network."""
        body = {"container_id": container_id, "generation": generation}
        await self._call("POST", f"{_path(container)}/registration", body)

    async def revoke(self, container: ContainerName) -> None:
        """See Network."""
        await self._gone(f"{_path(container)}/registration")

    async def detach(self, container: ContainerName) -> None:
        """See Network."""
        await self._gone(_path(container))

    async def of_attempt(self, attempt: AttemptId) -> Delivery:
        """See Deliveries."""
        path = f"/v1/attempts/{quote(attempt, safe='')}/delivery"
        answer = await self._client.call("hostd", "GET", path, timeout_s=TIMEOUT_S)
        raise_problem("hostd", answer)
        try:
            return Delivery.model_validate_json(answer.body)
        except ValidationError:  # its text might show what it is about
            raise Unavailable("hostd's answer can't be read") from None

    async def _gone(self, path: str) -> None:
        try:
            await self._call("DELETE", path)
        except NotFound:
            pass

    async def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        timeout_s: float = TIMEOUT_S,
    ) -> dict[str, Any]:
        data = orjson.dumps(body) if body is not None else b""
        response = await self._client.call("hostd", method, path, body=data, timeout_s=timeout_s)
        raise_problem("hostd", response)
        content = response.json()
        if not isinstance(content, dict):
            raise Unavailable("hostd's answer is not an object")
        return content


def _path(container: ContainerName) -> str:
    return f"/v1/attachments/{quote(container, safe='')}/{IFNAME}"
