"""How a sandbox starts and stops: the command line, the process, the thread, the pytest plugin."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest
import requests

from airflow_provider_rtisms.sandbox import Fault, Sandbox, SandboxProcess
from tests.patience import PATIENCE

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from tests.unit.sandbox.conftest import Api

COMMAND = [sys.executable, "-m", "airflow_provider_rtisms.sandbox"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_prints_only_its_url_and_exits_cleanly(number: signal.Signals) -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen([*COMMAND, "--port", "0"], stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().rstrip("\n")
        assert url.startswith("http://127.0.0.1:")
        assert requests.get(f"{url}/api/balance", timeout=PATIENCE).status_code == 401
        process.send_signal(number)
        output, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, output, errors) == (0, "", "")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--fault", "quake"], "kind must be one of"),
        (["--balance", "much"], "balance must be a decimal string"),
        (["--pending-for", "-1"], "pending_for must be a number from 0 to"),
        (["--host", "192.0.2.1"], "192.0.2.1"),  # TEST-NET-1 (RFC 5737): no machine has this address
    ],
)
def test_the_command_refuses_invalid_arguments(arguments: list[str], reason: str) -> None:
    result = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert result.returncode == 2
    assert reason in result.stderr


def test_a_process_starts_with_every_setting() -> None:
    settings = {"client_id": "me", "client_secret": "a b$%", "token_lifetime": 0.5, "seed": 3, "balance": "9.10"}
    fault = Fault("error", statuses=(503, 500), times=2, path="balance")
    with SandboxProcess(**settings, pending_for=4.0, sent_for=5.0, faults=[fault]) as sandbox:
        values = requests.get(f"{sandbox.url}/sandbox/settings", timeout=PATIENCE).json()
    assert Fault(**values.pop("faults")[0]) == fault
    assert values == {**settings, "pending_for": 4.0, "sent_for": 5.0}
    assert sandbox.process.returncode == 0


def test_a_sandbox_that_cannot_start_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="exit code 2"), SandboxProcess(host="192.0.2.1"):
        pass
    with pytest.raises(OSError, match="192"), Sandbox(host="192.0.2.1"):
        pass


def test_a_sandbox_leaves_neither_a_thread_nor_a_port() -> None:
    threads = set(threading.enumerate())
    with Sandbox() as sandbox:
        port = int(sandbox.url.rpartition(":")[2])
        requests.get(sandbox.url, timeout=PATIENCE)
    assert set(threading.enumerate()) <= threads
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)


def test_it_listens_on_ipv6() -> None:
    with Sandbox(host="::1") as sandbox:
        assert sandbox.url.startswith("http://[::1]:")
        assert requests.get(sandbox.url, timeout=PATIENCE).status_code == 200


@pytest.mark.parametrize("_", range(2))
def test_the_fixture_is_fresh_for_each_test_and_sets_the_connection(api: Api, _: int) -> None:
    assert api.sandbox.state().requests == {}
    assert json.loads(os.environ["AIRFLOW_CONN_RTISMS_DEFAULT"])["host"] == api.sandbox.url
    assert api.send("+56900000000").status_code == 200


def test_every_pytest_run_of_a_user_loads_the_plugin_at_no_cost_and_the_sandbox_needs_no_airflow() -> None:
    code = (
        "import pytest, sys; before = set(sys.modules); import airflow_provider_rtisms.sandbox.pytest_plugin;"
        "print({name.partition('.')[0] for name in set(sys.modules) - before});"
        "sys.modules['airflow'] = None; from airflow_provider_rtisms.sandbox import *;"
        "import airflow_provider_rtisms.sandbox.__main__"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert loaded.stdout.strip() == "{'airflow_provider_rtisms'}"
