"""What a transformers target refuses before it runs anything: prompts and trees that its rows cannot hold."""

from __future__ import annotations

from collections.abc import Sequence

from outpace.core.errors import OutpaceError, PromptTooLong
from outpace.core.tree import TokenTree
from outpace.targets.hf_cache import SlotCache


def texts_of(
    prompts: Sequence[Sequence[int]], drafts: Sequence[Sequence[int]] | None, context_length: int
) -> tuple[list[list[int]], list[list[int]]]:
    """(each prompt with the drafts behind it, depths of the nodes that are scored) of a `prefill`.

    Raises PromptTooLong for a prompt that does not fit, OutpaceError for an empty one.
    """
    check_prompts(prompts, context_length)
    drafts = [()] * len(prompts) if drafts is None else drafts
    texts = [[*prompt, *draft] for prompt, draft in zip(prompts, drafts, strict=True)]
    assert max(map(len, texts)) <= context_length, "drafts fit behind their prompts"
    return texts, [list(range(1 + len(draft))) for draft in drafts]


def keep_prompts(
    cache: SlotCache,
    rows: Sequence[int],
    prompts: Sequence[Sequence[int]],
    drafts: Sequence[Sequence[int]] | None,
) -> None:
    """Commit the prompts, or with drafts all but the last tokens, which are the roots of those."""
    counts = [len(prompt) - (drafts is not None) for prompt in prompts]
    held = [(row, range(1, count)) for row, count in zip(rows, counts, strict=True) if count]
    cache.keep([row for row, _ in held], [path for _, path in held])


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
