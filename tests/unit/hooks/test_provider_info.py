"""What Airflow, and the registry of its providers, learn about this package."""

from __future__ import annotations

import ast
import importlib
import json
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from airflow.providers.common.compat.sdk import BaseHook, BaseNotifier, BaseOperator
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_2_PLUS
from airflow.triggers.base import BaseTrigger

from airflow_provider_rtisms.get_provider_info import get_provider_info

ROOT = Path(__file__).parents[3]
PACKAGE = "airflow_provider_rtisms"
INFO = get_provider_info()
#: What the description of a provider has only while it is released from Airflow's own repository.
RELEASE_FIELDS = {"state", "source-date-epoch", "versions", "dependencies"}


def schema(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((files("airflow") / name).read_text())
    return loaded


def test_the_provider_info_is_what_airflow_reads() -> None:
    jsonschema.validate(INFO, schema("provider_info.schema.json"))


def test_it_is_what_the_registry_reads() -> None:
    """``provider.yaml`` is the source of both. Its schema is strict: it refuses what it does not know."""
    strict = schema("provider.yaml.schema.json")
    strict["required"] = sorted(set(strict["required"]) - RELEASE_FIELDS)
    info = dict(INFO)
    if not AIRFLOW_V_3_2_PLUS:  # these versions do not read it
        info.pop("cli")
    jsonschema.validate(info, strict)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**info, "how-to-guide": []}, strict)


def how_to_pages() -> Iterator[str]:
    """Yield the paths of the pages, which begin with ``/docs/``, from the root of the repository."""
    for integration in INFO["integrations"]:
        yield from integration["how-to-guide"]
    for transfer in INFO["transfers"]:
        yield transfer["how-to-guide"]


@pytest.mark.parametrize("page", [*how_to_pages()])
def test_each_how_to_page_exists(page: str) -> None:
    assert page.startswith("/docs/")
    assert (ROOT / page.removeprefix("/")).read_text().startswith("# ")


def test_no_page_on_using_it_is_missing() -> None:
    """Each page that the navigation has before the reference is a how-to page, except those that only explain."""
    using = (ROOT / "docs" / "index.md").read_text().partition(":caption: Reference")[0]
    pages = {f"/docs/{name}.md" for name in re.findall(r"^[\w-]+$", using, re.MULTILINE)}
    explaining = {"sending-once", "sending-once-details", "sending-once-journal", "performance"}
    explaining |= {"long-waits", "large-waits", "errors", "error-classes", "retries"}
    explaining |= {"scaling", "operations", "failures", "security"}
    assert pages - set(how_to_pages()) == {f"/docs/{name}.md" for name in explaining}


def listed_modules(kind: str) -> set[str]:
    """Return the modules of a kind."""
    if kind == "notifications":
        return {name.rpartition(".")[0] for name in INFO[kind]}
    modules = [entry.get("python-modules", [entry.get("python-module")]) for entry in INFO[kind]]
    return {module for some in modules for module in some}


@pytest.mark.parametrize(
    ("kind", "base"),
    [
        ("hooks", BaseHook),
        ("operators", BaseOperator),
        ("sensors", BaseOperator),
        ("transfers", BaseOperator),
        ("triggers", BaseTrigger),
        ("notifications", BaseNotifier),
    ],
)
def test_each_public_class_is_in_a_module_that_is_listed(kind: str, base: type) -> None:
    """Private classes have a leading underscore, or are a base of others in this package."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / PACKAGE / kind).glob("*.py"):
        module = importlib.import_module(f"{PACKAGE}.{kind}.{path.stem}")
        for name in (node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)):
            if issubclass(getattr(module, name), base) and name.startswith(("RtiSms", "Sql")):
                found[name] = set()
    for module_name in listed_modules(kind):
        exported = vars(importlib.import_module(module_name))
        for name in found.keys() & exported.keys():
            found[name].add(module_name)
    assert found
    assert {name for name, modules in found.items() if not modules} == set()


def test_each_integration_is_known() -> None:
    known = {integration["integration-name"] for integration in INFO["integrations"]}
    for kind in ("hooks", "operators", "sensors", "triggers"):
        assert {entry["integration-name"] for entry in INFO[kind]} <= known
    for transfer in INFO["transfers"]:
        names = {transfer["source-integration-name"], transfer["target-integration-name"]}
        assert names <= known | {"Common SQL"}, "Common SQL is the integration of another provider"
        assert names & known


@pytest.mark.parametrize("name", [*INFO["notifications"], *INFO["cli"]])
def test_each_name_can_be_imported(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    assert callable(getattr(importlib.import_module(module), attribute))
