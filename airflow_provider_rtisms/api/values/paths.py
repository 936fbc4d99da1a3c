"""Paths and queries of calls that the package does not know, as a person gives them. Checked, so that no value of a
template can turn one call into another."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from airflow_provider_rtisms.api.errors import RtiSmsInputError, shape
from airflow_provider_rtisms.api.values.secret import reveal

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
#: Unreserved characters only (RFC 3986, section 2.3): without escapes there is one way to write "/", "?" and "..".
_PATH = re.compile(r"/?(?:api/)?([A-Za-z0-9._~-]+(?:/[A-Za-z0-9._~-]+)*/?)")
#: Digits in a row that may be a phone number.
_LONG_NUMBER = re.compile(r"[0-9]{5,}(?=[0-9]{3})")


def check_method(value: Any) -> str:
    """
    Return an HTTP method.

    :param value: GET, POST, PUT, PATCH or DELETE; the case of the letters does not matter.
    :raises RtiSmsInputError: it is anything else.
    """
    if isinstance(value, str) and value.upper() in METHODS:
        return value.upper()
    raise RtiSmsInputError(f"method is {shape(value)}: use one of {', '.join(METHODS)}.")


def check_path(value: Any) -> str:
    """
    Return the path of a call below the base URL. It begins with ``/api/``.

    :param value: ``/balance`` or ``/api/balance``, with or without the first slash.
    :raises RtiSmsInputError: it is anything else: a whole URL, a path with ``..``, an empty segment, a query, an
        escape or a space, or the path that returns access tokens.
    """
    match = _PATH.fullmatch(value) if isinstance(value, str) else None
    if match is not None:
        segments = match[1].rstrip("/").split("/")
        if segments[0].lower() == "auth":
            raise RtiSmsInputError("path is /auth: the client authenticates by itself, and does not return tokens.")
        if not {".", ".."} & set(segments) and segments != ["api"]:
            return f"/api/{match[1]}"
    raise RtiSmsInputError(
        f"path is {shape(value)} of another form: use a path below /api such as '/sms/4193366853543393', of letters, "
        "digits and . _ ~ -, and give the query as params."
    )


def mask_path(path: str) -> str:
    """
    Return a path as messages may show it: of a number that is long enough for a phone number, the last three digits.

    :param path: from :func:`check_path`.
    """
    return _LONG_NUMBER.sub("***", path)


def encode_query(params: Any) -> str:
    """
    Return a query with its question mark, or an empty string.

    :param params: a mapping of names to a str, an int, a float, a bool (``true`` or ``false``), or a list of these;
        values may be wrapped in a Secret. None leaves its name out.
    :raises RtiSmsInputError: it is anything else.
    """
    if params is None:
        return ""
    if not isinstance(params, Mapping):
        raise RtiSmsInputError(f"params is {shape(params)}: use a dict of names and values.")
    pairs = []
    for name, value in params.items():
        if not isinstance(name, str) or not name:
            raise RtiSmsInputError("params has a name that is not a str, or is empty.")
        values = value if isinstance(value, list | tuple) else [value]
        pairs += [(name, _encode_value(name, reveal(one))) for one in values if one is not None]
    try:
        query = urlencode(pairs)
    except UnicodeEncodeError:
        raise RtiSmsInputError("params holds half of a character (a lone surrogate).") from None
    return f"?{query}" if query else ""


def _encode_value(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float):
        return str(value)
    raise RtiSmsInputError(f"params[{name!r}] is {shape(value)}: use a str, a number, a bool, or a list of these.")
