"""The tokenizer in a GGUF file's metadata (keys `tokenizer.ggml.*`), for the `tokenizers` library.

Two kinds exist in the architectures that we read. `gpt2` is byte-level BPE: the file holds the merges, and
the key `tokenizer.ggml.pre` names the regular expressions that cut text into words first. `llama` is
SentencePiece BPE: the file holds one score per token (see `sentence_piece`).
Key reference: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md#tokenizer
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from outpace.core.errors import FormatError
from outpace.files.sentence_piece import Pieces
from outpace.files.tokenizer_json import library_error
from outpace.files.turn_ends import turn_ends

_MOST_ADDED = 1 << 16  # ten times what models have; the library's search for them takes 2 kB for each
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6

_GPT2_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_UNNAMED = (r"[\p{P}\$\+<=>\^~\|]+", _GPT2_WORDS, r"\p{N}+", "[0-9][0-9][0-9]")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Words:
    """How one `tokenizer.ggml.pre` cuts text into words: each pattern cuts what the ones before it left."""

    patterns: tuple[str, ...]
    nfc: bool = False  # Unicode composition before anything else, as the model was trained with
    whole_words: bool = False  # a word that is a token stays whole, whatever the merges say
    add_bos: bool = False  # unless the file says otherwise


_LLAMA3 = _Words(patterns=(_WORDS + r"\p{N}{1,3}" + _REST,), whole_words=True, add_bos=True)

_PRE: dict[str, _Words] = {
    "default": _Words(patterns=_UNNAMED),
    "gpt-2": _Words(patterns=(_GPT2_WORDS,)),
    "llama-bpe": _LLAMA3,
    "llama-v3": _LLAMA3,
    "llama3": _LLAMA3,
    "qwen2": _Words(patterns=(_WORDS + r"\p{N}" + _REST,), nfc=True),
    "smollm": _Words(patterns=(r"\p{N}", _GPT2_WORDS)),
    "tekken": _Words(patterns=(_TEKKEN,), whole_words=True, add_bos=True),
}
# Other names for the same, after llama.cpp's llama-vocab.cpp.
_SAME: dict[str, tuple[str, ...]] = {
    "default": ("",),
    "gpt-2": (
        *("a.x-4.0", "exaone4", "gigachat", "granite-docling", "jais", "jina-de", "jina-es", "jina-v2-de"),
        *("jina-v2-es", "mellum", "modern-bert", "mpt", "olmo", "phi-2", "trillion"),
    ),
    "llama3": ("falcon-h1", "falcon3", "jina-v5-nano", "lfm2", "midm-2.0", "pixtral"),
    "qwen2": ("deepseek-r1-qwen", "f2llmv2", "kormo", "megrez"),
    "smollm": ("codeshell", "command-r", "exaone", "minerva-7b", "refact", "starcoder"),
}
_NAMED = _PRE | {other: _PRE[name] for name, others in _SAME.items() for other in others}
# The same words and no more.
_NAMED |= dict.fromkeys(("chatglm-bpe", "dbrx", "glm4", "smaug-bpe"), _Words(patterns=_LLAMA3.patterns))
_NAMED |= dict.fromkeys(
    ("grok-2", "hunyuan", "solar-open", "stablelm2"), _Words(patterns=_PRE["qwen2"].patterns)
)

# Ends of texts and turns, by key and by name: whatever a file calls "the" end and whatever the token's type.
_END_KEYS = ("eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep")
_CODE_ENDS = (
    *("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<|file_sep|>"),
    *("<|fim_repo|>", "<fim-repo>", "<|repo_name|>", "<reponame>"),
)
# What `llama` files without these keys mean, if the tokens look like it.
_SENTENCE_PIECE_IDS = {
    "unknown": (0, ("<unk>",)),
    "bos": (1, ("<s>", "<bos>")),
    "eos": (2, ("</s>", "<eos>")),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufTokenizer:
    """What a GGUF file says about its tokenizer.

    `eos_ids` are those that the file itself names. `pieces` is for SentencePiece, None for the library's BPE.
    """

    backend: Tokenizer
    pieces: Pieces | None
    num_tokens: int
    bos_id: int | None
    eos_ids: frozenset[int]
    add_bos: bool


def read_gguf_tokenizer(metadata: Mapping[str, Any]) -> GgufTokenizer:
    """Builds the pipeline. Raises FormatError where a key of `tokenizer.ggml.*` is missing or wrong."""
    model = _get(metadata, "model", str, None)
    if (build := _MODELS.get(model)) is None:
        raise FormatError(f"unknown tokenizer.ggml.model {model!r}; accepted: {', '.join(sorted(_MODELS))}")
    tokens = _strings(metadata, "tokens")
    if not tokens:
        raise FormatError("tokenizer.ggml.tokens is empty")
    types = _types(metadata, len(tokens))
    ids = {name: _token_id(metadata, name, len(tokens)) for name in ("bos", "unknown", *_END_KEYS)}
    if model == "llama":
        for name, (token, texts) in _SENTENCE_PIECE_IDS.items():
            if ids[name] is None and token < len(tokens) and tokens[token] in texts:
                ids[name] = token
    bos_id, unknown_id = ids["bos"], ids["unknown"]
    first_id = {text: i for i, text in reversed(list(enumerate(tokens)))}
    special = (tokens[i] for i in np.flatnonzero(types == _CONTROL).tolist())
    ends = turn_ends(first_id.get, special) | {first_id[text] for text in _CODE_ENDS if text in first_id}
    eos_ids = frozenset(ends.union(i for name in _END_KEYS if (i := ids[name]) is not None))
    for i in eos_ids if bos_id is None else {bos_id, *eos_ids}:
        if types[i] != _UNKNOWN:
            types[i] = _CONTROL
    try:
        backend, add_bos, pieces = build(metadata, tokens, types, unknown_id)
        backend.add_special_tokens(_added(tokens, types, (_UNKNOWN, _CONTROL), special=True))
        backend.add_tokens(_added(tokens, types, (_USER_DEFINED,), special=False))
    except FormatError:
        raise
    except BaseException as error:  # the library panics, and raises nothing more specific
        raise FormatError(f"the tokenizer in the file is malformed: {library_error(error)}") from None
    return GgufTokenizer(
        backend=backend,
        pieces=pieces,
        num_tokens=len(tokens),
        bos_id=bos_id,
        eos_ids=eos_ids,
        add_bos=_get(metadata, "add_bos_token", bool, add_bos) and bos_id is not None,
    )


def _byte_level(
    metadata: Mapping[str, Any], tokens: Sequence[str], types: np.ndarray, unknown: int | None
) -> tuple[Tokenizer, bool, Pieces | None]:
    words = _NAMED.get(pre := _get(metadata, "pre", str, "default"))
    if words is None:
        accepted, others = (", ".join(sorted(filter(None, names))) for names in (_PRE, _NAMED.keys() - _PRE))
        raise FormatError(
            f"unknown tokenizer.ggml.pre {pre!r}; accepted: {accepted}, and as one of these {others}"
        )
    merges = _merges(metadata)
    keep = types != _UNUSED  # padding rows of the embedding are named too, but no text may become one of them
    if not keep.all():
        needed = {part for merge in merges for part in merge} | {left + right for left, right in merges}
        keep |= np.fromiter((text in needed for text in tokens), dtype=bool, count=len(tokens))
    backend = Tokenizer(models.BPE(_vocabulary(tokens, keep), merges, ignore_merges=words.whole_words))
    if words.nfc:
        backend.normalizer = normalizers.NFC()
    splits = [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in words.patterns]
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*splits, letters])
    backend.decoder = decoders.ByteLevel()
    return backend, words.add_bos, None


def _sentence_piece(
    metadata: Mapping[str, Any], tokens: Sequence[str], types: np.ndarray, unknown: int | None
) -> tuple[Tokenizer, bool, Pieces | None]:
    pre = _get(metadata, "pre", str, "default")
    if pre not in ("", "default"):
        raise FormatError(f"unknown tokenizer.ggml.pre {pre!r} of the tokenizer 'llama'; accepted: default")
    scores = _scores(metadata, len(tokens))
    scores[~np.isin(types, (_NORMAL, _USER_DEFINED, _UNUSED))] = np.nan
    unknown_text = None if unknown is None else tokens[unknown]
    vocab = _vocabulary(tokens, types != _UNUSED)
    padding = np.flatnonzero(types == _UNUSED).tolist()  # often all of one name
    unused = [i for i in padding if tokens[i] and vocab.setdefault(tokens[i], i) == i]
    backend = Tokenizer(models.BPE(vocab, [], unk_token=unknown_text, fuse_unk=True, byte_fallback=True))
    add_space = _get(metadata, "add_space_prefix", bool, True)
    strip = [decoders.Strip(" ", 1, 0)] if add_space else []
    to_text = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    backend.decoder = decoders.Sequence(to_text)
    return backend, True, Pieces.make(tokens, scores, unused, add_space=add_space)


_Build = Callable[
    [Mapping[str, Any], Sequence[str], np.ndarray, int | None], tuple[Tokenizer, bool, Pieces | None]
]
_MODELS: dict[str, _Build] = {"gpt2": _byte_level, "llama": _sentence_piece}


def _merges(metadata: Mapping[str, Any]) -> list[tuple[str, str]]:
    merges = []
    for text in _strings(metadata, "merges"):
        left, space, right = text.partition(" ")
        if not (left and space and right) or " " in right:
            raise FormatError(
                f"tokenizer.ggml.merges has {text!r}; each must be two tokens and a space between"
            )
        merges.append((left, right))
    return merges


def _vocabulary(tokens: Sequence[str], keep: np.ndarray) -> dict[str, int]:
    # An empty text can never be encoded and decodes to nothing: as good as absent.
    kept = [i for i in np.flatnonzero(keep).tolist() if tokens[i]]
    vocab = {tokens[i]: i for i in kept}
    if len(vocab) < len(kept):
        twice = next(tokens[i] for i in kept if vocab[tokens[i]] != i)
        raise FormatError(f"tokenizer.ggml.tokens holds {twice!r} twice")
    return vocab


def _added(
    tokens: Sequence[str], types: np.ndarray, kinds: tuple[int, ...], *, special: bool
) -> list[AddedToken]:
    found = np.flatnonzero(np.isin(types, kinds)).tolist()
    if len(found) > _MOST_ADDED:
        raise FormatError(
            f"tokenizer.ggml.token_type marks {len(found)} tokens as special or added; accepted: "
            f"{_MOST_ADDED}"
        )
    texts = (tokens[i] for i in found)
    return [AddedToken(text, special=special, normalized=False) for text in texts if text]


_T = TypeVar("_T")


def _get(metadata: Mapping[str, Any], name: str, kind: type[_T], default: _T | None) -> _T:
    value = metadata.get(f"tokenizer.ggml.{name}", default)
    if value is None:
        raise FormatError(f"the file has no tokenizer.ggml.{name}")
    if isinstance(value, np.bool_):
        value = bool(value)
    if not isinstance(value, kind):
        raise FormatError(f"tokenizer.ggml.{name} must be a {kind.__name__}, not a {type(value).__name__}")
    return value


def _strings(metadata: Mapping[str, Any], name: str) -> list[str]:
    values = metadata.get(f"tokenizer.ggml.{name}")
    if values is None:
        raise FormatError(f"the file has no tokenizer.ggml.{name}")
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if not isinstance(values, list | tuple) or not all(type(value) is str for value in values):
        raise FormatError(f"tokenizer.ggml.{name} must be a list of strings")
    return list(values)


def _types(metadata: Mapping[str, Any], num_tokens: int) -> np.ndarray:
    types = _numbers(metadata, "token_type", num_tokens, "iu")
    if types is None:
        return np.full(num_tokens, _NORMAL)
    if bad := sorted(set(np.unique(types).tolist()) - set(range(_BYTE + 1))):
        raise FormatError(f"tokenizer.ggml.token_type holds {bad[0]}; accepted: 0 to {_BYTE}")
    return types.astype(np.int64)


def _scores(metadata: Mapping[str, Any], num_tokens: int) -> np.ndarray:
    scores = _numbers(metadata, "scores", num_tokens, "fiu")
    if scores is None:
        raise FormatError("the file has no tokenizer.ggml.scores, which the tokenizer 'llama' needs")
    with np.errstate(over="ignore"):  # beyond float32 is infinite, as it is where such files are written
        scores = scores.astype(np.float32)
    if np.isnan(scores).any():
        raise FormatError("tokenizer.ggml.scores holds a value that is not a number")
    return scores


def _numbers(metadata: Mapping[str, Any], name: str, num_tokens: int, kinds: str) -> np.ndarray | None:
    values = metadata.get(f"tokenizer.ggml.{name}")
    if values is None:
        return None
    try:
        array = np.asarray(values)
    except ValueError:  # lists of several lengths
        array = np.empty((), dtype=object)
    if array.ndim != 1 or (array.size and array.dtype.kind not in kinds):
        raise FormatError(f"tokenizer.ggml.{name} must be a list of numbers")
    if len(array) != num_tokens:
        raise FormatError(f"tokenizer.ggml.{name} has {len(array)} entries for {num_tokens} tokens")
    return array


def _token_id(metadata: Mapping[str, Any], name: str, num_tokens: int) -> int | None:
    value = metadata.get(f"tokenizer.ggml.{name}_token_id")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise FormatError(f"tokenizer.ggml.{name}_token_id must be an integer, not a {type(value).__name__}")
    if not 0 <= value < num_tokens:
        raise FormatError(f"tokenizer.ggml.{name}_token_id is {value}; accepted: 0 to {num_tokens - 1}")
    return int(value)
