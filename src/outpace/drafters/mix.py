"""Several drafters, one tree: a mixture of what they expect, in which measured success sets the weights.

One tree from several drafters: SpecInfer (Miao et al. 2023, arXiv:2305.09781). Which nodes it takes: the
mixture of interpolated language models (Jelinek & Mercer 1980, "Interpolated estimation of Markov source
parameters from sparse data"). After a node, P(x) = sum over sources of w_s P_s(x); the mass missing to 1
belongs to tokens that no source knows. A source with `successors` can be asked below every node that the tree
takes, so the n-grams of one source continue the copy of another. One with `expected_by_depth` (heads) says
the same below every node of a depth, one with `expected_by_path` something else after each path. From other
sources the proposed tree is read.

    propose   take the likeliest paths (product of P) while they add more tokens than time: the next node is
              taken if its P exceeds (tokens expected so far) * (t(n+1) - t(n)) / t(n), t measured here
              Sources that have to run something first, such as heads, rest while the others are sure of the
              next token (SURE), by weights of their own that are learnt even where heads had a say
    observe   where the true next token is now known: each source's share in its probability adds to the
              source's weight, one step of expectation maximisation (Dempster, Laird & Rubin 1977); kept by
              length of the best match and by depth in the tree
    stop      the row's counts become those of all later requests
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from heapq import heappop, heappush
from math import exp, log
from typing import Any

from outpace.core.call import Prompt
from outpace.core.contracts import ByDepth, ByPath, Drafter, Successors
from outpace.core.edits import AnyEdit, EditAfter, Forcing
from outpace.core.errors import OutpaceError
from outpace.core.options import checked, sizes
from outpace.core.registry import split_specs
from outpace.core.steps import Ask, Step
from outpace.core.traits import Traits
from outpace.core.tree import TokenTree
from outpace.drafters.lookup import backoff
from outpace.drafters.mix_weights import Guesses, Key, Weights
from outpace.heads import markov_heads
from outpace.heads.packaged import find_packaged_heads, own_heads
from outpace.pricing.costs import CallCosts, convex, straight
from outpace.pricing.curve import INSTANT

USUAL = 0.07  # of a call: what a further node costs where nobody has measured it
HISTORY = 12  # committed tokens that sources see, the root included
MAX_LEVEL, MAX_DEPTH = 9, 2  # beyond, matches and depths share their weights
MAX_SOURCES = 8  # weights are kept for every set of them that had a say
SURE = 0.75  # of the next token, by sources that run nothing first: then the others do not run
FORCED = "grammar"  # whose tokens certain ones are, in a trace
CURVE_STEP = 128  # tokens of context over which one cost curve serves
CALLS_PER_CURVE = 32  # so long it serves before the costs are asked again

Expect = Callable[[Sequence[int]], Guesses]  # of the tokens of a path below the root


class Mix:
    """One tree of at most `size` nodes and `depth` levels from 1 to 8 drafters.

    costs  the target's, `model.costs()`; None: those of a machine where 8 tokens cost one and a half times 1.
    names  what its trees call the sources: those of their classes, for whoever makes it to change.
    """

    @checked
    def __init__(
        self, sources: Sequence[Drafter], costs: CallCosts | None = None, *, size: int = 24, depth: int = 16
    ) -> None:
        sizes("mix", size=size, depth=depth)
        if not 1 <= len(sources) <= MAX_SOURCES:
            raise OutpaceError(f"mix has {len(sources)} drafts, accepted are 1 to {MAX_SOURCES}")
        self.sources = list(sources)
        self.names = [type(source).__name__ for source in sources]
        reads_top = max(source.traits.reads_top for source in self.sources)
        whole_calls = any(source.traits.whole_calls for source in self.sources)
        self.traits = Traits(branches=True, reads_top=reads_top, whole_calls=whole_calls, goes_on=True)
        self.size = size
        self.depth = depth
        self._successors = [s.successors if isinstance(s, Successors) else None for s in self.sources]
        self._expected = [_expecting(source) for source in self.sources]
        self._proposing = [
            s for s, function in enumerate(self._successors) if function is None and self._expected[s] is None
        ]
        self._costs = straight(USUAL) if costs is None else costs
        self._curves: dict[tuple[int, int], list[float]] = {}
        self._calls = 0
        self._shared = Weights(len(self.sources))

    def start(self, prompt: Prompt) -> MixState:
        """Start every source."""
        return MixState([source.start(prompt) for source in self.sources], list(prompt), self._shared.copy())

    def propose(self, states: Sequence[MixState], asks: Sequence[Ask]) -> list[TokenTree]:
        """One tree for each row; logq: the mixture's log-probability after the parent."""
        trees: list[list[TokenTree | None]] = [[None] * len(asks) for _ in self.sources]
        for s in self._proposing:
            trees[s] = list(self.sources[s].propose([state.inner[s] for state in states], asks))
        for row, (state, ask) in enumerate(zip(states, asks, strict=True)):
            curve = self._curve(ask.position, len(asks))
            state.tree = self._grow(state, ask, [of_source[row] for of_source in trees], curve)
        return [state.tree for state in states]

    def observe(self, states: Sequence[MixState], steps: Sequence[Step]) -> list[MixState]:
        """Every source sees the step; the weights learn from the tokens that it committed."""
        # What a prompt's own call costs says nothing about later ones.
        if len(steps) == 1 and states[0].expected and len(states[0].text) > states[0].num_prompt:
            self._learn_costs(steps[0], len(states[0].text))
        for s, source in enumerate(self.sources):
            inner = source.observe([state.inner[s] for state in states], steps)
            for state, one in zip(states, inner, strict=True):
                state.inner[s] = one
        for state, step in zip(states, steps, strict=True):
            if state.without is not None and 0 in state.expected:
                key, expected = state.without
                if key != state.expected[0][0]:  # else it is learnt below
                    state.weights.learn(key, expected, step.tokens[0], overall=False)
            node = 0
            for token in step.tokens:
                if node in state.expected:
                    state.weights.learn(*state.expected[node], token)
                node = state.tree.child(node, token)
                if node < 0:  # beyond what was proposed here: another drafter may have lengthened the tree
                    break
            state.expected = {}  # the old one stays with the tree
            state.text += step.tokens
        return list(states)

    def stop(self, state: MixState) -> None:
        """Give back what the sources hold, keep what the weights have learnt."""
        for source, inner in zip(self.sources, state.inner, strict=True):
            source.stop(inner)
        self._shared.add(state.weights)

    def _grow(
        self, state: MixState, ask: Ask, trees: Sequence[TokenTree | None], curve: Sequence[float]
    ) -> TokenTree:
        # Not `trees.likeliest.best_first`: with a callback for a node's children this takes a tenth longer.
        known, masks = [*ask.known], _masks(ask.edit)
        if len(known) >= min(self.size, ask.budget):
            return TokenTree.chain(ask.root, known)
        size, depth = min(self.size, ask.budget), min(self.depth + len(known), ask.depth)
        weights, expected_at = state.weights, state.expected
        tokens, parents, logq = [ask.root, *known], list(range(-1, len(known))), [0.0] * (len(known) + 1)
        paths: list[tuple[int, ...]] = [tuple(known[:n]) for n in range(len(known) + 1)]
        texts = [[*state.text[-HISTORY:], *path][-HISTORY:] for path in paths]
        places: list[Sequence[int]] = [[0] * len(trees)]  # of every node in the sources' trees, -1: none
        for token in known:
            places.append(self._below(trees, places[-1], token))
        heap: list[tuple[float, int, int, float]] = []  # (-P of the path, token, parent, P after the parent)
        value, node, p = 1.0 + len(known), len(known), 1.0
        can_draft = node < depth and _worth(curve, node, value) < p
        ahead = self._begin(state, ask, texts[-1], paths[-1], trees, places[-1]) if can_draft else {}
        while True:
            worth = _worth(curve, node, value)
            if len(paths[node]) < depth and p > worth:
                key, expected = self._expect(state, texts[node], paths[node], trees, places[node], ahead)
                expected_at[node] = key, expected
                mixture = weights.mixture(key, expected)
                mixture = _allowed(mixture, masks(paths[node])) if masks else mixture
                for token, q in mixture.items():
                    if p * q > worth:
                        heappush(heap, (-p * q, token, node, q))
            node += 1
            if not heap or node > size:
                break
            negative, token, parent, q = heappop(heap)
            p = -negative
            if p <= worth:
                break
            value += p
            tokens.append(token)
            parents.append(parent)
            logq.append(log(q))
            paths.append((*paths[parent], token))
            texts.append([*texts[parent][1:], token])
            places.append(self._below(trees, places[parent], token))
        tree = TokenTree.grown(tokens, parents, logq)
        tree.sources = partial(_named, self.names, tree, expected_at)
        if learners := [one.learn for one in trees if one is not None and one.learn is not None]:
            tree.learn = partial(_tell, learners)
        return tree

    def _below(self, trees: Sequence[TokenTree | None], places: Sequence[int], token: int) -> Sequence[int]:
        """Where a token stands below these places of the sources' trees."""
        if not self._proposing:
            return places
        pairs = zip(trees, places, strict=True)
        return [-1 if not tree or at < 0 else tree.child(at, token) for tree, at in pairs]

    def _begin(
        self,
        state: MixState,
        ask: Ask,
        text: Sequence[int],
        path: Sequence[int],
        trees: Sequence[TokenTree | None],
        places: Sequence[int],
    ) -> dict[int, Expect]:
        """The sources that run something first, such as heads; none of them where the others are sure."""
        beginning = [(s, begin) for s, begin in enumerate(self._expected) if begin]
        state.without = None
        if not beginning:
            return {}
        key, expected = state.without = self._expect(state, text, path, trees, places, {})
        if max(state.weights.mixture(key, expected).values(), default=0.0) >= SURE:
            return {}
        return {s: begin(state.inner[s], ask) for s, begin in beginning}

    def _expect(
        self,
        state: MixState,
        text: Sequence[int],
        path: Sequence[int],
        trees: Sequence[TokenTree | None],
        places: Sequence[int],
        ahead: Mapping[int, Expect],
    ) -> tuple[Key, list[Guesses]]:
        """What each source expects after a text, which ends with this path, and the key of the weights."""
        level, said, expected = 0, 0, []
        for s, successors in enumerate(self._successors):
            if successors is not None:
                matched, pairs = successors(state.inner[s], text)
                if matched > level:
                    level = matched
            elif s in ahead:
                pairs = ahead[s](path)
            else:
                pairs = _children(trees[s], places[s])
            if pairs:
                said |= 1 << s
            expected.append(pairs)
        return (min(level, MAX_LEVEL), min(len(path), MAX_DEPTH), said), expected

    def _learn_costs(self, step: Step, context: int) -> None:
        self._costs.learn(step.tree.num_nodes, context, max(step.times.call_s, INSTANT))
        self._calls += 1
        if self._calls % CALLS_PER_CURVE == 0:
            self._curves.clear()

    def _curve(self, position: int, rows: int) -> list[float]:
        """curve[n]: seconds of a call in which each of the rows has n nodes, made convex; curve[0] is unused.

        A node of one row then costs a share of what a node of every row costs, and brings a share of it.
        """
        key = position // CURVE_STEP, rows
        if key not in self._curves:
            costs = self._costs.curve(rows * (self.size + 3), key[0] * CURVE_STEP + CURVE_STEP // 2)
            self._curves[key] = [0.0, *convex(costs[rows - 1 :: rows].tolist())]
        return self._curves[key]


@checked
def mix(
    context: Mapping[str, Any],
    costs: Callable[[], CallCosts],
    *,
    drafts: str = "auto",
    size: int = 24,
    depth: int = 16,
) -> Mix:
    """From the names of drafters, `a+[b:x=1,y=2]+c`.

    "auto" is ngram and the first that there is of these: backoff, with a table beside the model or in the
    package; markov_heads, made by `outpace prepare`; blockwise heads in the package; suffix.
    """
    from outpace.drafters import DRAFTERS

    specs = split_specs(_auto(context) if drafts == "auto" else drafts)
    made = Mix([DRAFTERS.create(spec, **context) for spec in specs], costs(), size=size, depth=depth)
    made.names = [spec.partition(":")[0] for spec in specs]
    return made


class MixState:
    """A row: its sources' states, its text, its weights, and what was expected where in the last tree."""

    __slots__ = ("expected", "inner", "num_prompt", "text", "tree", "weights", "without")

    def __init__(self, inner: list[Any], text: list[int], weights: Weights) -> None:
        self.inner = inner
        self.text = text
        self.num_prompt = len(text)
        self.weights = weights
        self.tree = TokenTree.root(text[-1])
        self.expected: dict[int, tuple[Key, list[Guesses]]] = {}
        self.without: tuple[Key, list[Guesses]] | None = None  # at the root, of those that run nothing first


def _worth(curve: Sequence[float], node: int, value: float) -> float:
    """What a node must add to be worth its time, behind `node` others below the root and `value` tokens.

    It only grows, so what falls short now always will.
    """
    return value * (curve[node + 2] - curve[node + 1]) / curve[node + 1]


def _tell(learners: Sequence[Callable[..., None]], scored: TokenTree, tokens: Sequence[int]) -> None:
    """What became of a tree that others' trees went into."""
    for learn in learners:
        learn(scored, tokens)


def _named(
    names: Sequence[str], tree: TokenTree, expected: Mapping[int, tuple[Key, list[Guesses]]]
) -> list[str]:
    """For each node the sources that expected it, joined by "+"."""
    said = [""]
    for token, parent in zip(tree.token_list[1:], tree.shape.parent_list[1:], strict=True):
        if parent not in expected:  # nobody was asked: a grammar forces the token
            said.append(FORCED)
            continue
        pairs = zip(names, expected[parent][1], strict=True)
        said.append("+".join(name for name, found in pairs if any(other == token for other, _ in found)))
    return said


def _auto(context: Mapping[str, Any]) -> str:
    beside, target = context.get("beside"), context.get("target")
    if backoff.own_table(target, beside) is not None:
        return "ngram+backoff"  # heads know little that a table does not, and cost more
    if own_heads(beside, markov_heads.METHOD) is not None:
        return "ngram+markov_heads"
    has_heads = target is not None and find_packaged_heads(target, "blockwise")
    return "ngram+blockwise" if has_heads else "ngram+suffix"


def _expecting(source: Drafter) -> Callable[[Any, Ask], Expect] | None:
    """What a source that needs no tree of its own expects below a root."""
    if isinstance(source, ByPath):
        return source.expected_by_path
    if not isinstance(source, ByDepth):
        return None

    def begin(state: Any, ask: Ask) -> Expect:
        pairs = source.expected_by_depth(state, ask)
        return lambda path: pairs[len(path)] if len(path) < len(pairs) else ()

    return begin


def _masks(edit: EditAfter | None) -> EditAfter | None:
    """An edit that masks. Most rows have none, which a protocol is slow to tell."""
    return edit if edit is not None and isinstance(edit, Forcing) else None


def _allowed(mixture: Mapping[int, float], edit: AnyEdit | None) -> dict[int, float]:
    """What a mask leaves of a mixture: the probability of the others is not theirs any more."""
    left = {token: p for token, p in mixture.items() if edit is None or edit.allows(token)}
    rest = 1 - sum(p for token, p in mixture.items() if token not in left)
    return {token: p / rest for token, p in left.items()}


def _children(tree: TokenTree | None, node: int) -> Guesses:
    """What a proposed tree says about the tokens after a node; certainty where it gives no probabilities."""
    if tree is None or node < 0:
        return ()
    tokens, logq = tree.token_list, tree.logq
    return [
        (tokens[child], 1.0 if logq is None else exp(float(logq[child]))) for child in tree.children(node)
    ]
