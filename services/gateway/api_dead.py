"""Routes of dead letters: for admins of all business units, as they hold everybody's events, secrets among them."""

from __future__ import annotations

import re
from typing import Any

from libs.client.dead import GROUP_PATTERN, PLACE_PATTERN, Dead, DeadLetter, Replay, Replayed
from libs.common.errors import Forbidden, NotFound
from libs.common.http import Access, Request, Response, Role, Route, reply
from services.gateway.api_apps import IDEMPOTENT
from services.gateway.parts import Gateway, actor_of, guarded, reading, whole

_GROUP = re.compile(GROUP_PATTERN)
_PLACE = re.compile(PLACE_PATTERN)


def dead_routes(gateway: Gateway) -> tuple[Route, ...]:
    """All of them, guarded."""

    async def newest(request: Request) -> Response:
        _require_all(request)
        group = request.query.get("group", "")
        return reply(
            await gateway.dead.newest(_group(group) if group else "", whole(request, "limit"))
        )

    async def letter(request: Request) -> Response:
        _require_all(request)
        group, place = _group(request.params["group"]), request.params["place"]
        if not _PLACE.fullmatch(place):
            raise NotFound(f"there is no dead letter at {place!r}; a place is partition:offset")
        found = await gateway.dead.letter(group, place)
        await gateway.operations.noted(request, "dead.read", f"*/dead/{group}/{place}")
        return reply(found, headers={"cache-control": "no-store"})

    async def replay(request: Request) -> Response:
        _require_all(request)
        group, asked = _group(request.params["group"]), request.parse(Replay)
        by = request.principal.name

        async def perform() -> Response:
            if asked.all:
                return reply(await gateway.dead.replay_all(group, asked.after, by))
            return reply(await gateway.dead.replay(group, asked.places, by))

        return await gateway.operations.through(
            request, "dead.replay", f"*/dead/{group}", perform, _what
        )

    again = Route(
        "POST",
        "/v1/dead/{group}/replay",
        replay,
        Access.KEY,
        "Publish dead letters again, each to the topic it came from",
        Role.ADMIN,
        Replay,
        Replayed,
        headers=IDEMPOTENT,
    )
    query = {"group": "of this consumer group only", "limit": "at most so many"}
    list_text, one_text = "Dead letters, newest first", "A dead letter with its value"
    one = "/v1/dead/{group}/{place}"
    return (
        reading(gateway, "/v1/dead", newest, list_text, Dead, role=Role.ADMIN, query=query),
        reading(gateway, one, letter, one_text, DeadLetter, role=Role.ADMIN),
        guarded(gateway, again, "dead.replay"),
    )


def _require_all(request: Request) -> None:
    if actor_of(request).bu != "*":
        raise Forbidden("dead letters hold events of all business units: use an admin key for '*'")


def _group(name: str) -> str:
    if not _GROUP.fullmatch(name):
        raise NotFound(f"there is no consumer group {name!r}")
    return name


def _what(response: Response) -> dict[str, Any]:
    done = response.json()
    return {"replayed": done["replayed"], "left": [each["place"] for each in done["left"]]}
