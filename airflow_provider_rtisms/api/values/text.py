"""
The text of an SMS: the charset that can hold it, its form in that charset, and how many parts it takes.

Sources: docs/vendor-api.md, "Send SMS"; 3GPP TS 23.038, 6.2.1 (GSM 7-bit default alphabet and its extension table);
TS 23.040, 9.2.3.24.1 (concatenated short messages: a header leaves 153 septets or 67 UCS-2 units of each part).
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any

from airflow_provider_rtisms.api.errors import RtiSmsInputError, shape
from airflow_provider_rtisms.api.values.arguments import check_whole_number, plural
from airflow_provider_rtisms.api.values.secret import reveal


class Charset(IntEnum):
    """The API's charsets, by the number that goes over the wire."""

    DEFAULT = 0
    GSM_7BIT = 1
    UCS_2 = 6
    GSM_URL_ENCODED = 8

    @property
    def label(self) -> str:
        """What people call it."""
        return {1: "GSM 7-bit", 6: "UCS-2", 8: "GSM 7-bit, URL-encoded"}.get(self, "the vendor's default charset")


_ESCAPE = 0x1B
# The position is the code. 0x1B is not a character: it says that the next code is from the extension table.
_BASIC = (
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞ\x1bÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
_EXTENSION = {"\f": 0x0A, "^": 0x14, "{": 0x28, "}": 0x29, "\\": 0x2F, "[": 0x3C, "~": 0x3D, "]": 0x3E, "|": 0x40}
_EXTENSION["€"] = 0x65
#: The septets of each character that GSM 7-bit can hold: one, or the escape and another.
_SEPTETS = {
    **{character: bytes([code]) for code, character in enumerate(_BASIC) if code != _ESCAPE},
    **{character: bytes([_ESCAPE, code]) for character, code in _EXTENSION.items()},
}


#: What ``smart_encoding`` writes in GSM 7-bit for typographic quotes, primes, hyphens, dashes, ellipses and blanks.
_PLAIN_FORMS = str.maketrans(
    {
        **dict.fromkeys("\u2018\u2019\u201a\u201b\u2032\u2039\u203a", "'"),
        **dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb", '"'),
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212", "-"),
        **dict.fromkeys("\u00a0\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f", " "),
        "\u2026": "...",
    }
)


@dataclass(frozen=True, slots=True)
class SmsText:
    """
    A text and the charset it goes out in. Its repr does not show the text.

    :param saved_parts: how many parts ``smart_encoding`` has saved; 0 where it has changed nothing.
    :param replaced: the characters that it has replaced, each once.
    """

    characters: str = field(repr=False)
    charset: Charset
    saved_parts: int = field(default=0, compare=False)
    replaced: str = field(default="", repr=False, compare=False)

    @classmethod
    def of(cls, text: Any, charset: Any = None, max_parts: int | None = None, smart_encoding: bool = False) -> SmsText:
        """
        Check a text, and choose its charset.

        :param text: a str that is not empty; may be wrapped in a Secret.
        :param charset: 0, 1, 6 or 8; None for GSM 7-bit where every character fits, else UCS-2.
        :param max_parts: most parts that one SMS may take; None for any number.
        :param smart_encoding: replace typographic characters by those of GSM 7-bit where that saves a part.
        :raises RtiSmsInputError: the text is not a str, does not fit the charset (names the character), or takes
            more than ``max_parts``.
        """
        chosen = cls(reveal(text), Charset.UCS_2)  # tracebacks may show variables, but not its text
        if not isinstance(chosen.characters, str) or not chosen.characters:
            raise RtiSmsInputError(f"text is {shape(chosen.characters)}: use a str that is not empty.")
        if charset is not None:
            chosen = replace(chosen, charset=_check_charset(charset))
        elif not gsm_misfits(chosen.characters):
            chosen = replace(chosen, charset=Charset.GSM_7BIT)
        chosen._check_characters()
        if smart_encoding is not False:
            _check_smart_encoding(smart_encoding, charset)
            chosen = chosen._in_plain_forms()
        if max_parts is not None and chosen.parts > check_whole_number("max_parts", max_parts):
            raise RtiSmsInputError(
                f"text takes {plural(chosen.parts, 'part')} in charset {chosen.charset}, more than "
                f"max_parts={max_parts}: "
                "shorten it, or raise max_parts."
            )
        return chosen

    @property
    def parts(self) -> int:
        """How many SMS it takes; a character that takes two septets or units is never split across two of them."""
        if self.charset is Charset.UCS_2:
            alone, joined = 70, 67
            costs = [2 if ord(character) > 0xFFFF else 1 for character in self.characters]  # 2: a surrogate pair
        else:
            alone, joined = 160, 153
            costs = [len(_SEPTETS[character]) for character in self.characters]
        if sum(costs) <= alone:
            return 1
        parts, room = 1, joined
        for cost in costs:
            if cost > room:
                parts, room = parts + 1, joined
            room -= cost
        return parts

    @property
    def encoded(self) -> str:
        """The text as the API wants it in this charset."""
        match self.charset:
            case Charset.UCS_2:
                return self.characters.encode("utf-16-be").hex().upper()
            case Charset.GSM_URL_ENCODED:
                # Letters and digits have their ASCII codes; "_" and "~" do not.
                codes = (code for character in self.characters for code in _SEPTETS[character])
                return "".join(chr(code) if chr(code).isalnum() else f"%{code:02X}" for code in codes)
        return self.characters

    def cut(self, max_parts: int, suffix: str = "") -> SmsText:
        """
        Return the text, or as much of its beginning as fits into ``max_parts`` together with an ellipsis.

        :param max_parts: 1 or more.
        :param suffix: follows the text, and is not cut. It is left out if it does not fit into ``max_parts`` itself.
        :raises RtiSmsInputError: ``max_parts`` is anything else, or the charset does not hold the suffix.
        """
        whole = SmsText.of(self.characters + suffix, self.charset)
        if whole.parts <= check_whole_number("max_parts", max_parts):
            return whole
        ellipsis = "…" if self.charset is Charset.UCS_2 else "..."  # GSM 7-bit has no "…"
        end = ellipsis + suffix
        if SmsText(end, self.charset).parts > max_parts:
            end = ellipsis

        def parts_of_beginning(length: int) -> int:
            return SmsText(self.characters[:length] + end, self.charset).parts

        too_long = bisect_right(range(len(self.characters) + 1), max_parts, key=parts_of_beginning)
        return SmsText(self.characters[: too_long - 1].rstrip() + end, self.charset)

    def _in_plain_forms(self) -> SmsText:
        """Return the text in GSM 7-bit if that takes fewer parts."""
        plain = SmsText(self.characters.translate(_PLAIN_FORMS), Charset.GSM_7BIT)
        replaced = gsm_misfits(self.characters)
        if not replaced or gsm_misfits(plain.characters) or plain.parts >= self.parts:
            return self
        return replace(plain, saved_parts=self.parts - plain.parts, replaced="".join(replaced))

    def _check_characters(self) -> None:
        for position, character in enumerate(self.characters):
            is_half_a_pair = 0xD800 <= ord(character) <= 0xDFFF
            if is_half_a_pair or (self.charset is not Charset.UCS_2 and character not in _SEPTETS):
                raise RtiSmsInputError(
                    f"text[{position}] is {character!a} (U+{ord(character):04X}), which charset {self.charset} cannot "
                    "hold: leave charset out, or replace the character."
                )


def gsm_misfits(text: str) -> list[str]:
    """Return the characters of a text that GSM 7-bit does not have, each once."""
    return list(dict.fromkeys(character for character in text if character not in _SEPTETS))


def _check_smart_encoding(value: Any, charset: Any) -> None:
    if value is not True:
        raise RtiSmsInputError(f"smart_encoding is {shape(value)}: use True or False.")
    if charset is not None:
        raise RtiSmsInputError("smart_encoding picks the charset by the text: leave charset out.")


def _check_charset(value: Any) -> Charset:
    try:
        return Charset(int(value) if isinstance(value, str) else value)
    except ValueError:
        raise RtiSmsInputError(
            f"charset is {shape(value)}: use 0 (the vendor's default), 1 (GSM 7-bit), 6 (UCS-2), 8 (GSM, URL-encoded) "
            "or None (picked by the text)."
        ) from None
