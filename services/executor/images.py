"""Pure: which images may go, and in which order."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from services.executor.config import ExecutorConfig
from services.executor.model import Image

_HUB = ("docker.io/", "index.docker.io/", "library/")


def plain(name: str) -> str:
    """A name as the engine lists it: what is the public registry's default is left out."""
    for prefix in _HUB:
        name = name.removeprefix(prefix)
    return name


def names(image: Image) -> tuple[str, ...]:
    """What it may be asked for by; its id when nothing else is left of it."""
    return (*image.tags, *image.digests) or (image.id,)


def uses(
    images: Iterable[Image],
    known: Mapping[str, float],
    wanted: Collection[str],
    now: float,
    config: ExecutorConfig,
) -> dict[str, float]:
    """When each image was last of use, by plain name: those known that are here, or may be on their way.

    Where all images may go, one that nobody knows counts from now on as of no use.
    """
    needed = {plain(each) for each in wanted}
    recent = {name: at for name, at in known.items() if now - at < config.image_min_age_s}
    after = recent | dict.fromkeys(known.keys() & needed, now)
    for image in images:
        mine = {plain(each) for each in names(image)}
        for name in mine & known.keys() if config.image_cleanup == "own" else mine:
            of_use = image.used or not needed.isdisjoint(mine)
            after[name] = now if of_use else known.get(name, now)
    return after


def removable(
    images: Iterable[Image],
    used_at: Mapping[str, float],
    wanted: Collection[str],
    now: float,
    config: ExecutorConfig,
) -> list[tuple[str, ...]]:
    """The names of each image that may go, the longest unused first.

    One that somebody else gave a name of his own stays, unless all may go: it is that one's.
    """
    if config.image_cleanup == "off":
        return []
    needed = {plain(each) for each in wanted}
    found: list[tuple[float, tuple[str, ...]]] = []
    for image in images:
        # A digest comes along with each tag; without tags it is what was asked for.
        asked = image.tags or image.digests or (image.id,)
        every = [plain(each) for each in names(image)]
        if image.used or not needed.isdisjoint(every):
            continue
        if not all(plain(each) in used_at for each in asked):
            continue
        last = max(used_at[plain(each)] for each in asked)
        if now - last >= config.image_min_age_s:
            found.append((last, asked))
    return [each for _, each in sorted(found)]
