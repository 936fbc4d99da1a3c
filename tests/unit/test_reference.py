"""The pages in docs/ agree with the code: the reference, the cited pages, and the summary of bulk fetches."""

from __future__ import annotations

import re
from pathlib import Path

from airflow_provider_rtisms import api, doctor, sandbox
from airflow_provider_rtisms.api.retrying import Stats
from airflow_provider_rtisms.bulk.fetch import FetchStats
from airflow_provider_rtisms.get_provider_info import get_provider_info

ROOT = Path(__file__).parents[2]
PACKAGE = "airflow_provider_rtisms"
#: Public modules that Airflow does not know; ``control`` holds no names, but describes the HTTP calls.
OTHER_MODULES = {
    f"{PACKAGE}.{name}" for name in ("api.errors", "report", "retry_policy", "sandbox.control", "sandbox.pytest_plugin")
}
#: What the package ``api`` exports; its modules ``endpoints`` and ``errors`` are documented name by name.
API_NAMES = {*api.__all__, "authenticate", "get_balance", "get_sms", "request", "send_sms"} - {"endpoints", "errors"}


def documented(*directives: str) -> set[str]:
    """Return what the directives of the reference document."""
    pages = "\n".join(page.read_text() for page in (ROOT / "docs" / "reference").glob("*.rst"))
    return set(re.findall(rf"^\.\. (?:{'|'.join(directives)}):: (\S+)$", pages, re.MULTILINE))


def test_the_reference_documents_the_public_modules() -> None:
    info = get_provider_info()
    kinds = ("hooks", "operators", "sensors", "transfers", "triggers")
    modules = {module for kind in kinds for entry in info.get(kind, []) for module in _modules(entry)}
    notifiers = {name.rpartition(".")[0] for name in info["notifications"]}
    assert documented("automodule") == modules | notifiers | OTHER_MODULES


def _modules(entry: dict[str, object]) -> list[object]:
    """Return the modules of an entry; transfers have one each, the other kinds a list."""
    modules = entry.get("python-modules", [entry.get("python-module")])
    assert isinstance(modules, list)
    return modules


def test_the_reference_documents_the_public_names_of_packages() -> None:
    names = {name.rpartition(".")[2] for name in documented("autoclass", "autofunction")}
    assert names == API_NAMES | set(sandbox.__all__) | set(doctor.__all__)


def test_the_code_cites_pages_and_sections_that_exist() -> None:
    """A citation looks like ``docs/vendor-api.md, "Send SMS"``, or like ``docs/sending-once.md`` without a section."""
    pages = {
        f"docs/{page.name}": set(re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE))
        for page in (ROOT / "docs").glob("*.md")
    }
    cited = 0
    for path in (ROOT / PACKAGE).rglob("*.py"):
        text = re.sub(r"\s+(?:#:? )?", " ", path.read_text())
        for page, sections in re.findall(r'(docs/[\w-]+\.md)`*((?:,?(?: and)? "[^"]+")*)', text):
            cited += 1
            unknown = set(re.findall(r'"([^"]+)"', sections)) - pages.get(page, set())
            assert page in pages, f"{path} cites {page}"
            assert not unknown, f"{path} cites {unknown} of {page}"
    assert cited


def test_the_page_of_the_bulk_operator_lists_the_summary() -> None:
    page = (ROOT / "docs" / "bulk-get-details.md").read_text()
    first_cells = re.findall(r"^\| (`[^|]+) \|", page.partition("## The summary")[2], re.MULTILINE)
    listed = re.findall(r"`(\w+)`", " ".join(first_cells))
    assert sorted(listed) == sorted(FetchStats(0, 0).summary(Stats(), None, None))
