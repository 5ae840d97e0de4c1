"""What the scheduler asks before it takes a job: its image by digest, as a release's is; and are its secrets there."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from libs.common.actor import Actor
from libs.common.errors import InvalidInput
from libs.common.http import Request, Response, Role, Route, reply
from libs.common.spec import SecretRefs, Strict
from libs.common.wishes import Name
from services.deployer.asks import missing_secret
from services.deployer.registry import ImageResolver
from services.deployer.vault import Vault


class ImageAsked(Strict):
    """POST /v1/images/resolve: an image of a business unit; with `secrets`, those must be there, too."""

    bu: Name
    image: str = Field(max_length=500)
    secrets: SecretRefs = ()


class ImageTold(Strict):
    """The image by digest; `registry_login`: hosts pull it with the business unit's login at its registry."""

    image: str
    registry_login: bool


def routes(vault: Vault, images: ImageResolver) -> Sequence[Route]:
    """All of them."""

    async def resolve(request: Request) -> Response:
        asked = request.parse(ImageAsked)
        Actor.of(request).require(asked.bu, Role.DEPLOYER)
        known = await vault.known(asked.bu, (ref.name for ref in asked.secrets))
        if missing := missing_secret(asked.bu, asked.secrets, known):
            field, _, text = missing.partition(": ")
            raise InvalidInput.of(field, text)
        login = await vault.login(asked.bu, asked.image)
        pinned = await images.resolve(asked.image, login)
        return reply(ImageTold(image=pinned, registry_login=login is not None))

    text = "The digest of an image"
    return (Route("POST", "/v1/images/resolve", resolve, summary=text, request=ImageAsked),)
