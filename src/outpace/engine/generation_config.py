"""What `generate` of transformers would do: its options over a model's generation_config, as ours.

An option that we do not have is refused by name, wherever it was set, unless its value changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from outpace.core.errors import OutpaceError
from outpace.core.sampling import Sampling, fresh_seed
from outpace.engine.request import Request

OPTIONS = (
    "max_new_tokens",
    "max_length",
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "seed",
    "eos_token_id",
    "pad_token_id",
)
# What transformers takes where neither the call nor the model says anything.
_DEFAULTS = {"do_sample": False, "temperature": 1.0, "top_k": 50, "top_p": 1.0, "min_p": 0.0}
_DEFAULT_NEW_TOKENS = 20
# Options that would change the output, each with the values that do not; None never does.
_WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "assistant_early_exit": (),
    "assistant_model": (),
    "bad_words_ids": (),
    "begin_suppress_tokens": (),
    "constraints": (),
    "dola_layers": (),
    "encoder_repetition_penalty": (1.0,),
    "epsilon_cutoff": (0.0,),
    "eta_cutoff": (0.0,),
    "exponential_decay_length_penalty": (),
    "force_words_ids": (),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "guidance_scale": (1.0,),
    "logits_processor": ([],),
    "max_time": (),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "no_repeat_ngram_size": (0,),
    "num_beams": (1,),
    "num_return_sequences": (1,),
    "output_attentions": (False,),
    "output_hidden_states": (False,),
    "output_logits": (False,),
    "output_scores": (False,),
    "penalty_alpha": (0.0,),
    "prompt_lookup_num_tokens": (),
    "remove_invalid_values": (False,),
    "renormalize_logits": (False,),
    "repetition_penalty": (1.0,),
    "return_dict_in_generate": (False,),
    "sequence_bias": (),
    "stop_strings": (),
    "stopping_criteria": ([],),
    "suppress_tokens": (),
    "token_healing": (False,),
    "top_h": (),
    "typical_p": (1.0,),
    "use_cache": (True,),
    "use_mtp": (False,),
    "watermarking_config": (),
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a call of `generate` asks for. `pad_id` follows a text that ended before its companions."""

    sampling: Sampling
    eos_ids: frozenset[int]
    pad_id: int | None
    max_new_tokens: int | None
    max_length: int | None

    def request(self, prompt: list[int], *, width: int, number: int = 0) -> Request:
        """The request of one row of a batch whose prompts are padded to a width.

        The rows of a batch have noise of their own; the first has that of the seed itself.
        """
        most = self.max_new_tokens
        if most is None:
            most = _DEFAULT_NEW_TOKENS if self.max_length is None else self.max_length - width
        if most < 1:
            raise OutpaceError(
                f"max_new_tokens={self.max_new_tokens} and max_length={self.max_length} leave no new token "
                f"after {width}, accepted are max_new_tokens >= 1 or max_length > {width}"
            )
        sampling = self.sampling
        if number:
            sampling = replace(sampling, seed=fresh_seed(sampling.seed, "row", number))
        return Request(prompt, sampling, most, eos_ids=self.eos_ids)


def read_options(given: Mapping[str, Any], config: Any) -> Wanted:
    """The options of a call over those of a generation_config; OutpaceError for what we do not have."""
    _refuse_others(given, config)

    def value(name: str) -> Any:
        found = given.get(name)
        if found is None:
            found = getattr(config, name, None)
        return _DEFAULTS.get(name) if found is None else found

    sampling = Sampling()
    if value("do_sample"):
        names = ("temperature", "top_k", "top_p", "min_p")
        sampling = Sampling(**{name: value(name) for name in names}, seed=given.get("seed") or 0)
    eos_ids = _ids(value("eos_token_id"))
    pad_id = value("pad_token_id")
    lengths = {name: given.get(name) for name in ("max_new_tokens", "max_length")}
    if all(length is None for length in lengths.values()):
        lengths = {name: value(name) for name in lengths}
    return Wanted(
        sampling,
        frozenset(eos_ids),
        pad_id if pad_id is not None or not eos_ids else eos_ids[0],
        **lengths,
    )


def _refuse_others(given: Mapping[str, Any], config: Any) -> None:
    for name, value in given.items():
        if name in OPTIONS or value is None or value in _WITHOUT_EFFECT.get(name, ()):
            continue
        raise OutpaceError(f"generate has no option {name}={value!r}, accepted are {', '.join(OPTIONS)}")
    for name, neutral in _WITHOUT_EFFECT.items():
        value = getattr(config, name, None)
        if value is None or value in neutral or given.get(name) is not None:
            continue
        instead = repr(neutral[0]) if neutral else None
        how = f"pass {name}={instead}" if neutral else "set it to None in model.generation_config"
        raise OutpaceError(
            f"the model's generation_config has {name}={value!r}, which is not available here, accepted is "
            f"{instead}: {how} to go without"
        )


def _ids(listed: Any) -> list[int]:
    """One id, several or none; on any device."""
    if listed is None:
        return []
    if hasattr(listed, "tolist"):
        listed = listed.tolist()
    return [int(token) for token in (listed if isinstance(listed, list | tuple) else [listed])]
