"""Private. Moves bytes: the requests client, the aiohttp client, and what limits them."""

from __future__ import annotations
