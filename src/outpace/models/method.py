"""A method: a draft, the tree that shapes it and the rule that judges it, written as one text.

    small_model:model=draft.gguf tree=dynamic:size=20 rule=block

is a draft, and behind spaces, if they are not to be the usual ones, its tree and its rule.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass

from outpace.core.errors import OutpaceError
from outpace.core.registry import Registry
from outpace.drafters import DRAFTERS, check_takes_tree
from outpace.rules import RULES
from outpace.trees import TREES


@dataclass(frozen=True, slots=True)
class Method:
    """Three specs. `tree` None is the drafter's own. `str` gives the text that `parse` reads."""

    draft: str
    tree: str | None = None
    rule: str = "match"

    @classmethod
    def parse(cls, text: str, *, tree: str | None = None, rule: str = "match") -> Method:
        """The method of a text; `tree` and `rule` are for a text that does not name its own."""
        draft, *rest = _parts(text)
        keys = [part.partition("=")[0] for part in rest]
        if len(set(keys)) < len(keys):
            twice = max(keys, key=keys.count)
            raise OutpaceError(f"{text!r} names its {twice} twice, accepted is DRAFT tree=TREE rule=RULE")
        named = dict(part.split("=", 1) for part in rest)
        return cls(draft, named.get("tree", tree), named.get("rule", rule))

    def check(self) -> None:
        """Raise an OutpaceError for whatever can be seen to be wrong before a model is there."""
        _check(DRAFTERS, self.draft)
        if self.tree is not None:
            _check(TREES, self.tree)
            check_takes_tree(self.draft)
        _check(RULES, self.rule)

    def __str__(self) -> str:
        tree = "" if self.tree is None else f" tree={self.tree}"
        return self.draft + tree + ("" if self.rule == "match" else f" rule={self.rule}")


def _parts(text: str) -> list[str]:
    """`a:x=[b tree=c] tree=d` -> ["a:x=[b tree=c]", "tree=d"]: brackets hold together what is in them."""
    parts, depth = [""], 0
    for piece in re.split(r"\s+(?=(?:tree|rule)=)", text.strip()):
        if depth:
            parts[-1] += f" {piece}"
        else:
            parts.append(piece)
        depth += piece.count("[") - piece.count("]")
    return parts[1:]


def _check(registry: Registry, spec: str) -> None:
    name, _ = registry.parse(spec)
    # What is made of its options alone is made, so that it can refuse their values.
    if inspect.signature(registry.factory(name)).parameters.keys() <= registry.options(name).keys():
        registry.create(spec)
