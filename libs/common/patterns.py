"""Regular expressions that users write.

They are RE2's: a match takes time in proportion to the text, whatever the expression. One of Python's own may take for
ever, and nothing else would happen in its process. What RE2 does not have for that reason, it refuses: looking ahead
and behind, and references to groups.
"""

from __future__ import annotations

from typing import Protocol, cast

import re2


class Pattern(Protocol):
    """A regular expression."""

    def fullmatch(self, text: str) -> object | None:
        """Something when all of the text is as the expression says."""


def pattern(text: str) -> Pattern:
    """The regular expression. Raises ValueError with what RE2 says."""
    options = re2.Options()
    options.log_errors = False
    try:
        return cast("Pattern", re2.compile(text, options))
    except re2.error as error:
        said = error.args[0] if error.args else b""
        why = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
        raise ValueError(why) from None
