"""A host enrols with a one-time token, and renews its key: what runs on the host (protocol: libs/common/claims.py).

The key pair of an enrolment is on disk before the gateway hears of it, and stays until the secrets are: whenever this
is cut off, the same token presented once more gets the same answer, for the token is bound to that key pair.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from libs.client.hostfiles import HostFiles
from libs.client.hosts import TOKEN, Enrol, HostSecrets, Renew, SealedSecrets, decode, encode
from libs.client.hosts_api import HostCalls
from libs.common.claims import Claim, Sealed, Unsealable, new_key, prove, unseal
from libs.common.clock import Clock
from libs.common.errors import InvalidInput, Unauthenticated, Unavailable
from libs.common.keys import read_secrets
from libs.common.problems import invalid

NOTE = "enrolment"


class Enrolment(BaseModel):
    """The file `enrolment`: by which token this host enrols, with which key pair; without one when it is done."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    token: str
    host: str
    private_key: str = Field("", repr=False)


@dataclass(frozen=True)
class Outcome:
    """What was done: the files that changed, and whose they are."""

    host: str
    changed: tuple[Path, ...]
    keys: int


async def enrol(calls: HostCalls, token: str, host: str, files: HostFiles) -> Outcome:
    """Have this host's secrets for `token`. Raises InvalidInput, Unauthenticated, Unavailable, OSError.

    Done already with this very token, it does nothing.
    """
    found = TOKEN.fullmatch(token.strip())
    if found is None:
        raise InvalidInput.of(
            "token", "is none", "as `gantry host token` printed it: ht_<id>_<secret>"
        )
    token_id, secret = found[1], found[2].encode()
    files.make_directory()
    note = _read_note(files)
    if note is not None and (note.token, note.host) != (token_id, host):
        note = None  # of another time
    if note is not None and not note.private_key and files.host_key.exists():
        return Outcome(host, (), len(read_secrets(files.host_key)))
    if note is None or not note.private_key:
        note = Enrolment(token=token_id, host=host, private_key=new_key().private_bytes_raw().hex())
        _write_note(files, note)
    private_key = X25519PrivateKey.from_private_bytes(bytes.fromhex(note.private_key))
    claim = Claim("enrol", token_id, host, private_key.public_key().public_bytes_raw())
    wanted = _enrol_body(claim, prove(secret, claim))
    told = _open(await calls.enrol(wanted), (secret,), claim, private_key)
    changed = files.put(_keys(told), told.agent_credential)
    _write_note(files, Enrolment(token=token_id, host=host))
    return Outcome(host, tuple(changed), len(told.host_keys))


async def renew(calls: HostCalls, host: str, files: HostFiles, clock: Clock) -> Outcome:
    """Have this host's secrets of today. Raises InvalidInput, Unauthenticated, Unavailable, OSError."""
    secrets = read_secrets(files.host_key)
    private_key = new_key()
    at = int(clock.now())
    claim = Claim("renew", str(at), host, private_key.public_key().public_bytes_raw())
    proofs = tuple(prove(each, claim) for each in secrets)
    try:
        wanted = Renew(host=host, at=at, public_key=encode(claim.public_key), proofs=proofs)
    except ValidationError as error:
        raise invalid(error) from None
    told = _open(await calls.renew(wanted), secrets, claim, private_key)
    changed = files.put(_keys(told), told.agent_credential)
    return Outcome(host, tuple(changed), len(told.host_keys))


def enrolled_as(files: HostFiles) -> str:
    """The name under which this host enrolled; "" when it has not. Raises InvalidInput, OSError."""
    note = _read_note(files)
    return note.host if note else ""


def _enrol_body(claim: Claim, proof: str) -> Enrol:
    try:
        key = encode(claim.public_key)
        return Enrol(token=claim.by, host=claim.host, public_key=key, proof=proof)
    except ValidationError as error:
        raise invalid(error) from None


def _open(
    answer: SealedSecrets, secrets: tuple[bytes, ...], claim: Claim, private_key: X25519PrivateKey
) -> HostSecrets:
    """What is in the answer; the gateway took one of the secrets. Raises Unauthenticated, Unavailable."""
    try:
        sealed = Sealed(decode(answer.public_key), decode(answer.box))
    except ValueError:
        raise Unavailable("the answer can't be read") from None
    for secret in secrets:
        try:
            content = unseal(secret, claim, private_key, sealed)
        except Unsealable:
            continue
        try:
            return HostSecrets.model_validate_json(content)
        except ValidationError:
            raise Unavailable("the answer holds something else than a host's secrets") from None
    raise Unauthenticated("who answered is not this host's gateway; nothing was written")


def _keys(told: HostSecrets) -> tuple[bytes, ...]:
    return tuple(bytes.fromhex(each) for each in told.host_keys)


def _read_note(files: HostFiles) -> Enrolment | None:
    file = files.directory / NOTE
    try:
        return Enrolment.model_validate_json(file.read_text())
    except FileNotFoundError:
        return None
    except ValidationError:
        raise InvalidInput.of(str(file), "is no note of an enrolment", "remove it") from None


def _write_note(files: HostFiles, note: Enrolment) -> None:
    files.replace(files.directory / NOTE, note.model_dump_json() + "\n")
    files.settle()
