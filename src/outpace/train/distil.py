"""Sequence-level distillation: outputs of a model in place of those of the data.

Kim & Rush 2016, arXiv:1606.07947. Heads agree more often with text that a model has written, because it is
more predictable (Stern et al. 2018, arXiv:1811.03115, section 6.1: beam search by a teacher of another seed).
The file is written a batch at a time, so an interrupted run goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from outpace.core.errors import OutpaceError
from outpace.files.json_files import json_value
from outpace.progress import Progress
from outpace.train.data import MAX_TOKENS, Pair, whole_lines


@dataclass(frozen=True, slots=True)
class Output:
    """What a teacher wrote: a text, its tokens with their end, and whether it ended before it was cut off."""

    text: str
    token_ids: list[int]
    ended: bool


Write = Callable[[Sequence[str]], list[Output]]
"""Texts -> an output for each."""

DISTILLED, TEACHER = "distilled.jsonl", "distilled.origin.json"
"""Where trainings keep the outputs, and note who wrote them."""
BATCH = 64
MAX_ID = 1 << 31  # of the file of states
PAGE = 32  # more than a row of the native cache takes beyond its tokens


def distil(
    pairs: Sequence[Pair],
    path: Path,
    write: Write,
    *,
    own: bool = False,
    vocab_size: int | None = None,
    batch: int = BATCH,
    progress: Progress | None = None,
) -> list[Pair]:
    """Each pair's text with what `write` makes of it, a line each in a file. Empty outputs are left out.

    own  whether the teacher is the model that is taught: then the pairs have its tokens, which it will say
         again. Encoded once more, some outputs become other tokens.

    vocab_size  of that model: a file with other tokens is refused.
    """
    texts = [pair.given for pair in pairs if isinstance(pair.given, str)]
    if len(texts) < len(pairs):
        raise OutpaceError("distillation reads texts, accepted are data with source or prompt")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        lines = whole_lines(path)
        most = MAX_ID if vocab_size is None else vocab_size
        if [_source(line, most) for line in lines] != texts[: len(lines)]:
            raise OutpaceError(
                f"{path} holds outputs of other data, or tokens of another model; accepted are the same or a "
                "new folder"
            )
        with path.open("rb+") as file:
            file.truncate(sum(map(len, lines)))
            file.seek(0, 2)
            for first in range(len(lines), len(texts), batch):
                some = texts[first : first + batch]
                records = [
                    {"source": source, "target": one.text, "token_ids": one.token_ids}
                    | ({} if one.ended else {"ended": False})
                    for source, one in zip(some, write(some), strict=True)
                ]
                file.write("".join(json.dumps(one) + "\n" for one in records).encode())
                file.flush()
                if progress is not None:
                    progress(first + len(some), len(texts), "writing the outputs of the teacher")
    except OSError as error:
        raise OutpaceError(f"cannot write {path}: {error.strerror or error}") from error
    kept = [pair for pair in map(_pair, path.read_text().splitlines()) if str(pair.wanted).strip()]
    if not kept:
        raise OutpaceError(f"the teacher has nothing to say to any of the {len(texts)} texts of the data")
    return kept if own else [replace(pair, token_ids=None) for pair in kept]


def _pair(line: str) -> Pair:
    record = json.loads(line)
    return Pair(record["source"], record["target"], record.get("ended", True), record["token_ids"])


def _source(line: bytes, vocab_size: int) -> object:
    """The text that a line is the output of; None for what is no such line."""
    try:
        record = json_value(line)
        ids = record["token_ids"]
        whole = isinstance(record["target"], str) and isinstance(record.get("ended", True), bool)
        known = isinstance(ids, list) and all(type(token) is int and 0 <= token < vocab_size for token in ids)
        return record["source"] if whole and known else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def longest_text(model: Any, tokenizer: Any) -> int:
    """How many tokens of a text a transformers model reads: MAX_TOKENS, or fewer if it has fewer places."""
    places = getattr(model.config, "max_position_embeddings", None) or MAX_TOKENS
    return min(MAX_TOKENS, places, getattr(tokenizer, "model_max_length", MAX_TOKENS))


def beam_search(model: Any, tokenizer: Any, *, beams: int = 4, max_new_tokens: int = 256) -> Write:
    """What `distil` writes with: a transformers encoder-decoder model, by beam search."""

    longest = longest_text(model, tokenizer)
    new = min(max_new_tokens, longest - 1)
    eos = model.generation_config.eos_token_id
    ends = frozenset([] if eos is None else [eos] if isinstance(eos, int) else eos)

    def write(texts: Sequence[str]) -> list[Output]:
        inputs = tokenizer(
            list(texts), return_tensors="pt", padding=True, truncation=True, max_length=longest
        ).to(model.device)
        with torch.no_grad():
            ids = model.generate(**inputs, num_beams=beams, do_sample=False, max_new_tokens=new)
        outputs: list[str] = tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [
            Output(text, said, said[-1:] != [] and said[-1] in ends)
            for text, said in zip(outputs, (_said(row, ends) for row in ids[:, 1:].tolist()), strict=True)
        ]

    return write


def _said(row: list[int], ends: frozenset[int]) -> list[int]:
    """A row of `generate` up to its end, without what fills it."""
    end = next((place for place, token in enumerate(row) if token in ends), len(row))
    return row[: end + 1]


def greedy(model: Any, *, max_new_tokens: int = 256) -> Write:
    """What `distil` writes with: one of our models, answering each text as a user's message."""
    from outpace.core.sampling import Sampling
    from outpace.engine.request import Request
    from outpace.targets.native import DEFAULT_CACHE_ROWS
    from outpace.train.self_text import decode_all

    room = DEFAULT_CACHE_ROWS * model.target.context_length

    def write(texts: Sequence[str]) -> list[Output]:
        groups: list[list[Request]] = []
        left = 0
        for text in texts:
            request = Request(model.prompt_ids(text), Sampling(), max_new_tokens)
            wanted = len(request.prompt) + max_new_tokens + PAGE
            if wanted > left:
                groups.append([])
                left = room
            groups[-1].append(request)
            left -= wanted
        answers = [answer for group in groups for answer in decode_all(model, group)]
        return [
            Output(model.tokenizer.decode(one.token_ids), one.token_ids, one.finish_reason == "stop")
            for one in answers
        ]

    return write
