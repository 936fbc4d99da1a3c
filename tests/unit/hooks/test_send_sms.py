"""The hook's way to send, as a task of one's own or a notebook uses it."""

from __future__ import annotations

import pytest

from airflow_provider_rtisms.api.errors import RtiSmsInputError, RtiSmsUncertainError
from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook
from airflow_provider_rtisms.sandbox import Fault, Sandbox


def test_each_distinct_recipient_has_its_response(rtisms_sandbox: Sandbox) -> None:
    recipients = ["+56900000100", "+56900000005", "+56 900 000 100", "+56900000101"]
    submissions = RtiSmsHook().send_sms(recipients=recipients, text="hola", sender="96000", chunk_size=2)
    assert [one.status for one in submissions] == ["submitted", "account_no_balance", "submitted"]
    assert rtisms_sandbox.state().requests["POST sms"] == 2


def test_a_lost_response_raises_and_is_not_repeated(rtisms_sandbox: Sandbox) -> None:
    rtisms_sandbox.set_faults(Fault("lost_response", path="sms"))
    with pytest.raises(RtiSmsUncertainError, match=r"recipients\[0\] \*\*\*100"):
        RtiSmsHook().send_sms(recipients="+56900000100", text="hola", sender="96000")
    assert rtisms_sandbox.state().requests["POST sms"] == 1


def test_a_bad_value_never_leaves_the_machine(rtisms_sandbox: Sandbox) -> None:
    with pytest.raises(RtiSmsInputError, match="max_parts"):
        RtiSmsHook().send_sms(recipients="+56900000100", text="a" * 500, sender="96000", max_parts=3)
    assert rtisms_sandbox.state().requests == {}
