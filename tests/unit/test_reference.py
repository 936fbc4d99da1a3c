"""The reference in docs/ is complete."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = "airflow_provider_rtisms"
#: The sandbox's works, which nobody uses but itself.
INTERNAL = {f"{PACKAGE}.sandbox.{name}" for name in ("charsets", "server", "service", "sockets", "submissions")}


def test_the_reference_has_every_module() -> None:
    """Packages hold nothing of their own; what only runs (``__main__``) is described elsewhere."""
    pages = "\n".join(page.read_text() for page in (ROOT / "docs" / "reference").glob("*.rst"))
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in sorted((ROOT / PACKAGE).rglob("*.py"))
        if not path.stem.startswith("__")
    ]
    missing = {module for module in modules if f".. automodule:: {module}\n" not in pages}
    assert missing == INTERNAL
