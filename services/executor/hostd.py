"""Network on hostd's HTTP API, through any `ServiceClient`; and the client of its unix socket."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import aiohttp
import orjson

from libs.common.errors import NotFound, TimedOut, Unavailable
from libs.common.http import Response, ServiceClient, raise_problem
from services.executor.model import Attachment, AttachmentSpec, ContainerName

IFNAME = "eth0"
ATTACH_TIMEOUT_S = 20.0  # hostd itself waits for ipam for some seconds
TIMEOUT_S = 10.0


class HostdNetwork:
    """See Network."""

    def __init__(self, client: ServiceClient) -> None:
        self._client = client

    async def attach(self, spec: AttachmentSpec) -> Attachment:
        """See Network."""
        body = {
            "network": spec.network,
            "instance": spec.instance,
            "attempt": spec.attempt,
            "generation": spec.generation,
            **({"sticky_key": spec.sticky_key} if spec.sticky_key else {}),
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


class UnixClient:
    """A `ServiceClient` of the one service behind a unix socket, whose file mode says who may call."""

    def __init__(self, socket: str) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(socket, limit=0),
            timeout=aiohttp.ClientTimeout(total=None),
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def call(
        self,
        service: str,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 10.0,
    ) -> Response:
        """See ServiceClient."""
        sent = {"content-type": "application/json", **(headers or {})}
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._session.request(
                    method, f"http://{service}{path}", data=body or None, headers=sent
                ) as answer,
            ):
                kept = {name.lower(): value for name, value in answer.headers.items()}
                return Response(answer.status, await answer.read(), kept, answer.content_type)
        except TimeoutError:
            raise TimedOut(f"{service} did not answer {method} in {timeout_s:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise Unavailable(f"{service} can't be reached: {type(error).__name__}") from None
