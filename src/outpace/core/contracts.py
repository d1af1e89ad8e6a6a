"""The contracts: Target, Drafter, TreePolicy, Rule. What passes between them is in `call.py` and `steps.py`.

One loop (`decode/step.py`) uses them: propose, score, judge, keep, observe. Everything is plural (rows,
trees, states) except Rule and TreePolicy, which see one row. State is a value that is passed; nothing hides
on `self`. Shapes: N nodes of a tree, V vocabulary, D width of a hidden state.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from outpace.core.call import Call, Kept, Pass, Prompt, Source
from outpace.core.layers import GivenLayer, LayerSpec
from outpace.core.products import Adapter, Product
from outpace.core.sampling import Sampling
from outpace.core.steps import Ask, Candidates, Exactness, RowScores, Scores, Step, Verdict
from outpace.core.traits import Traits
from outpace.core.tree import Draw, TokenTree


class Target(Protocol):
    """The model whose output must be reproduced, with a cache of rows.

    It sees one step at a time, whatever threads ask: the loop holds `core.turns.turns_of(target)` meanwhile.
    A row is the place of one sequence. It holds the keys and values of `length(row)` tokens; the first token
    of its next call sits at that position. Rows belong to whoever got them from `open` or `fork` until
    they give them to `free`. Between `score` and `keep` a row also holds what was scored; the next `score`
    forgets what was not kept.
    """

    @property
    def vocab_size(self) -> int:
        """Token ids are 0 to vocab_size - 1."""

    @property
    def context_length(self) -> int:
        """The most tokens that a row can hold, scored nodes included."""

    @property
    def eos_ids(self) -> frozenset[int]:
        """Tokens that end a text."""

    @property
    def exactness(self) -> Exactness:
        """What `score` promises: "identical" if a node's logits ignore its companions in the call."""

    @property
    def traits(self) -> Traits:
        """Numerics, and the sizes of calls."""

    def open(self, source: Source | None = None) -> int:
        """A new row without tokens. Raises an OutpaceError for a source that the target does not read."""

    def score(self, calls: Sequence[Call]) -> Scores:
        """Run what is pending and every node of every tree, in one call; nothing is committed.

        The rows differ. Scores are of the wanted calls in their order, and of their trees' nodes alone.
        """

    def keep(self, rows: Sequence[int], paths: Sequence[Kept]) -> None:
        """Commit what was pending in the last `score`, of these rows, and the given nodes behind the root.

        The path None commits what was pending before the root, and of the tree nothing.
        """

    def fork(self, row: int) -> int:
        """A new row with the same cached tokens."""

    def free(self, rows: Sequence[int]) -> None:
        """Give rows back."""

    def length(self, row: int) -> int:
        """How many tokens the row has cached."""


@runtime_checkable
class Sourced(Target, Protocol):
    """A target whose texts are written from a source."""

    def typical_source(self) -> Source:
        """One to measure calls with."""


@runtime_checkable
class Closable(Target, Protocol):
    """A target that holds threads and memory which it can give back before it is forgotten."""

    def close(self) -> None:
        """Give them back. Any other use but `free` then raises an OutpaceError."""


@runtime_checkable
class Cuttable(Target, Protocol):
    """A target whose rows may begin with a part of another row: what texts have in common is read once."""

    @property
    def cache_tokens(self) -> int:
        """The most tokens that all rows together can hold."""

    def fork_at(self, row: int, length: int) -> int:
        """A new row with the first `length` cached tokens of a row, which has as many or more.

        Raises CacheFull where there is no room for it.
        """


@runtime_checkable
class Layered(Target, Protocol):
    """A target that can run a part of itself, for drafters made of nothing else.

    Its sublayers have numbers: 2l is the attention of layer l, 2l + 1 its feed-forward.
    """

    @property
    def num_layers(self) -> int:
        """How many layers it has."""

    def run(
        self,
        calls: Sequence[Call],
        *,
        layers: int | None = None,
        skip: Collection[int] = (),
    ) -> Scores:
        """As `score`, through the first `layers` layers alone (None: all) and without the sublayers `skip`.

        The scores are what the last norm and the output matrix make of the state reached. Nothing can be
        kept. A row's next `run` or `score` goes on from here if its part goes on from this one: the nodes
        that it has again (tokens and parents in this order, others may stand between) are not run again
        through these layers. No bit depends on it, and any other use of the row forgets.
        """


@runtime_checkable
class Looped(Target, Protocol):
    """A target whose layers run several times over, so that tokens of different age can share a pass.

    Keys and values are those of a loop: a token in loop r sees those of loop r that earlier tokens have left.
    """

    @property
    def num_loops(self) -> int:
        """R: how many loops make a token; 1 where no layers are shared."""

    def advance(self, passes: Sequence[Pass], heads: Mapping[int, Adapter] | None = None) -> Scores:
        """One loop for every node in flight; nothing is committed.

        The scores have a row for each wanted node, in this order: what the last norm and the output matrix
        make of its state after this loop. After its last loop (R - 1) they are those of `score`, to the last
        bit where the target is "bitwise".

        heads  by number of loops that have been run, 1 to R - 1: the output matrix reads what these make of
               the states of wanted nodes. For targets that are `Tapped` too.

        `keep` then commits the root and a path of nodes, all after their last loop. The others stay in flight
        until the row's next pass, which names those that go on. Any other use of the row forgets them.
        """


@runtime_checkable
class Tapped(Target, Protocol):
    """A target whose hidden states can be had, for drafters that are trained on them."""

    @property
    def hidden_size(self) -> int:
        """D."""

    def fingerprint(self) -> str:
        """Names the weights: what is trained on one model's states is of no use to another."""

    def tap(self, *names: str) -> None:
        """From the next call on `Scores.hidden` offers these taps too: "final", a layer's number."""

    def product(self, weight: NDArray[np.float32]) -> Product:
        """A matrix f32[M, K] of the caller's, which need not have the model's width."""

    def projection(self, token_ids: NDArray[np.integer] | None = None) -> Product:
        """The output matrix, or these rows of it: logits (biases and caps included) of states at "final"."""


@runtime_checkable
class Embedding(Tapped, Protocol):
    """A target whose output matrix can be read: a row of it is what a token means to the model."""

    def output_rows(self, token_ids: NDArray[np.integer] | None = None) -> NDArray[np.float32]:
        """f32[M, D]: the output matrix, or these rows of it."""


@runtime_checkable
class Embedded(Tapped, Protocol):
    """A target whose input embedding can be read, for drafters that read tokens as the target does."""

    def input_rows(self, token_ids: NDArray[np.integer]) -> NDArray[np.float32]:
        """f32[M, D]: what the input embedding makes of these tokens."""

    def layer(self, spec: LayerSpec) -> GivenLayer:
        """A decoder layer of the caller's, which need not have the model's width."""


class Drafter(Protocol):
    """Proposes continuations. Can never change the output of an exact rule, only the speed.

    A state belongs to the caller and goes through `start`, then any number of `propose` and `observe`, then
    `stop`. Methods may change the state they are given in place and return it. The prompt's own call is a
    step like others: its ask has the prompt `unread`.
    """

    @property
    def traits(self) -> Traits:
        """Which trees it proposes, and what it reads."""

    def start(self, prompt: Prompt) -> Any:
        """The state for a new row, whose text begins with these tokens."""

    def propose(self, states: Sequence[Any], asks: Sequence[Ask]) -> list[TokenTree]:
        """A tree on ask.root for each row. A root-only tree is a valid answer.

        Not called for a step in which no row may draft: then `observe` alone hears of it. Drafts that do not
        pay are given up for as long as a text lasts, so work that only drafts need belongs here.
        """

    def observe(self, states: Sequence[Any], steps: Sequence[Step]) -> list[Any]:
        """The states after these steps, one step for each row."""

    def stop(self, state: Any) -> None:
        """Give back what the state holds."""


@runtime_checkable
class Forkable(Drafter, Protocol):
    """A drafter that can try a text and forget it: cascades are built on it."""

    def fork(self, state: Any) -> Any:
        """A second state of the same row. It is stopped like any other and must leave no trace."""


@runtime_checkable
class Successors(Drafter, Protocol):
    """A drafter that names the successors of any text: `mix` asks it below every node of a tree."""

    def successors(self, state: Any, text: Sequence[int]) -> tuple[int, Sequence[tuple[int, float]]]:
        """(length of the match, [(token, its probability), ...]) after a text that ends with these tokens."""


@runtime_checkable
class ByDepth(Drafter, Protocol):
    """A drafter whose opinion depends on the depth in the tree alone, such as heads."""

    def expected_by_depth(self, state: Any, ask: Ask) -> Sequence[Sequence[tuple[int, float]]]:
        """Per level below the root, [(token, its probability), ...]."""


@runtime_checkable
class ByPath(Drafter, Protocol):
    """A drafter that names what may follow any path of a tree, such as heads that know the tokens before."""

    def expected_by_path(
        self, state: Any, ask: Ask
    ) -> Callable[[Sequence[int]], Sequence[tuple[int, float]]]:
        """(tokens of a path below the root) -> [(token, its probability), ...] after it; [] out of reach.

        A path is asked for after the path to its parent.
        """


class TreePolicy(Protocol):
    """Where a model-based drafter spends its budget; knows no model, and keeps no state unless it learns.

    The growth loop (`trees/grow.py`) asks in turns which nodes to expand, has the drafter's model score them,
    draws `width` candidates after each, and lets the policy hang what it wants. At the end it prunes, always.
    """

    @property
    def traits(self) -> Traits:
        """What it reads of candidates, and whether drawn ones stay drawn."""

    @property
    def width(self) -> int:
        """The most children of one node."""

    def expand(self, tree: TokenTree) -> Sequence[int]:
        """The nodes, ascending, whose children are wanted next; none has any yet. [] when grown enough."""

    def grow(self, tree: TokenTree, candidates: Candidates) -> TokenTree:
        """The tree with some of the candidates hung on it; unchanged nodes keep their ids."""

    def prune(self, tree: TokenTree, budget: int) -> TokenTree:
        """The tree with at most `budget` drafted nodes."""


class Growth(TreePolicy, Protocol):
    """One tree of a policy that learns, from its first level to what became of it."""

    def learn(self, scored: TokenTree, tokens: Sequence[int]) -> None:
        """What of the tree was scored, maybe among other nodes, and the tokens that came after its root."""


@runtime_checkable
class Learning(TreePolicy, Protocol):
    """A policy that learns from verdicts. What it has learnt may change its trees, never the output.

    A text's steps come in their order, those of several texts in any. A tree that nobody scores has none.
    """

    def begin(self) -> Growth:
        """Grows the next tree."""


class Rule(Protocol):
    """Looks at a tree and the target's scores of one row and returns what to commit. Pure."""

    @property
    def exactness(self) -> Exactness:
        """What the rule promises for a target that is "identical"."""

    @property
    def draw(self) -> Draw:
        """The draw of the trees that it is made for. Others are judged by the target's choices."""

    @property
    def needs_law(self) -> bool:
        """Whether it is of no use without the drafter's law."""

    def judge(self, tree: TokenTree, scores: RowScores, sampling: Sampling, position: int) -> Verdict:
        """`position` is the absolute position of the root; randomness is a pure function of the arguments."""
