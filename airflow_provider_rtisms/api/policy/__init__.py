"""Private. What happens around a call: token, 401, retry. Pure, no I/O."""

from __future__ import annotations
