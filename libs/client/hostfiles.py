"""The files of a host: its own key and the Mesos agent's credentials, as infra/compose/host.yml mounts them.

Each is written whole or not at all, is root's alone (0400), and stays as it is when it says the same already.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from libs.client.hosts import AgentCredential
from libs.common.keys import SECRET_BYTES, text_of, write_private

MODE = 0o400
OPERATOR = "operator"


def fresh() -> str:
    """A new secret in hex."""
    return secrets.token_bytes(SECRET_BYTES).hex()


def mesos_credentials(secret_of: Mapping[str, str]) -> str:
    """Mesos' credentials file."""
    entries = [{"principal": name, "secret": secret} for name, secret in secret_of.items()]
    return json.dumps({"credentials": entries})


def mesos_credential(principal: str, secret: str) -> str:
    """The file with which a Mesos agent says who it is."""
    return json.dumps({"principal": principal, "secret": secret})


@dataclass(frozen=True)
class HostFiles:
    """The directory of a host's secrets. All methods raise OSError."""

    directory: Path

    @property
    def host_key(self) -> Path:
        """The host's own keys, the newest first: `hostd.host_key_file`."""
        return self.directory / "host_key"

    @property
    def agent_credential(self) -> Path:
        """With which the Mesos agent registers."""
        return self.directory / "agent_credential"

    @property
    def agent_http_credentials(self) -> Path:
        """For people who must call the agent's own API; known on this host only."""
        return self.directory / "agent_http_credentials"

    @property
    def executor_secret(self) -> Path:
        """By which the Mesos agent signs its executors' tokens; known on this host only."""
        return self.directory / "executor_secret"

    def make_directory(self) -> None:
        """Have the directory, root's alone."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    def put(self, keys: tuple[bytes, ...], agent: AgentCredential | None) -> list[Path]:
        """Have the files say this; those that said something else before. The host's key comes last."""
        wanted: dict[Path, str] = {}
        if agent is not None:
            if not self.agent_http_credentials.exists():
                text = mesos_credentials({OPERATOR: fresh()})
                wanted[self.agent_http_credentials] = text + "\n"
            if not self.executor_secret.exists():
                wanted[self.executor_secret] = fresh() + "\n"
            credential = mesos_credential(agent.principal, agent.secret)
            wanted[self.agent_credential] = credential + "\n"
        wanted[self.host_key] = text_of(keys)
        changed = [file for file, text in wanted.items() if self.replace(file, text)]
        self.settle()
        return changed

    def replace(self, file: Path, text: str) -> bool:
        """Have the file say this; False when it did."""
        if file.exists() and file.read_text() == text:
            return False
        write_private(file, text, MODE)
        return True

    def settle(self) -> None:
        """Have the directory itself on disk: a renamed file is not there for sure before."""
        descriptor = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
