"""Fetching the details of thousands of submissions into a file: ids in, records out. Stands between hooks and api."""

from __future__ import annotations
