"""What the contract suite runs on: one row per implementation buys every test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from outpace import drafters
from outpace.core.contracts import Drafter, Target
from outpace.core.costs import straight
from outpace.drafters import DRAFTERS
from outpace.rules import RULES
from outpace.targets.table import TableTarget
from outpace.trees import TREES
from tests.fakes import Letters, hostile
from tests.native_models import gguf_target

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


TARGETS: list[Callable[[Path], Target]] = [table, predictable_table, native_quantised, native_sliding]
"""Factories, given an empty folder, of targets with VOCAB_SIZE tokens or more and a context of 48 to 256;
called once per file."""

RULE_NAMES = RULES.names()

# Drafters of the table by name, and those that nobody should write: they change no output either.
HOSTILE = hostile(VOCAB_SIZE)
DRAFTER_SPECS = [*DRAFTERS.names(), "ngram:min_n=2,max_n=4,length=12", "ngram:max_n=1,length=3,max_length=3"]


def make_drafter(name: str, target: Target) -> Drafter:
    """A fresh drafter; "SPEC tree=SPEC" gives it a tree of its own."""
    if name in HOSTILE:
        return HOSTILE[name]
    spec, _, tree = name.partition(" tree=")
    policy = TREES.create(tree, costs=lambda: straight(0.1)) if tree else None
    return drafters.make_drafter(spec, policy, context_for(target))


def context_for(target: Target) -> dict[str, Any]:
    """What a model hands to its drafters, made of nothing but this target."""
    tokenizer = Letters("".join(chr(0x4E00 + token) for token in range(target.vocab_size)))
    return {
        "target": target,
        "tokenizer": tokenizer,
        "open_model": lambda source: draft_model(source, target, tokenizer),
        "memo": lambda name, make: make(),
        "costs": lambda: straight(0.1),
    }


def draft_model(source: str, target: Target, tokenizer: Letters) -> SimpleNamespace:
    """A model by name: "noisy", a table over the target's vocabulary that knows nothing of it."""
    assert source == "noisy", source
    table = TableTarget.random(
        vocab_size=target.vocab_size, order=1, seed=9, context_length=target.context_length
    )
    return SimpleNamespace(target=table, tokenizer=tokenizer)
