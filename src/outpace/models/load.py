"""One door: whatever a model is, `load` gives its face."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, overload

from outpace.core.contracts import Drafter, Rule, Target, TreePolicy
from outpace.core.errors import OutpaceError
from outpace.core.machine import default_threads
from outpace.core.options import accept_object, checked
from outpace.core.traits import check_traits
from outpace.models import text
from outpace.models.face import OWN
from outpace.models.options import LoadOptions
from outpace.models.text import Model
from outpace.targets import TARGETS
from outpace.targets.hf_folders import has_encoder

if TYPE_CHECKING:
    from outpace.models.seq2seq import AcceleratedSeq2Seq
    from outpace.models.transformers import Accelerated
    from outpace.targets.hf_types import Model as TheirModel
    from outpace.targets.hf_types import PreTrainedModel, PreTrainedTokenizerBase

VERBS = ("open", "score", "keep", "fork", "free", "length")


@overload
def load(source: str | Path | Target, **options: Unpack[LoadOptions]) -> Model: ...


@overload
def load(
    source: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None = None,
    **options: Unpack[LoadOptions],
) -> Accelerated | AcceleratedSeq2Seq: ...


@checked
def load(source: Any, tokenizer: Any = None, **options: Unpack[LoadOptions]) -> Any:
    """Load a model and make it ready to generate.

    source          short name, path of a .gguf file or of a Hugging Face folder, hub id; `name:option=value`
                    of a target that another package has (docs/extending.md); a Target; or a model of
                    transformers, which `accelerate` wraps, as it does that of an encoder-decoder's folder.
    tokenizer       of a transformers model.
    threads         threads to compute with; None for the physical cores.
    quantize        "q8" or "q4": round float weights of a folder to 8 or 4 bit; None keeps them.
    context_length  a smaller context than the model's own, in tokens.
    kv              "f16" or "f32": precision of cached keys and values.
    cache_tokens    tokens that all unfinished texts may hold together, prompts included; None for 4 contexts.
    progress        called with (done, total, label) while the model is fetched and packed.

    What is no file takes none of these but context_length, and that only if it is a model of transformers.
    """
    is_torch = callable(getattr(source, "state_dict", None))
    if tokenizer is not None and not is_torch:
        raise OutpaceError("a tokenizer goes with a transformers model, others bring theirs")
    if is_torch:
        context_length = options.pop("context_length", None)
        _refuse(options, "a transformers model takes no", "context_length")
        return accelerate(source, tokenizer, context_length=context_length)
    if isinstance(source, str | Path):
        if not _is_target(str(source)):
            folder = Path(os.path.expanduser(source))
            return _load_seq2seq(folder, options) if has_encoder(folder) else text.load(source, **options)
        made, name = TARGETS.create(str(source)), str(source)
        accept_object(f"the target {source}", made, VERBS, "Targets")
    elif not isinstance(source, type) and all(callable(getattr(source, verb, None)) for verb in VERBS):
        made, name = source, type(source).__name__
    else:
        return text.load(source)  # which says what is accepted
    _refuse(options, "a target takes no", "its own options, name:option=value")
    check_traits(made)
    tokenizer, chat = getattr(made, "tokenizer", None), getattr(made, "chat", None)
    return Model(None, made, name=name, num_threads=default_threads(), tokenizer=tokenizer, chat=chat)


@checked
def accelerate(
    model: TheirModel,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    draft: str | Drafter | TheirModel | None = OWN,
    tree: str | TreePolicy | None = None,
    rule: str | Rule = "match",
    draft_tokenizer: PreTrainedTokenizerBase | None = None,
    context_length: int | None = None,
    kernels: str = "torch",
) -> Accelerated | AcceleratedSeq2Seq:
    """Put a transformers model, which stays as it is, together with a drafter.

    model            a decoder-only or encoder-decoder model in eval mode, on any device, in any float type;
                     also in a PeftModel whose adapters are layers of it, such as LoRA.
    tokenizer        its tokenizer, for text in and text out, and for drafters that read text.
    draft            `name:option=value,...`, a Drafter, or a smaller transformers model; None for no drafts.
                     Where none is named, a looped model drafts for itself (`speed`) and others have `ngram`.
    tree             the shape of a model-based draft, `name:option=value,...`; None for the drafter's own, or
                     of a transformers model as draft for as many tokens as have paid of late, maybe none.
    rule             what to accept of a draft; "match" gives the tokens of plain decoding.
    draft_tokenizer  of a draft model with another vocabulary than the model's.
    context_length   a smaller context than the model's own, in tokens.
    kernels          who multiplies in linear layers: "torch", or "block", whose calls of some nodes are
                     cheaper where the model runs in float32 on a CPU, at the price of a copy of its weights.

    Raises OutpaceError for a model that cannot keep a path of a tree, and for parts that do not go together.
    """
    from outpace.models.seq2seq import AcceleratedSeq2Seq
    from outpace.models.transformers import Accelerated
    from outpace.targets.hf_wrapped import plain_model

    has_encoder = getattr(plain_model(model).config, "is_encoder_decoder", False)
    kind = AcceleratedSeq2Seq if has_encoder else Accelerated
    fast = kind(model, tokenizer, context_length=context_length, kernels=kernels)
    fast.choose(draft, tree, rule, draft_tokenizer, kernels)
    return fast


def _load_seq2seq(folder: Path, options: LoadOptions) -> Any:
    from outpace.targets.hf_folders import open_seq2seq

    context_length = options.pop("context_length", None)
    _refuse(options, "an encoder-decoder, which runs in torch, takes no", "context_length")
    model, tokenizer = open_seq2seq(folder)
    return accelerate(model, tokenizer, context_length=context_length)


def _is_target(source: str) -> bool:
    """Whether a text names a target of another package: files, folders and known names go before these."""
    from outpace.files.catalog import CATALOG

    name, colon, _ = source.partition(":")
    if not name.isidentifier() or source in CATALOG or os.path.exists(os.path.expanduser(source)):
        return False
    names = TARGETS.plugins()
    if colon and name not in names:
        installed = ", ".join(names) or "those of other packages, of which none is installed"
        raise OutpaceError(f"unknown target {name!r}, accepted are {installed}")
    return name in names


def _refuse(options: LoadOptions, what: str, accepted: str) -> None:
    for option, value in options.items():
        if option != "progress" and value is not None:
            raise OutpaceError(f"{what} {option}, accepted is {accepted}")
