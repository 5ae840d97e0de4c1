"""The rendered HAProxy configuration, checked by HAProxy itself."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from libs.common.errors import InvalidInput
from services.deployer.loadbalancer.haproxy_config import Backend, render

BACKENDS = [
    Backend("shop-web", "127.0.0.1:18080", slots=400, check_path="/healthz"),
    Backend("shop_db.1", "*:15432", tcp=True, max_connections_per_instance=50),
]


def test_haproxy_takes_it(tmp_path: Path) -> None:
    file = tmp_path / "haproxy.cfg"
    file.write_text(render(BACKENDS, tmp_path / "admin.sock", pid_file=tmp_path / "pid"))
    checked = subprocess.run(
        ["haproxy", "-c", "-f", str(file)], capture_output=True, text=True, timeout=20, check=False
    )
    assert checked.returncode == 0, checked.stderr
    assert "WARNING" not in checked.stderr


@pytest.mark.parametrize(
    "backend",
    [
        Backend("shop web", "127.0.0.1:80"),
        Backend("web\n    bind *:81", "127.0.0.1:80"),
        Backend("web", "127.0.0.1"),
        Backend("web", "127.0.0.1:80\n    stats enable"),
        Backend("web", "127.0.0.1:80", slots=0),
        Backend("web", "127.0.0.1:80", check_path="/a b"),
    ],
)
def test_what_haproxy_would_misread_is_refused(backend: Backend, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput):
        render([backend], tmp_path / "admin.sock")


def test_a_name_may_be_there_once(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="is there twice"):
        render([BACKENDS[0], BACKENDS[0]], tmp_path / "admin.sock")
