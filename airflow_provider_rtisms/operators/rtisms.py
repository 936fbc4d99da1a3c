"""Operators for the RTI SMS API. Importing this module loads no HTTP library; running a task does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow_provider_rtisms.compat import BaseOperator
from airflow_provider_rtisms.hooks.rtisms import hook_of_task
from airflow_provider_rtisms.hooks.templates import TemplateFields
from airflow_provider_rtisms.operators.bulk import RtiSmsBulkGetDetailsOperator
from airflow_provider_rtisms.operators.send import RtiSmsSendOperator

if TYPE_CHECKING:
    from airflow_provider_rtisms.compat import Context

__all__ = ["RtiSmsBulkGetDetailsOperator", "RtiSmsGetBalanceOperator", "RtiSmsGetDetailsOperator", "RtiSmsSendOperator"]


class RtiSmsGetDetailsOperator(TemplateFields, BaseOperator):
    """
    Fetch the details of one submission.

    :param submission_id: (templated) ASCII decimal string or whole number; no float.
    :param rtisms_conn_id: (templated) the Connection.
    :return: the record (dict), see :meth:`~airflow_provider_rtisms.api.models.SmsDetails.to_record`.
    :raises AirflowFailException: the id is malformed or unknown, or the API refused; task retries would not help.
    :raises RtiSmsTransientError: the API could not be reached within the attempts; task retries may help.
    """

    template_fields: Sequence[str] = ("submission_id", "rtisms_conn_id")
    ui_color = "#d9ead3"

    def __init__(self, *, submission_id: str | int, rtisms_conn_id: str = "rtisms_default", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.submission_id = submission_id
        self.rtisms_conn_id = rtisms_conn_id

    def execute(self, context: Context) -> dict[str, Any]:
        """Fetch it and return its record."""

        with hook_of_task(self.rtisms_conn_id) as hook:
            details = hook.get_sms(self.submission_id)
        self.log.info("Submission %s is %s", details.submission_id, details.status)
        return details.to_record()


class RtiSmsGetBalanceOperator(TemplateFields, BaseOperator):
    """
    Fetch the account's balance.

    :param rtisms_conn_id: (templated) the Connection.
    :return: the decimal string, exactly as the vendor returns it; its currency is not documented.
    :raises AirflowFailException: the API refused; task retries would not help.
    :raises RtiSmsTransientError: the API could not be reached within the attempts; task retries may help.
    """

    template_fields: Sequence[str] = ("rtisms_conn_id",)
    ui_color = "#d9ead3"

    def __init__(self, *, rtisms_conn_id: str = "rtisms_default", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rtisms_conn_id = rtisms_conn_id

    def execute(self, context: Context) -> str:
        """Fetch it and return it."""

        with hook_of_task(self.rtisms_conn_id) as hook:
            balance = hook.get_balance()
        self.log.info("The balance is %s", balance)
        return str(balance)
