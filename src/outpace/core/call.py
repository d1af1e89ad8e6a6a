"""What goes into a call of a target: rows, what they have still to read, and the trees behind it.

What is committed but not read yet is one thing. A row has pending tokens: a prompt is a long list of them, a
draft model that lags behind has a short one, and in plain decoding it is the last token alone. The last
pending token is the root of the tree that is scored.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, overload

from outpace.core.errors import OutpaceError, PromptTooLong
from outpace.core.tree import TokenTree

if TYPE_CHECKING:
    from outpace.core.contracts import Target


class Source(Protocol):
    """What a text is written from, beside its first tokens: an encoded sentence, a small picture."""

    @property
    def ids(self) -> Sequence[int] | None:
        """Token ids of the source, where it is text in the target's vocabulary."""

    @property
    def key(self) -> Hashable:
        """Equal for sources that make a prompt the same one."""


class Prompt(Sequence[int]):
    """The first tokens of a text, and the source that it is written from (None: there is none). A value."""

    __slots__ = ("source", "tokens")

    def __init__(self, tokens: Iterable[int], source: Source | None = None) -> None:
        self.tokens = tuple(tokens)
        self.source = source

    @classmethod
    def of(cls, tokens: Sequence[int]) -> Prompt:
        """The prompt itself, or one without a source."""
        return tokens if isinstance(tokens, Prompt) else cls(tokens)

    @overload
    def __getitem__(self, index: int) -> int: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[int, ...]: ...

    def __getitem__(self, index: int | slice) -> int | tuple[int, ...]:
        return self.tokens[index]

    def __len__(self) -> int:
        return len(self.tokens)

    def __iter__(self) -> Iterator[int]:
        return iter(self.tokens)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Prompt) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    @property
    def key(self) -> Hashable:
        """Equal for equal prompts: the tokens, and what the source is known by."""
        return self.tokens, self.source and self.source.key


@dataclass(frozen=True, slots=True)
class Call:
    """What one row does in a call.

    row      its number at the target.
    pending  P >= 1 tokens: committed, and not in the row's cache yet. The last is the root of the tree.
    tree     N nodes, all of them scored. A call that only reads has the root alone.
    wanted   whether there are scores of it: not of a call that only reads.

    The call runs P - 1 + N tokens of this row.
    """

    row: int
    pending: Sequence[int]
    tree: TokenTree
    wanted: bool = True

    def __post_init__(self) -> None:
        assert self.pending and self.pending[-1] == self.tree.token_list[0], (
            "the tree hangs on what is pending"
        )

    @classmethod
    def on(cls, row: int, tree: TokenTree) -> Call:
        """Of a row that has read everything before the tree."""
        return cls(row, tree.token_list[:1], tree)

    @classmethod
    def read(cls, row: int, tokens: Sequence[int]) -> Call:
        """Of a row that only reads tokens, one or more."""
        return cls(row, tokens, TokenTree.root(tokens[-1]), wanted=False)

    @property
    def lead(self) -> int:
        """P - 1: how many tokens run in front of the tree."""
        return len(self.pending) - 1

    @property
    def joined(self) -> TokenTree:
        """Pending tokens and tree as one tree of P - 1 + N nodes: node n of the tree is node lead + n."""
        lead = self.lead
        if not lead:
            return self.tree
        tokens = [*self.pending[:-1], *self.tree.token_list]
        if self.tree.is_chain:
            return TokenTree.chain(tokens[0], tokens[1:])
        parents = [parent + lead for parent in self.tree.shape.parent_list[1:]]
        return TokenTree(tokens, [*range(-1, lead), *parents])


@dataclass(frozen=True, slots=True)
class Pass:
    """What one row does in a pass of a looped model: nodes of different ages, each through one loop.

    row     its number at the target, which has read everything before the tree.
    tree    N nodes in flight. The root is committed already, the others are drafts.
    loops   N numbers, not rising from a node to the next: the loop (0: the first) that each node runs now.
    came    N numbers, rising but for -1: which node it was in the row's last pass; -1: it is new, in loop 0.
    wanted  the nodes of which there are scores.
    """

    row: int
    tree: TokenTree
    loops: Sequence[int]
    came: Sequence[int]
    wanted: Sequence[int] = ()

    def __post_init__(self) -> None:
        assert len(self.loops) == len(self.came) == self.tree.num_nodes, "a loop and an origin for each node"
        assert list(self.loops) == sorted(self.loops, reverse=True), "older nodes stand before younger ones"


Kept = Sequence[int] | None
"""Nodes of a call's tree that a row keeps behind the root, ascending; None: not even the root, but what was
pending before it."""


def joined_path(lead: int, path: Kept) -> list[int] | None:
    """The nodes after the first that a path keeps of `Call.joined`; None where nothing at all is kept."""
    if path is None:
        return list(range(1, lead)) if lead else None
    return [*range(1, lead + 1), *(lead + node for node in path)]


def read_all(target: Target, row: int, tokens: Sequence[int]) -> None:
    """Have a row read tokens that fit into one call."""
    target.score([Call.read(row, tokens)])
    target.keep([row], [()])


def read(
    target: Target, rows: Sequence[int], texts: Sequence[Sequence[int]], *, spare: int = 0
) -> list[list[int]]:
    """Have rows read their texts, all but the last tokens of each, which are returned: they are pending.

    What is left of all rows, one token of each or more, fits into one call with `spare` nodes beside it.
    Before any is read: PromptTooLong for a text that a row cannot hold, OutpaceError for an empty one.
    """
    for row, text in zip(rows, texts, strict=True):
        if not text:
            raise OutpaceError("the prompt is empty, accepted are prompts of 1 token or more")
        if (length := target.length(row) + len(text)) > target.context_length:
            raise PromptTooLong(f"the prompt has {length} tokens, the context holds {target.context_length}")
    chunk = target.traits.chunk
    last = max(1, min(chunk, (target.traits.max_nodes - spare) // max(1, len(rows))))
    left = []
    for row, text in zip(rows, texts, strict=True):
        at = 0
        while len(text) - at > last:
            end = min(at + chunk, len(text) - 1)
            read_all(target, row, text[at:end])
            at = end
        left.append(list(text[at:]))
    return left


def refuse_source(source: Source | None) -> None:
    """Raise an OutpaceError for the source of a text, at a target that reads text alone."""
    if source is not None:
        raise wrong_source(source, "a prompt without one")


def wrong_source(source: Source | None, accepted: str) -> OutpaceError:
    """What a target says of a source that it does not read."""
    found = "no source" if source is None else f"a {type(source).__name__} as its source"
    return OutpaceError(f"the prompt has {found}, accepted is {accepted}")


def check_room(length: int, context_length: int, call: Call) -> None:
    """Raise an OutpaceError for a call that does not fit behind the `length` tokens of its row."""
    size = call.lead + call.tree.num_nodes
    if length + size > context_length:
        raise OutpaceError(
            f"the row holds {length} tokens and {size} were to be scored, the context holds {context_length}"
        )


def begin(target: Target, prompt: Sequence[int]) -> int:
    """A new row that has read a prompt to its end."""
    prompt = Prompt.of(prompt)
    row = target.open(prompt.source)
    try:
        (left,) = read(target, [row], [prompt])
        read_all(target, row, left)
    except BaseException:
        target.free([row])
        raise
    return row
