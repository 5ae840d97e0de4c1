"""Images made by hand: layers as tar files, and the archive that `docker load` takes.

The format is that of `docker save`: manifest.json names a config file and layer files; the
config's rootfs.diff_ids are the layers' sha256. Equal input gives equal bytes, so equal digests.
"""

from __future__ import annotations

import hashlib
import io
import json
import stat
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

EPOCH = "1970-01-01T00:00:00Z"


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of a layer: content is its bytes, the target of a symbolic link, or None for a
    directory."""

    path: str
    content: bytes | str | None = None
    mode: int = 0o755


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What a container of the image runs. ports are TCP; user is "uid:gid"; volumes are directories."""

    entrypoint: Sequence[str]
    cmd: Sequence[str] = ()
    ports: Sequence[int] = ()
    stop_signal: str = "SIGTERM"
    user: str = ""
    env: Sequence[str] = ("PATH=/bin",)
    labels: Mapping[str, str] = field(default_factory=dict)
    volumes: Sequence[str] = ()

    def as_json(self) -> dict[str, object]:
        return {
            "Entrypoint": list(self.entrypoint) or None,
            "Cmd": list(self.cmd) or None,
            "ExposedPorts": {f"{port}/tcp": {} for port in self.ports},
            "StopSignal": self.stop_signal,
            "User": self.user,
            "Env": list(self.env),
            "Labels": dict(self.labels),
            "Volumes": {directory: {} for directory in self.volumes} or None,
            "WorkingDir": "/",
        }


@dataclass(frozen=True, slots=True)
class Image:
    """An image under each of its tags (`name:tag`); layers are tars, the lowest first."""

    layers: Sequence[bytes]
    config: ImageConfig
    tags: Sequence[str]


def layer(entries: Sequence[Entry]) -> bytes:
    """The entries as a tar, owned by root, dated to the epoch."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for entry in entries:
            _add(tar, entry)
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, entry: Entry) -> None:
    info = tarfile.TarInfo(entry.path)
    info.mode = stat.S_IMODE(entry.mode)
    if isinstance(entry.content, bytes):
        info.size = len(entry.content)
        tar.addfile(info, io.BytesIO(entry.content))
        return
    if entry.content is None:
        info.type = tarfile.DIRTYPE
    else:
        info.type, info.linkname = tarfile.SYMTYPE, entry.content
    tar.addfile(info)


def image_archive(
    layers: Sequence[bytes], config: ImageConfig, tags: Sequence[str], architecture: str
) -> bytes:
    """A tar for `docker load` that brings one image under each of the tags (`name:tag`)."""
    return images_archive([Image(layers, config, tags)], architecture)


def images_archive(images: Sequence[Image], architecture: str) -> bytes:
    """The same with several images: a layer that they share is in it once."""
    manifest: list[dict[str, object]] = []
    files: dict[str, bytes] = {}
    for image in images:
        digests = [hashlib.sha256(each).hexdigest() for each in image.layers]
        text = _described(image.config, digests, architecture)
        config_name = f"{hashlib.sha256(text).hexdigest()}.json"
        names = [f"{each}/layer.tar" for each in digests]
        manifest.append({"Config": config_name, "RepoTags": list(image.tags), "Layers": names})
        files |= {config_name: text, **dict(zip(names, image.layers, strict=True))}
    files["manifest.json"] = json.dumps(manifest).encode()
    return layer([Entry(name, content, 0o644) for name, content in files.items()])


def _described(config: ImageConfig, digests: Sequence[str], architecture: str) -> bytes:
    described = {
        "architecture": architecture,
        "os": "linux",
        "created": EPOCH,
        "config": config.as_json(),
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{each}" for each in digests]},
        "history": [{"created": EPOCH, "created_by": "gantry"} for _ in digests],
    }
    return json.dumps(described, sort_keys=True).encode()
