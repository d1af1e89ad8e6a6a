"""Lines that a user should see although nothing has failed."""

from __future__ import annotations

from outpace.core.errors import one_line


def note(message: str) -> None:
    """Say one line through Python's logger "outpace": on standard error, unless logging is set up."""
    import logging  # costs a start some milliseconds, and most have nothing to say

    logging.getLogger("outpace").warning("%s", one_line(message))
