"""An HTTP client of the sandbox's API."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from airflow_provider_rtisms.sandbox import Sandbox
from tests.patience import PATIENCE


class Api:
    """Calls the API with the headers that it requires, unless a test gives others."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.session = requests.Session()
        self._token: str | None = None

    def authenticate(self, **form: str) -> requests.Response:
        credentials = {"client_id": self.sandbox.client_id, "client_secret": self.sandbox.client_secret}
        return self.request("POST", "auth", data={"grant_type": "client_credentials", **credentials, **form})

    @property
    def headers(self) -> dict[str, str]:
        if self._token is None:
            self._token = self.authenticate().json()["access_token"]
        return {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}

    def request(self, method: str, path: str, **options: Any) -> requests.Response:
        return self.session.request(method, f"{self.sandbox.url}/api/{path}", timeout=PATIENCE, **options)

    def get(self, path: str) -> requests.Response:
        return self.request("GET", path, headers=self.headers)

    def send(self, *recipients: str, sender: str = "96000", text: str = "hi", charset: Any = 0) -> requests.Response:
        message = {"charset": charset, "text": text}
        body = {"recipients": recipients, "sender": sender, "message": message}
        return self.request("POST", "sms", headers=self.headers, json=body)

    def connect(self) -> socket.socket:
        address = urlsplit(self.sandbox.url)
        return socket.create_connection((address.hostname, address.port), timeout=PATIENCE)

    def status_of(self, submission_id: str) -> str:
        return str(self.get(f"sms/{submission_id}").json()["info"]["status"]["status"])


@pytest.fixture
def api(rtisms_sandbox: Sandbox) -> Iterator[Api]:
    api = Api(rtisms_sandbox)
    with api.session:
        yield api
