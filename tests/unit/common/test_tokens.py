"""Tokens: who signed is who may; nobody else, and not for long."""

from __future__ import annotations

import base64

import orjson
import pytest
from joserfc import jwt
from joserfc.jwk import OctKey

from libs.common.errors import Unauthenticated
from libs.common.generations import Generations
from libs.common.http import ANONYMOUS, Kind
from libs.common.tokens import LEEWAY_S, LIFETIME_S, TokenSigner, TokenVerifier, derive_key
from tests.simulation.loop import VirtualClock, VirtualLoop, World, virtual

SECRET = b"s" * 32


def make_clock() -> VirtualClock:
    """A clock that stands still."""
    return VirtualClock(VirtualLoop())


def signer(kind: Kind, name: str, clock: VirtualClock, secret: bytes = SECRET) -> TokenSigner:
    """With the party's own key."""
    return TokenSigner(kind, name, derive_key(secret, kind, name), clock)


@pytest.mark.parametrize("kind", [Kind.SERVICE, Kind.HOST])
async def test_the_signer_is_recognised(kind: Kind) -> None:
    clock = make_clock()
    verify = TokenVerifier(SECRET, clock)
    headers = signer(kind, "x:1", clock).headers()
    principal = await verify(headers, {})
    assert (principal.kind, principal.name) == (kind, "x:1")
    assert await verify(headers, {}) == principal


async def test_no_token_is_anonymous_and_another_scheme_is_refused() -> None:
    verify = TokenVerifier(SECRET, make_clock())
    assert await verify({}, {}) == ANONYMOUS
    with pytest.raises(Unauthenticated, match="Bearer"):
        await verify({"authorization": "Basic eDp5"}, {})


@pytest.mark.parametrize("token", ["x", "a.b.c", "..", "e30.e30.", "\u00e9"])
def test_nonsense_is_refused(token: str) -> None:
    with pytest.raises(Unauthenticated):
        TokenVerifier(SECRET, make_clock()).verify(token)


def test_another_clusters_key_is_refused() -> None:
    clock = make_clock()
    token = signer(Kind.SERVICE, "deployer", clock, b"t" * 32).token()
    with pytest.raises(Unauthenticated):
        TokenVerifier(SECRET, clock).verify(token)


@pytest.mark.parametrize(("kind", "name"), [(Kind.SERVICE, "ipam"), (Kind.HOST, "h2")])
def test_a_host_cannot_sign_as_anybody_else(kind: Kind, name: str) -> None:
    clock = make_clock()
    key = derive_key(SECRET, Kind.HOST, "h1")
    verifier = TokenVerifier(SECRET, clock)
    with pytest.raises(Unauthenticated):
        verifier.verify(TokenSigner(kind, name, key, clock).token())
    # Nor with its own key id and another's name inside.
    claims = {"iss": "gantry", "sub": f"{kind}:{name}", "exp": int(clock.now() + 60)}
    forged = jwt.encode({"alg": "HS256", "kid": "host:h1"}, claims, OctKey.import_key(key))
    with pytest.raises(Unauthenticated, match="somebody else"):
        verifier.verify(forged)


def test_a_removed_hosts_token_is_forgotten_and_its_next_key_taken() -> None:
    clock, generations = make_clock(), Generations()
    verifier = TokenVerifier(SECRET, clock, generations)
    old, other = [signer(Kind.HOST, host, clock).token() for host in ("h1", "h2")]
    keys = [derive_key(SECRET, Kind.HOST, "h1", generation) for generation in range(3)]
    assert len({*keys, derive_key(SECRET, Kind.HOST, "h1/1"), SECRET}) == 5
    first, new, newer = [TokenSigner(Kind.HOST, "h1", key, clock).token() for key in keys]
    assert verifier.verify(old).name == verifier.verify(first).name == "h1"
    with pytest.raises(Unauthenticated):
        verifier.verify(new)  # a generation that the gateway has not begun
    generations.learn({"h1": 1})
    for refused in (old, newer):
        with pytest.raises(Unauthenticated):
            verifier.verify(refused)
    assert verifier.verify(new).name == "h1" and verifier.verify(other).name == "h2"
    generations.learn({"h1": 0, "h2": 0})
    assert verifier.verify(new).name == "h1"
    service = TokenVerifier(SECRET, clock, generations)
    generations.learn({"ipam": 7})  # a host of that name is not the service
    assert service.verify(signer(Kind.SERVICE, "ipam", clock).token()).kind is Kind.SERVICE


def _b64(content: object) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(content)).rstrip(b"=").decode()


def test_unsigned_and_changed_tokens_are_refused() -> None:
    clock = make_clock()
    verifier = TokenVerifier(SECRET, clock)
    claims = {"iss": "gantry", "sub": "service:ipam", "exp": int(clock.now() + 60)}
    none = f"{_b64({'alg': 'none', 'kid': 'service:ipam'})}.{_b64(claims)}."
    with pytest.raises(Unauthenticated):
        verifier.verify(none)
    head, _, signature = signer(Kind.SERVICE, "ipam", clock).token().split(".")
    with pytest.raises(Unauthenticated):
        verifier.verify(f"{head}.{_b64({**claims, 'exp': 2**40})}.{signature}")


@pytest.mark.parametrize(
    "claims", [{"sub": "key:k"}, {"exp": None}, {"sub": None}, {"exp": "soon"}]
)
def test_tokens_that_lack_something_are_refused(claims: dict[str, object]) -> None:
    clock = make_clock()
    whole = {"sub": "service:ipam", "exp": int(clock.now() + 60), **claims}
    kept = {name: value for name, value in whole.items() if value is not None}
    kind = "key" if kept.get("sub") == "key:k" else "service"
    kid = str(kept.get("sub", "service:ipam"))
    key = OctKey.import_key(derive_key(SECRET, Kind(kind), kid.partition(":")[2]))
    with pytest.raises(Unauthenticated):
        TokenVerifier(SECRET, clock).verify(jwt.encode({"alg": "HS256", "kid": kid}, kept, key))


@virtual
async def test_tokens_expire_and_are_renewed_before(world: World) -> None:
    verifier = TokenVerifier(SECRET, world.clock)
    made = signer(Kind.SERVICE, "ipam", world.clock)
    first = made.token()
    await world.clock.sleep(LIFETIME_S / 2 - 1)
    assert made.token() == first
    await world.clock.sleep(1)
    assert made.token() != first
    verifier.verify(first)
    await world.clock.sleep(LIFETIME_S / 2 + LEEWAY_S - 1)
    verifier.verify(first)  # clocks may differ a little
    await world.clock.sleep(2)
    with pytest.raises(Unauthenticated, match="expired"):
        verifier.verify(first)
    with pytest.raises(Unauthenticated, match="expired"):
        TokenVerifier(SECRET, world.clock).verify(first)


@virtual
async def test_a_clock_that_jumps_back_makes_a_new_token(world: World) -> None:
    made = signer(Kind.SERVICE, "ipam", world.clock)
    await world.clock.sleep(1000)
    made.token()
    world.clock.skew_s = -900
    TokenVerifier(SECRET, world.clock).verify(made.token())
