"""What users install: the wheel and the sdist, built from this tree."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import airflow_provider_rtisms

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
VERSION = airflow_provider_rtisms.__version__
PACKAGE = "airflow_provider_rtisms"


def build(tree: Path, folder: Path) -> Path:
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", folder], cwd=tree, check=True)
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def wheel(built: Path) -> dict[str, str]:
    """The wheel's files by name."""
    with zipfile.ZipFile(built / f"{PACKAGE}-{VERSION}-py3-none-any.whl") as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


def test_the_wheel_holds_the_package_and_nothing_else(wheel: dict[str, str]) -> None:
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / PACKAGE).rglob("*.py")}
    described = {name for name in wheel if name.startswith(f"{PACKAGE}-{VERSION}.dist-info/")}
    examples = {f"{PACKAGE}/example_dags/{path.name}" for path in (ROOT / "example_dags").glob("*.py")}
    assert wheel.keys() - described == modules | examples | {f"{PACKAGE}/py.typed"}
    assert examples
    assert f"{PACKAGE}-{VERSION}.dist-info/licenses/LICENSE" in described


def test_airflow_and_pytest_find_it(wheel: dict[str, str]) -> None:
    entry_points = wheel[f"{PACKAGE}-{VERSION}.dist-info/entry_points.txt"]
    assert f"[apache_airflow_provider]\nprovider_info = {PACKAGE}.get_provider_info:get_provider_info" in entry_points
    assert f"[pytest11]\nrtisms_sandbox = {PACKAGE}.sandbox.pytest_plugin" in entry_points


def test_the_metadata_say_what_is_supported(wheel: dict[str, str]) -> None:
    metadata = Parser().parsestr(wheel[f"{PACKAGE}-{VERSION}.dist-info/METADATA"])
    assert (metadata["Name"], metadata["Requires-Python"]) == ("airflow-provider-rtisms", ">=3.11")
    urls = dict(line.split(", ") for line in metadata.get_all("Project-URL", []))
    assert urls.keys() == {"Homepage", "Documentation", "Source", "Issues", "Changelog"}
    assert "apache-airflow>=2.11" in metadata.get_all("Requires-Dist", [])


def test_links_of_the_description_work_on_the_page_of_an_index(wheel: dict[str, str]) -> None:
    metadata = Parser().parsestr(wheel[f"{PACKAGE}-{VERSION}.dist-info/METADATA"])
    description, readme = str(metadata.get_payload()), (ROOT / "README.md").read_text()
    source = f"{dict(line.split(', ') for line in metadata.get_all('Project-URL', []))['Source']}/"
    links = re.findall(r"\]\(([^)]+)\)", description)
    assert [link for link in links if not link.startswith(("https://", "#"))] == []
    # Nothing else is different, and each link leads to a file of the repository.
    assert re.sub(rf"{source}(blob|raw)/v{VERSION}/", "", description) == readme
    paths = [link.removeprefix(source).split("/", 2)[2] for link in links if link.startswith(source)]
    assert paths
    assert [path for path in paths if not (ROOT / path.partition("#")[0]).exists()] == []


def test_the_sdist_can_be_tested_and_rebuilt(built: Path) -> None:
    with tarfile.open(built / f"{PACKAGE}-{VERSION}.tar.gz") as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "Makefile", "docs/index.md"} <= names
    assert {f"{PACKAGE}/__init__.py", "tests/conftest.py", "constraints/airflow-3.3.txt"} <= names
    assert not {name for name in names if name.startswith((".build", "dist/")) or "__pycache__" in name}


def test_another_build_has_the_same_bytes(built: Path, tmp_path: Path) -> None:
    """The second one is built elsewhere, later, and from nothing but the sdist."""
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (tree,) = tmp_path.iterdir()
    (tree / "PKG-INFO").unlink()  # hatchling adds it to an sdist, and would add it again
    for path in tree.rglob("*"):
        path.touch()
    again = build(tree, tmp_path / "dist")
    assert {path.name: path.read_bytes() for path in again.iterdir()} == {
        path.name: path.read_bytes() for path in built.iterdir()
    }
