"""Passwords of storages are replaced by ``***`` in every message.

Hidden are the password in ``scheme://user:password@host``, the value of ``password=`` (in a query
or in a libpq conninfo string), and every secret that was registered when a storage was opened, in its
plain and in its percent-encoded form, wherever it occurs.
"""

from __future__ import annotations

import re
import threading
from urllib.parse import quote, quote_plus

__all__ = ["redact", "register_secret"]

HIDDEN = "***"
SHORTEST_SECRET = 6  # a shorter one would be found inside ordinary words

# Greedy up to the last @ of the word: people do write passwords that hold an unescaped @ or a slash.
_USERINFO = re.compile(r"(?P<head>[A-Za-z][A-Za-z0-9+.\-]*://[^\s:/@'\"]*):(?P<secret>[^\s'\"]*)@")
_NAMED = re.compile(
    r"(?P<head>\b(?:ssl|pg)?(?:password|passwd|pwd)\b['\"]?\s*[=:]\s*)"
    r"(?P<secret>'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|[^\s&,;'\")}\]]+)",
    re.IGNORECASE,
)

_secrets: set[str] = set()
_guard = threading.Lock()


def register_secret(secret: str | None) -> None:
    """Hide this text in every message from now on; one shorter than 6 characters is ignored."""
    if secret is None or len(secret) < SHORTEST_SECRET:
        return
    with _guard:
        _secrets.update({secret, quote(secret, safe=""), quote(secret), quote_plus(secret)})


def redact(text: object) -> str:
    """The text with every password replaced by ``***``; may be applied any number of times.

    Examples
    --------
    >>> redact("postgresql://tuner:tiger@db.example/studies")
    'postgresql://tuner:***@db.example/studies'
    >>> redact("postgresql://db.example/studies?user=tuner&password=tiger")
    'postgresql://db.example/studies?user=tuner&password=***'
    """
    hidden = _USERINFO.sub(rf"\g<head>:{HIDDEN}@", str(text))
    hidden = _NAMED.sub(rf"\g<head>{HIDDEN}", hidden)
    with _guard:
        secrets = sorted(_secrets, key=len, reverse=True)
    for secret in secrets:
        hidden = hidden.replace(secret, HIDDEN)
    return hidden
