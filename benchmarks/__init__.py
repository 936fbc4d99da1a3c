"""Benchmarks against the sandbox in a process of its own; `make bench` runs them all."""

from __future__ import annotations
