"""A data card beside text that a model has written itself: what it is, how it was made, what it is not.

Gebru et al. 2018, "Datasheets for Datasets", arXiv:1803.09010, as short as a generated text allows.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from outpace.core.errors import one_line
from outpace.files.json_files import json_value
from outpace.files.whole import write_whole
from outpace.train.data import whole_lines
from outpace.train.self_text import MAX_ANSWER, MAX_MESSAGE, MESSAGES, OPENERS

if TYPE_CHECKING:
    from outpace.core.sampling import Sampling
    from outpace.models.text import Model


def write_card(text: Path, model: Model, answers: Sampling, seed: int) -> Path:
    """Write the card of own text beside it, as NAME.card.md. Returns its file."""
    documents = [json_value(line) for line in whole_lines(text)]
    ends = model.target.eos_ids
    prompts = sum(len(one["prompt_ids"]) for one in documents)
    lengths = [len(one["token_ids"]) for one in documents]
    ended = sum(bool(one["token_ids"]) and one["token_ids"][-1] in ends for one in documents)
    asked = (
        "none: it goes on from the beginning of a text"
        if model.chat is None
        else f"its own, temperature {MESSAGES.temperature:g}, top_p {MESSAGES.top_p:g}, at most "
        f"{MAX_MESSAGE} tokens; half of them begin with one of {len(OPENERS)} everyday openers"
    )
    said = "the likeliest tokens" if answers.temperature == 0 else f"temperature {answers.temperature:g}"
    facts = {
        "model": one_line(model.name),
        "documents": len(documents),
        "tokens of prompts": prompts,
        "tokens of answers": sum(lengths),
        "answers that ended by themselves": ended,
        "questions": asked,
        "answers": f"{said}, at most {MAX_ANSWER} tokens",
        "seed": seed,
        "format": "JSON lines: group, prompt_ids (chat template included), token_ids",
    }
    table = "\n".join(f"| {name} | {fact} |" for name, fact in facts.items())
    card = text.with_suffix(".card.md")
    write_whole(
        card,
        f"""# Text that a model wrote itself

| | |
| --- | --- |
{table}

**Made for** drafts for this very model: tables and heads that guess what it will say. No person wrote any of
it, no benchmark was read.

**Not made for** training a model to be right: what it says may be false, in bad taste, or close to texts that
the model was trained on. Its questions are those that it finds likely, in the languages that it knows best.
The terms of the model hold for its output.
""".encode(),
    )
    return card
