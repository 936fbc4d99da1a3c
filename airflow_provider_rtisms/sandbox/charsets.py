"""
Read the text of a message in each of the API's charsets, and count its parts.

Sources: the sms chapter of the API's reference for the numbers, 3GPP TS 23.038 for the alphabet, 23.040 for the parts.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

DEFAULT, GSM_7BIT, UCS_2_HEX, GSM_URL_ENCODED = 0, 1, 6, 8

# The position is the code; ESC, at 0x1B, comes before a character of the extension.
_BASIC = (
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞ\x1bÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
_ESC = 0x1B
_EXTENSION = {
    0x0A: "\f", 0x14: "^", 0x28: "{", 0x29: "}", 0x2F: "\\",
    0x3C: "[", 0x3D: "~", 0x3E: "]", 0x40: "|", 0x65: "€",
}  # fmt: skip
_TWO_SEPTETS = frozenset(_EXTENSION.values())


@dataclass(frozen=True)
class Text:
    """
    The decoded text of a message.

    :param characters: the text as a person reads it.
    :param charset: the charset's number in the request.
    :param parts: how many SMS it takes.
    """

    characters: str
    charset: int
    parts: int


def read_text(charset: int, encoded: str) -> Text:
    """
    Decode the text of a message.

    :param charset: 0, 1, 6 or 8; see the sms chapter of the API's reference.
    :param encoded: the text as the request has it.
    :return: the decoded text; charsets 0 and 1 keep characters outside the GSM alphabet.
    :raises ValueError: if the charset is another number, or if the text is not valid in the charset.
    """
    if charset in (DEFAULT, GSM_7BIT):
        septets = sum(2 if character in _TWO_SEPTETS else 1 for character in encoded)
        return Text(encoded, charset, _parts(septets, 160, 153))
    if charset == UCS_2_HEX:
        if not re.fullmatch(r"([0-9A-Fa-f]{4})*", encoded):
            raise ValueError("message.text in charset 6 takes four hexadecimal digits for each UCS-2 unit")
        characters = bytes.fromhex(encoded).decode("utf-16-be")  # UnicodeDecodeError is a ValueError
        return Text(characters, charset, _parts(len(encoded) // 4, 70, 67))
    if charset == GSM_URL_ENCODED:
        if not re.fullmatch(r"([!-$&-~]|%[0-7][0-9A-Fa-f])*", encoded):
            raise ValueError("message.text in charset 8 takes URL-encoded GSM 7-bit codes")
        codes = unquote_to_bytes(encoded.replace("+", "%20"))
        return Text(_gsm_characters(codes), charset, _parts(len(codes), 160, 153))
    raise ValueError(f"message.charset must be 0, 1, 6 or 8, not {charset!r}")


def _gsm_characters(codes: bytes) -> str:
    characters = []
    remaining = iter(codes)
    for code in remaining:
        if code == _ESC:
            # ESC before an unknown code is shown as a space (TS 23.038, 6.2.1.1).
            characters.append(_EXTENSION.get(next(remaining, -1), " "))
        else:
            characters.append(_BASIC[code])
    return "".join(characters)


def _parts(units: int, alone: int, joined: int) -> int:
    return 1 if units <= alone else math.ceil(units / joined)
