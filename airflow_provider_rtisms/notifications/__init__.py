"""Notifications of the RTI SMS provider."""

from __future__ import annotations
