"""The Dockerfile builds from what is there, pins its base, and keeps what the services need and nothing else."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, packages_distributions
from pathlib import Path

import pytest

from infra.compose import prune
from libs.common.runtime import CommonConfig
from services.executor.config import load as load_executor
from services.hostd.settings import HostdConfig
from tests.unit.infra.compose import REPOSITORY, version

DOCKERFILE = (REPOSITORY / "Dockerfile").read_text()
IGNORED = (REPOSITORY / ".dockerignore").read_text().splitlines()
INSTALL = REPOSITORY / "infra/compose/install.sh"
SHIM = REPOSITORY / "services/hostd/shim"


def _copied() -> set[str]:
    found: set[str] = set()
    for line in re.findall(r"^COPY (.+)$", DOCKERFILE, re.MULTILINE):
        if not line.startswith("--from="):
            found.update(line.split()[:-1])
    return found


def test_it_is_pinned_and_not_root() -> None:
    assert re.search(r"^ARG BASE=debian:12\.\d+-slim$", DOCKERFILE, re.MULTILINE)
    assert set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)) == {"${BASE}"}
    assert re.search(r"^USER 10001:10001$", DOCKERFILE, re.MULTILINE)
    assert f"ARG VERSION={version()}\n" in DOCKERFILE
    assert "--require-hashes -r requirements.lock" in DOCKERFILE
    assert not re.search(r"://(?!127\.0\.0\.1)|--index-url|--extra-index-url", DOCKERFILE)


def test_it_copies_what_is_there_and_not_ignored() -> None:
    assert {"libs", "services", "requirements.lock"} <= _copied()
    kept = {line.removeprefix("!") for line in IGNORED if line.startswith("!")}
    assert IGNORED[1] == "*"
    for each in _copied():
        assert (REPOSITORY / each).exists(), each
        path = Path(each)
        assert {str(path), *map(str, path.parents)} & kept, f"{each} is ignored"
    assert all(
        any(each.startswith(name) for each in _copied()) for name in kept - {"pyproject.toml"}
    )


def test_its_health_check_asks_what_its_environment_says() -> None:
    assert re.search(r"^HEALTHCHECK .*\n +CMD \[\"healthy\"\]$", DOCKERFILE, re.MULTILINE)
    asked = re.search(r"HEALTH_URL=(\S+)", DOCKERFILE)
    assert asked and asked[1] == "http://127.0.0.1:8080/healthz"  # the gateway's; others say theirs
    assert not re.search(r"GANTRY_\w+=", DOCKERFILE)  # it would be a setting of every service


def _imported() -> set[str]:
    """Top-level modules that the services' code imports."""
    found: set[str] = set()
    for top in ("libs", "services"):
        for file in (REPOSITORY / top).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Import):
                    found.update(each.name.partition(".")[0] for each in node.names)
                elif isinstance(node, ast.ImportFrom) and node.module:
                    found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names)


def test_what_stays_is_all_that_the_services_import() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    kept = prune.closure(prune.wanted(REPOSITORY / "pyproject.toml"))
    from_where = packages_distributions()
    for module in _imported() - {"libs", "services", "infra"}:
        owners = {prune.name_of(each) for each in from_where.get(module, ())}
        assert owners & kept, f"{module} would be missing"
    development = {prune.name_of(re.split(r"[>=<\[]", each)[0]) for each in
                   project["optional-dependencies"]["dev"]}  # fmt: skip
    assert not kept & development


def test_the_closure_follows_extras_and_stops_at_markers() -> None:
    assert "docker" in prune.closure(["testcontainers"])
    assert "pytest" not in prune.closure(["aiohttp"])
    assert "pytest" not in prune.closure(["pytest; python_version < '3'"])
    with pytest.raises(PackageNotFoundError):
        prune.closure(["nothing-of-that-name"])


def _install(target: Path, source: Path, cluster: str, host: str) -> None:
    command = [str(INSTALL), cluster, host, str(target), str(source)]
    subprocess.run(command, check=True, timeout=60)


def test_installing_on_a_host_replaces_what_was_there(tmp_path: Path) -> None:
    source, target = tmp_path / "image", tmp_path / "host"
    shutil.copytree(SHIM, source / "app" / SHIM.relative_to(REPOSITORY))
    for content in ("first", "second", "third"):
        (source / "code").write_text(content)
        _install(target, source, "gantry", f"host-{content}")
    written = target / "etc/gantry/executor.yaml"
    written.write_text(written.read_text() + "# ours\npool_tasks: 8\n")
    _install(target, source, "gantry", "host-four")
    assert (target / "opt/gantry/code").read_text() == "third"
    assert (target / "opt/gantry.old/code").read_text() == "third"
    made = sorted(each.name for each in (target / "opt").iterdir())
    assert made == ["gantry", "gantry-cni", "gantry.old"]
    executor = load_executor(written)
    assert (executor.cluster, executor.agent) == ("gantry", "host-four")
    assert executor.pool_tasks == 8, "what was set by hand stays"
    assert written.stat().st_mode & 0o777 == 0o600


def test_a_host_of_one_cluster_is_not_made_anothers(tmp_path: Path) -> None:
    """Its executor's settings are there once: the other one's executors would be told the wrong cluster."""
    source, target = tmp_path / "image", tmp_path / "host"
    shutil.copytree(SHIM, source / "app" / SHIM.relative_to(REPOSITORY))
    _install(target, source, "gantry", "host-1")
    before = {each: each.read_bytes() for each in target.rglob("*") if each.is_file()}
    command = [str(INSTALL), "blue", "host-1", str(target), str(source)]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 1 and "is of cluster gantry" in refused.stderr
    assert {each: each.read_bytes() for each in target.rglob("*") if each.is_file()} == before


def test_each_cluster_on_a_host_has_its_own_cni_plugins(tmp_path: Path) -> None:
    source, target = tmp_path / "image", tmp_path / "host"
    shutil.copytree(SHIM, source / "app" / SHIM.relative_to(REPOSITORY))
    clusters = ("gantry", "blue")
    for cluster in clusters:
        _install(target, source, cluster, "host-1")
        (target / "etc/gantry/executor.yaml").unlink()  # the host goes to the other one
    for cluster in clusters:
        plugins = target / "opt/gantry-cni" / cluster
        for name in ("gantry", "gantry-ipam"):
            text = (plugins / name).read_text()
            assert f'SOCKET = "{HostdConfig().socket_path(cluster)}"' in text
            assert f'QUEUE = "{CommonConfig().data_dir}/hostd/cni"' in text
            assert (plugins / name).stat().st_mode & 0o777 == 0o755
