"""Private. Wait until submissions are final."""

from __future__ import annotations
