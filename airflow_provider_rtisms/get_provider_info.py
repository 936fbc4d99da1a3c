"""
What Airflow learns about the package without importing the rest of it.

The form of the Connection is defined here once. Airflow 3.2 and later reads it from this answer; earlier versions read
it from ``RtiSmsHook.get_connection_form_widgets`` and ``get_ui_field_behaviour``, which are made from it.
"""

from __future__ import annotations

from typing import Any

#: The extras, in the order of the form. ``schema`` is JSON schema, as ``conn-fields`` of a provider wants it.
CONN_FIELDS: dict[str, dict[str, Any]] = {
    "timeout": {
        "label": "Timeout (seconds)",
        "description": "For one HTTP exchange, from connect to the last byte. Default 30.",
        "schema": {"type": ["number", "null"], "exclusiveMinimum": 0},
    },
    "max_attempts": {
        "label": "Tries per call",
        "description": "How often one call is tried on transient errors, the first try included. Default 5.",
        "schema": {"type": ["integer", "null"], "minimum": 1},
    },
    "max_concurrency": {
        "label": "Requests at once",
        "description": "Most requests under way at once in bulk fetches and waits. Default 32.",
        "schema": {"type": ["integer", "null"], "minimum": 1},
    },
    "requests_per_second": {
        "label": "Requests per second",
        "description": "Most requests per second in bulk fetches and waits. Empty: no limit.",
        "schema": {"type": ["number", "null"], "exclusiveMinimum": 0},
    },
    "proxy": {
        "label": "Proxy",
        "description": "URL of an HTTP proxy, such as http://proxy.example:3128. Empty: HTTPS_PROXY decides.",
        "schema": {"type": ["string", "null"]},
    },
    "ca_bundle": {
        "label": "CA bundle",
        "description": "Path on the workers and triggerers of a PEM file to verify the server with.",
        "schema": {"type": ["string", "null"]},
    },
    "allow_http": {
        "label": "Allow plain http",
        "description": "Send the client secret unencrypted to a host that is not loopback. For test networks only.",
        "schema": {"type": ["boolean", "null"]},
    },
}

UI_FIELD_BEHAVIOUR: dict[str, Any] = {
    "hidden-fields": ["extra"],
    "relabeling": {"login": "Client ID", "password": "Client secret", "host": "Base URL", "schema": "Scheme"},
    "placeholders": {
        "host": "https://www.rti-sms.com",
        "schema": "https",
        "port": "443",
        "timeout": "30",
        "max_attempts": "5",
        "max_concurrency": "32",
    },
}


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
                "tags": ["service"],
            }
        ],
        "hooks": [{"integration-name": integration, "python-modules": [f"{package}.hooks.rtisms"]}],
        "operators": [{"integration-name": integration, "python-modules": [f"{package}.operators.rtisms"]}],
        "sensors": [{"integration-name": integration, "python-modules": [f"{package}.sensors.rtisms"]}],
        "triggers": [{"integration-name": integration, "python-modules": [f"{package}.triggers.rtisms"]}],
        "notifications": [f"{package}.notifications.rtisms.RtiSmsNotifier"],
        "cli": [f"{package}.cli.get_cli_commands"],
        "extra-links": [f"{package}.links.rtisms.RtiSmsPanelLink"],
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
