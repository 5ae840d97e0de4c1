"""The typed client of Gantry's public API: `model.py` has its words, `api.py` the calls."""

from libs.client.api import GantryClient

__all__ = ["GantryClient"]
