"""Tests of minimesos: the cores directly, the whole thing as processes."""
