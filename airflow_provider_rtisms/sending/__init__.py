"""Private. Send each message at most once, and remember it."""

from __future__ import annotations
