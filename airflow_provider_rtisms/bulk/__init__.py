"""Fetch the details of thousands of submissions into a file. Hooks use this package; it uses api."""

from __future__ import annotations
