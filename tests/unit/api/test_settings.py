"""The fields of a Connection, one by one: defaults, bounds, and errors that name the field."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Any

import certifi
import pytest
import trustme

from airflow_provider_rtisms.api.errors import RtiSmsConfigError
from airflow_provider_rtisms.api.settings import ApiSettings, is_loopback
from airflow_provider_rtisms.api.values.secret import Secret


def settings(**fields: Any) -> ApiSettings:
    return ApiSettings(**{"client_id": "me", "client_secret": "s3cret", **fields})


class TestNumbers:
    @pytest.mark.parametrize(
        ("name", "default", "least", "most"),
        [
            ("timeout", 30.0, 0.01, 3600),
            ("max_concurrency", 32, 1, 1000),
            ("max_attempts", 5, 1, 100),
            ("requests_per_second", None, 0.001, 100_000),
        ],
    )
    def test_default_and_bounds(self, name: str, default: float | None, least: float, most: float) -> None:
        for fields in ({}, {name: None}, {name: ""}):
            assert getattr(settings(**fields), name) == default
        for value in (least, most, str(least), str(most)):
            assert getattr(settings(**{name: value}), name) == float(value)
        step = 1 if name.startswith("max") else least / 10
        for value in (least - step, most + step, 0, -1, "x", "nan", True, [], 10**400):
            with pytest.raises(
                RtiSmsConfigError,
                match=f"^Field '{name}' in the extra of the Connection is .*: use a number from {least:g} to {most:g}",
            ):
                settings(**{name: value})

    @pytest.mark.parametrize("name", ["max_concurrency", "max_attempts"])
    def test_whole_numbers(self, name: str) -> None:
        assert type(getattr(settings(**{name: "7.0"}), name)) is int
        with pytest.raises(
            RtiSmsConfigError,
            match=f"^Field '{name}' in the extra of the Connection is not a whole number: use one from 1 to 100",
        ):
            settings(**{name: 1.5})


class TestCredentials:
    @pytest.mark.parametrize("value", [None, "", " ", 7, b"x"])
    def test_are_required(self, value: Any) -> None:
        with pytest.raises(RtiSmsConfigError, match=r"^client_id is missing: set Login of the Connection\.$"):
            settings(client_id=value)
        with pytest.raises(RtiSmsConfigError, match=r"^client_secret is missing: set Password of the Connection\.$"):
            settings(client_secret=value)

    def test_half_a_character_is_refused(self) -> None:
        for half in "\ud800\udfff":
            with pytest.raises(RtiSmsConfigError, match=r"^client_secret holds characters that are not valid"):
                settings(client_secret=half)
        assert settings(client_id="\ud7ff\ue000").client_id == "\ud7ff\ue000"

    def test_a_secret_may_be_wrapped(self) -> None:
        assert settings(client_secret=Secret("s3cret")) == settings(client_secret="s3cret")
        assert hash(settings()) == hash(settings())
        assert settings(client_secret="another") != settings()


class TestAllowHttp:
    @pytest.mark.parametrize(
        ("value", "flag"),
        [(True, True), ("true", True), (" True ", True), ("1", True), (1, True)]
        + [(value, False) for value in (False, "false", "0", "", 0, None, "None")],
    )
    def test_words_and_flags_are_taken(self, value: Any, flag: bool) -> None:
        assert settings(allow_http=value).allow_http is flag

    @pytest.mark.parametrize("value", ["yes", 2, []])
    def test_anything_else_is_refused(self, value: Any) -> None:
        with pytest.raises(
            RtiSmsConfigError, match=r"^Field 'allow_http' in the extra of the Connection is .*: use true or false\.$"
        ):
            settings(allow_http=value)

    def test_plain_http_needs_it_unless_the_host_is_this_machine(self) -> None:
        with pytest.raises(
            RtiSmsConfigError,
            match=r"^Base URL \(Host\) of the Connection uses plain http.*'allow_http' in .* to true\.$",
        ):
            settings(base_url="http://sms.example")
        assert not settings(base_url="http://sms.example", allow_http=True).is_tls
        assert not settings(base_url="http://localhost:1").is_tls
        assert settings(base_url="https://sms.example").is_tls

    @pytest.mark.parametrize(
        ("host", "is_this_machine"),
        [("localhost", True), ("LOCALHOST", True), ("127.0.0.1", True), ("127.9.9.9", True), ("::1", True)]
        + [(host, False) for host in ("128.0.0.1", "::2", "localhost.example", "", "10.0.0.1")],
    )
    def test_loopback(self, host: str, is_this_machine: bool) -> None:
        assert is_loopback(host) is is_this_machine


class TestHost:
    @pytest.mark.parametrize(
        ("value", "base_url"),
        [
            ("https://sms.example", "https://sms.example"),
            (" https://sms.example/ ", "https://sms.example"),
            ("https://sms.example:8443/api", "https://sms.example:8443"),
            ("https://sms.example/api/", "https://sms.example"),
            ("https://sms.example/gateway/api", "https://sms.example/gateway"),
            ("https://sms.example/apis", "https://sms.example/apis"),
            ("https://sms.example/a!b", "https://sms.example/a!b"),
            ("https://sms.example/X/", "https://sms.example/X"),
            ("", "https://www.rti-sms.com"),
        ],
    )
    def test_the_api_may_be_named(self, value: str, base_url: str) -> None:
        assert settings(base_url=value).base_url == base_url

    @pytest.mark.parametrize(
        ("value", "what"),
        [
            ("https://sms.example:99999", r"that is not a URL: use https://host or https://host:port\.$"),
            ("https://[::1", r"that is not a URL: "),
            ("http://127.0.0.1@evil.example", r"^Base URL \(Host\) of the Connection holds credentials"),
            ("//sms.example", "that is not a base URL"),
            ("https://sms.example/\r\nX: 1", "that is not a base URL"),
            (
                "ftp://sms.example",
                r"^Base URL \(Host\) of the Connection is a str of 17 characters that is not a base URL: use https://host",
            ),
            ("https://", "that is not a base URL"),
            ("https://sms.example/\x7f", "that is not a base URL"),
            (f"https://{'a' * 64}.example", "that is not a URL: "),
            (
                "https://me@sms.example",
                r"^Base URL \(Host\) of the Connection holds credentials, a query or a fragment: .*Login and Password",
            ),
            ("https://sms.example?x", r"^Base URL \(Host\) of the Connection holds credentials, a query or a fragment"),
            ("https://sms.example#x", r"^Base URL \(Host\) of the Connection holds credentials, a query or a fragment"),
            *(
                (f"https://{rest}", r"^Base URL \(Host\) of the Connection ")
                for rest in ("client:s3cr3t/part@api.example", "client:12/s3cr3t@a.b")
            ),
            *(
                (f"https://{rest}", r"^Base URL \(Host\) of the Connection ")
                for rest in ("client:s3cr3t@a.b", r"client:s3cr3t\part@a.b", "s3cr3t..b")
            ),
            *(
                (f"https://{rest}", r"^Base URL \(Host\) of the Connection ")
                for rest in ("client:12?s3cr3t@a.b", "client:12#s3cr3t@a.b", "[s3cr3t")
            ),
            *(
                (f"https://{rest}", r"^Base URL \(Host\) of the Connection ")
                for rest in ("a.b:s3cr3t", "a.b:0", "a s3cr3t")
            ),
            ("s3cr3t://a.b", r"^Base URL \(Host\) of the Connection "),
        ],
    )
    def test_another_form_is_refused_and_not_shown(self, value: str, what: str) -> None:
        with pytest.raises(RtiSmsConfigError, match=what) as caught:
            settings(base_url=value)
        assert "s3cr3t" not in "".join(traceback.format_exception(caught.value, limit=0))


class TestProxy:
    @pytest.mark.parametrize("value", ["http://proxy.example", "http://user:pr0xy@proxy.example:3128", "https://p:1"])
    def test_a_url_is_taken(self, value: str) -> None:
        assert settings(proxy=value).proxy == settings(proxy=value).proxy_to_use() == value

    @pytest.mark.parametrize(
        "value",
        [
            *("proxy.example:3128", "socks5://proxy", "http://", "http://proxy:x", 7, "http://[::1"),
            *("http://me:pr0xy/word@p.b:3128", "http://me:12/pr0xy@p.b:3128", "http://me:12#pr0xy@p.b"),
            *("http://me:12?pr0xy@p.b", "http://me:pr0xy@[::1", "http://me:pr0xy@p.b:pr0xy", "http://me:pr0xy@a..b:1"),
            *("http://me:pr0xy word@p.b", "socks5://me:pr0xy@p.b"),
        ],
    )
    def test_anything_else_is_refused_and_not_shown(self, value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        what = r"^Field 'proxy' in the extra of the Connection is .* that is not a URL such as http://proxy\.example:3128\."
        with pytest.raises(RtiSmsConfigError, match=what) as caught:
            settings(proxy=value)
        assert "pr0xy" not in str(caught.value)
        assert caught.value.__cause__ is None
        if "pr0xy" in str(value):
            monkeypatch.setenv("https_proxy", value)
            with pytest.raises(RtiSmsConfigError, match="proxy") as caught:
                settings()
            assert "pr0xy" not in str(caught.value)

    def test_the_environment_names_one_where_the_connection_does_not(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert settings().proxy_to_use() is None
        monkeypatch.setenv("all_proxy", "bare.example:3128")
        assert settings().proxy_to_use() == "http://bare.example:3128"
        monkeypatch.setenv("all_proxy", "http://all.example")
        assert settings().proxy_to_use() == "http://all.example"
        monkeypatch.setenv("https_proxy", "http://secure.example")
        assert settings().proxy_to_use() == "http://secure.example"
        monkeypatch.setenv("no_proxy", "www.rti-sms.com")
        assert settings().proxy_to_use() is None
        assert settings(proxy="http://mine.example").proxy_to_use() == "http://mine.example"

    def test_its_credentials_are_secrets(self) -> None:
        assert settings().secrets() == (Secret("s3cret"),)
        found = settings(proxy="http://us%20er:p%2Fw@proxy.example").secrets()
        assert found == (Secret("s3cret"), Secret("p/w"), Secret("dXMgZXI6cC93"))


class TestCertificates:
    @pytest.fixture
    def bundle(self, tmp_path: Path) -> str:
        path = tmp_path / "ca.pem"
        trustme.CA().cert_pem.write_to_path(path)
        return str(path)

    def test_the_connection_comes_first_then_the_environment(
        self, bundle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert settings().trusted_certificates() == certifi.where()
        monkeypatch.setenv("SSL_CERT_FILE", bundle)
        assert settings().trusted_certificates() == bundle
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path))
        assert settings().trusted_certificates() == str(tmp_path)
        assert settings(ca_bundle=bundle).trusted_certificates() == bundle

    @pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"])
    def test_a_variable_that_names_no_certificates_is_named(
        self, variable: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(variable, __file__)
        with pytest.raises(RtiSmsConfigError, match=f"^The environment variable {variable} does not name a file"):
            settings().trusted_certificates()

    @pytest.mark.parametrize("value", [__file__, "/does/not/exist.pem", 7, "a\x00b"])
    def test_a_bundle_that_is_none_is_refused(self, value: Any) -> None:
        with pytest.raises(
            RtiSmsConfigError,
            match=r"^Field 'ca_bundle' in the extra of the Connection does not name a file of certificates",
        ):
            settings(ca_bundle=value)

    def test_an_empty_bundle_is_the_default(self, bundle: str) -> None:
        assert settings(ca_bundle="").ca_bundle is None
        assert settings(ca_bundle=bundle).ca_bundle == bundle


class TestDefaultRegion:
    @pytest.mark.parametrize(("value", "region"), [("CL", "CL"), ("pl", "PL"), ("", None), (None, None)])
    def test_it_is_a_country_in_capital_letters(self, value: Any, region: str | None) -> None:
        assert settings(default_region=value).default_region == region

    @pytest.mark.parametrize("value", ["XX", "UK", "Chile", 56, ["CL"], " CL"])
    def test_anything_else_is_refused(self, value: Any) -> None:
        with pytest.raises(
            RtiSmsConfigError,
            match=r"^Field 'default_region' in the extra of the Connection is .*: use the two letters of a country",
        ):
            settings(default_region=value)

    def test_a_worker_that_sends_nothing_needs_no_phonenumbers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "phonenumbers", None)
        assert settings(default_region="CL").default_region == "CL"
        with pytest.raises(RtiSmsConfigError, match=r"^Field 'default_region' in the extra of the Connection is "):
            settings(default_region="Chile")
