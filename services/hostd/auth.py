"""Who may read hostd's port: the control plane, known by this host's own key; and who scrapes its metrics."""

from __future__ import annotations

from collections.abc import Mapping

from joserfc.errors import JoseError

from libs.common.clock import Clock
from libs.common.errors import Unauthenticated
from libs.common.http import Authenticator, Kind, Principal, Role
from libs.common.keys import Secret, keys_of
from libs.common.tokens import LEEWAY_S, claims_of, first_good, scraper_of, tokens_in


class OwnKeyVerifier:
    """An `Authenticator` for tokens signed with this host's key; others, where that is possible, go to `fallback`.

    The control plane can derive every host's key, so such a token is from there (or from this host itself), and it
    opens nothing anywhere else: a host that lies about where it listens learns nothing from being called. A
    scraper's token is one that was made of this host's key.
    """

    def __init__(
        self, host: str, key: Secret, clock: Clock, fallback: Authenticator | None = None
    ) -> None:
        self._fallback = fallback
        self._subject = f"{Kind.HOST}:{host}"
        self._keys = keys_of(key)
        self._clock = clock

    async def __call__(self, headers: Mapping[str, str], query: Mapping[str, str]) -> Principal:
        """The control plane. Raises Unauthenticated when the token is wrong or too old."""
        try:
            return first_good(tokens_in(headers), self._check)
        except Unauthenticated:
            if self._fallback is None:
                raise
            return await self._fallback(headers, query)

    def _check(self, token: str) -> Principal:
        try:
            return self._control_plane(token)
        except Unauthenticated as refused:
            try:
                scraper, expires = scraper_of(token, self._keys.current())
            except Unauthenticated:
                raise refused from None
        if self._clock.now() > expires + LEEWAY_S:
            raise Unauthenticated("the token has expired")
        return scraper

    def _control_plane(self, token: str) -> Principal:
        try:
            claims = claims_of(token, self._keys.current())
            subject, expires = claims["sub"], float(str(claims["exp"]))
        except (JoseError, ValueError, KeyError, TypeError):
            raise Unauthenticated("the token is not valid") from None
        if subject != self._subject:
            raise Unauthenticated("the token is not for this host")
        if self._clock.now() > expires + LEEWAY_S:
            raise Unauthenticated("the token has expired")
        return Principal(Kind.SERVICE, "control-plane", "*", Role.ADMIN)
