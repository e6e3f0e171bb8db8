"""Names: what a study may be called, and file names that never leave a folder."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrtune.core.names import safe_filename, valid_name
from lrtune.errors import InputError

GOOD = [
    "digits-mlp",
    "../../x",
    "/etc/x",
    "CON",
    "a/b",
    ".",
    "été",
    "学习率",
    "😀",
    "<script>alert(1)</script>",
    "x" * 200,
]
BAD = ["", "   ", "x" * 201, "a\0b", "a\nb", "a\x1b[31mb", "\u202egnp", "\ud800", " x", "x\t", "a\u2028b", "a\x7fb"]


@pytest.mark.parametrize("name", GOOD)
def test_a_printable_name_is_taken(name: str) -> None:
    assert valid_name(name) == name


@pytest.mark.parametrize("name", BAD)
def test_any_other_is_refused_with_its_rule(name: str) -> None:
    with pytest.raises(InputError, match=r"study name: it .* allowed are 1 to 200") as caught:
        valid_name(name)
    message = str(caught.value)
    assert message.isprintable()
    message.encode("utf-8")
    assert len(message) < 250


@pytest.mark.parametrize("name", [*GOOD, *BAD])
def test_a_file_name_stays_in_its_folder(name: str) -> None:
    filename = safe_filename(name)
    assert filename.isascii()
    assert not set('/\\:*?"<>| ') & set(filename)
    assert not filename.startswith((".", "-"))
    assert 1 <= len(filename) <= 80


@given(st.text(max_size=250), st.text(max_size=250))
def test_file_names_differ_where_names_do(first: str, second: str) -> None:
    if first != second:
        assert safe_filename(first).lower() != safe_filename(second).lower()
    assert safe_filename(first) == safe_filename(first)


def test_a_device_of_windows_is_not_a_file_name() -> None:
    assert safe_filename("con.txt").startswith("study-con")
    assert safe_filename("LPT1").startswith("study-LPT1")


@given(st.text(alphabet=st.characters(categories=["L", "N", "S", "P"]), min_size=1, max_size=200))
def test_a_valid_name_encodes(name: str) -> None:
    valid_name(name).encode("utf-8")
