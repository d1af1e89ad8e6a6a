"""An answer as it comes, with what was drafted of it: kept drafts, dropped ones, the model's own tokens."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from outpace.cli import render, streams
from outpace.engine.text import TextStream

if TYPE_CHECKING:
    from outpace.core.tree import TokenTree
    from outpace.engine.engine import Event
    from outpace.files.tokenizer import Tokenizer

Fate = Literal["kept", "dropped", "own"]
COLOURS: dict[Fate, str] = {"kept": "32", "dropped": "9;31", "own": ""}  # green; red and struck through
MARKS: dict[Fate, tuple[str, str]] = {"kept": ("[", "]"), "dropped": ("{", "}"), "own": ("", "")}


class DraftedText(render.StreamedText):
    """Prints the events of one stream.

    text       makes text of tokens, as the stream itself does.
    tokenizer  for what was dropped. eos_ids: tokens that end the text and have none.
    """

    def __init__(self, text: TextStream, tokenizer: Tokenizer, eos_ids: Collection[int]) -> None:
        super().__init__()
        self._text, self._tokenizer, self._eos_ids = text, tokenizer, eos_ids
        self._coloured = streams.takes_colours()

    def show(self, event: Event) -> None:
        """Print what a step added."""
        for fate, piece in self._pieces(event):
            self._write(piece, fate)

    def finish(self) -> None:
        """Print what had to wait for more tokens."""
        self._write(self._text.finish(), "own")

    def legend(self) -> str:
        """What the colours, or the marks in their place, mean."""
        if self._coloured:
            return "green: drafted and kept; red, struck through: drafted and dropped; else: the model's own"
        return "[drafted and kept] {drafted and dropped} the model's own"

    def _pieces(self, event: Event) -> Iterator[tuple[Fate, str]]:
        kept = event.num_accepted
        for token in event.tokens[:kept]:
            yield "kept", self._said(token)
        if own := event.tokens[kept:]:
            yield "dropped", self._dropped(event)
        for token in own:
            yield "own", self._said(token)

    def _dropped(self, event: Event) -> str:
        text = TextStream(self._tokenizer, keep_first_space=True)
        return text.push(dropped(event.tree, event.path)) + text.finish()

    def _said(self, token: int) -> str:
        return "" if token in self._eos_ids else self._text.push([token])

    def _write(self, piece: str, fate: Fate) -> None:
        if piece:
            before, behind = ("", "") if self._coloured else MARKS[fate]
            self.write(f"{before}{piece}{behind}", COLOURS[fate])


def dropped(tree: TokenTree, path: Sequence[int]) -> list[int]:
    """The likeliest draft behind the last kept node, which the model did not go along with."""
    node, tokens = (path[-1] if path else 0), []
    while children := tree.children(node):
        node = children[0]
        tokens.append(tree.token_list[node])
    return tokens
