#!/usr/bin/env python3
"""Makes the wheel of http-parser, which pymesos needs and which no Python from 3.11 on can build from its sdist.

The C in the sdist was generated for older Pythons; the parser written in Python beside it works. So the wheel has the
sdist's Python files and nothing else, byte for byte the same wherever it is made: requirements.lock pins its hash.

usage: wheel.py [DIR]       puts it into DIR unless it is there, and prints DIR, for pip's --find-links
                            (default: wheels/ in $GANTRY_CACHE, else in ~/.cache/gantry)

Needs pip's index once, asks nothing, and is quick the next time.
"""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from pathlib import Path

NAME, VERSION = "http-parser", "0.9.0"
SDIST_SHA256 = "441d3a57c6227230f98aa97539da006fda0f8f4880bc4c5cd895ff2138a52621"
WHEEL_SHA256 = "f1ab77b45e59a2d3b8f14afe27ce2cca7d64126761fb4347e660cacd32d337d7"
WHEEL = "http_parser-0.9.0-py3-none-any.whl"
TIMEOUT_S = 300

_ROOT, _INFO = "http-parser-0.9.0/", "http_parser-0.9.0.dist-info/"
_ABOUT = {"PKG-INFO": "METADATA", "LICENSE": "LICENSE", "NOTICE": "NOTICE"}
_TAGS = "Wheel-Version: 1.0\nGenerator: gantry\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def sdist() -> bytes:
    """From the index that pip is set up with; pip checks the hash. Raises CalledProcessError."""
    with tempfile.TemporaryDirectory(prefix="gantry-wheel-") as directory:
        wanted = Path(directory) / "wanted.txt"
        wanted.write_text(f"{NAME}=={VERSION} --hash=sha256:{SDIST_SHA256}\n")
        pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps")
        given = ("--no-binary", NAME, "--require-hashes", "-r", str(wanted), "--dest", directory)
        # pip's own words are not our output.
        subprocess.run([*pip, *given], check=True, stdout=sys.stderr, timeout=TIMEOUT_S)
        return (Path(directory) / f"{NAME}-{VERSION}.tar.gz").read_bytes()


def main(
    place: Path, fetch: Callable[[], bytes] = sdist, expected_sha256: str = WHEEL_SHA256
) -> int:
    """Make it unless it is there; 1 when it comes out as something else."""
    if not (place / WHEEL).is_file() or _sha256((place / WHEEL).read_bytes()) != expected_sha256:
        content = wheel(fetch())
        if _sha256(content) != expected_sha256:
            print(f"wheel: {WHEEL} came out as {_sha256(content)}", file=sys.stderr)
            return 1
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=place, delete=False) as aside:
            aside.write(content)
        Path(aside.name).chmod(0o644)
        Path(aside.name).rename(place / WHEEL)
    print(place)
    return 0


def wheel(packed: bytes) -> bytes:
    """The wheel made of an sdist's Python files."""
    files: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        for member in archive:
            name = member.name.removeprefix(_ROOT)
            wanted = name.startswith("http_parser/") and name.endswith(".py")
            if member.isfile() and (wanted or name in _ABOUT):
                reader = archive.extractfile(member)
                assert reader is not None, "it is a file"
                files[name if wanted else _INFO + _ABOUT[name]] = reader.read()
    files[_INFO + "WHEEL"] = _TAGS.encode()
    files[_INFO + "RECORD"] = _record(files)
    return _zipped(files)


def _record(files: Mapping[str, bytes]) -> bytes:
    lines = []
    for name, content in sorted(files.items()):
        digest = urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(content)}\n")
    return "".join([*lines, f"{_INFO}RECORD,,\n"]).encode()


def _zipped(files: Mapping[str, bytes]) -> bytes:
    """Neither times nor compression, which differ between machines."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in sorted(files.items()):
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.create_system, entry.external_attr = 3, 0o644 << 16
            archive.writestr(entry, content)
    return buffer.getvalue()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _cache() -> Path:
    return Path(os.environ.get("GANTRY_CACHE") or Path.home() / ".cache" / "gantry") / "wheels"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else _cache()))
