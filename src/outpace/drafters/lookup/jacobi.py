"""Jacobi decoding: the draft is made of the target's choices after the last draft.

Santilli et al. 2023, "Accelerating Transformer Inference for Translation via Parallel Decoding",
arXiv:2305.10427; with fixed noise, so that sampling works too: Wiggers & Hoogeboom 2020, arXiv:2002.09928.
Greedy decoding solves a system of equations, one per position. Jacobi iteration computes all of them from the
last guess at once, and each call settles one position or more.

    propose   a chain of `length` guesses behind the root
    observe   the choice after the guess for position i is the next guess for position i + 1

The noise is a function of (seed, position, token), so a sampled choice is a function of its prefix too: a
correct guess stays correct in the next iteration, and the rule keeps no other.

Deviations. The paper decodes in blocks, and the next begins when one is settled; here the window slides, so
every call looks `length` tokens ahead. A position without a guess gets the last guess before it, which costs
nothing in a text and is nearly right in a picture (Song et al. 2021, "Accelerating Feedforward Computation
via Parallel Nonlinear Equation Solving", arXiv:2002.03629).
"""

from __future__ import annotations

from collections.abc import Sequence

from outpace.core.call import Prompt
from outpace.core.options import checked, sizes
from outpace.core.steps import Ask, Step
from outpace.core.traits import Traits
from outpace.core.tree import TokenTree


class JacobiState:
    """The guesses for the tokens behind the next root."""

    __slots__ = ("guesses",)

    def __init__(self) -> None:
        self.guesses: list[int] = []


class Jacobi:
    """Chains of the `length` guesses that one more iteration would check."""

    traits = Traits(paced="always")

    @checked
    def __init__(self, *, length: int = 8) -> None:
        sizes("jacobi", length=length)
        self.length = length

    def start(self, prompt: Prompt) -> JacobiState:
        """There are no guesses yet."""
        return JacobiState()

    def propose(self, states: Sequence[JacobiState], asks: Sequence[Ask]) -> list[TokenTree]:
        """The guesses, filled up with the last one."""
        trees = []
        for state, ask in zip(states, asks, strict=True):
            length, guesses = min(self.length, ask.budget, ask.depth), state.guesses
            guesses += [guesses[-1] if guesses else ask.root] * (length - len(guesses))
            trees.append(TokenTree.chain(ask.root, guesses[:length]))
        return trees

    def observe(self, states: Sequence[JacobiState], steps: Sequence[Step]) -> list[JacobiState]:
        """One iteration: the choices behind what was kept are the new guesses."""
        for state, step in zip(states, steps, strict=True):
            # The guesses may stand in a larger tree, or not all of them may have been scored.
            node, choices, iterated = 0, step.scores.choices, []
            for guess in state.guesses:
                node = step.tree.child(node, guess)
                if node < 0:
                    break
                iterated.append(choices[node])
            state.guesses = iterated[len(step.verdict.path) :]
        return list(states)

    def stop(self, state: JacobiState) -> None:
        """There is nothing to give back."""
