"""How often this process has been forked from another one, without asking the kernel for each request."""

from __future__ import annotations

import os

_count = 0


def count_forks() -> int:
    """Return a number that is another one in a forked process than in its parent."""
    return _count


def _on_fork() -> None:
    global _count
    _count += 1


os.register_at_fork(after_in_child=_on_fork)
