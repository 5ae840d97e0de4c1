"""Python's search for garbage, in processes where most of what is made lives to the end."""

from __future__ import annotations

import gc

from services.main import GC_AFTER


def spare() -> None:
    """Leave out what is there by now, and look at the rest as seldom as a service does.

    Looking again and again took a third of the time of unit tests, and a tenth of that of a seed.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_AFTER)
