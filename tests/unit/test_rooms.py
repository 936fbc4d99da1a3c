"""The rooms of the package, as docs/architecture.md draws them, the length of its modules, and old words."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator, Mapping
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = "airflow_provider_rtisms"
ROOT = Path(__file__).parents[2]

#: A module imports from its own room and from the rows above it. Rooms of one row do not import each other.
ROWS = """
    __init__ get_provider_info
    api.models
    api.errors
    api.values
    api.settings
    api.protocol
    api.policy
    api.transport
    api
    bulk sending waiting
    hooks
    links triggers
    sensors
    operators
    notifications transfers cli doctor retry_policy
    sandbox
"""
RANKS = {room: rank for rank, row in enumerate(ROWS.split("\n")) for room in row.split()}

MOST_LINES = 300
#: Longer modules, with the lines that they may have.
LONGER = {"sending/outbox.py": 380}

#: Words for which the package uses another one, and the files in which each is right.
OLD_WORDS = {
    r"answer(s|ed|ing)?": (),
    r"announce(d|ment)?": (),
    r"anew|surely|for good|so long|whatever the clocks": ("airflow_provider_rtisms/bulk/",),
    r"arrivals|endings?|in the order of arrival": (
        "airflow_provider_rtisms/bulk/",
        "airflow_provider_rtisms/operators/bulk",
    ),
    r"conclude(s|d)?": (),
    r"departures?|fruitless\w*|slow_down|withdrawn|owed": (),
    r"drafts?|publish(ed)?": ("airflow_provider_rtisms/bulk/", "docs/releasing.md"),
    r"hid(e|es|den)": (
        "airflow_provider_rtisms/get_provider_info.py",  # Airflow's "hidden-fields"
        "docs/index.md",  # Sphinx's ":hidden:"
        "tests/unit/hooks/test_connection_form.py",
    ),
    r"pace|paces|tally|tallies|spellings?": (),
    r"permanent_is_final|raise_for_gaps|read_event|share_read|longest_interval|SendRecord|ExchangeFailedError": (),
    r"repeatable": (),
    r"RtiSms(Threshold|Credentials|Answer)Error|calls?\.py": (),
    r"settling|troubles?": (),
    r"told|tries": (
        "airflow_provider_rtisms/bulk/",
        "tests/system/test_sending_for_real.py",
    ),  # a path of Airflow's REST API
}
#: What names the machine of an author, or a server that only their tools know.
FOREIGN = r"/work[/]|\bshared[/]|\bdesign[.]md|pypi[.]org|pythonhosted[.]org|registry[.]npmjs"


def modules() -> dict[str, Path]:
    """Return the files of the package by the names of the modules below it; ``__init__`` is the package itself."""
    folder = ROOT / PACKAGE
    names = {
        path: path.relative_to(folder).with_suffix("").as_posix().replace("/", ".") for path in folder.rglob("*.py")
    }
    return {name.removesuffix(".__init__"): path for path, name in names.items()}


MODULES = modules()


def imports_of(path: Path) -> Iterator[str]:
    """Give the modules of the package that a module imports anywhere, under TYPE_CHECKING too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert not any(alias.name.startswith(PACKAGE) for alias in node.names), f"{path}: use 'from ... import'"
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == PACKAGE:
            base = node.module.removeprefix(PACKAGE).lstrip(".")
            for alias in node.names:
                full = f"{base}.{alias.name}".lstrip(".")
                yield full if full in MODULES else base or "__init__"


IMPORTS: Mapping[str, set[str]] = {name: set(imports_of(path)) for name, path in MODULES.items()}


def room_of(module: str) -> str:
    """Return the room that a module belongs to; what ``api`` exports is a room above its other rooms."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "api" else parts[0]


def test_imports_go_down() -> None:
    wrong = [
        f"{module} imports {imported}"
        for module, others in IMPORTS.items()
        for imported in others
        if room_of(imported) != room_of(module) and RANKS[room_of(imported)] >= RANKS[room_of(module)]
    ]
    assert not wrong


def test_no_modules_import_each_other_in_a_circle() -> None:
    TopologicalSorter(IMPORTS).prepare()  # raises CycleError


def test_the_sandbox_stands_alone() -> None:
    assert {imported for module, others in IMPORTS.items() if room_of(module) == "sandbox" for imported in others} <= {
        name for name in MODULES if room_of(name) == "sandbox"
    }
    assert not [
        name for name, others in IMPORTS.items() if room_of(name) != "sandbox" and "sandbox" in map(room_of, others)
    ]


def test_modules_are_short() -> None:
    lengths = {str(path.relative_to(ROOT / PACKAGE)): len(path.read_text().splitlines()) for path in MODULES.values()}
    assert not {name: lines for name, lines in lengths.items() if lines > LONGER.get(name, MOST_LINES)}


def tracked() -> dict[str, str]:
    """Return the text of the tracked files, without this one and the pinned packages."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    texts = {}
    for name in filter(None, listed):
        path = ROOT / name
        if path == Path(__file__) or name.startswith("constraints/") or not path.is_file():
            continue
        content = path.read_bytes()
        if b"\0" not in content:
            texts[name] = content.decode()
    return texts


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    return tracked()


def find(pattern: str, texts: Mapping[str, str]) -> list[str]:
    """Return where a pattern occurs, as ``file:line: text``."""
    return [
        f"{name}:{number}: {line.strip()}"
        for name, text in texts.items()
        for number, line in enumerate(text.splitlines(), 1)
        if re.search(pattern, line, re.IGNORECASE)
    ]


@pytest.mark.parametrize("words", OLD_WORDS)
def test_old_words_are_gone(texts: dict[str, str], words: str) -> None:
    elsewhere = {name: text for name, text in texts.items() if not name.startswith(OLD_WORDS[words])}
    assert not find(rf"\b({words})\b", elsewhere)


def test_no_file_names_the_machine_of_an_author(texts: dict[str, str]) -> None:
    assert not find(FOREIGN, texts)
