"""The link from a task to RealTime's web panel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.providers.common.compat.sdk import BaseOperatorLink

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

#: The only address of the web panel that RealTime documents, so the link cannot lead to a single submission.
PANEL_URL = "https://www.rti-sms.com"


class RtiSmsPanelLink(BaseOperatorLink):
    """Link to RealTime's web panel, also if the Connection names another server."""

    name = "RTI SMS panel"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """
        Return the panel's address.

        :param operator: not used.
        :param ti_key: not used.
        """
        return PANEL_URL
