"""Benchmarks against a sandbox in a process of its own; `make bench` runs all of them."""

from __future__ import annotations
