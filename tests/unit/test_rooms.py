"""The rooms of the package, as docs/architecture.md draws them, and names that no file may hold."""

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
    __init__ get_provider_info compat
    api.models
    api.errors
    api.values
    api.settings
    api.calls
    api.auth
    api.retrying
    api.client api.aio
    api
    bulk
    tables
    sending waiting
    sql
    hooks
    triggers
    sensors
    operators
    doctor notifications preview transfers retry_policy
    report
    sandbox
    cli
"""
RANKS = {room: rank for rank, row in enumerate(ROWS.split("\n")) for room in row.split()}

#: What names the machine of an author, or a server that only their tools know.
FOREIGN = r"/work[/]|\bshared[/]|\bdesign[.]md|pyp[i][.]org|python[h]osted|registry[.]npmjs"


def modules() -> dict[str, Path]:
    """Return the files of the package by the names of the modules below it; ``__init__`` is the package itself."""
    folder = ROOT / PACKAGE
    names = {
        path: path.relative_to(folder).with_suffix("").as_posix().replace("/", ".") for path in folder.rglob("*.py")
    }
    return {name.removesuffix(".__init__"): path for path, name in names.items()}


MODULES = modules()


def imports_of(path: Path) -> Iterator[str]:
    """Yield the modules of the package that a module imports anywhere, under TYPE_CHECKING too."""
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


def test_the_architecture_page_draws_every_room() -> None:
    drawing = (ROOT / "docs" / "architecture.md").read_text().split("```")[1]
    drawn = set(re.findall(r"\w+", drawing)) | {"__init__", "get_provider_info"}
    assert not {part for module in MODULES for part in room_of(module).split(".")} - drawn


def test_no_modules_import_each_other_in_a_circle() -> None:
    TopologicalSorter(IMPORTS).prepare()  # raises CycleError


def test_the_sandbox_stands_alone() -> None:
    ties = [
        f"{module} imports {imported}"
        for module, others in IMPORTS.items()
        for imported in others
        if module != "cli" and (room_of(module) == "sandbox") != (room_of(imported) == "sandbox")  # it starts one
    ]
    assert not ties


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    """The text of the tracked files, without this one and the pinned packages."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    names = [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]
    contents = {name: (ROOT / name).read_bytes() for name in names if not name.startswith("constraints/")}
    return {
        name: content.decode()
        for name, content in contents.items()
        if b"\0" not in content and ROOT / name != Path(__file__)
    }


def find(pattern: str, texts: Mapping[str, str]) -> list[str]:
    """Return where a pattern occurs, as ``file:line: match``."""
    return [
        f"{name}:{number}: {match[0]}"
        for name, text in texts.items()
        for number, line in enumerate(text.splitlines(), 1)
        for match in re.finditer(pattern, line, re.IGNORECASE)
    ]


def test_no_file_names_the_machine_of_an_author(texts: dict[str, str]) -> None:
    assert not find(FOREIGN, texts)


def test_only_one_module_takes_names_of_airflow_from_common_compat(texts: dict[str, str]) -> None:
    """A common-compat that Airflow's constraints pin may lack them, and that module knows another place."""
    package = {name: text for name, text in texts.items() if name.startswith(f"{PACKAGE}/")}
    found = find(r"common\.compat(\.| import )(sdk|version_compat)\b", package)
    assert {one.partition(":")[0] for one in found} == {f"{PACKAGE}/compat.py"}
