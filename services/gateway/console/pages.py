"""The console's routes: login with an API key, the page, its live parts.

The key travels in the body of one POST and nowhere else; afterwards a signed, HttpOnly, SameSite=Strict cookie says
whose session it is. The cookie opens these routes only, never the API's, and forms carry a token of their session, so
no other site can act for the one who is logged in.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from libs.common.actor import Actor
from libs.common.errors import Forbidden, InvalidInput, NotFound, TooMany, Unauthenticated
from libs.common.http import Access, Principal, Request, Response, Route
from services.gateway.api_streams import TOPIC_NAMES, open_events
from services.gateway.console.view import Page, page
from services.gateway.feed import Wanted
from services.gateway.model import KeyId
from services.gateway.parts import Gateway
from services.gateway.peers import pair
from services.gateway.views import list_apps, list_instances, list_nodes

HERE = Path(__file__).parent
COOKIE = "gantry_session"
HTML = "text/html; charset=utf-8"
STATIC = {
    "console.css": "text/css; charset=utf-8",
    "console.js": "text/javascript; charset=utf-8",
    "job.js": "text/javascript; charset=utf-8",
    "map.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
NOT_STORED = {"Cache-Control": "no-store"}
SHOWN_TOPICS = tuple(t for t in TOPIC_NAMES if not t.startswith(("audit.", "job.", "image.")))


@cache
def _templates() -> Environment:
    return Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _static(name: str) -> tuple[bytes, str]:
    content = (HERE / "static" / name).read_bytes()
    return content, hashlib.sha256(content).hexdigest()[:16]


def console_routes(gateway: Gateway) -> tuple[Route, ...]:
    """The console; open to all at the door, each page asks for the session itself."""
    console = Console(gateway)
    public = Access.PUBLIC
    return (
        Route("GET", "/", console.home, public, "The console"),
        Route("GET", "/login", console.login_page, public, "Its door"),
        Route("POST", "/login", console.login, public, "Come in"),
        Route("POST", "/logout", console.logout, public, "Leave"),
        Route("GET", "/console/state", console.state, public, "What the page shows now"),
        Route("GET", "/console/events", console.events, public, "What happens, as it happens"),
        Route("GET", "/console/static/{file}", console.static, public, "Style and script"),
    )


@dataclass(frozen=True, slots=True)
class Frame:
    """What is around each page. `state` is where the page's live part is to be had, `here` the page's place.

    `events` streams those of `topics`, which the page is to look again for.
    """

    principal: Principal
    cluster: str
    form_token: str
    state: str
    here: str
    events: str
    topics: str


class Console:
    """Handlers of the console's routes."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    # -- pages -----------------------------------------------------------------------------------

    async def home(self, request: Request) -> Response:
        """The page, or the way to the door."""
        try:
            _, principal = await self.session(request)
        except Unauthenticated:
            return go("/login")
        return render(
            "home.html",
            page=await self._page(principal),
            frame=self.frame(request, principal, "/console/state", "home"),
        )

    async def state(self, request: Request) -> Response:
        """The page's live part alone. Raises Unauthenticated."""
        _, principal = await self.session(request)
        return render("state.html", page=await self._page(principal))

    async def events(self, request: Request) -> Response:
        """Events for the page. Raises Unauthenticated, TooMany."""
        return await self.stream(request, SHOWN_TOPICS)

    async def stream(self, request: Request, topics: tuple[str, ...]) -> Response:
        """Events of these topics. Raises Unauthenticated, TooMany."""
        key_id, principal = await self.session(request)
        wanted = Wanted(Actor.of_principal(principal), topics)
        last_id = request.headers.get("last-event-id", "")
        return await open_events(self._gateway, wanted, key_id, last_id)

    async def static(self, request: Request) -> Response:
        """Style or script. Raises NotFound."""
        name = request.params["file"]
        if name not in STATIC:
            raise NotFound(f"there is nothing at {request.path}")
        content, _ = _static(name)
        kept = "public, max-age=31536000, immutable" if "v" in request.query else "no-cache"
        return Response(200, content, {"Cache-Control": kept}, STATIC[name])

    # -- the door --------------------------------------------------------------------------------

    async def login_page(self, _request: Request) -> Response:
        """The door."""
        return render("login.html", problem="", cluster=self._gateway.cluster)

    async def login(self, request: Request) -> Response:
        """Come in with an API key."""
        _same_origin(request)
        try:
            self._gateway.gate.count("login")
            cookie = await self._gateway.sessions.open(_form(request).get("key", "").strip())
        except (Unauthenticated, TooMany) as error:
            problem = "Too many tries; wait a little."
            if isinstance(error, Unauthenticated):
                problem = f"Not let in: {error}."
            return render("login.html", 401, problem=problem, cluster=self._gateway.cluster)
        return go("/", self._set_cookie(cookie, int(self._gateway.sessions.life_s)))

    async def logout(self, request: Request) -> Response:
        """Leave. Raises Forbidden for a form that our page did not send."""
        self.form(request)
        return go("/login", self._set_cookie("", 0))

    # -- parts -----------------------------------------------------------------------------------

    def form(self, request: Request) -> dict[str, str]:
        """The fields of a form. Raises Forbidden for one that a page of this session did not send."""
        _same_origin(request)
        form = _form(request)
        if not self._gateway.sessions.is_form_token(cookie_of(request), form.get("token", "")):
            raise Forbidden("the form is not from this session")
        return form

    async def session(self, request: Request) -> tuple[KeyId, Principal]:
        """Whose session it is. Raises Unauthenticated."""
        cookie = cookie_of(request)
        if not cookie:
            raise Unauthenticated("nobody is logged in")
        return await self._gateway.sessions.holder(cookie)

    def frame(
        self,
        request: Request,
        principal: Principal,
        state: str,
        here: str,
        events: str = "/console/events",
        topics: tuple[str, ...] = SHOWN_TOPICS,
    ) -> Frame:
        """The frame around a page."""
        token = self._gateway.sessions.form_token(cookie_of(request))
        cluster = self._gateway.cluster
        return Frame(principal, cluster, token, state, here, events, " ".join(topics))

    async def _page(self, principal: Principal) -> Page:
        actor = Actor.of_principal(principal)
        gateway = self._gateway
        nodes, (instances, apps) = await pair(
            list_nodes(gateway, actor),
            pair(list_instances(gateway, actor), list_apps(gateway, actor)),
        )
        missing = [*nodes.incomplete, *instances.incomplete, *apps.incomplete]
        return page(nodes.nodes, instances.instances, apps.apps, missing)

    def _set_cookie(self, value: str, max_age_s: int) -> dict[str, str]:
        secure = "; Secure" if self._gateway.config.secure_cookie else ""
        kept = f"{COOKIE}={value}; Path=/; Max-Age={max_age_s}; HttpOnly; SameSite=Strict{secure}"
        return {"Set-Cookie": kept}


def render(template: str, status: int = 200, **values: object) -> Response:
    """A page of a template."""
    versions = {name: _static(name)[1] for name in STATIC}
    text = _templates().get_template(template).render(versions=versions, **values)
    return Response(status, text.encode(), NOT_STORED, HTML)


def go(where: str, headers: dict[str, str] | None = None) -> Response:
    """The way to another page."""
    return Response(303, b"", {"Location": where, **NOT_STORED, **(headers or {})}, HTML)


def cookie_of(request: Request) -> str:
    """The session's cookie, "" without one."""
    try:
        found = SimpleCookie(request.headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found else ""


def _form(request: Request) -> dict[str, str]:
    try:
        return dict(parse_qsl(request.body.decode(errors="replace"), max_num_fields=10))
    except ValueError:
        raise InvalidInput.of("body", "is not a form of ours") from None


def _same_origin(request: Request) -> None:
    """Browsers say where a form comes from; another site's is refused."""
    origin = request.headers.get("origin", "")
    if origin and urlsplit(origin).netloc != request.headers.get("host", ""):
        raise Forbidden("the form comes from another site")
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise Forbidden("the form comes from another site")
