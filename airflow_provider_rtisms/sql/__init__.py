"""Private. Tables of databases: rows as messages or ids, records and sends as rows."""

from __future__ import annotations
