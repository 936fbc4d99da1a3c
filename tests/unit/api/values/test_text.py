"""Charsets, parts and cutting of texts. Expected numbers follow 3GPP TS 23.038 and 23.040."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_rtisms.api.errors import RtiSmsInputError
from airflow_provider_rtisms.api.values.text import Charset, SmsText
from airflow_provider_rtisms.sandbox.state import read_text

GSM = "@£ Δ_é\n ÄabcÑ§à" + "^{}\\[~]|€"
any_text = st.text(min_size=1, max_size=700)  # hypothesis leaves out lone surrogates
gsm_text = st.text(st.sampled_from(GSM), min_size=1, max_size=700)


@pytest.mark.parametrize(
    ("text", "charset", "encoded"),
    [
        ("hola {€}", 1, "hola {€}"),
        ("āĉġ", 6, "010101090121"),
        ("hi 😀", 6, "006800690020D83DDE00"),
        ("tab\t", 6, "0074006100620009"),
        ("\x1b", 6, "001B"),  # the escape is no character of the alphabet
        *((one, 6, f"{ord(one):04X}") for one in "\ud7ff\ue000"),  # beside the surrogates
    ],
)
def test_the_text_picks_its_charset(text: str, charset: int, encoded: str) -> None:
    picked = SmsText.of(text)
    assert (picked.charset, picked.encoded) == (charset, encoded)


@pytest.mark.parametrize(
    ("text", "charset", "encoded"),
    [
        ("hola", 0, "hola"),
        ("hola", 6, "0068006F006C0061"),
        ("àü", 8, "%7F%7E"),
        ("a_~@ €", 8, "a%11%1B%3D%00%20%1Be"),
        ("hola", "8", "hola"),
        ("\f^{}\\[~]|€", 8, "%1B%0A%1B%14%1B%28%1B%29%1B%2F%1B%3C%1B%3D%1B%3E%1B%40%1Be"),
        ("@£\n_", 8, "%00%01%0A%11"),
    ],
)
def test_a_forced_charset_is_used(text: str, charset: Any, encoded: str) -> None:
    assert SmsText.of(text, charset).encoded == encoded


@pytest.mark.parametrize(
    ("text", "charset", "named"),
    [("no ā", 1, r"text\[3\] .*U\+0101"), ("😀", 8, "U[+]1F600"), ("ok\ud83d", None, "D83D"), ("\x1b", 0, "U[+]001B")],
)
def test_a_character_that_does_not_fit_is_named(text: str, charset: Any, named: str) -> None:
    with pytest.raises(RtiSmsInputError, match=named):
        SmsText.of(text, charset)


@pytest.mark.parametrize(
    "arguments", [("",), (None,), (7,), (b"hi",), ("hi", 2), ("hi", "GSM"), ("hi", 1, 0), ("hi", 1, True)]
)
def test_what_is_no_text_charset_or_limit_is_refused(arguments: Any) -> None:
    with pytest.raises(RtiSmsInputError):
        SmsText.of(*arguments)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a" * 160, 1),
        ("a" * 161, 2),
        ("a" * 306, 2),
        ("a" * 307, 3),
        ("€" * 80, 1),
        ("€" * 81, 2),
        ("a" * 152 + "€" + "a" * 152, 3),  # the euro sign does not fit the last septet of the first part
        ("ā" * 70, 1),
        ("ā" * 71, 2),
        ("ā" * 135, 3),
        ("😀" * 35, 1),
        ("😀" * 66, 2),
        ("😀" * 67, 3),  # 33 pairs to a part, the 67th unit stays empty
        *(("ā" * 134, 2), ("\uffff" * 70, 1), ("\uffff" * 71, 2), ("\U00010000" * 35 + "a", 2)),
    ],
)
def test_parts(text: str, parts: int) -> None:
    assert SmsText.of(text).parts == parts
    SmsText.of(text, max_parts=parts)
    if parts > 1:
        with pytest.raises(RtiSmsInputError, match=f"takes {parts} parts"):
            SmsText.of(text, max_parts=parts - 1)


@given(any_text.map(lambda text: (text, None)) | st.tuples(gsm_text, st.sampled_from([None, 0, 1, 6, 8])))
def test_the_other_side_reads_what_was_written(written: tuple[str, int | None]) -> None:
    sent = SmsText.of(*written)
    assert read_text(sent.charset, sent.encoded).characters == written[0]


@given(any_text | gsm_text, st.integers(1, 5))
def test_a_cut_text_is_the_longest_beginning_that_fits(text: str, max_parts: int) -> None:
    whole = SmsText.of(text)
    cut = whole.cut(max_parts)
    assert cut.parts <= max_parts
    assert cut.charset == whole.charset
    if whole.parts <= max_parts:
        assert cut == whole
        return
    ellipsis = "…" if cut.charset is Charset.UCS_2 else "..."
    beginning = cut.characters.removesuffix(ellipsis)
    assert cut.characters.endswith(ellipsis)
    assert text.startswith(beginning)
    dropped = text[len(beginning) :]
    longer = dropped[: len(dropped) - len(dropped.lstrip()) + 1]  # with the spaces that were stripped, and one more
    assert SmsText(beginning + longer + ellipsis, cut.charset).parts > max_parts


def test_a_repr_does_not_show_the_text() -> None:
    assert "hola" not in repr(SmsText.of("hola"))


@pytest.mark.parametrize(
    ("text", "max_parts", "cut"),
    [
        *(("a" * 160, 1, "a" * 160), ("a" * 161, 1, "a" * 157 + "..."), ("a" * 307, 2, "a" * 303 + "...")),
        *(("a" * 150 + " " * 10 + "b", 1, "a" * 150 + "..."), ("ā" * 70, 1, "ā" * 70)),
        *(("ā" * 71, 1, "ā" * 69 + "…"), ("ā" * 135, 2, "ā" * 133 + "…"), ("😀" * 36, 1, "😀" * 34 + "…")),
    ],
)
def test_a_text_is_cut_exactly_where_it_has_to_be(text: str, max_parts: int, cut: str) -> None:
    assert SmsText.of(text).cut(max_parts).characters == cut


@pytest.mark.parametrize("code", [0xD800, 0xDBFF, 0xDC00, 0xDFFF])
def test_half_a_surrogate_pair_is_refused(code: int) -> None:
    with pytest.raises(RtiSmsInputError) as caught:
        SmsText.of(f"a{chr(code)}")
    assert str(caught.value).startswith(f"text[1] is '\\u{code:x}' (U+{code:04X}), which charset 6 cannot hold")


def test_max_parts_is_named_where_it_is_no_number() -> None:
    for use in (lambda: SmsText.of("a", max_parts=0), lambda: SmsText.of("a").cut(0)):
        with pytest.raises(RtiSmsInputError, match=r"^max_parts is "):
            use()


TYPOGRAPHIC = "‘’‚‛′‹›“”„‟″«»‐‑‒–—―−…\u00a0\u2009\u202f"


@pytest.mark.parametrize(
    ("text", "sent", "saved"),
    [
        (TYPOGRAPHIC * 3, "'''''''\"\"\"\"\"\"\"-------...   " * 3, 1),  # 75 characters: 2 parts, 1 in GSM 7-bit
        ("X" * 70 + "…", "X" * 70 + "...", 1),
        ("a" * 69 + "…", "a" * 69 + "…", 0),  # 1 part either way
        ("a" * 70 + "…ā", "a" * 70 + "…ā", 0),  # another character needs UCS-2
        ("€" * 78 + "…", "€" * 78 + "...", 1),  # 159 septets
        ("€" * 79 + "…", "€" * 79 + "…", 0),  # 161 septets are 2 parts, as 80 units are
        ("a" * 200, "a" * 200, 0),
        ("…" * 67, "…" * 67, 0),  # 201 septets are 2 parts, 67 units are 1
    ],
)
def test_smart_encoding_replaces_characters_where_that_saves_a_part(text: str, sent: str, saved: int) -> None:
    smart = SmsText.of(text, smart_encoding=True)
    assert (smart.characters, smart.saved_parts) == (sent, saved)
    assert smart.parts == SmsText.of(text).parts - saved
    assert bool(smart.replaced) == bool(saved)


@given(st.text(st.sampled_from(GSM + TYPOGRAPHIC + "ā😀"), min_size=1, max_size=400))
def test_smart_encoding_never_takes_more_parts(text: str) -> None:
    plain, smart = SmsText.of(text), SmsText.of(text, smart_encoding=True)
    assert smart.parts == plain.parts - smart.saved_parts <= plain.parts
    assert smart.saved_parts or smart.characters == text
    assert not smart.saved_parts or smart.charset is Charset.GSM_7BIT
