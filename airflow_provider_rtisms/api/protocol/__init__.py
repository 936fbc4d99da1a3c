"""Private. The API's calls: what goes out and how a response is read. Pure, no I/O."""

from __future__ import annotations
