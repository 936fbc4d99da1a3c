"""What a person sees of the provider in the pages of Airflow 3.3, from the Connection to the fetched details."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_3_PLUS
from playwright.sync_api import Locator, Page, expect

from airflow_provider_rtisms.get_provider_info import CONN_FIELDS
from airflow_provider_rtisms.sandbox import SandboxProcess
from scripts.airflow_deployment import AirflowDeployment
from scripts.dag_run import DagRun
from tests.system.conftest import CLIENT_SECRET
from tests.system.ui.conftest import TakePicture

pytestmark = [
    pytest.mark.deployment,
    pytest.mark.ui,
    pytest.mark.skipif(not AIRFLOW_V_3_3_PLUS, reason="the pages of Airflow 3.3"),
]

EXAMPLE = Path(__file__).parents[3] / "example_dags" / "example_rtisms_wait_for_delivery.py"
CONN_ID = "rtisms_default"
SECRET = CLIENT_SECRET


@pytest.fixture(scope="module", autouse=True)
def _right_connection_in_the_end(deployment: AirflowDeployment, sandbox_process: SandboxProcess) -> Iterator[None]:
    """Other tests of the deployment use the Connection, too."""
    yield
    store_connection(deployment, sandbox_process)


@pytest.fixture
def connection(airflow: AirflowDeployment, sandbox: SandboxProcess) -> str:
    """The default Connection, stored without the form."""
    store_connection(airflow, sandbox)
    return CONN_ID


@pytest.fixture
def no_connection(airflow: AirflowDeployment) -> None:
    change_connections(airflow, action="delete", entities=[CONN_ID], action_on_non_existence="skip")


def store_connection(airflow: AirflowDeployment, sandbox: SandboxProcess, **changed: Any) -> None:
    host, port = sandbox.url.removeprefix("http://").split(":")
    connection = {
        "connection_id": CONN_ID,
        "conn_type": "rtisms",
        "schema": "http",
        "host": host,
        "port": int(port),
        "login": sandbox.client_id,
        "password": SECRET,
        **changed,
    }
    change_connections(airflow, action="create", entities=[connection], action_on_existence="overwrite")


def change_connections(airflow: AirflowDeployment, *, action: str, **change: Any) -> None:
    response = airflow.call("PATCH", "connections", json={"actions": [{"action": action, **change}]})
    assert not response[action]["errors"], response


def fold_out(form: Locator, heading: str) -> None:
    """Open a section of the form. Airflow 3.4 shows all sections open."""
    button = form.get_by_role("button", name=heading, exact=True)
    if button.count():
        button.click()


def default_row(page: Page, airflow: AirflowDeployment) -> Locator:
    page.goto(f"{airflow.url}/connections")
    return page.get_by_role("row").filter(has=page.get_by_role("cell", name=CONN_ID, exact=True))


@pytest.mark.usefixtures("no_connection")
def test_a_connection_is_added_tested_and_edited(
    page: Page, airflow: AirflowDeployment, sandbox: SandboxProcess, take_picture: TakePicture
) -> None:
    page.set_viewport_size({"width": 1280, "height": 1640})
    page.goto(f"{airflow.url}/connections")
    page.get_by_role("button", name="Add Connection").click()
    form = page.get_by_role("dialog")
    form.get_by_label("Connection ID").fill(CONN_ID)
    form.get_by_label("Connection Type").fill("RealTime")
    page.keyboard.press("Enter")

    expect(form.get_by_label("Base URL")).to_have_attribute("placeholder", "https://www.rti-sms.com (if left empty)")
    expect(form.get_by_label("Client secret")).to_have_attribute("type", "password")
    expect(form.get_by_label("Port (fill it in)")).to_be_visible()
    expect(form.get_by_text("Scheme")).to_have_count(0)
    expect(form.get_by_text("Schema")).to_have_count(0)
    take_picture(form, "connection-form")

    fold_out(form, "Extra Fields")
    for conn_field in CONN_FIELDS.values():
        expect(form.get_by_text(conn_field["label"], exact=True)).to_be_visible()
        expect(form.get_by_text(conn_field["description"])).to_be_visible()
    take_picture(form, "connection-form-extras")
    form.get_by_label(CONN_FIELDS["timeout"]["label"]).fill("12.5")

    fold_out(form, "Standard Fields")
    host, port = sandbox.url.rsplit(":", 1)
    form.get_by_label("Base URL").fill(host)
    form.get_by_label("Client ID").fill(sandbox.client_id)
    form.get_by_label("Client secret").fill(SECRET)
    form.get_by_label("Port").fill(port)
    form.get_by_role("button", name="Save").click()
    expect(form).to_be_hidden()

    row = default_row(page, airflow)
    row.get_by_role("button", name="Test Connection").click()
    result = page.get_by_role("status").filter(has_text="Test Connection Successful")
    expect(result).to_contain_text("the balance is 457.00")
    page.set_viewport_size({"width": 1280, "height": 420})
    take_picture(page, "connection-test")

    row.get_by_role("button", name="Edit Connection").click()
    form = page.get_by_role("dialog")
    expect(form.get_by_label("Client ID")).to_have_value(sandbox.client_id)
    expect(form.get_by_label("Client secret")).to_have_value("***")
    assert SECRET not in page.content()
    fold_out(form, "Extra Fields")
    expect(form.get_by_label(CONN_FIELDS["timeout"]["label"])).to_have_value("12.5")


def test_editing_keeps_what_the_form_hides(page: Page, airflow: AirflowDeployment, connection: str) -> None:
    """The form has neither the scheme nor the secret. Without them the last step, Test Connection, would fail."""
    row = default_row(page, airflow)
    row.get_by_role("button", name="Edit Connection").click()
    form = page.get_by_role("dialog")
    form.get_by_label("Description").fill("An edited description")
    form.get_by_role("button", name="Save").click()
    expect(form).to_be_hidden()

    stored = airflow.call("GET", f"connections/{connection}")
    assert stored["description"] == "An edited description"
    assert stored["schema"] == "http"
    default_row(page, airflow).get_by_role("button", name="Test Connection").click()
    expect(page.get_by_role("status").filter(has_text="the balance is 457.00")).to_be_visible()


def test_only_a_connection_with_a_port_can_be_tested(
    page: Page, airflow: AirflowDeployment, sandbox: SandboxProcess
) -> None:
    """docs/connection.md, "Test it". When Airflow has mended this, the form and that section can forget it."""
    for port, shown in ((None, "Bad Request"), (int(sandbox.url.rpartition(":")[2]), "the balance is 457.00")):
        store_connection(airflow, sandbox, host=sandbox.url, port=port)
        default_row(page, airflow).get_by_role("button", name="Test Connection").click()
        expect(page.get_by_role("status").filter(has_text=shown)).to_be_visible()


@pytest.mark.usefixtures("connection")
def test_a_wait_defers_and_the_details_follow(
    page: Page, airflow: AirflowDeployment, sandbox: SandboxProcess, take_picture: TakePicture
) -> None:
    page.set_viewport_size({"width": 1440, "height": 600})
    submission_ids = [sandbox.add_submission("PENDING") for _ in range(3)]
    run = airflow.trigger(EXAMPLE.stem, params={"submission_ids": submission_ids})
    for task in run.changes():
        if task["state"] == "deferred":
            look_at_the_wait(page, run, take_picture)
            for submission_id in submission_ids:
                sandbox.add_submission(submission_id=submission_id, pending_for=0, sent_for=1)
    assert run.state() == "success", run.failure_log()

    page.goto(f"{url_of(run)}/tasks/wait_for_delivery")
    expect(page.get_by_text("3 of 3 submissions are final (3 DELIVERED)", exact=True)).to_be_visible()
    take_picture(page, "delivered")

    page.set_viewport_size({"width": 1440, "height": 740})
    page.goto(f"{url_of(run)}/tasks/get_details/mapped/0/xcom")
    page.get_by_role("button", name="Expand all").click()
    expect(page.get_by_text("operator_name")).to_be_visible()
    take_picture(page, "details-xcom")


def look_at_the_wait(page: Page, run: DagRun, take_picture: TakePicture) -> None:
    page.goto(f"{url_of(run)}/tasks/wait_for_delivery")
    expect(page.get_by_text("Deferred", exact=True).first).to_be_visible()
    # The worker logs this line before it defers, and the triggerer logs it again.
    expect(page.get_by_text("0 of 3 submissions are final; open: 3 PENDING").nth(1)).to_be_visible()
    take_picture(page, "deferred-wait")


def url_of(run: DagRun) -> str:
    return f"{run.airflow.url}/dags/{run.dag_id}/runs/{quote(run.run_id, safe='')}"
