"""Private. Values as people and templates give them, checked once."""

from __future__ import annotations
