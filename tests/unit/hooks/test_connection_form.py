"""The form of the Connection, as each Airflow version learns it: every one tells what ``get_provider_info`` says."""

from __future__ import annotations

import subprocess
import sys
from ast import literal_eval
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name
from types import ModuleType
from typing import Any

import pytest
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_0_PLUS, AIRFLOW_V_3_1_PLUS

from airflow_provider_rtisms.api.errors import RtiSmsConfigError
from airflow_provider_rtisms.api.settings import ApiSettings
from airflow_provider_rtisms.get_provider_info import CONN_FIELDS, UI_FIELD_BEHAVIOUR, get_provider_info
from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook

STANDARD_FIELDS = {"description", "host", "login", "password", "port", "schema"}


def form_of_airflow() -> dict[str, Any]:
    """
    What the connection page gets: ``{"extras": {name: (label, help)}, "hidden": {...}, "labels": {...}, ...}``.

    A process of its own asks: Airflow keeps stand-ins for flask's forms, and what it has once read of the providers.
    """
    code = (
        "from tests.old_common_compat import complete_common_compat; complete_common_compat()\n"
        f"from {__name__} import form_of_airflow_{3 if AIRFLOW_V_3_0_PLUS else 2} as form; print(repr(form()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[3], capture_output=True, text=True, check=True
    )
    form: dict[str, Any] = literal_eval(done.stdout.splitlines()[-1])
    return form


def form_of_airflow_3() -> dict[str, Any]:
    from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService

    [ours] = [meta for meta in HookMetaService.hook_meta_data() if meta.connection_type == "rtisms"]
    assert ours.standard_fields is not None
    fields = ours.standard_fields.model_dump()
    fields["schema"] = fields.pop("url_schema")
    standard = {name: field for name, field in fields.items() if field}
    assert ours.extra_fields is not None
    return {
        "extras": {
            name: (field["schema"]["title"], field["description"]) for name, field in dict(ours.extra_fields).items()
        },
        "hidden": {name for name, field in standard.items() if field["hidden"]},
        "labels": {name: field["title"] for name, field in standard.items() if field["title"]},
        "placeholders": {name: field["placeholder"] for name, field in standard.items() if field["placeholder"]},
    }


def form_of_airflow_2() -> dict[str, Any]:
    from airflow.providers_manager import ProvidersManager

    manager = ProvidersManager()
    widgets = {
        widget.field_name: widget.field
        for key, widget in manager.connection_form_widgets.items()
        if key.startswith("extra__rtisms__")
    }
    behaviour = manager.field_behaviours["rtisms"]
    return {
        "extras": {name: (field.args[0], field.kwargs["description"]) for name, field in widgets.items()},
        "hidden": set(behaviour["hidden_fields"]) & STANDARD_FIELDS,
        "labels": behaviour["relabeling"],
        "placeholders": {name: text for name, text in behaviour["placeholders"].items() if name in STANDARD_FIELDS},
    }


@pytest.mark.skipif(
    AIRFLOW_V_3_0_PLUS and not AIRFLOW_V_3_1_PLUS and find_spec("flask_appbuilder") is None,
    reason="Airflow 3.0 shows no provider's fields where flask-appbuilder is not installed",
)
def test_the_form_is_the_one_that_is_defined() -> None:
    form = form_of_airflow()
    assert list(form["extras"].items()) == [
        (name, (field["label"], field["description"])) for name, field in CONN_FIELDS.items()
    ]
    assert form["hidden"] == set(UI_FIELD_BEHAVIOUR["hidden-fields"]) - {"extra"}
    assert form["labels"] == UI_FIELD_BEHAVIOUR["relabeling"]
    placeholders = UI_FIELD_BEHAVIOUR["placeholders"]
    assert form["placeholders"] == {name: placeholders[name] for name in STANDARD_FIELDS & placeholders.keys()}


def test_the_widgets_of_airflow_below_3_2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Newer versions do not ask for them, and have neither of the two libraries."""
    forms, widgets = ModuleType("wtforms"), ModuleType("flask_appbuilder.fieldwidgets")
    forms.BooleanField = lambda label, **arguments: ("checkbox", label, arguments["description"])  # type: ignore[attr-defined]
    forms.StringField = lambda label, **arguments: (arguments["widget"], label, arguments["description"])  # type: ignore[attr-defined]
    widgets.BS3TextFieldWidget = lambda: "text"  # type: ignore[attr-defined]
    for module in (forms, ModuleType("flask_appbuilder"), widgets):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    shown = RtiSmsHook.get_connection_form_widgets()
    assert shown == {
        name: ("checkbox" if name == "allow_http" else "text", field["label"], field["description"])
        for name, field in CONN_FIELDS.items()
    }


def test_airflow_finds_the_hook_of_the_connection_type() -> None:
    """Airflow leaves out a hook whose class says something else than the provider's description."""
    [described] = get_provider_info()["connection-types"]
    assert resolve_name(described["hook-class-name"]) is RtiSmsHook
    assert (described["connection-type"], described["hook-name"]) == (RtiSmsHook.conn_type, RtiSmsHook.hook_name)


def test_the_form_has_the_fields_of_the_settings() -> None:
    assert UI_FIELD_BEHAVIOUR["placeholders"].keys() <= STANDARD_FIELDS | CONN_FIELDS.keys()
    assert CONN_FIELDS.keys() <= ApiSettings.__dataclass_fields__.keys()


@pytest.mark.parametrize("name", [name for name, field in CONN_FIELDS.items() if "maximum" in field["schema"]])
def test_the_form_takes_what_the_settings_take(name: str) -> None:
    bounds = CONN_FIELDS[name]["schema"]
    ApiSettings(client_id="id", client_secret="secret", **{name: bounds["maximum"]})
    ApiSettings(client_id="id", client_secret="secret", **{name: bounds.get("minimum", 1)})
    for beyond in (bounds["maximum"] + 1, bounds["minimum"] - 1 if "minimum" in bounds else bounds["exclusiveMinimum"]):
        with pytest.raises(RtiSmsConfigError, match=name):
            ApiSettings(client_id="id", client_secret="secret", **{name: beyond})


@pytest.mark.parametrize("name", CONN_FIELDS)
def test_an_empty_field_means_the_default(name: str) -> None:
    """Airflow 3 stores null for the fields that nobody filled, Airflow 2.11 leaves them out or empty."""
    default = ApiSettings(client_id="id", client_secret="secret")
    for empty in (None, ""):
        assert ApiSettings(client_id="id", client_secret="secret", **{name: empty}) == default
