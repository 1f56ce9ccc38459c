"""The version, in one place: the packaging reads it from here without importing the package."""

from __future__ import annotations

__version__ = "0.1.0"
