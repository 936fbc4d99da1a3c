"""The context of attempts of one task."""

from __future__ import annotations

from tests.unit.attempts import context

__all__ = ["context"]
