"""The options of transformers' `generate`, over a model's generation_config, as ours.

Every field of a GenerationConfig and every argument of `generate` is in one of three tables: honoured,
refused by name unless its value changes nothing, or without effect here whatever its value. A field of a
later transformers is in none of them and is refused by name once it is set.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from functools import cache, partial
from numbers import Real
from typing import Any, SupportsIndex

from outpace.core.edits import PENALTIES
from outpace.core.errors import OutpaceError
from outpace.core.options import number, shown
from outpace.core.sampling import Sampling, given_sampling
from outpace.models.processors import NEVER, Rules
from outpace.models.wanted import Wanted
from outpace.targets.hf_processors import FIELDS, Processing, check_processors
from outpace.targets.hf_stopping import read_stopping

OPTIONS = (
    "max_new_tokens",
    "max_tokens",
    "max_length",
    "min_new_tokens",
    "min_length",
    "do_sample",
    "sampling",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "seed",
    "eos_token_id",
    "pad_token_id",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "encoder_repetition_penalty",
    "exponential_decay_length_penalty",
    "bad_words_ids",
    "sequence_bias",
    "suppress_tokens",
    "begin_suppress_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "prefix_allowed_tokens_fn",
    "logits_processor",
    "stopping_criteria",
    "stop_strings",
    "generation_config",
)
# The defaults of transformers, where neither the call nor the model names a value.
_DEFAULTS = {"do_sample": False, "temperature": 1.0, "top_k": 50, "top_p": 1.0}
MOST = 2**31  # tokens, where the context alone ends a text
# Options that would change the output, each with the values that do not; None never does.
REFUSED: dict[str, tuple[Any, ...]] = {
    "assistant_early_exit": (),
    "assistant_model": (),
    "cache_implementation": (
        "dynamic",
        "static",
        "offloaded",
        "offloaded_static",
        "sliding_window",
        "hybrid",
        "hybrid_chunked",
        "offloaded_hybrid",
        "offloaded_hybrid_chunked",
    ),
    "constraints": (),
    "custom_generate": (),
    "dola_layers": (),
    "force_words_ids": (),
    "guidance_scale": (1.0,),
    "is_assistant": (False,),
    "max_time": (),
    "negative_prompt_ids": (),
    "num_beams": (1,),
    "num_return_sequences": (1,),
    "output_attentions": (False,),
    "output_hidden_states": (False,),
    "output_logits": (False,),
    "output_scores": (False,),
    "penalty_alpha": (0.0,),
    "prompt_lookup_num_tokens": (),
    "remove_invalid_values": (False,),
    "return_dict_in_generate": (False,),
    "streamer": (),
    "synced_gpus": (False,),
    "token_healing": (False,),
    "trust_remote_code": (False,),
    "use_mtp": (False,),
    "watermarking_config": (),
}
# The same for options that choose among tokens: without `do_sample` they change nothing.
REFUSED_SAMPLING: dict[str, tuple[Any, ...]] = {
    "epsilon_cutoff": (0.0,),
    "eta_cutoff": (0.0,),
    "top_h": (),
    "typical_p": (1.0,),
}
WITHOUT_EFFECT = frozenset(
    {
        # For drafts by another model, beams, caches and compilation, which are not used here.
        *("assistant_confidence_threshold", "assistant_ensemble_weight", "assistant_lookbehind"),
        *("assistant_tokenizer", "num_assistant_tokens", "num_assistant_tokens_schedule"),
        *("target_lookbehind", "max_matching_ngram_size", "speculation_type"),
        *("diversity_penalty", "early_stopping", "length_penalty", "low_memory", "num_beam_groups"),
        *("cache_config", "compile_config", "continuous_batching_config", "disable_compile"),
        *("max_cache_len", "prefill_chunk_size", "use_cache"),
        # For texts without a prompt, for texts in general, and for the file.
        *("bos_token_id", "decoder_start_token_id", "negative_prompt_attention_mask", "tokenizer"),
        "transformers_version",
        "renormalize_logits",  # it adds the same to all logits
    }
)


class Options:
    """The options of a call over a model's generation_config: what is given counts, a None too, as "none".

    given   of the call. A generation_config among them goes before the model's, as far as it is set.
    config  the model's.
    """

    def __init__(self, given: Mapping[str, Any], config: Any) -> None:
        own = given.get("generation_config")
        if own is not None and not hasattr(own, "to_dict"):
            raise OutpaceError(f"generation_config is a {type(own).__name__}, accepted is a GenerationConfig")
        self.given = {name: value for name, value in given.items() if name != "generation_config"}
        self._configs = [one for one in (own, config) if one is not None]
        self.sampling = given_sampling(self.given, "do_sample")
        if self.sampling is not None:
            self.given["do_sample"] = self.sampling.temperature > 0
        if "max_tokens" in self.given:  # as native models have it
            if "max_new_tokens" in self.given:
                raise OutpaceError("max_tokens and max_new_tokens are given, accepted is one of them")
            most = self.given.pop("max_tokens")
            self.given["max_new_tokens"] = MOST if most is None else most

    def set(self, name: str) -> Any:
        """The value in a generation_config; None if none has it."""
        found = (getattr(config, name, None) for config in self._configs)
        return next((value for value in found if value is not None), None)

    def __getitem__(self, name: str) -> Any:
        if name in self.given:
            return self.given[name]
        value = self.set(name)
        return _DEFAULTS.get(name) if value is None else value

    def names(self) -> list[str]:
        """The fields of the generation_configs, in the order of their class."""
        return list(dict.fromkeys(name for config in self._configs for name in _fields(config.__class__)))


def read_options(
    given: Mapping[str, Any],
    config: Any,
    *,
    model: Any,
    tokenizer: Any,
    draw_seed: Callable[[], int],
    others: Collection[str] = (),
) -> Wanted:
    """The options of a call over those of a generation_config; OutpaceError for what we do not have.

    model      of transformers, whose processors are wanted. tokenizer: its tokenizer, or None.
    draw_seed  for sampling without a seed.
    others     names of further options of the call, which the caller reads.
    """
    options = Options(given, config)
    _refuse_others(options, others)
    sampling = options.sampling or Sampling()
    if options["do_sample"] and options.sampling is None:
        names = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
        filters = {name: _number(name, options[name], off) for name, off in names.items()}
        seed = options.given.get("seed")
        sampling = Sampling(**filters, seed=draw_seed() if seed is None else seed)
    eos_ids = ids_of("eos_token_id", options["eos_token_id"])
    pad_ids = ids_of("pad_token_id", options["pad_token_id"])
    lengths = {
        name: _length(name, options[name])
        for name in ("max_new_tokens", "max_length", "min_new_tokens", "min_length")
    }
    if lengths["max_new_tokens"] is None and options.given.get("max_length", 0) is None:
        raise OutpaceError("max_length is None, accepted are whole numbers >= 1, or max_new_tokens")
    rules = _rules(options, eos_ids, greedy=sampling.temperature == 0)
    given_tokenizer = options.given.get("tokenizer")
    return Wanted(
        sampling,
        frozenset(eos_ids),
        next(iter(pad_ids or eos_ids), None),
        lengths["max_new_tokens"],
        lengths["max_length"],
        lengths["min_new_tokens"],
        lengths["min_length"] or 0,
        rules,
        processing=_processing(options, model, rules.penalty),
        stopping=read_stopping(
            options["stopping_criteria"],
            options["stop_strings"],
            tokenizer if given_tokenizer is None else given_tokenizer,
            model.device,
        ),
    )


def _processing(options: Options, model: Any, penalty: float) -> Processing | None:
    """What only transformers' own processors can do; None where there is nothing of it."""
    customs, allowed = check_processors(options["logits_processor"]), options["prefix_allowed_tokens_fn"]
    if not (allowed is None or callable(allowed)):
        raise OutpaceError(
            f"prefix_allowed_tokens_fn is {shown(allowed)}, accepted are functions of a row's number and its "
            "tokens, and None"
        )
    decay, given = options["exponential_decay_length_penalty"], options["encoder_repetition_penalty"]
    is_pair = isinstance(decay, list | tuple) and len(decay) == 2
    if decay is not None and not (is_pair and all(isinstance(one, Real) for one in decay)):
        raise OutpaceError(
            f"exponential_decay_length_penalty is {shown(decay)}, accepted are (start, factor) and None"
        )
    of_source = number("encoder_repetition_penalty", 1.0 if given is None else given, *PENALTIES)
    if not customs and allowed is None and decay is None and of_source == 1:
        return None
    settings = {name: options[name] for name in FIELDS}
    settings |= {"repetition_penalty": penalty, "encoder_repetition_penalty": of_source}
    empty = [name for name, value in settings.items() if isinstance(value, list | tuple | dict) and not value]
    return Processing(model, settings | dict.fromkeys(empty), customs, allowed)


def _rules(options: Options, eos_ids: list[int], *, greedy: bool) -> Rules:
    biases = [(ids, float(bias)) for ids, bias in _biases(options["sequence_bias"])]
    words = options["bad_words_ids"] or []
    if not isinstance(words, list | tuple):
        raise OutpaceError(f"bad_words_ids is {shown(words)}, accepted is a list of lists of token ids")
    for word in map(partial(ids_of, "bad_words_ids"), words):
        biases += [(tuple(word), NEVER)] if word and not (len(word) == 1 and word[0] in eos_ids) else []
    forced = [ids_of(name, options[name]) for name in ("forced_bos_token_id", "forced_eos_token_id")]
    for name, ids in zip(("forced_bos_token_id", "forced_eos_token_id"), forced, strict=True):
        if len(ids) > 1 and (not greedy or "bos" in name):
            raise OutpaceError(f"{name} is {ids}, accepted is one token id, or None")
    penalty = options["repetition_penalty"]
    return Rules(
        biases=tuple(biases),
        penalty=number("repetition_penalty", 1.0 if penalty is None else penalty, *PENALTIES),
        no_repeat=_length("no_repeat_ngram_size", options["no_repeat_ngram_size"]) or 0,
        no_repeat_source=_length("encoder_no_repeat_ngram_size", options["encoder_no_repeat_ngram_size"])
        or 0,
        ends=frozenset(eos_ids),
        forced_first=min(forced[0], default=None),
        forced_last=min(forced[1], default=None),  # all are as likely, and the first of equals is chosen
        banned=frozenset(ids_of("suppress_tokens", options["suppress_tokens"])),
        banned_first=frozenset(ids_of("begin_suppress_tokens", options["begin_suppress_tokens"])),
    )


def _biases(given: Any) -> list[tuple[tuple[int, ...], float]]:
    """A sequence_bias: token ids to what is added, as a mapping or a list of pairs."""
    pairs = list(given.items()) if isinstance(given, Mapping) else given or []
    try:
        biases = [(tuple(ids_of("sequence_bias", list(ids))), float(bias)) for ids, bias in pairs if ids]
        if any(math.isnan(bias) for _, bias in biases):
            raise ValueError("nan is no number to add")
        return biases
    except (TypeError, ValueError) as error:
        raise OutpaceError(
            f"sequence_bias is {shown(given)}, accepted are a mapping from tuples of token ids to numbers "
            "and a list of such pairs"
        ) from error


def _refuse_others(options: Options, others: Collection[str]) -> None:
    refused = REFUSED | (REFUSED_SAMPLING if options["do_sample"] else {})
    fine = {*OPTIONS, *WITHOUT_EFFECT, *REFUSED_SAMPLING, *others} - set(refused)
    for name, value in options.given.items():
        if name in fine or value is None or _is_one_of(value, refused.get(name, ())):
            continue
        accepted = f"{name}={refused[name][0]!r} and " if refused.get(name) else ""
        raise OutpaceError(
            f"generate has no option {name}={shown(value)}, accepted are {accepted}{', '.join(OPTIONS)}"
        )
    for name in dict.fromkeys([*refused, *options.names()]):
        value = options.set(name)
        if name in fine or name in options.given or value is None or _is_one_of(value, refused.get(name, ())):
            continue
        instead = repr(refused[name][0]) if refused.get(name) else None
        raise OutpaceError(
            f"the model's generation_config has {name}={shown(value)}, which is not available here, accepted "
            f"is {instead}: pass {name}={instead} to go without"
        )


@cache
def _fields(kind: type) -> tuple[str, ...]:
    """The fields of a kind of generation_config that are unset in a new one."""
    return tuple(name for name, value in vars(kind()).items() if value is None and not name.startswith("_"))


def _is_one_of(value: Any, accepted: tuple[Any, ...]) -> bool:
    """Whether a plain value is one of these; a tensor, which compares by element, never is."""
    return isinstance(value, bool | int | float | str | list) and value in accepted


def _number(name: str, value: Any, off: float) -> Any:
    if value is None:
        return off
    if not isinstance(value, Real):
        raise OutpaceError(f"{name} is {shown(value)}, accepted are numbers and None")
    return value


def _length(name: str, value: Any) -> int | None:
    if value is None:
        return None
    if not isinstance(value, SupportsIndex) or isinstance(value, bool) or value.__index__() < 0:
        raise OutpaceError(f"{name} is {shown(value)}, accepted are whole numbers >= 0 and None")
    return value.__index__()


def ids_of(name: str, listed: Any) -> list[int]:
    """One id, several or none; on any device. OutpaceError, with the option's name, for anything else."""
    if listed is None:
        return []
    if hasattr(listed, "tolist"):
        listed = listed.tolist()
    ids = list(listed) if isinstance(listed, list | tuple | set | frozenset) else [listed]
    if not all(isinstance(token, int) and not isinstance(token, bool) for token in ids):
        raise OutpaceError(f"{name} is {shown(listed)}, accepted are a token id, a list of them, and None")
    return ids
