"""A trace: what was drafted for one text step by step, what was kept of it, what it cost. One JSON document.

version, kind    VERSION and KIND
model, draft     names; draft is "none" where a request may have no drafts
sampling         as of `Sampling`; prompt_tokens: how many the prompt has
steps            one for every call that gave tokens:
    tree         tokens, their texts and the parents of all nodes; node 0 is the last token before. With
                 `sources`, who drafted each, where a drafter of several tells
    kept         the drafted nodes that became text, from the root on
    own          the model's own token behind them, with its text; null where the text ends before it
    said         what each of these tokens added to the text: all of them together are the text
    draft_s, call_s   seconds of the drafter and of the call, which rows of one call share. The first
                 step's are with the prompt's
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import asdict
from typing import Any

from outpace.core.tree import TokenTree
from outpace.engine.engine import Event
from outpace.engine.text import TextStream
from outpace.files.tokenizer import Tokenizer

VERSION = 1
KIND = "outpace trace"


class Trace:
    """Collects the events of one request.

    text       makes text of its tokens, as the request's own does; it is the trace's from then on.
    eos_ids    the target's.
    """

    def __init__(
        self, text: TextStream, tokenizer: Tokenizer, eos_ids: Collection[int], *, model: str, draft: str
    ) -> None:
        self._text, self._tokenizer, self._eos_ids = text, tokenizer, eos_ids
        self._head: dict[str, Any] = {"version": VERSION, "kind": KIND, "model": model, "draft": draft}
        self._steps: list[dict[str, Any]] = []

    def add(self, event: Event, *, last: bool) -> dict[str, Any]:
        """Takes an event, the request's last or another; a trace with that step alone.

        The event's job may be steps ahead by now.
        """
        request = event.job.output.request
        if request.eos_ids is not None:
            self._eos_ids = request.eos_ids
        if not self._steps:
            self._head["draft"] = self._head["draft"] if request.budget else "none"
            self._head |= {"sampling": asdict(request.sampling), "prompt_tokens": len(request.prompt)}
        kept = event.num_accepted
        step = {
            "tree": self._tree(event.tree),
            "kept": list(event.path[:kept]),
            "own": self._own(event.tokens[kept:]),
            "said": list(self._said(event.tokens, last)),
            "draft_s": event.times.draft_s,
            "call_s": event.times.call_s,
        }
        self._steps.append(step)
        return {**self._head, "steps": [step]}

    def whole(self) -> dict[str, Any]:
        """All of it so far."""
        return {**self._head, "steps": list(self._steps)}

    def _tree(self, tree: TokenTree) -> dict[str, Any]:
        tokens = tree.token_list
        made: dict[str, Any] = {
            "tokens": list(tokens),
            "texts": [self._written(token) for token in tokens],
            "parents": list(tree.shape.parent_list),
        }
        return made if tree.sources is None else {**made, "sources": tree.sources()}

    def _own(self, tokens: list[int]) -> dict[str, Any] | None:
        return {"token": tokens[0], "text": self._written(tokens[0])} if tokens else None

    def _said(self, tokens: list[int], last: bool) -> Iterator[str]:
        for left, token in zip(range(len(tokens) - 1, -1, -1), tokens, strict=True):
            piece = "" if token in self._eos_ids else self._text.push([token])
            yield piece + self._text.finish() if last and left == 0 else piece

    def _written(self, token: int) -> str:
        return self._tokenizer.token_bytes(token).decode("utf-8", "replace")
