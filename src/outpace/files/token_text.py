"""Token ids to text one by one, such that the pieces are what the `tokenizers` library decodes in the whole.

A decoder of the library is a list of steps, each from texts to texts. Nearly all look at one text alone, so a
step here is a stage that takes texts as they come and passes on those that no later token can change. Bytes
wait, because one that does not fit turns its whole run into U+FFFD. Steps after a step that joins everything
get one growing text; the few that cannot read such a text wait for its end.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any, Protocol

from outpace.core.errors import FormatError
from outpace.files.decoder_steps import STEPS, ByteRuns, Stage, Whole, finished, through


class TextDecoder(Protocol):
    """The text of one growing sequence."""

    @property
    def waits(self) -> bool:
        """Whether a character lacks bytes: what `finish` would say of it says nothing."""

    def push(self, token_id: int) -> str:
        """Takes the next token; the text that has become certain."""

    def finish(self) -> str:
        """The rest, were this the end. Changes nothing."""


class BytesText:
    """A TextDecoder where each token adds its bytes to a text in UTF-8, whatever stands around it."""

    def __init__(self, table: Mapping[int, bytes], *, drop_space: bool = False) -> None:
        """`drop_space`: the text begins behind its first space, if there is one."""
        self._table = table
        self._drop_space = drop_space
        self._rest = b""  # of a character

    @property
    def waits(self) -> bool:
        """See TextDecoder."""
        return bool(self._rest)

    def push(self, token_id: int) -> str:
        """See TextDecoder."""
        data = self._rest + self._table[token_id]
        text, used = codecs.utf_8_decode(data, "replace", False)
        self._rest = data[used:]
        if text and self._drop_space:
            self._drop_space = False
            return text.removeprefix(" ")
        return text

    def finish(self) -> str:
        """See TextDecoder."""
        return self._rest.decode("utf-8", "replace")


class StagedText:
    """A TextDecoder that puts the vocabulary's texts (None: of no token, or hidden) through stages."""

    def __init__(self, texts: Mapping[int, str | None], stages: Sequence[Stage]) -> None:
        self._texts = texts
        self._stages = list(stages)
        self._runs = [stage for stage in stages if isinstance(stage, ByteRuns)]

    @property
    def waits(self) -> bool:
        """See TextDecoder."""
        return any(run.waits for run in self._runs)

    def push(self, token_id: int) -> str:
        """See TextDecoder."""
        text = self._texts[token_id]
        return "" if text is None else "".join(through([text], self._stages))

    def finish(self) -> str:
        """See TextDecoder."""
        return "".join(finished([copy(stage) for stage in self._stages]))


class Steps:
    """A decoder of the library, read once per tokenizer. `strips_space`: a text loses its first space."""

    def __init__(self, decoder: Any) -> None:
        """Raises FormatError for a step that the library of today does not have."""
        steps = [{"type": "Spaces"}] if decoder is None else _flatten(json.loads(decoder.__getstate__()))
        if unknown := [step["type"] for step in steps if step["type"] not in STEPS]:
            accepted = ", ".join(sorted(STEPS.keys() - {"Spaces"}))
            raise FormatError(f"unknown decoder {unknown[0]} in tokenizer.json; accepted: {accepted}")
        self._steps = [STEPS[step["type"]](step) for step in steps]
        self.strips_space = any(step.strips_space for step in self._steps)
        self.only_bytes = [step["type"] for step in steps] == ["ByteLevel"]

    def stages(self, *, continues: bool) -> list[Stage]:
        """Fresh stages. `continues`: the text goes on another one, so that no token is the first."""
        stages: list[Stage] = []
        joined = False
        for place, step in enumerate(self._steps):
            if not joined:
                stages.append(step.stage(continues=continues))
                joined = step.joins
            elif (stage := step.growing(continues=continues)) is not None:
                stages.append(stage)
            else:
                rest = [later.stage(continues=continues) for later in self._steps[place:]]
                return [*stages, Whole(rest)]
        return stages

    def bytes_of(self, text: str) -> bytes:
        """What a token adds in the middle of a text, by itself."""
        joined = False
        for step in self._steps:
            after = step.inside(text) if joined else step.alone(text)
            if isinstance(after, bytes):
                return after
            text, joined = after, joined or step.joins
        return text.encode()


def _flatten(step: dict[str, Any]) -> list[dict[str, Any]]:
    if step["type"] != "Sequence":
        return [step]
    return [leaf for inner in step["decoders"] for leaf in _flatten(inner)]
