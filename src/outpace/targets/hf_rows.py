"""What a transformers target refuses before it runs anything: prompts and trees that its rows cannot hold."""

from __future__ import annotations

from collections.abc import Sequence

from outpace.core.errors import OutpaceError, PromptTooLong
from outpace.core.tree import TokenTree
from outpace.targets.hf_cache import SlotCache


def check_prompts(prompts: Sequence[Sequence[int]], context_length: int) -> None:
    """Raises PromptTooLong for a prompt that does not fit, OutpaceError for an empty one."""
    for prompt in prompts:
        if not prompt:
            raise OutpaceError("the prompt is empty, accepted are prompts of 1 token or more")
        if len(prompt) > context_length:
            raise PromptTooLong(f"the prompt has {len(prompt)} tokens, the context holds {context_length}")


def check_room(
    cache: SlotCache, rows: Sequence[int], trees: Sequence[TokenTree], context_length: int
) -> None:
    """Raises OutpaceError for a tree that does not fit behind its row's tokens."""
    assert len(rows) == len(trees), "one tree for each row"
    for row, tree in zip(rows, trees, strict=True):
        length = cache.length(row)
        if length + tree.num_nodes > context_length:
            raise OutpaceError(
                f"the row holds {length} tokens and {tree.num_nodes} were to be scored, "
                f"the context holds {context_length}"
            )
