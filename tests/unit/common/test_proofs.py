"""Proofs of who wrote a record: made by the relay, good for that record and that service only."""

from __future__ import annotations

from dataclasses import replace

import pytest

from libs.common.bus.base import Record
from libs.common.events import EVENT_TYPES, seal, to_record
from libs.common.events import model as ev
from libs.common.keys import FixedKeys
from libs.common.proofs import SIGNATURE, Proof, ServiceProofs, service_of

OLD, NEW = b"o" * 32, b"n" * 32
ASKED = ev.DeployRequested(
    deployment="d", app="acme/web", action=ev.DeployAction.RELEASE, actor="ann", actor_bu="acme"
)


def record(source: str = "gateway") -> Record:
    return to_record(*seal([ASKED], source=source, sequence=1, now=1000.5))


def proof_of(signed: Record) -> Proof:
    _, envelope = EVENT_TYPES.open(signed)
    assert envelope.proof is not None
    return envelope.proof


def test_a_service_proves_what_it_wrote_and_nothing_else() -> None:
    proofs = ServiceProofs(OLD)
    signed = proofs.sign(record())
    proof = proof_of(signed)
    assert proofs.proves("gateway", proof)
    assert not proofs.proves("deployer", proof)
    assert not proofs.proves("", proof)
    assert not ServiceProofs(NEW).proves("gateway", proof)
    for name in ("ce_id", "ce_type", "ce_subject", "ce_source", "ce_time", "sha256"):
        assert not proofs.proves("gateway", replace(proof, claims={**proof.claims, name: "x"}))
    for signature in ("", "gateway:", "gateway", proof.signature.partition(":")[2]):
        assert not proofs.proves("gateway", replace(proof, signature=signature))


def test_a_longer_source_is_its_services() -> None:
    signed = ServiceProofs(OLD).sign(record("deployer/deployments/d"))
    assert ServiceProofs(OLD).proves("deployer", proof_of(signed))
    assert service_of("/gantry/deployer/deployments/d") == "deployer"
    assert service_of("/gantryx/deployer") == service_of("/acme/ci") == service_of("") == ""


def test_only_requests_are_signed() -> None:
    audit = ev.AuditRecorded(actor="a", action="x", target="t", allowed=True)
    other = to_record(*seal([audit], source="gateway", sequence=1, now=1.0))
    assert ServiceProofs(OLD).sign(other) is other
    assert EVENT_TYPES.open(record())[1].proof is None


@pytest.mark.parametrize(
    ("writer", "reader"), [((NEW, OLD), (OLD,)), ((OLD,), (NEW, OLD)), ((NEW,), (NEW, OLD))]
)
def test_a_secret_may_be_replaced_meanwhile(
    writer: tuple[bytes, ...], reader: tuple[bytes, ...]
) -> None:
    signed = ServiceProofs(FixedKeys(writer)).sign(record())
    assert ServiceProofs(FixedKeys(reader)).proves("gateway", proof_of(signed))


def test_the_last_of_two_signatures_counts_for_reader_and_proof_alike() -> None:
    signed = ServiceProofs(OLD).sign(record())
    twice = replace(signed, headers=(*signed.headers, (SIGNATURE, b"gateway:00")))
    assert not ServiceProofs(OLD).proves("gateway", proof_of(twice))
