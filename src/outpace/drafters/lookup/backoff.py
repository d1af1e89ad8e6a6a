"""Back-off n-grams, counted once on text that the model wrote itself: the statistical drafter.

Katz 1987 and Witten & Bell 1991 for the counts; as drafts: staged speculative decoding (Spector & Re 2023,
arXiv:2308.04623) and the statistical end of cascades (Chen et al. 2023, arXiv:2312.11462).

    table     every context of up to 5 tokens that occurred twice, with its likeliest next tokens
              (`files/backoff.py`; `outpace datastore count` makes it)
    propose   the `size` likeliest paths: product of the probabilities after the longest known context

It reads only the last few tokens, so it drafts from the first token on and never learns. It works best mixed
with `ngram`, which knows the current text (`mix`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from outpace.core.call import Prompt
from outpace.core.contracts import Target
from outpace.core.errors import OutpaceError
from outpace.core.options import checked, sizes, within
from outpace.core.steps import Ask, Step
from outpace.core.traits import Traits
from outpace.core.tree import TokenTree
from outpace.files.backoff import BackoffTable, read_backoff
from outpace.files.datastore import vocabulary_id
from outpace.heads.packaged import find_packaged_heads
from outpace.trees.likeliest import likeliest

METHOD, FILE_NAME = "backoff", "backoff.npz"


class Backoff:
    """Trees of the `size` likeliest paths, none less likely than `min_p`.

    path  a table made by `outpace datastore count`; None for the one stored with the model's packed weights
          or, if there is none, the one that comes with the package for it.
    """

    traits = Traits(branches=True)

    @checked
    def __init__(
        self,
        beside: Callable[[str], Path] | None,
        target: Target,
        tokenizer: Any,
        *,
        path: str | None = None,
        size: int = 6,
        min_p: float = 0.1,
    ) -> None:
        sizes("backoff", size=size)
        within("backoff", 0, 1, min_p=min_p)
        self.table = table_for(target, tokenizer, beside, path)
        self.size = size
        self.min_p = min_p

    def start(self, prompt: Prompt) -> list[int]:
        """The last tokens of the text are all that counts."""
        return list(prompt[-self.table.order :])

    def propose(self, states: Sequence[list[int]], asks: Sequence[Ask]) -> list[TokenTree]:
        """A tree for each row. logq: the table's log-probability after the parent."""
        return [
            likeliest(
                state,
                lambda text, depth: self.table.next(text),
                size=min(self.size, ask.budget),
                depth=ask.depth,
                min_p=self.min_p,
            )
            for state, ask in zip(states, asks, strict=True)
        ]

    def observe(self, states: Sequence[list[int]], steps: Sequence[Step]) -> list[list[int]]:
        """Move on."""
        order = self.table.order
        return [[*state, *step.tokens][-order:] for state, step in zip(states, steps, strict=True)]

    def stop(self, state: list[int]) -> None:
        """There is nothing to give back."""

    def successors(self, state: list[int], text: Sequence[int]) -> tuple[int, Sequence[tuple[int, float]]]:
        """(0, the likeliest tokens after a text with their probabilities)."""
        return 0, self.table.next(text)


def own_table(target: Target | None, beside: Callable[[str], Path] | None) -> Path | None:
    """The file of a model's own table, or of the one in the package, if there is one."""
    file = beside(FILE_NAME) if beside is not None else None
    if file is not None and file.exists():
        return file
    folder = find_packaged_heads(target, METHOD) if target is not None else None
    return folder / FILE_NAME if folder is not None else None


def table_for(
    target: Target, tokenizer: Any, beside: Callable[[str], Path] | None, path: str | None
) -> BackoffTable:
    """The table in a file, None for the model's own. An OutpaceError if it is missing or another model's."""
    file = Path(path) if path else own_table(target, beside)
    if file is None and beside is None:
        raise OutpaceError("a back-off table needs its FILE named, for a model that is no file itself")
    if file is None or not file.exists():
        missing = file or (beside and beside(FILE_NAME))
        raise OutpaceError(f"there is no back-off table {missing}; `outpace datastore count` makes one")
    table = read_backoff(file)
    # A model whose tokenizer cannot be read has nothing but the number of its tokens.
    size = target.vocab_size
    vocabulary = vocabulary_id(tokenizer.text_bytes, size) if tokenizer else f"{size} ids"
    if table.vocabulary != vocabulary or table.max_token >= size:
        raise OutpaceError(f"the back-off table {file} was counted in another vocabulary; count it anew")
    return table
