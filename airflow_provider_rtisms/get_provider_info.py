"""
What Airflow learns about the package without importing the rest of it.

The form of the Connection is defined here once. Airflow 3.2 and later reads it from here; earlier versions read it
from ``RtiSmsHook.get_connection_form_widgets`` and ``get_ui_field_behaviour``, which are made from it.
"""

from __future__ import annotations

from typing import Any

#: The extras, in the order of the form. ``schema`` is JSON schema, as ``conn-fields`` of a provider wants it.
CONN_FIELDS: dict[str, dict[str, Any]] = {
    "timeout": {
        "label": "Timeout (seconds)",
        "description": "Longest time for one HTTP exchange, from connecting to the last byte. Empty: 30.",
        "schema": {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": 3600},
    },
    "max_attempts": {
        "label": "Attempts per call",
        "description": "Most attempts of a call while the API is busy or cannot be reached, including the first one. "
        "Empty: 5.",
        "schema": {"type": ["integer", "null"], "minimum": 1, "maximum": 100},
    },
    "max_concurrency": {
        "label": "Concurrent requests",
        "description": "Most requests under way at once in bulk fetches and waits. Empty: 32.",
        "schema": {"type": ["integer", "null"], "minimum": 1, "maximum": 1000},
    },
    "requests_per_second": {
        "label": "Requests per second",
        "description": "Most requests per second in bulk fetches and waits. Empty: no limit.",
        "schema": {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": 100_000},
    },
    "proxy": {
        "label": "Proxy URL",
        "description": "HTTP proxy on the way to the API, such as http://proxy.example:3128. Empty: what HTTPS_PROXY "
        "names, if anything. A password in it can be read here.",
        "schema": {"type": ["string", "null"]},
    },
    "ca_bundle": {
        "label": "CA bundle",
        "description": "Path of a PEM file with the authorities to trust, on every worker, triggerer and API server. "
        "Empty: the usual ones.",
        "schema": {"type": ["string", "null"]},
    },
    "allow_http": {
        "label": "Allow plain http",
        "description": "Accept a Base URL with http:// that leaves this machine. The client secret then travels "
        "unencrypted: for test networks only.",
        "schema": {"type": ["boolean", "null"]},
    },
    "sender": {
        "label": "Default sender",
        "description": "Sender of messages whose operator names no other one, as RealTime has allowed it for the "
        "account.",
        "schema": {"type": ["string", "null"]},
    },
    "default_region": {
        "label": "Default region",
        "description": "Two letters of the country, such as CL, as which sends read phone numbers without +. Needs "
        "the pip extra phones. Empty: such numbers are refused.",
        "schema": {"type": ["string", "null"]},
    },
}

#: Schema is hidden, since it is part of Base URL. Port is shown, and its label asks for it, since forms have no default
#: for it: Test Connection of Airflow 3.3 returns "Bad Request" for a Connection that was stored without one. Its page
#: sends 0 for null, and its server takes that for another port (docs/connection.md, "Test it").
#: Airflow 3.2 and later show the JSON of the extras anyway.
UI_FIELD_BEHAVIOUR: dict[str, Any] = {
    "hidden-fields": ["schema", "extra"],
    "relabeling": {
        "login": "Client ID",
        "password": "Client secret",
        "host": "Base URL",
        "port": "Port (fill it in)",
    },
    "placeholders": {
        "host": "https://www.rti-sms.com (if left empty)",
        "login": "Your account's client_id for the SMS API",
        "password": "The client_secret that belongs to it",
        "port": "443 (without it, Test Connection can fail)",
        "timeout": "30",
        "max_attempts": "5",
        "max_concurrency": "32",
        "requests_per_second": "no limit",
        "proxy": "http://proxy.example:3128",
        "ca_bundle": "/path/to/ca.pem",
        "sender": "none",
        "default_region": "none",
    },
}

#: The pages of docs/ that show how to use something. A transfer names its own page.
HOW_TO_PAGES = (
    *("quick-start", "install", "connection", "connection-fields", "connection-network", "overview"),
    *("send", "send-people", "send-results", "send-options", "sql-to-rtisms-details"),
    "delivery-sensor",
    *("get-details", "bulk-get-details", "bulk-failures", "split-fetch"),
    *("ledger", "ledger-details", "rtisms-to-sql-details", "rtisms-to-sql-table", "report", "report-views", "lineage"),
    *("notifier", "alert-storms", "alert-deadlines", "balance"),
    *("doctor", "doctor-checks"),
    *("sandbox", "hook", "cli"),
)


def get_provider_info() -> dict[str, Any]:
    """Return the provider's description (Airflow's ``provider_info.schema.json``)."""
    integration = "RealTime SMS"
    package = "airflow_provider_rtisms"
    return {
        "package-name": "airflow-provider-rtisms",
        "name": integration,
        "description": "Fetch, wait for and send SMS with RealTime's SMS API (rti-sms.com).",
        "integrations": [
            {
                "integration-name": integration,
                "external-doc-url": "https://developers.real-time.cl",
                "how-to-guide": [f"/docs/{page}.md" for page in HOW_TO_PAGES],
                "logo": "/docs/integration-logos/realtime-sms.svg",
                "tags": ["service"],
            }
        ],
        "hooks": [{"integration-name": integration, "python-modules": [f"{package}.hooks.rtisms"]}],
        "operators": [{"integration-name": integration, "python-modules": [f"{package}.operators.rtisms"]}],
        "sensors": [{"integration-name": integration, "python-modules": [f"{package}.sensors.rtisms"]}],
        "triggers": [
            {
                "integration-name": integration,
                "python-modules": [f"{package}.triggers.rtisms", f"{package}.triggers.start"],
            }
        ],
        "transfers": [
            {
                "source-integration-name": "Common SQL",
                "target-integration-name": integration,
                "python-module": f"{package}.transfers.sql_to_rtisms",
                "how-to-guide": "/docs/sql-to-rtisms.md",
            },
            {
                "source-integration-name": integration,
                "target-integration-name": "Common SQL",
                "python-module": f"{package}.transfers.rtisms_to_sql",
                "how-to-guide": "/docs/rtisms-to-sql.md",
            },
        ],
        "notifications": [f"{package}.notifications.rtisms.RtiSmsNotifier"],
        "cli": [f"{package}.cli.get_cli_commands"],
        "connection-types": [
            {
                "connection-type": "rtisms",
                "hook-class-name": f"{package}.hooks.rtisms.RtiSmsHook",
                "hook-name": integration,
                "ui-field-behaviour": UI_FIELD_BEHAVIOUR,
                "conn-fields": CONN_FIELDS,
            }
        ],
    }
