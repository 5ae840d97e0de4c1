"""Contents that only those can read who have a secret: sealed under each of its keys, opened with any.

A box is AES-256-GCM under a key derived for one purpose, written `<fingerprint of the key>.<nonce and ciphertext>`.
What is sealed carries a box a key, the newest first, so that it stays readable while secrets are replaced
(libs/common/keys.py). `about` says what the content is of: a box put in the place of another does not open.
"""

from __future__ import annotations

import hashlib
import hmac
import random
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from libs.common.errors import Unavailable
from libs.common.keys import DerivedKeys, Secret, fingerprint

NONCE_BYTES = 12


class Sealer:
    """Seals and opens for one purpose."""

    def __init__(self, secret: Secret, purpose: str, rng: random.Random) -> None:
        self._keys = DerivedKeys(secret, lambda each: _derive(each, purpose))
        self._rng = rng

    @property
    def label(self) -> str:
        """The fingerprints of the keys there are, as `label_of` tells them of boxes."""
        return ",".join(fingerprint(each) for each in self._keys.current())

    def seal(self, content: bytes, about: str) -> tuple[str, ...]:
        """A box for each key, the newest first."""
        boxes = []
        for key in self._keys.current():
            nonce = self._rng.randbytes(NONCE_BYTES)
            sealed = nonce + AESGCM(key).encrypt(nonce, content, about.encode())
            boxes.append(f"{fingerprint(key)}.{urlsafe_b64encode(sealed).decode()}")
        return tuple(boxes)

    def open(self, boxes: Sequence[str], about: str) -> bytes:
        """The content. Raises Unavailable when no key opens any box: another secret, or a box that was changed."""
        keys = {fingerprint(each): each for each in self._keys.current()}
        for box in boxes:
            print_, _, text = box.partition(".")
            if print_ not in keys:
                continue
            try:
                sealed = urlsafe_b64decode(text)
                nonce, content = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
                return AESGCM(keys[print_]).decrypt(nonce, content, about.encode())
            except (InvalidTag, ValueError):
                continue
        raise Unavailable("what was sealed can't be opened with the secrets that are here")

    def is_behind(self, boxes: Sequence[str]) -> bool:
        """Should this be sealed anew: the newest key has no box, or a key that was retired still has one.

        A box before all of ours is of a newer key that has not got here yet, and stays.
        """
        ours = self.label.split(",")
        there = label_of(boxes).split(",")
        if ours[0] not in there:
            return True
        first = min(there.index(each) for each in ours if each in there)
        return any(each not in ours for each in there[first:])


def label_of(boxes: Sequence[str]) -> str:
    """The fingerprints of the keys that open it, the newest first."""
    return ",".join(box.partition(".")[0] for box in boxes)


def _derive(secret: bytes, purpose: str) -> bytes:
    return hmac.new(secret, f"seal:{purpose}".encode(), hashlib.sha256).digest()
