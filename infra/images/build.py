"""Builds the sample web app's images and pushes them to a registry.

    python -m infra.images.build --engine unix:///run/docker.sock --registry 127.0.0.1:5000

prints one JSON object a line: {"name": "127.0.0.1:5000/sample-web:v1", "digest": "sha256:…",
"reference": "127.0.0.1:5000/sample-web@sha256:…"}. As a library: `build_images`.

An image is two layers: busybox with its commands (shared by all), and the program /app.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import platform
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

import aiodocker
from aiodocker.exceptions import DockerError

from infra.images.archive import Entry, ImageConfig, image_archive, layer
from infra.provision import process
from infra.provision.errors import ProvisionError

SOURCE = Path(__file__).parent / "web.c"
BUSYBOX = Path("/bin/busybox")
PORT = 8080
NOBODY = "65534:65534"
COMPILE_TIMEOUT_S = 60
ENGINE_TIMEOUT_S = 120
# Docker's names of what uname says.
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
COMMANDS = ("sh", "cat", "echo", "env", "hostname", "id", "ip", "kill", "ls", "nc", "nslookup")
MORE_COMMANDS = ("ping", "ps", "seq", "sleep", "stty", "test", "touch", "true", "false", "wget")
_WORD = re.compile(r"[A-Za-z0-9._-]+")


class BuildError(ProvisionError):
    """The engine or the registry refused an image."""


class Variant(StrEnum):
    """How the program behaves; the values are macros of web.c."""

    NORMAL = "NORMAL"
    BROKEN = "BROKEN"  # /health answers 500
    CRASH = "CRASH"  # exits with status 1 after a second


@dataclass(frozen=True, slots=True)
class SampleImage:
    """One image to build. version is what GET / answers."""

    repository: str
    tag: str
    version: str
    variant: Variant = Variant.NORMAL

    def __post_init__(self) -> None:
        for word in (self.tag, self.version):
            if not _WORD.fullmatch(word):
                raise ValueError(f"{word!r} must be of letters, digits, '.', '_' and '-'")


@dataclass(frozen=True, slots=True)
class BuiltImage:
    """name is `[REGISTRY/]repository:tag`. digest is the manifest's in the registry, else the
    engine's image id; reference is what to run: by digest when pushed, by name otherwise."""

    name: str
    digest: str
    reference: str


SAMPLES = (
    SampleImage("sample-web", "v1", "v1"),
    SampleImage("sample-web", "v2", "v2"),
    SampleImage("sample-web", "v3-broken", "v3", Variant.BROKEN),
    SampleImage("sample-crash", "v1", "v1", Variant.CRASH),
)


async def compile_web(version: str, variant: Variant) -> bytes:
    """The static program. Raises CommandError, MissingToolError."""
    process.require("gcc")
    with tempfile.TemporaryDirectory(prefix="gantry-web-") as directory:
        out = Path(directory) / "app"
        macros = [f'-DVERSION="{version}"', f"-DVARIANT={variant}"]
        flags = ["-std=gnu11", "-O2", "-static", "-s", "-Wall", "-Wextra", "-Werror"]
        argv: list[str | Path] = ["gcc", *flags, *macros, "-o", out, SOURCE]
        await process.run(argv, timeout_s=COMPILE_TIMEOUT_S)
        return await asyncio.to_thread(out.read_bytes)


def base_layer() -> bytes:
    """busybox, its commands, a user nobody, and /tmp. Raises MissingToolError."""
    process.require_file(BUSYBOX)
    directories = [Entry(name) for name in ("bin", "dev", "etc", "proc", "sys")]
    links = [Entry(f"bin/{name}", "busybox") for name in (*COMMANDS, *MORE_COMMANDS)]
    return layer(
        [
            *directories,
            Entry("tmp", mode=0o1777),
            Entry("bin/busybox", BUSYBOX.read_bytes()),
            *links,
            Entry("etc/passwd", b"root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n", 0o644),
            Entry("etc/group", b"root:x:0:\nnogroup:x:65534:\n", 0o644),
        ]
    )


def sample_archive(image: SampleImage, base: bytes, program: bytes, names: Sequence[str]) -> bytes:
    """The archive of one sample for `docker load`."""
    config = ImageConfig(
        entrypoint=("/app",),
        ports=(PORT,),
        user=NOBODY,
        labels={
            "org.opencontainers.image.title": image.repository,
            "org.opencontainers.image.version": image.version,
            "gantry.sample": image.variant.lower(),
        },
    )
    machine = platform.machine()
    architecture = ARCHITECTURES.get(machine, machine)
    return image_archive([base, layer([Entry("app", program)])], config, names, architecture)


async def build_images(
    engine_url: str,
    registry: str | None = None,
    images: Sequence[SampleImage] = SAMPLES,
    login: tuple[str, str] | None = None,
) -> list[BuiltImage]:
    """Loads the images into the engine and, when there is a registry (`HOST:PORT`), pushes them, by `login` (user and
    password) where it wants one.

    Raises BuildError, CommandError, MissingToolError.
    """
    base = await asyncio.to_thread(base_layer)
    async with aiodocker.Docker(url=engine_url) as docker:
        built = []
        for image in images:
            program = await compile_web(image.version, image.variant)
            local = f"{image.repository}:{image.tag}"
            names = [local] if registry is None else [local, f"{registry}/{local}"]
            archive = await asyncio.to_thread(sample_archive, image, base, program, names)
            built.append(await _deliver(docker, archive, image, registry, local, login))
    return built


async def _deliver(
    docker: aiodocker.Docker,
    archive: bytes,
    image: SampleImage,
    registry: str | None,
    local: str,
    login: tuple[str, str] | None,
) -> BuiltImage:
    try:
        async with asyncio.timeout(ENGINE_TIMEOUT_S):
            await docker.images.import_image(io.BytesIO(archive))
            if registry is None:
                found = await docker.images.inspect(local)
                return BuiltImage(local, str(found["Id"]), local)
            repository = f"{registry}/{image.repository}"
            auth = {"username": login[0], "password": login[1]} if login else None
            said = await docker.images.push(repository, tag=image.tag, auth=auth)
    except (DockerError, OSError) as error:  # TimeoutError is an OSError
        raise BuildError(f"{local}: {error or 'the engine took too long'}") from error
    digests = [line["aux"]["Digest"] for line in said if "Digest" in line.get("aux", {})]
    if len(digests) != 1:
        raise BuildError(f"{repository}:{image.tag}: the push named no digest: {said[-1:]}")
    digest = str(digests[0])
    return BuiltImage(f"{repository}:{image.tag}", digest, f"{repository}@{digest}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--engine", required=True, help="unix:///path/docker.sock")
    parser.add_argument("--registry", help="HOST:PORT to push to")
    args = parser.parse_args()
    try:
        built = asyncio.run(build_images(args.engine, args.registry))
    except ProvisionError as error:
        print(f"build: {error}", file=sys.stderr)
        return 1
    for image in built:
        print(json.dumps(asdict(image)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
