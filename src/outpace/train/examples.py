"""What frozen heads of a native model learn from: its states over answers, from a file or of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from outpace.core.errors import OutpaceError
from outpace.progress import Progress
from outpace.train.data import MAX_TOKENS, Pair, data_hash
from outpace.train.features import ENDS, FeatureFile, Features, add_answers
from outpace.train.origin import ORIGIN, claim
from outpace.train.own_states import write_own_text
from outpace.train.recording import FINAL
from outpace.train.self_text import OWN_TEXT, own_text_name

if TYPE_CHECKING:
    from outpace.models.text import Model

FEATURES = "features"


def native_features(
    model: Model,
    folder: Path,
    pairs: Sequence[Pair],
    *,
    own_text: int,
    seed: int,
    taps: Sequence[str] = (FINAL,),
    path: Path | None = None,
    progress: Progress | None,
) -> tuple[Features, str]:
    """(the model's states at these taps over the answers of the pairs, what names the data).

    own_text  if not 0: over so many tokens that the model writes itself instead. Both are kept in the folder,
              and the same call goes on with what it has; another number is refused.
    path      where that text is; None: in the folder.
    """
    target: Any = model.target
    target.tap(*taps)
    data = own_text_name(own_text, seed) if own_text else data_hash(pairs)
    facts = {"target": target.fingerprint(), "data": data}
    if tuple(taps) != (FINAL,):
        facts["taps"] = ", ".join(taps)
    states = folder / FEATURES
    claim(states / ORIGIN, facts, begun=(states / ENDS).exists())
    file = FeatureFile(states, len(taps) * target.hidden_size)
    if own_text:
        data = write_own_text(model, file, path or folder / OWN_TEXT, own_text, seed, progress, taps=taps)
    else:
        texts = token_pairs(pairs, model, min(MAX_TOKENS, target.context_length))
        add_answers(file, target, texts, taps=taps, progress=progress)
    return file.read(), data


def token_pairs(pairs: Sequence[Pair], model: Model, limit: int) -> list[tuple[list[int], list[int]]]:
    """Pairs as token ids, `limit` at most for both; texts go through the chat template and get an end."""
    end = sorted(model.tokenizer.eos_ids)[:1]
    vocab_size = model.target.vocab_size
    found: list[tuple[list[int], list[int]]] = []
    for pair in pairs:
        if isinstance(pair.given, list) and isinstance(pair.wanted, list):
            given, wanted = pair.given, pair.wanted
        else:
            given = model.prompt_ids(str(pair.given))
            wanted = pair.token_ids or [
                *model.tokenizer.encode(str(pair.wanted), add_special_tokens=False),
                *(end if pair.ended else []),
            ]
        if max(*given, *wanted) >= vocab_size:
            raise OutpaceError(
                f"the data has the token id {max(*given, *wanted)}, accepted are 0 to {vocab_size - 1}"
            )
        if len(given) < limit:
            found.append((given, wanted[: limit - len(given)]))
    if not found:
        raise OutpaceError(f"every input of the data has {limit} tokens or more, accepted are shorter ones")
    return found
