"""The shapes of what people hold: made at random, told apart by a prefix, stored as a hash."""

from __future__ import annotations

import hashlib
import re
import secrets

API_KEY = "fm_live_"
REFRESH = "fm_refresh_"
RESET = "fm_reset_"
TICKET = "fm_ticket_"
BOOTSTRAP = "fm_bootstrap_"
SHOWN = 12
"""How many characters of an API key are kept to know it by."""

# No word border before them: where a text is quoted, a line break before one ends in the letter n.
_SHAPES = re.compile(r"(fm_(?:live|refresh|reset|ticket|bootstrap)_)[0-9a-f]{8,}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}")


def new(prefix: str) -> str:
    """A new credential: the prefix and 48 hexadecimal digits (192 random bits)."""
    return prefix + secrets.token_hex(24)


def hashed(credential: str) -> str:
    """What is stored of it: SHA-256 in hexadecimal. 192 random bits need no slow hash."""
    return hashlib.sha256(credential.encode("utf-8", "surrogatepass")).hexdigest()


def new_id(prefix: str) -> str:
    """A new id: the prefix, an underscore and 24 hexadecimal digits."""
    return f"{prefix}_{secrets.token_hex(12)}"


def masked(text: str) -> str:
    """The text without any credential of ours."""
    return _SHAPES.sub(lambda found: (found[1] or "") + "***", text)
