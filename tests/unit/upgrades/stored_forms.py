"""
What this package stores outside of its process, in the form of this release. Later releases have to read it.

``samples/RELEASE.json`` holds the forms of a release. Never change the sample of a release that people have. If a form
changes, add a sample for the next release: ``python -m tests.unit.upgrades.stored_forms samples/RELEASE.json``. If an
older release would misread the new form, increase the version in it too. Write a new argument of a trigger into the
sample by hand. ``0.1.0.dev1.json`` has only what 0.1.0 wrote differently.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

from airflow.triggers.base import BaseTrigger
from packaging.version import Version

from airflow_provider_rtisms.api.models import SendOutcome, SmsDetails, Submission
from airflow_provider_rtisms.api.values.secret import Secret
from airflow_provider_rtisms.bulk.fetch import HEADER, Part, stamp
from airflow_provider_rtisms.sandbox import Sandbox
from airflow_provider_rtisms.sending.journal import MemoryStore, SendJournal
from airflow_provider_rtisms.sensors.rtisms import RtiSmsDeliverySensor
from airflow_provider_rtisms.triggers.rtisms import (
    RtiSmsBalanceFallTrigger,
    RtiSmsBalanceTrigger,
    RtiSmsDeliveryTrigger,
)
from airflow_provider_rtisms.triggers.start import RtiSmsDeliveryStartTrigger
from tests.hostile import until
from tests.unit.attempts import AssetStore, TaskStore

SAMPLES = {path.stem: json.loads(path.read_text()) for path in (Path(__file__).parent / "samples").iterdir()}
NEWEST = max(SAMPLES, key=Version)
CLIENT_SECRET = Secret("the client secret of the samples")
NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
#: The two submissions of each sample. The first one is final.
DONE = SmsDetails("4193366853543393", "DELIVERED", registered_at=NOON, sent_at=NOON, done_at=NOON).to_record()
OPEN_ID = "4193366853543000"
IDS = [DONE["submission_id"], OPEN_ID]
#: Messages in the journal: what came of them.
SENT = {
    "submitted": Submission(SendOutcome.SUBMITTED, "submitted", "4200000000000001"),
    "refused": Submission(SendOutcome.REFUSED, "account_no_balance"),
    "not sent": Submission(SendOutcome.NOT_SENT),
    "lost": None,
}


def delivery_trigger(**changes: Any) -> RtiSmsDeliveryTrigger:
    """Return the trigger of the newest sample, in which every argument differs from its default."""
    return RtiSmsDeliveryTrigger(**arguments_of(RtiSmsDeliveryTrigger) | changes)


def balance_trigger(**changes: Any) -> RtiSmsBalanceTrigger:
    return RtiSmsBalanceTrigger(**arguments_of(RtiSmsBalanceTrigger) | changes)


def balance_watcher(store: AssetStore | None = None) -> RtiSmsBalanceFallTrigger:
    trigger = RtiSmsBalanceFallTrigger(**arguments_of(RtiSmsBalanceFallTrigger))
    trigger.asset_state_store = store
    return trigger


def arguments_of(trigger: type[BaseTrigger]) -> dict[str, Any]:
    return dict(SAMPLES[NEWEST]["triggers"][trigger.__name__][1])


async def fire(trigger: BaseTrigger) -> dict[str, Any]:
    """Return the first event of a trigger."""
    events = trigger.run()
    event = await anext(events)
    await events.aclose()  # type: ignore[attr-defined]
    return dict(event.payload)


def events() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the events of all triggers by name. The sandbox has a balance of 457.00."""
    all_final = {"submission_ids": IDS[:1], "quota": None}
    triggers: dict[str, BaseTrigger] = {
        "delivery finished": delivery_trigger(**all_final),
        "delivery finished, large": delivery_trigger(**all_final, with_records=False, with_ids=True),
        "delivery finished, large, without ids": delivery_trigger(**all_final, with_records=False),
        "delivery failed": delivery_trigger(**all_final, fail_on=["DELIVERED"]),
        "delivery timeout": delivery_trigger(deadline=0),
        "delivery timeout, large": delivery_trigger(deadline=0, with_records=False),
        "balance finished": balance_trigger(),
        "balance timeout": balance_trigger(deadline=0),
        "balance fall": balance_watcher(),
    }
    for name, trigger in triggers.items():
        event = asyncio.run(fire(trigger))
        if "message" in event:
            event["message"] = "what happened"  # a text for people
        yield name, event


def journal_entries() -> dict[str, Any]:
    """Return what the journal of a send stores: a window with results, then one that was begun."""
    store = MemoryStore()
    with patch("airflow_provider_rtisms.sending.journal.secrets.token_hex", return_value="5a" * 16):
        journal = SendJournal(store, CLIENT_SECRET)
    results = {journal.digest(key): result for key, result in SENT.items()}
    journal.commit(journal.begin(list(results)), results)
    journal.begin([journal.digest("begun")])
    for entry in (store["rtisms_send_0"], *store["rtisms_send"]["begun"].values()):
        entry["at"] = NOON.isoformat()
    return dict(store)


def part_file() -> str:
    """Return a part file with one record."""
    record = dict(DONE)
    stamp([record], NOON)
    with tempfile.TemporaryDirectory() as folder, closing(Part(Path(folder, "details.jsonl"), "d1")) as part:
        part.append([record])
        content = part.path.read_text()
    assert content.encode().startswith(HEADER)
    return content


def rescheduled(sandbox: Sandbox) -> dict[str, Any]:
    """Return what a sensor in mode="reschedule" stores between two pokes."""
    store = TaskStore()
    sandbox.add_submission("DELIVERED", submission_id=IDS[0], pending_for=0, sent_for=0)
    sandbox.add_submission("SENT", submission_id=OPEN_ID)
    sensor = RtiSmsDeliverySensor(task_id="wait", submission_ids=IDS, mode="reschedule")
    sensor.poke({"task_state_store": store})  # type: ignore[typeddict-item]
    for record in store["rtisms_finished"]:
        record.update((column, DONE[column]) for column in record if column.endswith("_at") or column == "cost")
        record.update({column: None for column in record if column.startswith("operator")})
    return dict(store)


def watcher_state() -> dict[str, Any]:
    """Return what the watcher of the balance stores after a fall."""
    store = AssetStore()

    async def main() -> None:
        watching = balance_watcher(store).run()
        await anext(watching)
        next_poll = asyncio.ensure_future(anext(watching))  # it stores the fall after the event
        await until(lambda: bool(store))
        next_poll.cancel()

    asyncio.run(main())
    return dict(store)


def stored_forms(sandbox: Sandbox) -> dict[str, Any]:
    """Return everything that this release stores, as JSON."""
    start = RtiSmsDeliveryStartTrigger(**arguments_of(RtiSmsDeliveryStartTrigger))
    triggers = (delivery_trigger(), start, balance_trigger(), balance_watcher())
    forms = {
        "triggers": {type(trigger).__name__: trigger.serialize() for trigger in triggers},
        "events": dict(events()),
        "journal": journal_entries(),
        "part": part_file(),
        "rescheduled": rescheduled(sandbox),
        "watcher": watcher_state(),
    }
    return dict(json.loads(json.dumps(forms)))


@contextmanager
def connected_sandbox() -> Iterator[Sandbox]:
    """Run a sandbox that the Connection ``rtisms_default`` leads to."""
    with Sandbox() as sandbox:
        os.environ["AIRFLOW_CONN_RTISMS_DEFAULT"] = sandbox.connection_json()
        yield sandbox


if __name__ == "__main__":
    with connected_sandbox() as running:
        kinds = ",\n".join(f"{json.dumps(kind)}: {json.dumps(one)}" for kind, one in stored_forms(running).items())
        Path(sys.argv[1]).write_text(f"{{\n{kinds}\n}}\n")
