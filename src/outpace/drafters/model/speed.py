"""SPEED: a looped model's early output names the next token, which starts while this one is under way.

Hooper et al. 2023, "SPEED: Speculative Pipelined Execution for Efficient Decoding", arXiv:2310.12072; without
training, and with a second proposal, LoopSpec, arXiv:2609.17184. The loop is `decode/pipelined.py`.

    guess    after loop `early` the model's last norm and output matrix name the next token; after loop
             `second`, if it is given, they may name another
    head     a small trained layer between the norm and the matrix after loop `early` (`heads/early.py`)
    plan     where `early` is 0: the loops with the least time for a token, by what the outputs of all loops
             have named for some tokens now and then, and by what passes have taken (`pricing/pipeline.py`)
    propose  what `draft`, another drafter, adds: it enters the pipeline beside the guesses

With a share a of right guesses and nothing else in the way a token takes a * early + (1 - a) * R passes, each
a pass over the layers' weights; plain decoding takes R.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from outpace.core.call import Prompt
from outpace.core.contracts import Drafter, Looped, Target
from outpace.core.errors import OutpaceError
from outpace.core.options import checked
from outpace.core.products import Adapter
from outpace.core.steps import Ask, Step
from outpace.core.traits import Traits
from outpace.core.tree import TokenTree
from outpace.decode.pipelined import Flight
from outpace.drafters.none import NoDraft
from outpace.heads.early import EarlyHead
from outpace.pricing.curve import Curve
from outpace.pricing.pipeline import Guesses, Outputs

LOOKED = 48  # tokens of which all outputs are looked at before the first plan
AGAIN = 16  # tokens of each later look
EVERY = 512  # tokens between two looks
RATE = 0.1  # of forgetting what passes took


class Speed:
    """Guesses after the loops `early` (0: where they pay) and `second` (0: no second one).

    draft  adds its own drafts.
    head   guesses after its loop, which is then `early`.
    """

    @checked
    def __init__(
        self,
        *,
        early: int = 0,
        second: int = 0,
        draft: Drafter | None = None,
        head: EarlyHead | None = None,
        target: Looped,
    ) -> None:
        last = looped(target).num_loops - 1
        if head is not None:
            if early not in (0, head.loop):
                raise OutpaceError(
                    f"speed has early={early} and a head for the output after loop {head.loop}, accepted are "
                    f"early={head.loop} and 0"
                )
            early = head.loop
        if not 0 <= early <= last:
            raise OutpaceError(
                f"speed has early={early}, accepted are loops 1 to {last} of {last + 1} (0: where it pays)"
            )
        if second and not (early and early < second <= last):
            some = f"{early + 1} to {last}, or 0" if 0 < early < last else "0"
            raise OutpaceError(f"speed has second={second}, accepted are {some} (0: no second guess)")
        self._every = tuple(range(1, last + 1))
        self._outputs = None if early else Outputs(last + 1)
        self._passes, self._left = Curve({}), LOOKED  # tokens until there is a plan, or until the next look
        self._looking = not early
        self._named: Guesses = (early, second) if second else (early,)
        self._plans: dict[int, Guesses] = {}  # by rows that share a pass
        self.heads: Mapping[int, Adapter] = {} if head is None else {head.loop: head}
        self._inner: Drafter = NoDraft() if draft is None else draft
        if self._inner.traits.reads_top or self._inner.traits.whole_calls:
            raise OutpaceError(
                f"speed has draft={type(draft).__name__}, accepted are drafters that read nothing but the "
                "text, such as ngram"
            )
        self.traits = Traits(branches=True, paced="never")

    def guesses(self, num_rows: int) -> Sequence[int]:
        """Those that were named; else all while outputs are looked at, then what pays for so many rows."""
        if self._outputs is None:
            return self._named
        if self._looking:
            return self._every
        if num_rows not in self._plans:
            self._plans[num_rows] = self._outputs.best(lambda size: self._passes.at(num_rows * size))
        return self._plans[num_rows]

    def start(self, prompt: Prompt) -> Flight:
        """A row with nothing in flight."""
        return Flight(self._inner.start(prompt))

    def propose(self, states: Sequence[Flight], asks: Sequence[Ask]) -> list[TokenTree]:
        """What enters beside the guesses: for each row a tree on its root."""
        return self._inner.propose([flight.inner for flight in states], asks)

    def observe(self, states: Sequence[Flight], steps: Sequence[Step]) -> list[Flight]:
        """The other drafter learns of the tokens, and the plan of what was named and what it took."""
        if self._outputs is not None:
            self._plan(self._outputs, states, steps)
        inner = self._inner.observe([flight.inner for flight in states], steps)
        for flight, state in zip(states, inner, strict=True):
            flight.inner = state
        return list(states)

    def _plan(self, outputs: Outputs, states: Sequence[Flight], steps: Sequence[Step]) -> None:
        for flight, step in zip(states, steps, strict=True):
            for size, seconds in flight.timed:
                self._passes.learn(size, seconds, RATE)
            for named, token in flight.told:
                outputs.learn(named, token)
            self._left -= len(step.tokens)
        if self._left > 0 or not self._passes.learnt or not len(outputs):
            return
        self._looking = not self._looking
        self._left = AGAIN if self._looking else EVERY
        self._plans.clear()

    def stop(self, state: Flight) -> None:
        """Give back what the other drafter holds."""
        self._inner.stop(state.inner)


def looped(target: Target) -> Looped:
    """The target, if layers of it run several times; else an OutpaceError."""
    if not isinstance(target, Looped) or target.num_loops < 2:
        raise OutpaceError(
            "speed drafts with the first loops of a looped model and no layers of this "
            f"{type(target).__name__} run several times, accepted are looped models (such as Ouro)"
        )
    return target


@checked
def speed(
    target: Target,
    context: Mapping[str, Any],
    *,
    early: int = 0,
    second: int = 0,
    draft: str = "none",
    head: str = "none",
) -> Speed:
    """From the name of the drafter that adds to the guesses, and the folder of a head."""
    from outpace.drafters import DRAFTERS

    model = looped(target)
    trained = None if head == "none" else EarlyHead(target, head)
    inner = DRAFTERS.create(draft, **context)
    return Speed(early=early, second=second, draft=inner, head=trained, target=model)
