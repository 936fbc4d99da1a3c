"""Links from a task to where RealTime shows what became of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.providers.common.compat.sdk import BaseOperatorLink

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

#: RealTime documents no address of its web panel beyond this one, so none leads to a single submission.
PANEL_URL = "https://www.rti-sms.com"


class RtiSmsPanelLink(BaseOperatorLink):
    """Leads to RealTime's web panel, whatever API the Connection names."""

    name = "RTI SMS panel"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """
        Return the panel's address.

        :param operator: not looked at.
        :param ti_key: not looked at.
        """
        return PANEL_URL
