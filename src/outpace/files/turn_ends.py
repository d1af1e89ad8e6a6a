"""The tokens that end a text or a turn, by name.

A chat model may end its turn with any of these, and its file names only one of them as the end. llama.cpp has
such a list too (`special_eog_ids` in llama-vocab.cpp).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

# No text has these but as a token of this meaning: files that call them normal or user-defined are wrong.
ANY_TYPE = frozenset(
    {
        *("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|eot|>", "<|end|>", "<|endoftext|>", "<|end_of_text|>"),
        *(
            "<end_of_turn>",
            "<|end_of_turn|>",
            "<|END_OF_TURN_TOKEN|>",
            "<end_of_utterance>",
            "<EOT>",
            "_<EOT>",
        ),
        *("<\uff5cend▁of▁sentence\uff5c>", "<turn|>"),
    }
)
# These may be text too, such as a tag of HTML.
SPECIAL = frozenset({"</s>", "<eos>", "[EOS]", "[EOT]"})


def turn_ends(id_of: Callable[[str], int | None], special: Iterable[str]) -> set[int]:
    """The ids of tokens that end a turn; `special` are the texts of the tokens that are no text."""
    names = ANY_TYPE | SPECIAL.intersection(special)
    return {token for name in names if (token := id_of(name)) is not None}
