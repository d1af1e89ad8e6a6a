"""The errors that are meant for a user: a bad file, option or name.

The command line prints `error: <message>` and exits with status 2 for each of them. Everything else is a bug.
"""

from __future__ import annotations


class OutpaceError(ValueError):
    """An error meant for a user. Its message is one line and names what would have been accepted."""


class FormatError(OutpaceError):
    """A model file that is truncated, malformed or of a kind that cannot be read."""


class PromptTooLong(OutpaceError):
    """A prompt (with the tokens asked for) that does not fit into the model's context."""
