"""Names that people give: which a study may have, and the file names made from them.

PostgreSQL takes at most 512 characters and no NUL, and a lone surrogate cannot be stored anywhere, so
one rule holds for every storage. A path is never made from a raw name.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata

from lrtune.errors import InputError

__all__ = ["USER_MODULE", "safe_filename", "short_filename", "valid_name"]

USER_MODULE = "_lrtune_user_"
"""How the modules begin that the user's own files become, so that they shadow nothing."""

LONGEST_NAME = 200
LONGEST_SLUG = 60
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_RESERVED = re.compile(r"^(con|prn|aux|nul|com\d|lpt\d)$", re.IGNORECASE)  # devices on Windows


def valid_name(name: str, *, what: str = "study name") -> str:
    """The name itself, if it is 1 to 200 characters without control characters.

    Any script and any emoji is welcome; so are slashes and markup, because neither a path nor HTML is
    ever made from a raw name.

    Raises
    ------
    InputError
        If it is not; the sentence names the rule and shows the name with its escapes.
    """
    problem = _problem(name)
    if problem:
        msg = f"{what}: {problem} (got {_shown(name)}); allowed are 1 to {LONGEST_NAME} printable characters"
        raise InputError(msg)
    return name


def _problem(name: str) -> str:
    if not name.strip():
        return "it is empty"
    if len(name) > LONGEST_NAME:
        return f"it has {len(name)} characters"
    if name != name.strip():
        return "it begins or ends with white space"
    return next(filter(None, map(_flaw, name)), "")


def _flaw(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Cs":
        return "it holds half of a surrogate pair, which no database can store"
    if category in ("Cc", "Zl", "Zp"):
        return f"it holds the control character {character!a}"
    return f"it holds {character!a}, which turns the direction of the text around" if character in _BIDI else ""


def _shown(name: str) -> str:
    shown = ascii(name) if not name.isprintable() else repr(name)
    return shown if len(shown) <= LONGEST_SLUG else shown[: LONGEST_SLUG - 4] + "..." + shown[0]


def safe_filename(name: str) -> str:
    """A file name for a name: readable, at most 71 ASCII characters, never a path, equal for equal names.

    Different names get different file names (a short hash is appended), also where the file system does
    not tell upper from lower case.

    Examples
    --------
    >>> safe_filename("digits-mlp")
    'digits-mlp-29319351c8'
    """
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:10]
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode("ascii")
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("-._")[:LONGEST_SLUG].rstrip("-._")
    if _RESERVED.match(slug.split(".")[0]):
        slug = f"study-{slug}"[:LONGEST_SLUG]
    return f"{slug or 'study'}-{digest}"


def short_filename(name: str) -> str:
    """The name itself where it is a plain file name in lower case, else :func:`safe_filename` of it."""
    safe = safe_filename(name)
    return name if name == name.lower() and safe.rpartition("-")[0] == name else safe
