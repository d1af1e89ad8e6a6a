"""Text that a model writes itself: user messages of its own, each answered by it.

Drafts have to agree with one model, so nothing fits them better than that model's own text. A user message is
sampled behind the chat template's opening of a user turn (after Xu et al. 2024, arXiv:2406.08464), half of
them behind one of a few everyday openers, so that short questions, sums, translations and lists of facts
occur too; the answer is decoded as `answers` says, greedily by default. A model without a chat template
continues its beginning-of-text token instead.

A group of `batch` messages is a function of (model, seed, group number) alone, so an interrupted run goes on
with the next group and gives the same text as one that was not interrupted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from outpace.core.contracts import Drafter, Target
from outpace.core.errors import OutpaceError
from outpace.core.sampling import Sampling, fresh_seed
from outpace.drafters.none import NoDraft
from outpace.engine.generate import events, result_of
from outpace.engine.request import Generation, Request
from outpace.files.json_files import json_value
from outpace.rules.match import Match
from outpace.targets.native import DEFAULT_CACHE_ROWS
from outpace.train.data import are_ids
from outpace.train.recording import Recorder

if TYPE_CHECKING:
    from outpace.models.text import Model

OPENERS = (
    "Write a", "Write a short", "Explain", "Explain how", "Describe", "What is", "What are the", "Who",
    "When did", "Where is", "Why", "How do I", "How many", "How does", "Which", "Can you", "Give me",
    "List", "Name three", "Compare", "Summarize the following text:", "Summarize:", "Translate to English:",
    "Translate to German:", "Translate to French:", "Rewrite this sentence:", "Correct the grammar:",
    "Answer the question:", "Solve:", "Calculate", "A farmer has", "A train leaves", "If", "Tom has",
    "There are", "Let's", "Pretend that you are", "You are", "Imagine", "Act as", "Read the passage:",
    "Extract the names from:", "Classify:", "Context:", "Write a Python function that", "Write code",
    "Fix this program:", "Implement", "Create a table of", "Prove that", "Tell me a story about", "Discuss",
    "What happened", "In what year",
)  # fmt: skip
OWN_TEXT = "own.jsonl"  # where documents are kept, as JSON lines
MAX_MESSAGE, MAX_ANSWER = 120, 256
MESSAGES = Sampling(temperature=1.0, top_p=0.95)
PATIENCE = 500  # messages without an end
BATCH, ROW = 48, 512  # documents of a group where the cache has room for as many of these tokens


@dataclass(frozen=True, slots=True)
class Document:
    """One exchange as token ids: what the model read (template included) and what it answered.

    states  f16[n, T * D], what each token of the answer was chosen from, at T taps; None where nobody
            recorded them.
    """

    group: int
    prompt_ids: Sequence[int]
    token_ids: list[int]
    states: NDArray[np.float16] | None = None


def written_line(line: bytes) -> tuple[int, int]:
    """(group, how many tokens) of a line of own text; ValueError for what is none."""
    record = json_value(line)
    group = record.get("group") if isinstance(record, dict) else None
    ids = [record.get(name) for name in ("prompt_ids", "token_ids")] if isinstance(record, dict) else []
    if type(group) is not int or not 0 <= group < 1 << 32 or not ids or not all(map(are_ids, ids)):
        raise ValueError("its lines have a group from 0 on, prompt_ids and token_ids")
    return group, len(record["token_ids"])


def batch_for(target: Target) -> int:
    """How many documents a model writes at once."""
    return max(1, min(BATCH, target.context_length * DEFAULT_CACHE_ROWS // ROW))


def own_text_name(tokens: int, seed: int) -> str:
    """Names the text of a run that asks for so many tokens; one with another name does not go on with it."""
    return f"own text, seed {seed}, {tokens} tokens"


def write_text(
    model: Model,
    *,
    seed: int = 0,
    first_group: int = 0,
    batch: int = 48,
    answers: Sampling | None = None,
    max_answer: int = MAX_ANSWER,
    record: Sequence[str] = (),
) -> Iterator[list[Document]]:
    """Group after group of documents, without end. Messages longer than MAX_MESSAGE tokens are left out.

    An OutpaceError for a model that ends none of PATIENCE of them.

    `record` names taps: the hidden states there that the answers were chosen from are kept. The target has to
    be `Tapped`.
    """
    group, recorder = first_group, Recorder(record) if record else None
    empty = 0
    while True:
        pairs = _group(model, seed, group, batch, answers or Sampling(), max_answer, recorder or NoDraft())
        empty = 0 if pairs else empty + batch
        if empty >= PATIENCE:
            raise OutpaceError(
                f"{model.name} ends none of {empty} user messages of its own within {MAX_MESSAGE} tokens, "
                "accepted are models that do, or texts of yours"
            )
        states = recorder.take() if recorder else [None] * len(pairs)
        yield [
            Document(group, request.prompt, answer.token_ids, recorded)
            for (request, answer), recorded in zip(pairs, states, strict=True)
        ]
        group += 1


def _group(
    model: Model, seed: int, group: int, batch: int, answers: Sampling, max_answer: int, watch: Drafter
) -> list[tuple[Request, Generation]]:
    seeds = [fresh_seed(seed, "message", group, number) for number in range(batch)]
    if model.chat is None:
        start = model.tokenizer.encode("", add_special_tokens=True) or [min(model.target.eos_ids, default=0)]
        samplings = [replace(MESSAGES, seed=one) for one in seeds]
        requests = [Request(start, sampling, max_answer) for sampling in samplings]
        return list(zip(requests, decode_all(model, requests, watch), strict=True))
    mark = "\x00"
    before, _, after = model.chat.render([{"role": "user", "content": mark}]).partition(mark)
    ends = frozenset(model.tokenizer.encode(after, add_special_tokens=False)[:1])
    openers = [OPENERS[one % len(OPENERS)] if one & 64 else "" for one in seeds]
    messages = decode_all(
        model,
        [
            Request(
                model.tokenizer.encode(before + opener, add_special_tokens=False),
                replace(MESSAGES, seed=one),
                MAX_MESSAGE,
                eos_ids=ends,
            )
            for opener, one in zip(openers, seeds, strict=True)
        ],
    )
    texts = [
        opener + model.tokenizer.decode(message.token_ids[:-1])
        for opener, message in zip(openers, messages, strict=True)
        if message.finish_reason == "stop"
    ]
    requests = [
        Request(model.prompt_ids(text), answers, max_answer) for text in map(str.strip, texts) if text
    ]
    return list(zip(requests, decode_all(model, requests, watch), strict=True))


def decode_all(model: Model, requests: list[Request], watch: Drafter | None = None) -> list[Generation]:
    """The requests decoded plainly, side by side: many rows share each pass over the weights.

    `watch` is a drafter that drafts nothing and looks on.
    """
    if not requests:
        return []
    return result_of(events(model.target, watch or NoDraft(), Match(), requests))
