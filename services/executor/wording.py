"""Pure: how images are named to an engine, and what its words about them mean."""

from __future__ import annotations


def with_host(image: str) -> str:
    """The image named with its registry, as whoever sends a password must name it."""
    first, slash, _ = image.partition("/")
    if slash and (first == "localhost" or "." in first or ":" in first):
        return image
    return f"docker.io/{image}" if slash else f"docker.io/library/{image}"


def says_no_entry(message: str) -> bool:
    """What engines say when a registry wants another login; they give it no status of its own."""
    known = ("unauthorized", "no basic auth credentials", "access denied", "denied:")
    return any(each in message for each in known)


def says_unknown(message: str) -> bool:
    """Engines tell a missing image by the registry's words, with status 404 or in the stream."""
    known = ("manifest unknown", "not found", "repository does not exist", "name unknown")
    return any(each in message for each in known)


def says_half_started(message: str) -> bool:
    """What an engine says of a start when it died during an earlier one that its other parts remember."""
    return message.endswith((": already exists", "id already in use"))


def says_too_late(message: str) -> bool:
    """What an engine says of a start that its own parts were too slow for: it was frozen, or has too much to do."""
    known = ("context deadline exceeded", "context canceled", "ttrpc: closed")
    return any(each in message for each in known)
