"""
Values that logs, tracebacks and error trackers do not show, and how texts of servers and libraries are cleared of them.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, Generic, TypeVar
from urllib.parse import quote, quote_plus, unquote_to_bytes

T = TypeVar("T")

#: Letters and digits in a row that a secret and a text may share by chance. More of them are redacted.
LONGEST_COINCIDENCE = 7
#: A secret with fewer letters and digits is looked for literally only.
SHORTEST_FOLDED = 4
#: How many layers of encoding are decoded; percent-encoded JSON has two.
MAX_LAYERS = 3

_USERINFO = re.compile(r"(?<=//)[^/@\s]*@")
_ESCAPES = re.compile(
    r"(?P<percent>(?:%[0-9A-Fa-f]{2})+)|\\u(?P<unicode>[0-9A-Fa-f]{4})|\\x(?P<byte>[0-9A-Fa-f]{2})"
    r"|(?P<simple>\\[nrtbf])|(?P<entity>&(?:#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z]{2,8});)"
)
#: A character, and the start and the end of its form in the original text.
_Span = tuple[str, int, int]


class Secret(Generic[T]):
    """
    Hold a value, and show it only to code that asks for it by name.

    ``str()``, ``repr()`` and f-strings show asterisks. There is no ``+``, ``len()``, slice or method of the value, so a
    mistake raises an error instead of showing a part of it.

    :param value: what to protect; a Secret is unwrapped, so wrapping twice does no harm.
    """

    __slots__ = ("_value",)

    def __init__(self, value: T | Secret[T]) -> None:
        self._value: T = value._value if isinstance(value, Secret) else value

    def get_secret_value(self) -> T:
        """Return the value; do not keep it in a variable that outlives the statement."""
        return self._value

    def __str__(self) -> str:
        return "***"

    def __repr__(self) -> str:
        return f"{type(self).__name__}('***')"

    def __format__(self, format_spec: str) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and bool(self._value == other._value)

    def __hash__(self) -> int:
        return hash(self._value)


def reveal(value: Any) -> Any:
    """Return the value of a Secret, or the value itself if it is not wrapped."""
    return value.get_secret_value() if isinstance(value, Secret) else value


def encodings(value: str | Secret[str]) -> set[str]:
    """Return a secret in every encoding in which it may travel. Airflow's masker looks for exact strings."""
    secret: str = reveal(value)
    return {
        secret,
        secret.strip(),
        quote_plus(secret),
        quote(secret),
        quote(secret, safe=""),
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        json.dumps(secret)[1:-1].replace("/", r"\/"),
        html.escape(secret),
        repr(secret)[1:-1],
    }


def redact(text: str, secrets: Iterable[Secret[str]]) -> str:
    """
    Return a text with three asterisks where it repeats a secret or a part of one.

    The text and the secrets are compared by their ASCII letters and digits alone, after percent-encoding, JSON escapes
    and HTML entities are decoded. So it does not matter how the text spells a secret, which charset mangled it, or
    where it was cut. User names and passwords in URLs are always replaced.

    :param text: the whole text; a caller that shortens it does so afterwards.
    :param secrets: what it must not show.
    """
    text = _USERINFO.sub("***@", text)
    values = [value for secret in secrets if (value := secret.get_secret_value())]
    for value in values:
        text = text.replace(value, "***")
    spans = _fold([(character, position, position + 1) for position, character in enumerate(text)])
    folded = "".join(character for character, _, _ in spans)
    hits = [False] * len(folded)
    for value in values:
        _mark(folded, _fold_plain(value), hits)
    return _replace(text, [(number, *spans[number]) for number, is_hit in enumerate(hits) if is_hit])


def contains(text: str, secret: Secret[str]) -> bool:
    """Return whether a text repeats a whole secret, compared as by :func:`redact`; four letters and digits at least."""
    value = _fold_plain(secret.get_secret_value())
    return len(value) >= SHORTEST_FOLDED and value in _fold_plain(text)


def _fold_plain(value: str) -> str:
    return "".join(character.lower() for character in value if character.isascii() and character.isalnum())


def _fold(spans: Sequence[_Span]) -> list[_Span]:
    """Decode the escapes of a text, then keep its ASCII letters and digits, in lower case."""
    for _ in range(MAX_LAYERS):
        decoded = _decode(spans)
        if len(decoded) == len(spans):
            break
        spans = decoded
    return [(one.lower(), start, end) for one, start, end in spans if one.isascii() and one.isalnum()]


def _decode(spans: Sequence[_Span]) -> list[_Span]:
    text = "".join(character for character, _, _ in spans)
    decoded: list[_Span] = []
    position = 0
    for escape in _ESCAPES.finditer(text):
        decoded += spans[position : escape.start()]
        position = escape.end()
        start, end = spans[escape.start()][1], spans[position - 1][2]
        decoded += [(character, start, end) for character in _unescape(escape)]
    return decoded + list(spans[position:])


def _unescape(escape: re.Match[str]) -> str:
    match escape.lastgroup:
        case "percent":
            return unquote_to_bytes(escape[0]).decode("utf-8", "replace")
        case "unicode" | "byte":
            return chr(int(escape[escape.lastgroup], 16))
        case "entity":
            return html.unescape(escape[0])
    return " "


def _mark(folded: str, secret: str, hits: list[bool]) -> None:
    """Mark each run of characters that a text shares with a secret and that is too long for a coincidence."""
    if len(secret) < SHORTEST_FOLDED:
        return
    size = min(LONGEST_COINCIDENCE + 1, len(secret))
    pieces = {secret[start : start + size] for start in range(len(secret) - size + 1)}
    for start in range(len(folded) - size + 1):
        if folded[start : start + size] in pieces:
            hits[start : start + size] = [True] * size


def _replace(text: str, hits: Iterable[tuple[int, str, int, int]]) -> str:
    """
    Replace the parts of a text that hits cover, and what stands between two hits that belong together.

    A hit is a position among the letters and digits, then the span. Hits belong together if no letter or digit stands
    between them, only encoded punctuation, or if they are close to each other.
    """
    redacted: list[str] = []
    position = 0
    last_number = -1
    for number, _, start, end in hits:
        is_continued = redacted and (number == last_number + 1 or start - position <= 2 * LONGEST_COINCIDENCE)
        if not is_continued:
            redacted += [text[position:start], "***"]
        position, last_number = end, number
    return "".join(redacted) + text[position:]
