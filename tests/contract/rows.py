"""What the contract suite runs on: one row per implementation buys every test."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from outpace import drafters
from outpace.core.contracts import Drafter, Target
from outpace.drafters import DRAFTERS
from outpace.files.backoff import write_backoff
from outpace.files.datastore import vocabulary_id, write_datastore
from outpace.pricing.costs import straight
from outpace.rules import RULES
from outpace.targets.hf_causal import HfCausalTarget
from outpace.targets.hf_looped import HfLoopedTarget
from outpace.targets.table import TableTarget
from outpace.trees import TREES
from tests.dflash_heads import write_random_dflash
from tests.eagle_heads import write_random_eagle
from tests.exit_adapters import write_random_adapter
from tests.fakes import Letters, hostile
from tests.hf_families import tiny_looped, tiny_model
from tests.hf_seq2seq_families import OneSource, OneSourceInLoops, tiny_looped_seq2seq, tiny_seq2seq
from tests.looped_table import LoopedTable
from tests.made_heads import (
    write_random,
    write_random_early,
    write_random_hydra,
    write_random_markov,
    write_random_medusa,
)
from tests.native_loops import looped_model
from tests.native_models import gguf_target
from tests.pixel_models import OnePicture, tiny_pixel_model

FOLDER = tempfile.TemporaryDirectory(prefix="outpace-contract-")
VOCAB_SIZE = 8
"""Prompts of the suite use token ids below this; a target may have more."""


def table(folder: Path) -> Target:
    return TableTarget.random(vocab_size=VOCAB_SIZE, order=2, seed=3, context_length=64)


def predictable_table(folder: Path) -> Target:
    """So sure of the next token that a text soon repeats itself."""
    return TableTarget.random(vocab_size=VOCAB_SIZE, order=1, spread=6.0, seed=5, context_length=64)


def native_quantised(folder: Path) -> Target:
    return gguf_target(folder, "llama", "Q4_1", context_length=64)


def native_sliding(folder: Path) -> Target:
    """Sliding windows, two rotary tables, float weights and cache."""
    return gguf_target(folder, "gemma3", "F32", kv="f32", context_length=64)


def hf_causal(folder: Path) -> Target:
    """A transformers model with learned positions, in one layer: the suite runs it often."""
    return HfCausalTarget(tiny_model("gpt2", num_hidden_layers=1), context_length=64)


def hf_causal_sliding(folder: Path) -> Target:
    """One layer that slides and one that does not, each with its own mask. Linear layers by block kernels."""
    kinds = ["sliding_attention", "full_attention"]
    model = tiny_model("gemma3_text", num_hidden_layers=2, layer_types=kinds)
    return HfCausalTarget(model, context_length=64, kernels="block")


def hf_seq2seq(folder: Path) -> Target:
    """An encoder-decoder model with a relative bias, whose texts are all written from one source."""
    return OneSource(tiny_seq2seq("t5", num_layers=1, num_decoder_layers=1), context_length=64)


def pixel(folder: Path) -> Target:
    """Pictures of 8 x 8, all written from one small picture; a row and a half is in sight."""
    return OnePicture(tiny_pixel_model(window=12, num_layers=1))


def looped_table(folder: Path) -> Target:
    """Four loops; the outputs after the first three are right in two of three contexts."""
    return LoopedTable.of(4, 0.67, vocab_size=VOCAB_SIZE, order=2, seed=3, context_length=64)


def native_looped(folder: Path) -> Target:
    """Two layers that run three times, with a norm between."""
    return looped_model(folder, ("llama", "Q4_1", 2, 3, True, "f16"), context_length=64)


def hf_looped(folder: Path) -> Target:
    """A torch model of one layer in three loops."""
    return HfLoopedTarget(tiny_looped(), context_length=64)


def hf_looped_seq2seq(folder: Path) -> Target:
    """An encoder-decoder whose one decoder layer runs three times."""
    return OneSourceInLoops(tiny_looped_seq2seq(), context_length=64)


TARGETS: list[Callable[[Path], Target]] = [
    table,
    predictable_table,
    native_quantised,
    native_sliding,
    hf_causal,
    hf_causal_sliding,
    hf_seq2seq,
    pixel,
]
"""Factories, given an empty folder, of targets with VOCAB_SIZE tokens or more and a context of 48 to 256;
called once per file."""

QUANTISED = {native_quantised}
"""Those that round the matrices of others, and what these are multiplied with, to 8 bit in groups of 32."""

LOOPED: list[Callable[[Path], Target]] = [native_looped, hf_looped]
"""Looped models, for the drafters that are compared on one."""

CUTTABLE = {table, predictable_table, native_quantised, native_sliding, looped_table, native_looped}
"""Those that can begin a row with a part of another."""

TAPPED = [factory for factory in TARGETS if factory not in (table, predictable_table)]
"""Those whose hidden states can be had."""

HEADED = (
    "blockwise", "blockwise_lattice", "blockwise_local", "dflash", "eagle", "hydra", "markov_heads", "medusa",
)  # fmt: skip
NEEDS: dict[str, list[Callable[[Path], Target]]] = {
    **{name: [native_quantised, native_sliding, *LOOPED] for name in ("early_exit", "layer_skip", "swift")},
    "speed": [looped_table, native_looped, hf_looped, hf_looped_seq2seq],
    **{name: TAPPED for name in HEADED},
}
"""Drafter -> the targets that it can draft for, where it cannot for all. Others refuse it."""

RULE_NAMES = RULES.names()

# Drafters of the table by name, and those that nobody should write: they change no output either.
HOSTILE = hostile(VOCAB_SIZE)
NOTHING_WITHOUT_OPTIONS = {
    "small_model",
    "cascade",
    "retrieval",
    "blockwise",
    "blockwise_lattice",
    "blockwise_local",
    "dflash",
    "eagle",
    "hydra",
    "markov_heads",
    "medusa",
}
DRAFTER_SPECS = [
    *(name for name in DRAFTERS.names() if name not in NOTHING_WITHOUT_OPTIONS),
    "ngram:min_n=2,max_n=4,length=12",
    "ngram:max_n=1,length=3,max_length=3",
    "suffix:factor=4,min_p=0,max_depth=3,size=40",
    "suffix:factor=1,max_depth=8,store=5",
    "copy:length=1,min_match=1",
    "copy:length=12,min_match=3",
    "phrases:draft=none,num_phrases=1,phrase_length=12",
    "phrases:draft=[suffix:factor=4,size=7],num_phrases=9,phrase_length=2,pool=7",
    "phrases:draft=[phrases:draft=jacobi,phrase_length=1]",
    "retrieval:path=CORPUS",
    "retrieval:path=CORPUS,min_n=1,max_n=3,max_hits=5,length=3,size=40,min_p=0",
    "recycling:size=40,k=3",
    "bigram:size=3,copy=false",
    "bigram:size=30,depth=3",
    "backoff:size=20,min_p=0",
    "mix:drafts=ngram+backoff",
    "mix:drafts=[ngram:max_n=2]+suffix+recycling+[lookahead:window=2],size=9,depth=3",
    "small_model:model=noisy",
    "small_model:model=noisy tree=chain:length=9,min_p=0.3",
    "small_model:model=noisy tree=static",
    "small_model:model=noisy tree=dynamic",
    "small_model:model=noisy tree=sequoia",
    "small_model:model=noisy tree=opt_tree:size=30,gain=0.05",
    "small_model:model=noisy tree=survival:k=3,beta=0.02",
    "small_model:model=noisy,bridge=text",
    "small_model:model=noisy,bridge=intersection tree=static:widths=[2,2]",
    "cascade:model=noisy",
    "cascade:model=noisy,draft=[ngram:max_n=2],length=3,tail=4",
    "cascade:model=noisy,draft=[cascade:model=noisy,draft=none,length=2],length=5",
    "jacobi:length=1",
    "lookahead:window=1,ngram=2,candidates=1",
    "lookahead:window=7,ngram=5,candidates=3",
    "consensus:min_n=2,max_n=3,size=3,depth=2",
    "early_exit:layers=1",
    "early_exit:loops=1",
    "early_exit:loops=2 tree=static:widths=[2,2]",
    "early_exit:layers=2 tree=dynamic:size=9",
    "early_exit:layers=1 tree=static:widths=[2,2]",
    "early_exit:path=ADAPTER tree=chain:length=3",
    "early_exit:path=ADAPTER tree=static:widths=[2,2]",
    "mix:drafts=ngram+[early_exit:path=ADAPTER]",
    "layer_skip:skip=a1,stop=0",
    "layer_skip:skip=[0,m1],adapt=0.5,acceptance=0.5 tree=static:widths=[3,2]",
    "layer_skip:skip=a1,stop=0 tree=survival:prior=c2t,beta=auto",
    "swift:window=4,trials=9,ratio=0.5,enough=1",
    "swift:window=2,trials=3,ratio=0.3 tree=dynamic:size=7",
    "speed:early=2",
    "speed:early=1,second=2",
    "speed:early=1,second=2,draft=ngram",
    "speed:early=2,draft=[suffix:factor=4,min_p=0]",
    "speed:head=EARLY",
    "speed:head=EARLY,second=2,draft=ngram",
    "blockwise:path=HEADS",
    "blockwise:path=HEADS,heads=2,size=3,min_p=0",
    "blockwise:path=HEADS tree=chain:length=2",
    "blockwise:path=HEADS tree=static:widths=[2,2]",
    "blockwise_lattice:path=HEADS,size=9,min_p=0,alpha=1",
    "blockwise_local:path=HEADS,model=noisy",
    "blockwise_local:path=HEADS,model=noisy,alpha=0.5,ranks=2 tree=static:widths=[2,2]",
    "mix:drafts=ngram+[blockwise:path=HEADS]",
    "markov_heads:path=MARKOV,min_p=0",
    "markov_heads:path=MARKOV tree=static:widths=[2,2]",
    "mix:drafts=ngram+[markov_heads:path=MARKOV]",
    "medusa:path=MEDUSA,heads=2 tree=static:widths=[2,2]",
    "hydra:path=HYDRA",
    "hydra:path=HYDRA,heads=2 tree=static:widths=[2,2]",
    "hydra:path=HYDRA tree=survival:k=2,beta=0.01",
    "mix:drafts=ngram+[hydra:path=HYDRA]",
    "eagle:path=EAGLE",
    "eagle:path=EAGLE tree=static:widths=[2,2]",
    "dflash:path=DFLASH,min_p=0",
    "dflash:path=DFLASH tree=static:widths=[2,2]",
    "dflash:path=DSPARK,min_p=0",
    "mix:drafts=ngram+[dflash:path=DSPARK]",
]


def pairs(specs: Iterable[str]) -> list[Any]:
    """Each spec with each of the targets that its drafter can draft for, as pytest parameters."""
    return [
        pytest.param(factory, spec, id=f"{factory.__name__}-{spec}")
        for spec in specs
        for factory in targets_of(spec)
        if factory in ENOUGH or not is_variant(spec)
        # To drafters, a picture is a text like others: those of its own kind are enough for the clock.
        if factory is not pixel or spec.startswith(("none", "ngram", "blockwise"))
    ]


ENOUGH = (table, predictable_table, native_quantised)
"""For more options of a drafter that sees nothing but text."""


def is_variant(spec: str) -> bool:
    """Whether a drafter of texts has options here, and runs on every target with others."""
    name = spec.partition(":")[0]
    first = next((one for one in DRAFTER_SPECS if one.partition(":")[0] == name), spec)
    shaped = " tree=" in spec or name in NEEDS or any(one in spec for one in (*HEADED, "early_exit"))
    return spec != first and not shaped


def targets_of(spec: str) -> list[Callable[[Path], Target]]:
    """Those that a drafter with these options can draft for."""
    if "EARLY" in spec or "loops=" in spec:
        return LOOPED
    if "ADAPTER" in spec:
        return [native_quantised, native_sliding]
    if any(heads in spec for heads in ("HEADS", "MARKOV", "MEDUSA", "HYDRA", "EAGLE", "DFLASH", "DSPARK")):
        return [*TAPPED, *LOOPED]
    found = NEEDS.get(spec.partition(":")[0], TARGETS)
    return [*found, *LOOPED] if spec.startswith("ngram") else found


def make_drafter(name: str, target: Target, *, per_node: float = 0.1) -> Drafter:
    """A fresh drafter; "SPEC tree=SPEC" gives it a tree; CORPUS, HEADS, MARKOV, MEDUSA, HYDRA, EAGLE,
    DFLASH, DSPARK, EARLY and ADAPTER are files for the target.

    per_node  what a node costs: a share of a call.
    """
    if name in HOSTILE:
        return HOSTILE[name]
    spec, _, tree = name.partition(" tree=")
    spec = spec.replace("CORPUS", corpus(target.vocab_size)) if "CORPUS" in spec else spec
    for word in WRITERS:
        spec = spec.replace(word, written(word, target)) if word in spec else spec
    policy = TREES.create(tree, costs=lambda: straight(0.1)) if tree else None
    return drafters.make_drafter(spec, policy, context_for(target, per_node))


@cache
def corpus(vocab_size: int) -> str:
    """A datastore of random texts in the suite's few tokens, for targets of this vocabulary."""
    path = Path(FOLDER.name) / f"{vocab_size}.datastore"
    texts = [random.Random(seed).choices(range(VOCAB_SIZE), k=200) for seed in range(3)]
    vocabulary = vocabulary_id(letters(vocab_size).text_bytes, vocab_size)
    write_datastore(path, texts, vocab_size=vocab_size, vocabulary=vocabulary)
    return str(path)


FEW = range(VOCAB_SIZE)
WRITERS: dict[str, Callable[[Path, Any], object]] = {
    "HEADS": lambda path, target: write_random(path, target, token_ids=FEW),
    "MARKOV": lambda path, target: write_random_markov(path, target, token_ids=FEW, taps=("0", "final")),
    "MEDUSA": lambda path, target: write_random_medusa(path, target, token_ids=FEW),
    "HYDRA": lambda path, target: write_random_hydra(path, target, token_ids=FEW),
    "EAGLE": lambda path, target: write_random_eagle(
        path, target, taps=("0", "final"), num_tokens=VOCAB_SIZE
    ),
    "DFLASH": lambda path, target: write_random_dflash(
        path, target, token_ids=FEW, causal=(False, True), windows=(0, 5)
    ),
    "DSPARK": lambda path, target: write_random_dflash(
        path, target, num_layers=1, from_root=True, markov="rnn", rank=8
    ),
    "EARLY": write_random_early,
    "ADAPTER": lambda path, target: write_random_adapter(path, target, token_ids=FEW),
}
"""Word in a spec -> random heads of a target in a folder; most draft the suite's few tokens."""


def written(word: str, target: Any) -> str:
    """The folder of such heads, made once for each target."""
    name = target.fingerprint().rpartition(":")[2]
    path = Path(FOLDER.name) / f"{name}.{word.lower()}"
    if not path.exists():
        WRITERS[word](path, target)
    return str(path)


def letters(vocab_size: int) -> Letters:
    """The tokenizer of every target of the suite."""
    return Letters("".join(chr(0x4E00 + token) for token in range(vocab_size)))


def context_for(target: Target, per_node: float = 0.1) -> dict[str, Any]:
    """What a model hands to its drafters, made of nothing but this target."""
    tokenizer = letters(target.vocab_size)
    return {
        "target": target,
        "tokenizer": tokenizer,
        "open_model": lambda source: draft_model(source, target, tokenizer),
        "memo": lambda name, make, fits=None: make(),
        "beside": lambda name: counted(target.vocab_size),
        "costs": lambda: straight(per_node),
    }


@cache
def counted(vocab_size: int) -> Path:
    """A back-off table of the texts of `corpus`."""
    path = Path(FOLDER.name) / f"{vocab_size}.backoff"
    texts = [random.Random(seed).choices(range(VOCAB_SIZE), k=200) for seed in range(3)]
    write_backoff(path, texts, vocabulary=vocabulary_id(letters(vocab_size).text_bytes, vocab_size))
    return path


def draft_model(source: str, target: Target, tokenizer: Letters) -> SimpleNamespace:
    """A model by name: "noisy", a table over the target's vocabulary that knows nothing of it."""
    assert source == "noisy", source
    table = TableTarget.random(
        vocab_size=target.vocab_size, order=1, seed=9, context_length=target.context_length
    )
    return SimpleNamespace(target=table, tokenizer=tokenizer, costs=lambda: straight(0.1))
