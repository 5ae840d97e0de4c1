"""Sealing: an answer opens for the claim and the secret it was made for, and for nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.claims import Claim, Sealed, Sealer, Unsealable, new_key, prove, prover, unseal

SECRET, OTHER = b"s" * 52, b"t" * 52
CONTENT = b'{"host_keys": ["00"]}'


def made(
    purpose: str = "enrol", by: str = "tok1", host: str = "h1"
) -> tuple[X25519PrivateKey, Claim]:
    """A host's key pair and its claim."""
    key = new_key()
    return key, Claim(purpose, by, host, key.public_key().public_bytes_raw())


@settings(max_examples=25)
@given(st.binary(max_size=200), st.binary(min_size=1, max_size=64))
def test_an_answer_opens_for_who_asked(content: bytes, secret: bytes) -> None:
    key, claim = made()
    assert prover([OTHER, secret], claim, ["00", prove(secret, claim)]) == secret
    assert unseal(secret, claim, key, Sealer(secret, claim).seal(content)) == content


def test_it_opens_for_nobody_else() -> None:
    key, claim = made()
    sealed = Sealer(SECRET, claim).seal(CONTENT)
    flipped = bytes([sealed.box[-1] ^ 1])
    wrong: list[tuple[bytes, Claim, X25519PrivateKey, Sealed]] = [
        (OTHER, claim, key, sealed),  # who knows no secret
        (SECRET, claim, new_key(), sealed),  # who learns the secret later
        (SECRET, replace(claim, host="h2"), key, sealed),
        (SECRET, replace(claim, by="tok2"), key, sealed),
        (SECRET, replace(claim, purpose="renew"), key, sealed),
        (SECRET, claim, key, replace(sealed, box=sealed.box[:-1] + flipped)),
        (SECRET, claim, key, replace(sealed, box=b"")),
        (SECRET, claim, key, replace(sealed, public_key=made()[1].public_key)),
        (SECRET, claim, key, replace(sealed, public_key=bytes(32))),
        (SECRET, claim, key, replace(sealed, public_key=b"short")),
        (SECRET, claim, key, Sealer(OTHER, claim).seal(CONTENT)),  # who poses as the gateway
        (SECRET, claim, key, Sealer(SECRET, made()[1]).seal(CONTENT)),  # an answer of another time
    ]
    for secret, of, private_key, answer in wrong:
        with pytest.raises(Unsealable):
            unseal(secret, of, private_key, answer)
    assert unseal(SECRET, claim, key, sealed) == CONTENT
    assert CONTENT not in sealed.box and Sealer(SECRET, claim).seal(CONTENT) != sealed


def test_a_proof_is_for_one_claim() -> None:
    _, claim = made()
    proof = prove(SECRET, claim)
    assert prover([SECRET], claim, [proof]) == SECRET
    assert prover([OTHER], claim, [proof]) is None
    assert prover([SECRET], claim, ["", "é", proof[:-1], proof.upper()]) is None
    for field, value in (
        ("purpose", "renew"),
        ("by", "tok2"),
        ("host", "h2"),
        ("public_key", made()[1].public_key),  # who stands in between, with a key of its own
    ):
        changed = replace(claim, **{field: value})  # type: ignore[arg-type]
        assert prover([SECRET], changed, [proof]) is None


def test_no_two_claims_are_one_text() -> None:
    key = bytes(32)
    claims = [Claim("a", "b", "c", key), Claim("ab", "", "c", key), Claim("a", 'b","c', "", key)]
    assert len({each.text() for each in claims}) == len(claims)


@pytest.mark.parametrize("key", [bytes(32), b"\x01" + bytes(31), b"short"])
def test_a_key_that_agrees_on_nothing_secret_is_refused(key: bytes) -> None:
    _, claim = made()
    with pytest.raises(ValueError, match=r"."):
        Sealer(SECRET, replace(claim, public_key=key))
