"""One redaction: no password is ever shown."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrtune.core.redaction import redact, register_secret

SECRET = "sw0rdfish"  # noqa: S105 -- of nobody


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql://tuner:{SECRET}@host/db",
        f"postgresql+psycopg://tuner:{SECRET}@host:5432/db?sslmode=require",
        f"postgresql://host/db?user=tuner&password={SECRET}",
        f"postgresql://host/db?password={SECRET}&user=tuner",
        f"postgresql://:{SECRET}@host/db",
        f"connection to host=h user=tuner password={SECRET} dbname=x failed",
        f"password='{SECRET} with blanks' host=h",
        f"PASSWORD = {SECRET}",
        f"PGPASSWORD={SECRET} lrtune optimize",
        f"{{'password': '{SECRET}', 'host': 'h'}}",
        f'{{"sslpassword": "{SECRET}"}}',
        f"a b\nTraceback: create_engine('postgresql://u:{SECRET}@h/d')\nend",
        f"postgresql://tuner:with@sign-{SECRET}@host/db",
        f"postgresql://tuner:with/slash:{SECRET}@host/db",
    ],
)
def test_a_password_is_hidden(text: str) -> None:
    hidden = redact(text)
    assert SECRET not in hidden
    assert "***" in hidden
    assert redact(hidden) == hidden


def test_the_rest_stays_readable() -> None:
    url = f"postgresql://tuner:{SECRET}@db.example:5432/studies?sslmode=require&password={SECRET}"
    assert redact(url) == "postgresql://tuner:***@db.example:5432/studies?sslmode=require&password=***"
    for plain in ("http://127.0.0.1:8080/a", "a@b.example", "no space left on device: m/s.db (12 trials kept)", "x: y"):
        assert redact(plain) == plain


def test_what_is_no_text_is_shown_as_text() -> None:
    assert redact(ValueError(f"postgresql://u:{SECRET}@h")) == "postgresql://u:***@h"


def test_a_registered_secret_is_hidden_wherever_it_stands() -> None:
    register_secret("tr0ub4dor&3")
    register_secret("ab")
    register_secret(None)
    assert redact("tr0ub4dor&3 and tr0ub4dor%263, ab") == "*** and ***, ab"


@given(
    user=st.text(alphabet=st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=8),
    secret=st.text(alphabet=st.characters(codec="ascii", categories=["L", "N", "P", "S"], exclude_characters="'\""),
                   min_size=6, max_size=30),
)  # fmt: skip
def test_no_url_shows_its_password(user: str, secret: str) -> None:
    unique = f"{secret}Q7"
    hidden = redact(f"cannot open postgresql://{user}:{unique}@host.example/db now")
    assert unique not in hidden
    assert hidden.startswith("cannot open postgresql://")
    assert hidden.endswith("@host.example/db now")


def test_it_loads_nothing_heavy() -> None:
    program = "import sys, lrtune.core.redaction, lrtune.core.names, lrtune.workers.lease; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"optuna", "numpy", "sqlalchemy", "torch"} & set(loaded)
