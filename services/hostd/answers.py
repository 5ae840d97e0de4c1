"""What hostd answers about an attachment."""

from __future__ import annotations

from services.hostd import core
from services.hostd.model import DEFAULT_MTU, Attachment, AttachmentView
from services.hostd.table import Table


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
