"""
Show what a send would do, and send nothing: ``python -m airflow_provider_rtisms.preview --text "Hello {name}"``.

``airflow rtisms preview`` takes the same options (Airflow 3.2 and later).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from airflow_provider_rtisms.api.errors import RtiSmsError, RtiSmsInputError
from airflow_provider_rtisms.api.models import printable
from airflow_provider_rtisms.api.values.text import Charset
from airflow_provider_rtisms.sending.messages import PlaceholderText, preview, read_message_file
from airflow_provider_rtisms.tables import CsvFormat, read_table_file

if TYPE_CHECKING:
    from argparse import Namespace

#: The options, for both commands.
OPTIONS: dict[str, dict[str, Any]] = {
    "--text": {"help": "the text; with --rows, {column} in it stands for a value of each row"},
    "--rows": {"metavar": "FILE", "help": "a .csv or .jsonl file (.gz may follow) whose columns the text names"},
    "--messages": {"metavar": "FILE", "help": "instead of these two, a file as messages_path takes it"},
    "--csv-delimiter": {"metavar": "C", "help": "what separates the fields of a CSV (default: what it says itself)"},
    "--csv-encoding": {"metavar": "NAME", "help": "encoding of a CSV, such as cp1252 or utf-16 (default: utf-8)"},
    "--default-region": {"metavar": "CL", "help": "with --messages: the country of phone numbers without +"},
    "--smart-encoding": {"action": "store_true", "help": "replace typographic characters where that saves a part"},
    "--charset": {"type": int, "help": "0, 1, 6 or 8 of the API (default: picked by each text)"},
    "--max-parts": {"type": int, "metavar": "N", "help": "most parts that one SMS may take"},
    "--samples": {"type": int, "metavar": "N", "default": 3, "help": "how many texts to show (default: 3)"},
}


def show(options: Namespace) -> str:
    """
    Return the preview as a person reads it.

    :param options: of the command line, see :data:`OPTIONS`.
    :raises RtiSmsInputError: an option is malformed, or a row cannot be sent.
    :raises RtiSmsStorageError: a file cannot be read.
    """
    if options.messages is not None and options.rows is not None:
        raise RtiSmsInputError("Give either --messages, or --text and maybe --rows.")
    csv_format = CsvFormat(options.csv_delimiter, options.csv_encoding)
    if options.messages is None and options.rows is None:
        csv_format.check_unused("--rows and --messages")
    found = preview(
        text=options.text,
        rows=None if options.rows is None else _rows(options.rows, options.text, csv_format),
        message_rows=None if options.messages is None else read_message_file(options.messages, csv_format),
        charset=options.charset,
        max_parts=options.max_parts,
        samples=options.samples,
        default_region=options.default_region,
        smart_encoding=options.smart_encoding,
    )
    return "\n".join(map(printable, _lines(found)))


def _rows(path: str, text: Any, csv_format: CsvFormat) -> Iterator[Mapping[str, Any]]:
    columns = PlaceholderText(text).columns
    for row in read_table_file(path, "--rows", lambda _: columns, csv_format):
        if row.problem is not None:
            raise RtiSmsInputError(f"{row.position} of --rows {row.problem}.")
        yield row.values.get_secret_value()


def _lines(found: dict[str, Any]) -> Iterator[str]:
    yield f"{found['messages']} messages, {found['parts_total']} parts, at most {found['max_parts']} each"
    for charset, count in found["charsets"].items():
        yield f"charset {charset} ({Charset(charset).name}): {count} messages"
    for character, count in found["forces_ucs2"].items():
        yield f"{character} is not in GSM 7-bit: {count} messages"
    if "completed" in found:
        yield f"phone numbers without + that are completed: {found['completed']}"
    if "replaced" in found:
        yield f"parts that smart encoding saves: {found['parts_saved']}"
    for character, count in found.get("replaced", {}).items():
        yield f"{character} is replaced: {count} messages"
    for number, sample in enumerate(found["samples"], 1):
        size = f"{sample['characters']} characters, {sample['parts']} parts, charset {sample['charset']}"
        yield f"message {number}: {size}: {json.dumps(sample['text'], ensure_ascii=False)}"


def main(arguments: list[str] | None = None) -> int:
    """
    Run the command line.

    :param arguments: default those of the process.
    :return: the exit status.
    """
    parser = argparse.ArgumentParser(
        prog="python -m airflow_provider_rtisms.preview",
        description="Show what a send would do. Nothing is sent, and nothing is asked of the API.",
        allow_abbrev=False,
    )
    for flag, option in OPTIONS.items():
        parser.add_argument(flag, **option)
    try:
        print(show(parser.parse_args(arguments)))
    except RtiSmsError as error:
        print(printable(str(error)), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
