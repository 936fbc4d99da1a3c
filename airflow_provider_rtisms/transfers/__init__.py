"""Operators between the RTI SMS API and other systems."""

from __future__ import annotations
