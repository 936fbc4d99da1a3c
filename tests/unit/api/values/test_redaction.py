"""What a server repeats of a secret does not get into a message, however it writes it; other text stays as it is."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_rtisms.api.values.secret import Secret, contains, encodings, redact

SECRET = "s3cret/+&=\"<pä$$wörd>' 99"


def redact_one(text: str, secret: str = SECRET) -> str:
    return redact(text, [Secret(secret)])


def as_json(text: str) -> str:
    return json.dumps(text)[1:-1]


def percent(text: str, layout: str = "%{:02X}", charset: str = "utf-8") -> str:
    """Percent-encode every byte."""
    return "".join(layout.format(byte) for byte in text.encode(charset))


ENCODINGS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "upper case": str.upper,
    "quote": quote,
    "quote, slash too": lambda text: quote(text, safe=""),
    "form": quote_plus,
    "percent, upper": percent,
    "percent, lower": lambda text: percent(text, "%{:02x}"),
    "percent, Latin-1": lambda text: percent(text, charset="latin-1"),
    "percent twice": lambda text: quote(quote_plus(text)),
    "percent three times": lambda text: quote(quote(quote_plus(text))),
    "every byte twice": lambda text: percent(percent(text)),
    "JSON": as_json,
    "JSON with UTF-8": lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    "JSON, slashes escaped": lambda text: as_json(text).replace("/", r"\/"),
    "JSON, all escaped": lambda text: "".join(f"\\u{ord(one):04x}" for one in text),
    "JSON, all escaped, upper": lambda text: "".join(f"\\u{ord(one):04X}" for one in text),
    "JSON in JSON": lambda text: as_json(as_json(text)),
    "JSON in percent": lambda text: quote_plus(as_json(text)),
    "HTML": html.escape,
    "HTML, decimal": lambda text: "".join(f"&#{ord(one)};" for one in text),
    "HTML, hexadecimal": lambda text: "".join(f"&#x{ord(one):x};" for one in text),
    "HTML, hexadecimal, upper": lambda text: "".join(f"&#X{ord(one):X};" for one in text),
    "HTML in JSON": lambda text: as_json(html.escape(text)),
    "repr": lambda text: repr(text)[1:-1],
    "bytes": lambda text: repr(text.encode())[2:-1],
    "hexadecimal escapes": lambda text: "".join(f"\\x{byte:02x}" for byte in text.encode()),
    "Latin-1 read as UTF-8": lambda text: text.encode("latin-1", "replace").decode("utf-8", "replace"),
    "UTF-8 read as Latin-1": lambda text: text.encode().decode("latin-1"),
    "spaces collapsed": lambda text: " ".join(text.split()),
    "wrapped": lambda text: "\n".join(text[start : start + 3] for start in range(0, len(text), 3)),
    "punctuation lost": lambda text: re.sub(r"[^A-Za-z0-9]", "", text),
    "a space between all": " ".join,
}


def fold(text: str) -> str:
    return "".join(one.lower() for one in text if one.isascii() and one.isalnum())


class TestEncodings:
    @pytest.mark.parametrize("encode", ENCODINGS.values(), ids=ENCODINGS)
    def test_a_secret_in_any_encoding_is_replaced_and_the_rest_is_kept(self, encode: Callable[[str], str]) -> None:
        shown = redact_one(f"before {encode(SECRET)} after")
        assert shown.startswith("before ***")
        assert shown.endswith(" after")
        assert "99" not in shown
        assert not set(re.findall("[a-z0-9]+", shown)) - {"before", "after"}

    @pytest.mark.parametrize("encode", ENCODINGS.values(), ids=ENCODINGS)
    @pytest.mark.parametrize("length", range(8, 16))
    def test_a_secret_that_is_cut_short_is_replaced(self, encode: Callable[[str], str], length: int) -> None:
        letters = "abcdefgh12345678"
        assert fold(redact_one(f"{encode(letters[:length])}", letters)) == ""
        assert fold(redact_one(f"{encode(letters[-length:])}", letters)) == ""

    @given(
        st.text(min_size=8, max_size=40).filter(lambda text: len(fold(text)) >= 8),
        st.sampled_from(sorted(ENCODINGS)),
        st.text(alphabet="-=:. \n", max_size=5),
        st.integers(0, 200),
        st.integers(8, 200),
    )
    def test_eight_characters_in_a_row_never_get_through(
        self, secret: str, name: str, around: str, start: int, length: int
    ) -> None:
        try:
            encoded = ENCODINGS[name](secret)
        except UnicodeError:  # the charset does not hold it
            return
        shown = fold(redact_one(f"{around}{encoded[start : start + length]}{around}", secret))
        folded = fold(secret)
        assert not any(folded[at : at + 8] in shown for at in range(len(folded) - 7))


class TestLimits:
    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("abcdefg", "abcdefg"),  # seven in a row may be chance
            ("abcdefgh", "***"),
            ("xabcdefghx", "x***x"),
            ("bcdefghi, and 2345678", "***, and 2345678"),
            ("bcdefghi and 12345678", "***"),  # so close to each other that both may be parts of one secret
            ("bcdefghi.............x12345678", "***"),
            ("bcdefghi..............x12345678", "***..............x***"),
            (f"bcdefghi{'.' * 99}12345678", "***"),  # punctuation alone may be the secret's own
            ("ABCDEFGHI", "***"),
            ("a-b-c-d-e-f-g-h", "***"),
            ("a-b-c-d-e-f-g", "a-b-c-d-e-f-g"),
        ],
    )
    def test_eight_letters_and_digits_in_a_row_are_replaced(self, text: str, shown: str) -> None:
        assert redact_one(text, "abcdefghi12345678") == shown

    @pytest.mark.parametrize(
        ("secret", "text", "shown"),
        [
            ("a1b2", "x A-1-B-2 x", "x *** x"),
            ("a1b2", "a1b", "a1b"),
            ("a1b", "x a1b x A-1-B", "x *** x A-1-B"),
            ("-", "a-b", "a***b"),
            ("ñandú", "el ñandú, NANDU", "el ***, NANDU"),
            ("秘密の言葉", "x 秘密の言葉 x", "x *** x"),
            ("", "nothing is secret", "nothing is secret"),
        ],
    )
    def test_a_short_secret_is_replaced_as_a_whole(self, secret: str, text: str, shown: str) -> None:
        assert redact_one(text, secret) == shown

    def test_each_of_several_secrets_is_replaced(self) -> None:
        text = "token=abcdefgh12; secret=zyxwvuts98; proxy=qwertyuiop"
        shown = redact(text, map(Secret, ["abcdefgh12", "zyxwvuts98", "qwertyuiop"]))
        assert shown == "token=***; secret=***; proxy=***"

    def test_more_layers_than_three_are_not_looked_through(self) -> None:
        encoded = "abcdefgh12345678"
        for _ in range(4):
            encoded = percent(encoded)
        assert redact_one(encoded, "abcdefgh12345678") == encoded


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://user:password@proxy:3128/x", "http://***@proxy:3128/x"),
        ("//user@proxy", "//***@proxy"),
        ("at https://a@b and http://c:d@e", "at https://***@b and http://***@e"),
        ("http://proxy:3128/a@b", "http://proxy:3128/a@b"),
        ("http://proxy me@example.com", "http://proxy me@example.com"),
        ("me@example.com", "me@example.com"),
    ],
)
def test_user_names_and_passwords_in_urls_are_replaced(text: str, shown: str) -> None:
    assert redact(text, []) == shown


class TestHarmless:
    @pytest.mark.parametrize(
        "text",
        [
            *("", "***", '{"error": "invalid sender", "code": 406, "id": "4193366853543393"}'),
            "<h1>502 Bad Gateway</h1>&nbsp;&copy; nginx &#8212; &lt;b&gt;",
            "%7B%22a%22%3A1%7D \\u00e9 \\x41 \\n \\\\ %zz &unknown; &#; &#x;",
            "El envío falló: número inválido. 短信发送失败 🙂",
        ],
    )
    def test_text_without_a_secret_is_unchanged(self, text: str) -> None:
        assert redact_one(text) == redact(text, []) == text

    @given(st.text().filter(lambda text: "//" not in text), st.text())
    def test_any_text_without_a_secret_is_unchanged_and_any_secret_is_looked_for(self, text: str, secret: str) -> None:
        assert redact_one(text, "Zx9Qw8Er7Ty6") == text
        redact_one(text, secret)
        contains(text, Secret(secret))


@pytest.mark.parametrize(
    ("text", "secret", "is_in"),
    [
        *(("x 56900000000 x", "+56900000000", True), ("569-000 00000", "+56900000000", True)),
        *(("5690000000", "+56900000000", False), ("The Message", "the message", True), ("abcd", "abcd", True)),
        *(("abc", "abc", False), ("anything", "", False), ("", "abcd", False)),  # fewer than four letters and digits
    ],
)
def test_a_whole_secret_is_found(text: str, secret: str, is_in: bool) -> None:
    assert contains(text, Secret(secret)) is is_in


def test_the_masker_of_airflow_gets_every_encoding_of_the_wire() -> None:
    assert encodings("a b/c+d\"e'é<&") == {
        "a b/c+d\"e'é<&",
        "a+b%2Fc%2Bd%22e%27%C3%A9%3C%26",
        "a%20b/c%2Bd%22e%27%C3%A9%3C%26",
        "a%20b%2Fc%2Bd%22e%27%C3%A9%3C%26",
        "a b/c+d\\\"e'\\u00e9<&",
        "a b/c+d\\\"e'é<&",
        "a b\\/c+d\\\"e'\\u00e9<&",
        "a b/c+d&quot;e&#x27;é&lt;&amp;",
        "a b/c+d\"e\\'é<&",
    }
    assert encodings("abcdefgh") == {"abcdefgh"}
