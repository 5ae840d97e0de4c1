"""What hostd answers about an attachment."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from services.hostd import core
from services.hostd.model import (
    DEFAULT_MTU,
    NO_LIMITS,
    Attachment,
    Bandwidth,
    FamilyAddress,
    Phase,
)
from services.hostd.table import Table


class AttachmentView(BaseModel):
    """The answer to an ADD, and an entry of the list."""

    model_config = ConfigDict(frozen=True)

    attachment: str
    container: str
    ifname: str
    network: str
    instance: str
    attempt: str
    generation: int = Field(description="of the attempt, as asked for")
    phase: Phase
    ready: bool
    registered: bool
    namespace: str = Field(description="path of the network namespace")
    inode: int = Field(description="of the namespace, 0 while there is none")
    ip: str = Field("", description="the primary address: IPv4 if there is one")
    prefix: int = 0
    gateway: str | None = None
    mac: str = ""
    vlan: int = 0
    mtu: int = DEFAULT_MTU
    address_generation: int = Field(0, description="of the address; ipam's releases carry it")
    addresses: tuple[FamilyAddress, ...] = Field((), description="one a family, as ipam tells them")
    bandwidth: Bandwidth = NO_LIMITS
    host_inode: int = Field(0, description="of the host's own network namespace")


def view_of(attachment: Attachment, table: Table, owner: str, host_inode: int) -> AttachmentView:
    """An attachment as callers see it."""
    namespace = table.ready.get(attachment.id)
    address = attachment.address
    wire = core.wire_of(owner, attachment) if address else None
    parts = address.parts() if address else ()
    primary = parts[0] if parts else None
    return AttachmentView(
        attachment=attachment.ipam_key,
        container=attachment.container,
        ifname=attachment.ifname,
        network=attachment.spec.network,
        instance=attachment.spec.instance,
        attempt=attachment.spec.attempt,
        generation=attachment.spec.generation,
        phase=attachment.phase,
        ready=namespace is not None,
        registered=attachment.id in table.registered,
        namespace=namespace.path if namespace else "",
        inode=namespace.inode if namespace else 0,
        ip=primary.address if primary else "",
        prefix=primary.prefix_len if primary else 0,
        gateway=primary.gateway if primary else None,
        mac=wire.mac if wire else "",
        vlan=address.vlan if address else 0,
        mtu=wire.mtu if wire else DEFAULT_MTU,
        address_generation=primary.generation if primary else 0,
        addresses=parts,
        bandwidth=attachment.spec.bandwidth,
        host_inode=host_inode,
    )
