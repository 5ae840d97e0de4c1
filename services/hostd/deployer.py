"""DeliveryPort on the deployer's HTTP API, spoken as this host; the answer is sealed with this host's own keys."""

from __future__ import annotations

import random

from pydantic import ValidationError

from libs.common.delivery import ATTEMPT_PURPOSE, Delivery, Sealed, about_attempt
from libs.common.errors import Unavailable
from libs.common.http import ServiceClient, call_json
from libs.common.keys import Secret
from libs.common.sealing import Sealer
from libs.common.serve import segment

SERVICE = "deployer"
TIMEOUT_S = 5.0


class HttpDeliveries:
    """See DeliveryPort. `key` is this host's own."""

    def __init__(self, peers: ServiceClient, host: str, key: Secret, rng: random.Random) -> None:
        self._peers = peers
        self._host = host
        self._sealer = Sealer(key, ATTEMPT_PURPOSE, rng)

    async def of_attempt(self, attempt: str) -> Delivery:
        """See DeliveryPort."""
        path = f"/v1/attempts/{segment(attempt)}/delivery"
        answer = await call_json(self._peers, SERVICE, "GET", path, timeout_s=TIMEOUT_S)
        try:
            boxes = Sealed.model_validate(answer).boxes
            content = self._sealer.open(boxes, about_attempt(self._host, attempt))
            return Delivery.model_validate_json(content)
        except ValidationError:  # its text might show what it is about
            raise Unavailable("the deployer's answer can't be read") from None
