"""Logits processors of transformers and of users, asked node by node: what `model.generate` does to logits.

The list is the one that transformers makes of the same options, the user's processors in it, so order and
arithmetic are its own. It is asked about a node when somebody reads the choice or the law there, with the
node's whole text as `input_ids`.

    input_ids  i64[1, T] on the model's device: padding, prompt, what was written, and the path to the node
    scores     f32[1, V] there too, the raw logits; a processor may write into them

A processor must be a function of these two. Nodes are asked about in any order, and most texts that they
belong to are never written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList

from outpace.core.edits import ComputedEdit, TextEdit, edited, known_edit
from outpace.core.errors import OutpaceError
from outpace.targets.hf_called import Listed

FIELDS = (
    "bad_words_ids",
    "begin_suppress_tokens",
    "encoder_no_repeat_ngram_size",
    "encoder_repetition_penalty",
    "exponential_decay_length_penalty",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "no_repeat_ngram_size",
    "repetition_penalty",
    "sequence_bias",
    "suppress_tokens",
)
"""The fields of a GenerationConfig that processors are made of, lengths and end tokens aside."""

# Of transformers' own, the refused ones are no functions of one row's tokens and scores.
_REFUSED = {
    "ClassifierFreeGuidanceLogitsProcessor": "reads the scores of two texts at once",
    "DiaClassifierFreeGuidanceLogitsProcessor": "reads the scores of two texts at once",
    "DiaEOSDelayPatternLogitsProcessor": "counts its calls",
    "EncoderNoRepeatNGramLogitsProcessor": "reads the rows of a batch by their numbers: give "
    "encoder_no_repeat_ngram_size",
    "EncoderRepetitionPenaltyLogitsProcessor": "reads the rows of a batch by their numbers: give "
    "encoder_repetition_penalty",
    "PrefixConstrainedLogitsProcessor": "reads the rows of a batch by their numbers: give "
    "prefix_allowed_tokens_fn",
    "SynthIDTextWatermarkLogitsProcessor": "keeps a state from call to call",
    "UnbatchedClassifierFreeGuidanceLogitsProcessor": "keeps a cache from call to call",
    "WhisperNoSpeechDetection": "runs the model once more, and keeps what it says",
}
_PROCESSORS = Listed(
    option="logits_processor",
    kinds="a LogitsProcessorList and a list of processors",
    exact="processors that are functions of one row's input_ids and scores",
    refused=_REFUSED,
    no=(type, list),  # transformers does not call a list within a list
)


@dataclass(frozen=True, slots=True)
class Processing:
    """What a call says of processors.

    model     the transformers model, or what stands for it.
    settings  FIELDS that are set, as transformers takes them.
    customs   the user's processors, in their order.
    allowed   `prefix_allowed_tokens_fn`: (number of a row, i64[T]) -> the tokens that may follow.
    """

    model: Any
    settings: Mapping[str, Any]
    customs: Sequence[Any] = ()
    allowed: Callable[[int, Tensor], Any] | None = None

    def edit(
        self,
        *,
        width: int,
        padding: Sequence[int],
        source: Sequence[int],
        lengths: Mapping[str, int | None],
        ends: Sequence[int],
        number: int,
        known: TextEdit | None,
        before: TextEdit | None,
    ) -> NodeProcessors:
        """The edits of one row.

        width    tokens that the text begins with, `padding` included. source: what its encoder read, if any.
        lengths  min_length, min_new_tokens and max_length. ends: tokens that end the text.
        number   of the row, for `allowed`.
        known    the same edits, as far as they can be told without the logits. before: what comes first.
        """
        device = self.model.device
        config = GenerationConfig()  # type: ignore[no-untyped-call]
        for name, value in {**self.settings, **lengths, "num_beams": 1, "do_sample": False}.items():
            setattr(config, name, value)
        config._eos_token_tensor = torch.tensor(ends, device=device) if ends else None
        mask = torch.arange(width, device=device)[None] >= len(padding)
        allowed = self.allowed
        try:
            listed = self.model._get_logits_processor(
                generation_config=config,
                input_ids_seq_length=width,
                encoder_input_ids=torch.tensor([source], device=device) if source else None,
                prefix_allowed_tokens_fn=None if allowed is None else lambda _, ids: allowed(number, ids),
                logits_processor=LogitsProcessorList(self.customs),
                device=device,
                model_kwargs={"attention_mask": mask},
            )
        except (TypeError, ValueError) as error:
            why = " ".join(str(error).split())
            raise OutpaceError(f"transformers refuses the logits processors: {why}") from error
        customs = {id(one) for one in self.customs}
        pairs = [(one, id(one) in customs) for one in listed]
        return NodeProcessors(pairs, device, padding, known, before)


class NodeProcessors:
    """The edits of a request by processors in their order: see `Request.edit`."""

    def __init__(
        self,
        processors: Sequence[tuple[Any, bool]],
        device: Any,
        padding: Sequence[int],
        known: TextEdit | None,
        before: TextEdit | None,
    ) -> None:
        """processors  each with whether it is the user's: what these return is checked."""
        self._processors = processors
        self._device = device
        self._padding = padding
        self._known = known
        self._before = before
        self._tried = False  # whether every processor of the user's was asked about one node twice

    def __call__(self, text: Sequence[int], path: Sequence[int]) -> ComputedEdit:
        """What changes the logits behind a text and a path, as long as the text has not grown."""
        return ComputedEdit(
            partial(self._compute, text, tuple(path), len(text)), partial(self._guess, text, tuple(path))
        )

    def _guess(self, text: Sequence[int], path: Sequence[int]) -> Any:
        return None if self._known is None else known_edit(self._known(text, path))

    def _compute(
        self, text: Sequence[int], path: Sequence[int], length: int, logits: NDArray[np.floating]
    ) -> NDArray[np.floating]:
        assert len(text) == length, "a node is read before its text grows"
        if self._before is not None:
            logits = edited(logits, self._before(text, path))
        ids = torch.tensor([[*self._padding, *text, *path]], device=self._device)
        scores = torch.from_numpy(logits).to(self._device)[None]
        with torch.no_grad():
            for processor, is_custom in self._processors:
                again = scores.clone() if is_custom and not self._tried else None
                before = scores.shape, scores.dtype
                scores = processor(ids.clone() if is_custom else ids, scores)
                if is_custom:
                    _check(processor, scores, *before)
                if again is not None and not _same(scores, processor(ids.clone(), again)):
                    raise OutpaceError(
                        f"the logits processor {_name(processor)} gives other scores when it is asked about "
                        "one text again, accepted are functions of input_ids and scores alone"
                    )
        self._tried = True
        found: NDArray[np.floating] = scores[0].detach().cpu().numpy()
        return found


def check_processors(given: Any) -> tuple[Any, ...]:
    """The processors of a call, or an OutpaceError for what is no list of them, or cannot be exact."""
    return tuple(_PROCESSORS.read(given))


def _check(processor: Any, scores: Any, shape: Sequence[int], dtype: torch.dtype) -> None:
    """Raise an OutpaceError unless a processor's scores are like those that it was given."""
    if isinstance(scores, Tensor) and scores.shape == shape and scores.dtype == dtype:
        return
    is_tensor = isinstance(scores, Tensor)
    found = f"{scores.dtype}{list(scores.shape)}" if is_tensor else f"a {type(scores).__name__}"
    raise OutpaceError(
        f"the logits processor {_name(processor)} returns {found}, accepted is {dtype}{list(shape)}, as it "
        "was given"
    )


def _same(one: Tensor, other: Any) -> bool:
    """Whether two results are equal; what is no number equals itself."""
    return isinstance(other, Tensor) and torch.equal(torch.nan_to_num(one), torch.nan_to_num(other))


def _name(processor: Any) -> str:
    return getattr(processor, "__name__", type(processor).__name__)
