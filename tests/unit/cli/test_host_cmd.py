"""`gantry host`: an admin makes tokens; a host enrols, is cut off, comes again, and renews."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import orjson
import pytest

from libs.client import GantryClient
from libs.client.enrolment import NOTE, enrol
from libs.client.hostfiles import HostFiles
from libs.client.hosts import Enrol, SealedSecrets
from libs.client.hosts_api import HostCalls
from libs.common.errors import TimedOut, Unauthenticated
from libs.common.http import Kind
from libs.common.keys import read_secrets
from libs.common.tokens import derive_key
from services.gateway.model import GatewayConfig
from tests.fakes.gateway import SECRET, live_gateway
from tests.unit.cli.conftest import Live, Result

HOST = "host-1"
KEY = derive_key(SECRET, Kind.HOST, HOST)


def enrol_by_stdin(live: Live, out: Path, token: str, *more: str) -> Result:
    """`gantry host enrol`, with the token on standard input and without any API key."""
    before, sys.stdin = sys.stdin, io.StringIO(token + "\n")
    try:
        return live.gantry(
            "host", "enrol", "--out", str(out), "--name", HOST, *more, GANTRY_KEY="gk_broken"
        )
    finally:
        sys.stdin = before


def test_a_host_enrols_renews_and_is_removed(live: Live, tmp_path: Path) -> None:
    out = tmp_path / "secrets"
    made = live.gantry("host", "token", HOST, "--ttl", "30m")
    token = made.out.strip()
    assert made.code == 0 and HOST in made.err and token not in made.err
    done = enrol_by_stdin(live, out, token)
    assert done.code == 0, done.err
    assert "host_key" in done.out and token not in done.out + done.err
    assert read_secrets(out / "host_key") == (KEY,)
    files = {each.name: each for each in out.iterdir()}
    assert files.keys() == {"host_key", NOTE}  # no Mesos of ours: no credential
    assert {each.stat().st_mode & 0o777 for each in files.values()} == {0o400}
    assert out.stat().st_mode & 0o777 == 0o700
    assert orjson.loads(files[NOTE].read_text())["private_key"] == ""
    again = enrol_by_stdin(live, out, token)
    assert (again.code, again.out) == (0, f"{HOST}: all as it was\n")
    elsewhere = enrol_by_stdin(live, tmp_path / "thief", token)
    assert elsewhere.code == 3 and "not let in" in elsewhere.err
    assert not (tmp_path / "thief" / "host_key").exists()

    renewed = live.gantry("host", "renew", "--out", str(out), "-o", "json", GANTRY_KEY="")
    assert renewed.code == 0, renewed.err
    assert renewed.json() == {"host": HOST, "keys": 1, "changed": []}
    listed = live.gantry("host", "ls", "-o", "json").json()
    assert [each["host"] for each in listed["hosts"]] == [HOST]
    table = live.gantry("host", "ls").out.splitlines()
    assert [line.split()[:3] for line in table[1:]] == [
        [HOST, "-", "enrolled"],
        [HOST, token.split("_")[1], "used"],
    ]

    assert live.gantry("host", "remove", HOST).out == f"{HOST}: removed\n"
    refused = live.gantry("host", "renew", "--out", str(out), GANTRY_KEY="")
    assert refused.code == 3 and read_secrets(out / "host_key") == (KEY,)
    back = tmp_path / "token"
    back.write_text(live.gantry("host", "token", HOST).out)
    done = enrol_by_stdin(live, out, "unused", "--token-file", str(back))
    assert done.code == 0, done.err
    assert read_secrets(out / "host_key") == (derive_key(SECRET, Kind.HOST, HOST, 1),)


def test_a_token_is_revoked(live: Live, tmp_path: Path) -> None:
    token = live.gantry("host", "token", HOST).out.strip()
    revoked = live.gantry("host", "revoke", token.split("_")[1])
    assert revoked.out == f"{token.split('_')[1]}: revoked\n"
    assert enrol_by_stdin(live, tmp_path / "s", token).code == 3
    assert live.gantry("host", "remove", "nobody").code == 4


@pytest.mark.parametrize("words", [("a b",), (HOST, "--ttl", "1 hour"), (HOST, "--ttl", "30d")])
def test_a_wrong_wish_is_refused_by_name(live: Live, words: tuple[str, ...]) -> None:
    assert live.gantry("host", "token", *words).code == 2


@pytest.mark.parametrize("token", ["", "gk_first_0", "ht_x_y"])
def test_what_is_no_token_is_refused_and_leaves_nothing(
    live: Live, tmp_path: Path, token: str
) -> None:
    done = enrol_by_stdin(live, tmp_path / "s", token)
    assert done.code == 2 and "token" in done.err
    assert not (tmp_path / "s").exists()


# -- cut off ---------------------------------------------------------------------------------------


class Lossy(HostCalls):
    """The answer is lost after the deed was done."""

    async def enrol(self, claim: Enrol) -> SealedSecrets:
        """See HostCalls."""
        await super().enrol(claim)
        raise TimedOut("lost")


class Impostor(HostCalls):
    """Somebody in between answers a claim of his own, or an old one."""

    async def enrol(self, claim: Enrol) -> SealedSecrets:
        """See HostCalls."""
        answer = await super().enrol(claim)
        return answer.model_copy(update={"public_key": claim.public_key})


class FullDisk(HostFiles):
    """One file can be written, the next one not."""

    def replace(self, file: Path, text: str) -> bool:
        """See HostFiles."""
        if file == self.host_key:
            raise OSError(28, "No space left on device")
        return super().replace(file, text)


async def test_an_enrolment_that_was_cut_off_is_repaired_by_the_same_token(tmp_path: Path) -> None:
    credential, out = tmp_path / "credential", tmp_path / "secrets"
    credential.write_text('{"principal": "agent", "secret": "hunter2"}')
    config = GatewayConfig(agent_credential_file=credential)
    async with live_gateway(tmp_path, config) as (world, url), GantryClient.open(url, "") as client:
        made = await world.call("POST", "/v1/hosts/tokens", {"host": HOST})
        token = str(made.json()["token"])
        transport = client.hosts._transport
        files = HostFiles(out)

        async def fails(calls: HostCalls, files: HostFiles, error: type[Exception]) -> None:
            with pytest.raises(error):
                await enrol(calls, token, HOST, files)
            assert not files.host_key.exists()

        await fails(Lossy(transport), files, TimedOut)
        key = orjson.loads((out / NOTE).read_text())["private_key"]
        assert len(bytes.fromhex(key)) == 32
        await fails(Impostor(transport), files, Unauthenticated)
        await fails(client.hosts, FullDisk(out), OSError)
        await fails(client.hosts, HostFiles(tmp_path / "thief"), Unauthenticated)
        done = await enrol(client.hosts, token, HOST, files)
        assert {each.name for each in done.changed} == {"host_key"}
        assert read_secrets(files.host_key) == (KEY,)
        operator = orjson.loads(files.agent_http_credentials.read_text())["credentials"]
        assert [each["principal"] for each in operator] == ["operator"]
        agent = orjson.loads(files.agent_credential.read_text())
        assert agent == {"principal": "agent", "secret": "hunter2"}
        assert key not in "".join(each.read_text() for each in out.iterdir())
        assert not [each.name for each in out.iterdir() if each.name.endswith(".new")]
