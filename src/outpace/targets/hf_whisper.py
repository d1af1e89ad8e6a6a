"""The work of Whisper's own `generate` before its loop: the decoder's first tokens, lengths, temperature."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

from outpace.core.errors import OutpaceError

_TASKS = ("transcribe", "translate")
# Options that would change the output, each with the values that do not; None never does.
_REFUSED: dict[str, tuple[Any, ...]] = {
    "monitor_progress": (),
    "no_speech_threshold": (),
    "prompt_ids": (),
    "return_segments": (False,),
    "return_timestamps": (False,),
    "return_token_timestamps": (False,),
}
SPEECH = (
    "forced_decoder_ids",
    "is_multilingual",
    "language",
    "task",
    # For recordings longer than a window, further temperatures, and time stamps.
    *("compression_ratio_threshold", "condition_on_prev_tokens", "force_unique_generate_call"),
    *("logprob_threshold", "num_segment_frames", "prompt_condition_type"),
    *("time_precision", "time_precision_features"),
    *_REFUSED,
)
"""Options of Whisper's `generate` that other models do not have."""


def check_speech(options: Any) -> dict[str, Any]:
    """How to sample, as options; OutpaceError for what is not available of Whisper's own options.

    options  an `Options` of the call and the model.
    """
    for name, neutral in _REFUSED.items():
        value = options[name]
        if value is not None and not any(value is one for one in neutral):
            raise OutpaceError(
                f"{name}={value!r} is not available here, accepted is {neutral[0] if neutral else None}"
            )
    if options.sampling is not None:
        return {}
    temperature = options.given.get("temperature")
    if isinstance(temperature, list | tuple):
        raise OutpaceError(f"temperature is {temperature!r}, accepted is one number, or None")
    samples = temperature is not None and temperature > 0
    return {"do_sample": samples, "temperature": temperature if samples else 1.0}


def longest_speech(wanted: Any, num_begun: int, config: Any) -> Any:
    """A `Wanted` whose max_length counts behind what the decoder begins with, as Whisper's does."""
    if wanted.max_new_tokens is not None:
        return wanted
    places = config.max_target_positions
    most = wanted.max_length or 20
    return replace(wanted, max_length=min(most + min(places // 2 - 1, num_begun), places))


def spoken_ids(options: Any, config: Any) -> list[int]:
    """Whisper's tokens behind the start: language and task, or those that old files list, no time stamps.

    options  an `Options`; config, the model's, which old files have the list in.
    """
    language, task = (_said(options, name) for name in ("language", "task"))
    if options["is_multilingual"] is False and any(options.given.get(name) for name in ("language", "task")):
        raise OutpaceError("the model speaks English alone, accepted are language=None and task=None")
    ids: list[int | None] = []
    if language is None and task is None:
        ids = _listed_ids(options["forced_decoder_ids"] or getattr(config, "forced_decoder_ids", None))
    languages, tasks = options["lang_to_id"], options["task_to_id"]
    if language is not None or (languages is not None and ids[:1] in ([], [None])):
        ids[:1] = [_language_id(language, languages or {})]
    if task is not None:
        if task not in _TASKS or task not in (tasks or {}):
            raise OutpaceError(f"task is {task!r}, accepted are {', '.join(tasks or {}) or None}")
        ids.append(tasks[task])
    elif language is not None and tasks is not None and not set(ids) & set(tasks.values()):
        ids.append(tasks["transcribe"])
    silent = options["no_timestamps_token_id"]
    if silent is not None and silent not in ids[-1:]:
        ids.append(silent)
    return [token for token in ids if token is not None]


def _said(options: Any, name: str) -> Any:
    """For these, a None in the call leaves what the generation_config says."""
    given = options.given.get(name)
    return options.set(name) if given is None else given


def _listed_ids(listed: Any) -> list[int | None]:
    """The tokens of pairs (place, token), which must be the places from 1 on."""
    pairs = [tuple(pair) for pair in listed or []]
    if [place for place, _ in pairs] != list(range(1, len(pairs) + 1)):
        raise OutpaceError(f"forced_decoder_ids is {listed!r}, accepted are pairs for the places from 1 on")
    return [token for _, token in pairs]


def _language_id(language: Any, languages: dict[str, int]) -> int:
    name = language.lower() if isinstance(language, str) else ""
    for code in (name, f"<|{TO_LANGUAGE_CODE.get(name)}|>", f"<|{name}|>"):
        if code in languages:
            return languages[code]
    known = ", ".join(sorted(code.strip("<|>") for code in languages)) or "none of this model's"
    raise OutpaceError(
        f"language is {language!r}, accepted are {known}, or decoder_input_ids of your own; no language is "
        "detected here"
    )
