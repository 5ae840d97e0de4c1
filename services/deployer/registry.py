"""Image references, and their digests by the Docker Registry HTTP API v2.

HEAD /v2/<name>/manifests/<tag or digest> answers `Docker-Content-Digest`; a 401 asks for the password itself
(`WWW-Authenticate: Basic`), or names where a token is to be had, with a password or without
(`Bearer realm=…,service=…,scope=…`). A tag is resolved once, when a release is made.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Protocol

import aiohttp

from libs.common.bounded import read_to_end
from libs.common.errors import InvalidInput, NotFound, TimedOut, Unavailable
from libs.common.spec import IMAGE

CALL_S = 5.0
MAX_MANIFEST_BYTES = 4_000_000
ACCEPT = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)
_TOKEN = re.compile(r"[\x21-\x7e]{1,65536}")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


DOCKER_HUB = "docker.io"
_HUB_NAMES = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})


def registry_name(host: str) -> str:
    """A registry as logins are kept under it: Docker Hub's names are one."""
    return DOCKER_HUB if host in _HUB_NAMES else host


@dataclass(frozen=True, slots=True)
class Login:
    """A business unit's account at a registry."""

    user: str
    password: str = field(repr=False)


class ImageResolver(Protocol):
    """Pins an image."""

    async def resolve(self, image: str, login: Login | None = None) -> str:
        """`name@sha256:…` of an image that exists, and that the login (or anybody, without one) may read.

        Raises NotFound when the registry doesn't have it, Unavailable when it can't be asked now.
        """
        ...

    async def close(self) -> None:
        """Release connections."""
        ...


@dataclass(frozen=True, slots=True)
class ImageRef:
    """The parts of an image reference; `registry` "" is the default one."""

    registry: str
    path: str
    tag: str
    digest: str

    @classmethod
    def parse(cls, image: str) -> ImageRef:
        """As Docker reads it: a first part with a dot or a port, or `localhost`, is a registry.

        Raises InvalidInput.
        """
        if not IMAGE.fullmatch(image):
            raise InvalidInput.of("image", "not an image reference", "registry:5000/team/web:1.2")
        name, _, digest = image.partition("@")
        first, slash, rest = name.partition("/")
        is_registry = slash and (first == "localhost" or "." in first or ":" in first)
        registry, path = (first, rest) if is_registry else ("", name)
        path, _, tag = path.partition(":")
        return cls(registry, path, tag, digest)

    def host(self, default: str) -> str:
        """The registry as logins are kept under it."""
        return registry_name(self.registry or default)

    def pinned(self, digest: str) -> str:
        """The same image by digest."""
        name = f"{self.registry}/{self.path}" if self.registry else self.path
        return f"{name}@{digest}"


class DigestsOnly:
    """For clusters without a registry to ask: images must come by digest, and are believed."""

    async def resolve(self, image: str, login: Login | None = None) -> str:
        """The image itself. Raises NotFound for a tag."""
        ref = ImageRef.parse(image)
        if not ref.digest:
            raise NotFound("a tag can't be resolved here; give name@sha256:…")
        return ref.pinned(ref.digest)

    async def close(self) -> None:
        """Nothing is open."""


class RegistryResolver:
    """An `ImageResolver` that asks the image's registry."""

    def __init__(self, default_registry: str, plain_http: Collection[str] = ()) -> None:
        self._default = default_registry
        self._plain_http = frozenset(plain_http)
        self._session: aiohttp.ClientSession | None = None

    async def resolve(self, image: str, login: Login | None = None) -> str:
        """See `ImageResolver.resolve`."""
        ref = ImageRef.parse(image)
        registry = ref.registry or self._default
        path = ref.path
        if not ref.registry and "/" not in path and registry.endswith("docker.io"):
            path = f"library/{path}"
        url = f"{self._scheme(registry)}://{registry}/v2/{path}/manifests/"
        url += ref.digest or ref.tag or "latest"
        try:
            digest = await self._digest(url, registry, login)
        except TimeoutError:
            raise TimedOut(f"registry {registry} did not answer within {CALL_S:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            text = f"registry {registry} can't be reached: {type(error).__name__}"
            raise Unavailable(text) from None
        if ref.digest and digest != ref.digest:
            raise NotFound(f"registry {registry} has another digest under it: {digest}")
        return ref.pinned(digest)

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _scheme(self, registry: str) -> str:
        host = registry.partition(":")[0]
        local = host == "localhost" or host.startswith("127.")
        return "http" if local or registry in self._plain_http else "https"

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            timeout = aiohttp.ClientTimeout(total=CALL_S)
            # No cookies: one unit's login must not open anything for the next.
            jar = aiohttp.DummyCookieJar()
            self._session = aiohttp.ClientSession(timeout=timeout, cookie_jar=jar)
        return self._session

    async def _digest(self, url: str, registry: str, login: Login | None) -> str:
        headers = {"Accept": ACCEPT}
        status, digest, challenge = await self._head(url, headers)
        if status == 401:
            proof = await self._prove(challenge, login, tls=url.startswith("https:"))
            if proof:
                headers["Authorization"] = proof
                status, digest, _ = await self._head(url, headers)
        if status in (401, 403):
            who = f"{login.user} may pull" if login else "may be pulled without a login"
            raise NotFound(f"registry {registry} has no such image, or none that {who}")
        if status == 404:
            raise NotFound(f"registry {registry} has no such image")
        if status != 200:
            raise Unavailable(f"registry {registry} answered {status}")
        return digest if DIGEST.fullmatch(digest) else await self._hashed(url, headers, registry)

    async def _head(self, url: str, headers: dict[str, str]) -> tuple[int, str, str]:
        async with self._open().head(url, headers=headers, allow_redirects=True) as answer:
            challenge = answer.headers.get("WWW-Authenticate", "")
            return answer.status, answer.headers.get("Docker-Content-Digest", ""), challenge

    async def _hashed(self, url: str, headers: dict[str, str], registry: str) -> str:
        """The digest of a registry that does not tell it: the manifest's own."""
        async with self._open().get(url, headers=headers) as answer:
            if answer.status != 200:
                raise Unavailable(f"registry {registry} answered {answer.status}")
            whose = f"registry {registry} has a manifest"
            manifest = await read_to_end(answer.content.iter_any(), MAX_MANIFEST_BYTES, whose)
        return f"sha256:{hashlib.sha256(manifest).hexdigest()}"

    async def _prove(self, challenge: str, login: Login | None, *, tls: bool) -> str:
        """What answers a challenge, "" when nothing here does (RFC 7617; distribution's token specification)."""
        scheme = challenge.partition(" ")[0].lower()
        if scheme == "basic":
            return _basic(login) if login else ""
        if scheme != "bearer":
            return ""
        given = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
        realm = given.get("realm", "")
        if not realm.startswith(("https://", "http://")):
            raise Unavailable("the registry asks for a login that is not known here")
        if login and tls and not realm.startswith("https://"):
            raise Unavailable("the registry wants the password sent without TLS, to " + realm)
        query = {name: given[name] for name in ("service", "scope") if name in given}
        headers = {"Authorization": _basic(login)} if login else {}
        async with self._open().get(realm, params=query, headers=headers) as answer:
            if answer.status in (401, 403):
                return ""
            if answer.status != 200:
                raise Unavailable(f"the registry's token service answered {answer.status}")
            try:
                content = await answer.json(content_type=None)
            except ValueError:
                content = None
        token = ""
        if isinstance(content, dict):
            token = content.get("token") or content.get("access_token") or ""
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise Unavailable("the registry's token service answered with no token")
        return f"Bearer {token}"


def _basic(login: Login) -> str:
    return f"Basic {b64encode(f'{login.user}:{login.password}'.encode()).decode()}"
