"""How the blocking client reads a response: within one deadline, and not past its end."""

from __future__ import annotations

import ssl
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import trustme

from airflow_provider_rtisms.api.client import MAX_INTERIM_RESPONSES, RtiSmsClient
from airflow_provider_rtisms.api.errors import RtiSmsConnectionLostError
from airflow_provider_rtisms.api.settings import ApiSettings
from airflow_provider_rtisms.api.values.secret import Secret
from tests.hostile import HostileServer, head, message, raw
from tests.unit.conftest import Serve

BALANCE = {"balance": "457.00"}
INTERIM = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"


def get_balance(server: HostileServer, **settings: Any) -> Decimal:
    values = {"base_url": server.url, "max_attempts": 1, **settings}
    with RtiSmsClient(ApiSettings(client_id="me", client_secret=Secret("s3cret"), **values)) as client:
        return client.get_balance()


class TestInterimResponses:
    def test_as_many_are_passed_over_as_a_server_may_need_and_no_more(self, serve: Serve) -> None:
        most = MAX_INTERIM_RESPONSES - 1
        assert MAX_INTERIM_RESPONSES == 20
        assert get_balance(serve(raw(INTERIM * most + message(BALANCE)))) == Decimal("457.00")
        with pytest.raises(RtiSmsConnectionLostError, match=r"the connection broke \(HTTPException\)"):
            get_balance(serve(raw(INTERIM * (most + 1) + message(BALANCE))))


class TestWhatTheLogRepeats:
    @pytest.mark.parametrize("line", [b"no colon s3cret", b": s3cret", b"s3cret\r\nX: y"])
    def test_header_lines_that_cannot_be_parsed_are_not_logged(
        self, serve: Serve, caplog: pytest.LogCaptureFixture, line: bytes
    ) -> None:
        body = b'{"balance": "457.00"}'
        first, rest = head(headers=[("Content-Length", str(len(body)))]).split(b"\r\n", 1)
        server = serve(raw(first + b"\r\n" + rest.rstrip() + b"\r\n" + line + b"\r\n\r\n" + body))
        assert get_balance(server) == Decimal("457.00")
        assert [one for one in caplog.records if one.levelname != "DEBUG"] == []


def test_responses_over_tls_are_read_in_the_same_way(serve: Serve, tmp_path: Path) -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    server = serve(raw(INTERIM + message(BALANCE)), tls=context)
    assert get_balance(server, ca_bundle=str(tmp_path / "ca.pem")) == Decimal("457.00")


def test_responses_that_a_proxy_passes_on_are_read_in_the_same_way(serve: Serve) -> None:
    proxy = serve(raw(INTERIM + message(BALANCE)))
    found = get_balance(proxy, base_url="http://api.invalid", allow_http=True, proxy=proxy.url)
    assert found == Decimal("457.00")
    assert proxy.calls[0].target == "http://api.invalid/api/balance"
