"""What a person sees of the Connection in the form of Airflow 2.11."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_0_PLUS
from playwright.sync_api import Page, expect

from airflow_provider_rtisms.get_provider_info import CONN_FIELDS
from airflow_provider_rtisms.sandbox import Sandbox
from scripts.processes import Session, wait_until
from tests.system.ui.conftest import TakePicture

pytestmark = [
    pytest.mark.deployment,
    pytest.mark.ui,
    pytest.mark.skipif(AIRFLOW_V_3_0_PLUS, reason="the pages of Airflow 2"),
]

SECRET = "sandbox-secret"
USER = "reader"


@pytest.fixture
def webserver(page: Page, airflow_database: Path, tmp_path: Path) -> Iterator[str]:
    """Run Airflow's webserver on loopback, log the page in, and yield the URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    airflow = [sys.executable, "-m", "airflow"]
    names = ["--firstname=A", "--lastname=Reader", "--email=reader@example.com", "--role=Admin"]
    subprocess.run(
        [*airflow, "users", "create", f"--username={USER}", f"--password={USER}", *names],
        check=True,
        capture_output=True,
    )
    server = Session(
        "webserver",
        [*airflow, "webserver", "--hostname=127.0.0.1", f"--port={port}", "--workers=1"],
        log=tmp_path / "webserver.log",
        env={**os.environ, "AIRFLOW__CORE__TEST_CONNECTION": "Enabled"},
    )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: is_healthy(url), what="the webserver to be healthy", watching=[server])
        page.goto(f"{url}/login/")
        page.locator("#username").fill(USER)
        page.locator("#password").fill(USER)
        page.get_by_role("button", name="Sign In").click()
        page.wait_for_url(f"{url}/home")
        yield url
    finally:
        server.kill()


def is_healthy(url: str) -> bool:
    try:
        return requests.get(f"{url}/health", timeout=60, proxies={"http": ""}).ok
    except requests.ConnectionError:
        return False


def test_a_connection_is_added_tested_and_edited(
    page: Page, webserver: str, rtisms_sandbox: Sandbox, take_picture: TakePicture
) -> None:
    page.set_viewport_size({"width": 1280, "height": 1560})
    page.goto(f"{webserver}/connection/add")
    page.get_by_label("Connection Id").fill("rtisms_default")
    page.locator("#conn_type").select_option("rtisms", force=True)  # select2 covers it

    expect(page.get_by_label("Base URL")).to_have_attribute("placeholder", "https://www.rti-sms.com (if left empty)")
    expect(page.get_by_label("Client secret")).to_have_attribute("type", "password")
    for field in ("schema", "extra"):
        expect(page.locator(f"#{field}")).to_be_hidden()
    for conn_field in CONN_FIELDS.values():
        expect(page.get_by_label(conn_field["label"])).to_be_visible()
        expect(page.get_by_text(conn_field["description"])).to_be_visible()
    take_picture(page, "connection-form-airflow-2")

    page.get_by_label("Base URL").fill(rtisms_sandbox.url)
    page.get_by_label("Client ID").fill(rtisms_sandbox.client_id)
    page.get_by_label("Client secret").fill(SECRET)
    page.get_by_label(CONN_FIELDS["timeout"]["label"]).fill("12.5")
    page.get_by_role("button", name="Test").click()
    expect(page.get_by_text("the balance is 457.00")).to_be_visible()
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Added Row")).to_be_visible()

    page.goto(f"{webserver}/connection/list/")
    page.locator("a[href*='/connection/edit/']").first.click()
    expect(page.get_by_label("Client ID")).to_have_value(rtisms_sandbox.client_id)
    expect(page.get_by_label(CONN_FIELDS["timeout"]["label"])).to_have_value("12.5")
    assert SECRET not in page.content()
    page.get_by_label("Description").fill("An edited description")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Changed Row")).to_be_visible()

    stored = subprocess.run(
        [sys.executable, "-m", "airflow", "connections", "get", "rtisms_default", "--output=yaml"],
        check=True,
        capture_output=True,
        text=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_CONN_")},
    ).stdout
    assert f"password: {SECRET}" in stored
    assert "description: An edited description" in stored
    assert "timeout: '12.5'" in stored
