"""Sample by every setting of a sweep; write down what it cost, and whether the law is that of plain sampling.

Chain by chain: plain samples twice, then every setting, each with a seed of its own. What is said of samples
is the judge's, who compares them with both plain ones. Then single samples, by plain sampling and by each
setting of the base in turns, in one process, so that a machine that grows slower slows them alike. What
results.jsonl holds already is not measured again.

kind "price"    seconds of a call with 1, 2, 4, ... states, of the model and of cheaper ones
kind "plain"    plain samples, twice: seconds of both; what the judge says of one against the other
kind "control"  samples of a cheaper model, which a test has to tell apart
kind "setting"  samples by a setting: calls, evaluations, drafts tested and accepted by position, seconds
kind "time"     one sample by a setting: seconds, and those of plain sampling a moment before
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

import torch

from experiments.diffusion.settings import (
    INDEPENDENT,
    Chain,
    Setting,
    Sweep,
    make_draft,
    make_window,
)
from experiments.kit.results import Record, Results
from outpace.diffusion import Samples, Stats, sample
from outpace.diffusion.measure import call_times, fitted_price
from outpace.diffusion.process import Model, Process
from outpace.diffusion.sources import Source
from outpace.progress import Progress

STATES = (1, 2, 4, 8, 16, 32)  # in a call that is timed
CALLS = 9  # of each
PLAIN_SEEDS, CONTROL_SEED, TIMED_SEED = (0, 1), 2, 1000


class Subject(Protocol):
    """What is sampled from.

    name   as records have it. shape: of a sample. batch: how many are under way at a time.
    """

    name: str
    shape: Sequence[int]
    batch: int

    def target(self, chain: Chain) -> tuple[Model, Process]:
        """The model and its chain."""

    def cheaper(self, name: str, chain: Chain) -> Model:
        """Another model for the same chain."""

    def conditions(self, num: int, seed: int) -> torch.Tensor | None:
        """[num, ...]: what the model is told of each sample; None if nothing."""


class Judge(Protocol):
    """Says something of samples."""

    def of(self, samples: torch.Tensor, plain: torch.Tensor) -> Record:
        """For records: samples against plain ones of other seeds."""


@dataclass(slots=True)
class Measure:
    """A sweep of a subject into results.

    samples, timed  so many together, and one by one. progress: is told (done, all, what begins).
    """

    subject: Subject
    sweep: Sweep
    judge: Judge
    results: Results
    samples: int
    timed: int
    progress: Progress | None = None

    def all(self) -> None:
        """All that is missing."""
        price = self.price()
        settings = sorted(self.sweep.settings(), key=lambda one: list(map(str, one.chain.record.values())))
        for chain, group in groupby(settings, key=lambda one: one.chain):
            missing = [one for one in group if not self._known("setting", one.record)]
            controls = self._cheaper() if chain == self.sweep.base else []
            controls = [name for name in controls if not self._known("control", {"draft": name})]
            if missing or controls or not self._known("plain", chain.record):
                self._chain(chain, missing, controls, price)
        self._times(price)

    def _tell(self, what: str) -> None:
        if self.progress is not None:
            done = len(self.results.of("setting", subject=self.subject.name))
            self.progress(done, len(self.sweep.settings()), f"{self.subject.name}: {what}")

    def _known(self, kind: str, values: Record) -> bool:
        return bool(self.results.of(kind, subject=self.subject.name, **values))

    def _add(self, kind: str, values: Record) -> None:
        self.results.add({"kind": kind, "subject": self.subject.name, **values})

    def _chain(self, chain: Chain, settings: list[Setting], controls: list[str], price: float) -> None:
        """Plain samples, then those of each setting, and of cheaper models by themselves."""
        self._tell(f"plain, {chain.steps} steps")
        plain = [draw(self.subject, chain, self.samples, seed) for seed in PLAIN_SEEDS]
        both = torch.cat([one.samples for one in plain])
        if not self._known("plain", chain.record):
            said = self.judge.of(plain[0].samples, plain[1].samples)
            walls = {"wall_s": [_seconds(one.stats) for one in plain]}
            self._add("plain", {**chain.record, "num": self.samples, **walls, **said})
        for setting in settings:
            self._tell(f"{setting.draft}, window {setting.window}")
            drawn = draw(self.subject, chain, self.samples, seed_of(setting), setting, price=price)
            said = self.judge.of(drawn.samples, both)
            self._add("setting", {**setting.record, **counts(drawn.stats), **said})
        for name in controls:
            said = self.judge.of(self._by_cheaper(name), both)
            self._add("control", {**chain.record, "draft": name, "num": self.samples, **said})

    def _times(self, price: float) -> None:
        """Single samples at the base, in turns."""
        base = [one for one in self.sweep.settings() if one.chain == self.sweep.base]
        for number in range(self.timed):
            seed = TIMED_SEED + number
            missing = [one for one in base if not self._known("time", {**one.record, "seed": seed})]
            if not missing:
                continue
            self._tell("one by one")
            records = []
            for setting in missing:
                plain = draw(self.subject, setting.chain, 1, seed)
                drawn = draw(self.subject, setting.chain, 1, seed, setting, price=price)
                walls = {"wall_s": _seconds(drawn.stats), "plain_wall_s": _seconds(plain.stats)}
                records.append({**setting.record, "seed": seed, **walls})
            for record in records:
                self._add("time", record)

    def price(self) -> float:
        """Of one more state, as a share of a call; measured once, for cheaper models too."""
        missing = [name for name in ("", *self._cheaper()) if not self._known("price", {"model": name})]
        if missing:
            chain = self.sweep.base
            model, process = self.subject.target(chain)
            for name in missing:
                one = self.subject.cheaper(name, chain) if name else model
                called = self._told(one)
                source = Source(called, process, tuple(self.subject.shape), torch.device("cpu"))
                seconds = call_times(source, repeats=CALLS, sizes=STATES)
                self._add("price", {"model": name, "states": [*seconds], "seconds": [*seconds.values()]})
        (record,) = self.results.of("price", subject=self.subject.name, model="")
        return fitted_price(dict(zip(record["states"], record["seconds"], strict=True)))

    def _told(self, model: Model) -> Model:
        """A model that knows its conditions."""
        given = self.subject.conditions(max(STATES), 0)
        if given is None:
            return model
        return lambda inputs, times: model(inputs, times, given[: len(inputs)])

    def _by_cheaper(self, name: str) -> torch.Tensor:
        """Plain samples of a cheaper model at the base."""
        _, process = self.subject.target(self.sweep.base)
        model, batch = self.subject.cheaper(name, self.sweep.base), min(self.samples, self.subject.batch)
        given = self.subject.conditions(self.samples, CONTROL_SEED)
        drawn = sample(
            model, process, self.subject.shape, self.samples, seed=CONTROL_SEED, batch=batch, conditions=given
        )
        return drawn.samples

    def _cheaper(self) -> list[str]:
        drafts = dict.fromkeys((*self.sweep.drafts, *self.sweep.leading))
        return [name.removeprefix(INDEPENDENT) for name in drafts if name.startswith(INDEPENDENT)]


def draw(
    subject: Subject, chain: Chain, num: int, seed: int, setting: Setting | None = None, *, price: float = 0.0
) -> Samples:
    """Samples by a setting of the chain; plain ones without."""
    model, process = subject.target(chain)
    draft, window = None, make_window("1", price)
    if setting is not None:
        draft = make_draft(setting.draft, lambda name: subject.cheaper(name, chain))
        window = make_window(setting.window, price)
    return sample(
        model, process, subject.shape, num, draft=draft, window=window, seed=seed,
        batch=min(num, subject.batch), conditions=subject.conditions(num, seed),
    )  # fmt: skip


def seed_of(setting: Setting) -> int:
    """A setting's own, so that tests of one chain share no noise but that of the plain samples."""
    return 10_000 + zlib.crc32(repr(setting).encode())


def counts(stats: Stats) -> Record:
    """What a run has cost, for records: sums over its samples."""
    return {
        "num": len(stats.plain_calls),
        "plain_calls": int(stats.plain_calls.sum()),
        "sequential_calls": int(stats.sequential_calls.sum()),
        "verification_calls": int(stats.verification_calls.sum()),
        "evaluations": int(stats.evaluations.sum()),
        "tested": stats.tested.tolist(),
        "accepted": stats.accepted.tolist(),
        "wall_s": _seconds(stats),
    }


def _seconds(stats: Stats) -> float:
    return round(stats.wall_s, 5)
