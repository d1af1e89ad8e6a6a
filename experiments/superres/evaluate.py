"""Write held-out pictures with every setting, exact and with the distance rule: calls, errors, time.

Two passes. In batches, for what does not depend on time: accepted block size, PSNR, whether exact is exact.
Then a few pictures one by one: greedy and all settings take turns on each, in one process, so that a machine
that grows slower slows them alike. What results.jsonl holds already is not measured again.

kind "run"      a command that measured: hardware, versions, date
kind "model"    a model that pictures are written with: its training, its bits on the test pictures
kind "picture"  a test picture by one setting, decoded in a batch: tokens, calls, squared errors
kind "time"     a test picture by one setting, decoded alone, beside greedy a moment before
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from experiments.kit.results import RESULTS, Record, Results, run_record
from experiments.kit.trainings import duration_of, short_fingerprint
from experiments.superres import pictures
from experiments.superres.base import BASE, mean_bits
from experiments.superres.decoding import decode
from experiments.superres.heads import Training, trainings
from experiments.superres.pictures import Pictures
from experiments.superres.scales import Scale
from outpace.core.contracts import Drafter
from outpace.drafters.blockwise import Blockwise
from outpace.drafters.jacobi import Jacobi
from outpace.engine.request import Generation
from outpace.progress import progress_bar
from outpace.rules import RULES
from outpace.targets.pixel import PixelTarget
from outpace.targets.pixel_model import PixelModel
from outpace.train.bases_pixel import lines
from outpace.trees.chain import Chain

HEADS, NEAR, JACOBI = "heads", "near", "jacobi"
EPS = 2  # levels that the distance rule allows, and that heads which draft "near" aim at
EXACT, DISTANCE = "match", f"distance:eps={EPS}"
JACOBI_LENGTH = 23
GREEDY = {"regime": None, "data": None, "k": 1, "draft": "none", "rule": "greedy"}
BATCH = 32
NUM_SHOWN = 6  # pictures whose intensities are recorded, for the report
WARM_UP_TOKENS = 32


@dataclass(frozen=True, slots=True)
class Setting:
    """What drafts, at most k - 1 tokens, and a rule. Without heads, of a training's model alone.

    draft  "heads": the best token of each. "near": of each the token that is likeliest to be within EPS of
           the right one. "jacobi": what the model said of the last draft.
    """

    training: Training
    k: int
    draft: str
    rule: str

    @property
    def record(self) -> Record:
        """As records have it."""
        record: Record = {"regime": self.training.regime, "data": self.training.data, "k": self.k}
        return record | {"draft": self.draft, "rule": self.rule}

    def drafter(self, target: PixelTarget, folder: Path) -> Drafter:
        """For a target of its model, with what lies in the folder of a scale."""
        if self.draft == JACOBI:
            return Jacobi(length=self.k - 1)
        return Blockwise(
            target,
            path=str(self.training.heads(folder)),
            heads=self.k,
            tree=Chain(length=self.k - 1),
            near=EPS if self.draft == NEAR else 0,
        )


class Subject:
    """A model with the settings that write pictures with it. Greedy has a target without taps."""

    def __init__(self, folder: Path, settings: list[Setting], device: str) -> None:
        first = settings[0].training
        self.settings = settings
        self.name = BASE if first.regime == "frozen" else first.name
        self.trained = {one.training.name: one.training.heads(folder) for one in settings}
        if self.name == BASE:
            self.trained[BASE] = folder / BASE
        self.model = PixelModel.open(first.model(folder)).to(device)
        kernels = "block" if device == "cpu" else "torch"
        self.plain, self._tapped = (PixelTarget(self.model, kernels=kernels) for _ in range(2))
        self._drafters = [one.drafter(self._tapped, folder) for one in settings]

    def all_settings(
        self, smalls: NDArray[np.uint8], *, max_tokens: int | None = None
    ) -> Iterator[tuple[Record, list[Generation]]]:
        """Pictures of small ones u8[n, h, w, C] by greedy, then by each setting."""
        yield GREEDY, decode(self.plain, smalls, max_tokens=max_tokens)
        for setting, drafter in zip(self.settings, self._drafters, strict=True):
            rule = RULES.create(setting.rule)
            yield setting.record, decode(self._tapped, smalls, drafter, rule, max_tokens=max_tokens)

    def margin(self, small: NDArray[np.uint8], tokens: list[int], others: list[int]) -> float | None:
        """By how much the model prefers `tokens` to `others` where they first differ; None: nowhere.

        Of two pictures that are both greedy up to rounding, this is about the size of a rounding error.
        """
        if tokens == others:
            return None
        at = next(place for place, pair in enumerate(zip(tokens, others, strict=True)) if pair[0] != pair[1])
        device = self.model.output.weight.device
        with torch.no_grad():
            line = lines(torch.tensor([tokens], device=device))
            logits = self.model(line, torch.from_numpy(small[None]).to(device))[0, at]
        return abs(float(logits[tokens[at]] - logits[others[at]]))


def evaluate(patches: Path, folder: Path, scale: Scale, *, command: str = "", device: str = "cpu") -> None:
    """Bring folder/results.jsonl to the whole of a scale."""
    test = pictures.read(patches, "test", scale.config)
    numbers = np.linspace(0, len(test.large) - 1, min(scale.pictures, len(test.large))).astype(int).tolist()
    timed = numbers[:: max(1, len(numbers) // scale.timed)][: scale.timed]
    shown = set(numbers[:: max(1, len(numbers) // NUM_SHOWN)][:NUM_SHOWN])
    subjects = _subjects(folder, scale, device)
    work = _Work(Results(folder / RESULTS, run_record(command, device)), test)
    for subject in subjects:
        work.describe(subject, numbers)
    with progress_bar() as progress:
        done, total = 0, len(subjects) + len(timed)
        for subject in subjects:
            if progress is not None:
                progress(done, total, f"pictures by {subject.name}")
            work.write_pictures(subject, numbers, shown)
            done += 1
        for number in timed:
            if progress is not None:
                progress(done, total, "one by one")
            work.time_picture(subjects, number)
            done += 1


def settings_of(scale: Scale) -> list[Setting]:
    """All rows of the table: frozen heads serve every k; jacobi drafts are for models of the largest."""
    found = []
    for training in trainings(scale):
        for k in scale.num_heads if training.regime == "frozen" else (training.num_heads,):
            some = ((HEADS, EXACT), (HEADS, DISTANCE), (NEAR, DISTANCE))
            found += [Setting(training, k, draft, rule) for draft, rule in some]
        if training.data == "gold" and training.num_heads == max(scale.num_heads):
            found += [Setting(training, JACOBI_LENGTH + 1, JACOBI, rule) for rule in (EXACT, DISTANCE)]
    return found


def _subjects(folder: Path, scale: Scale, device: str) -> list[Subject]:
    by_model: dict[Path, list[Setting]] = {}
    for setting in settings_of(scale):
        by_model.setdefault(setting.training.model(folder), []).append(setting)
    return [Subject(folder, settings, device) for settings in by_model.values()]


class _Work:
    """What is still to be measured."""

    def __init__(self, results: Results, test: Pictures) -> None:
        self._results = results
        self._test = test
        self._warm = False

    def describe(self, subject: Subject, numbers: list[int]) -> None:
        """A model's record; results of another model of its name are refused."""
        fingerprint = short_fingerprint(subject.model)
        if self._results.knows(subject.name, fingerprint):
            return
        trained = {name: duration_of(where) for name, where in subject.trained.items()}
        some = Pictures(self._test.large[numbers], self._test.small[numbers])
        self._results.add(
            {
                "kind": "model",
                "model": subject.name,
                "fingerprint": fingerprint,
                "parameters": sum(parameter.numel() for parameter in subject.model.parameters()),
                "trainings": trained,
                "test_bits": round(mean_bits(subject.model, some), 4),
            }
        )

    def write_pictures(self, subject: Subject, numbers: list[int], shown: set[int]) -> None:
        """The pictures in batches: records of kind "picture"."""
        wanted = 1 + len(subject.settings)
        for first in range(0, len(numbers), BATCH):
            batch = numbers[first : first + BATCH]
            found = self._results.of("picture", model=subject.name)
            if sum(record["picture"] in batch for record in found) >= wanted * len(batch):
                continue
            greedy: list[list[int]] = []
            for setting, written in subject.all_settings(self._test.small[batch]):
                if setting is GREEDY:
                    greedy = [one.token_ids for one in written]
                known = {r["picture"] for r in self._results.of("picture", model=subject.name, **setting)}
                self._results.add(
                    *(
                        self._picture(subject, setting, number, one, plain, number in shown)
                        for number, one, plain in zip(batch, written, greedy, strict=True)
                        if number not in known
                    )
                )

    def time_picture(self, subjects: list[Subject], number: int) -> None:
        """One picture by all settings of all models, in turns: records of kind "time"."""
        small = self._test.small[number : number + 1]
        for subject in subjects:
            if len(self._results.of("time", model=subject.name, picture=number)) >= len(subject.settings):
                continue
            if not self._warm:
                for one in subjects:
                    list(one.all_settings(small, max_tokens=WARM_UP_TOKENS))
                self._warm = True
            records: list[Record] = []
            greedy_s = 0.0
            for setting, (written,) in subject.all_settings(small):
                if setting is GREEDY:
                    greedy_s = written.stats.wall_s
                elif not self._results.of("time", model=subject.name, picture=number, **setting):
                    records.append(
                        {"kind": "time", "model": subject.name, **setting, "picture": number}
                        | {"wall_s": round(written.stats.wall_s, 5), "greedy_wall_s": round(greedy_s, 5)}
                    )
            self._results.add(*records)

    def _picture(
        self,
        subject: Subject,
        setting: Record,
        number: int,
        written: Generation,
        greedy: list[int],
        shown: bool,
    ) -> Record:
        truth, small = self._test.large[number], self._test.small[number]
        tokens = np.array(written.token_ids)
        record = {
            "kind": "picture", "model": subject.name, **setting, "picture": number,
            "tokens": len(tokens), "calls": written.stats.target_calls + 1,  # the prompt's own is one too
            "mse_truth": _mse(tokens, truth.reshape(-1)), "mse_greedy": _mse(tokens, np.array(greedy)),
        }  # fmt: skip
        if setting is GREEDY:
            record["mse_bicubic"] = _mse(_bicubic(small, truth.shape), truth)
        if setting["rule"] == EXACT:
            record["margin"] = subject.margin(small, greedy, written.token_ids)
        if shown:
            record["intensities"] = tokens.tolist()
            if setting is GREEDY:
                record |= {"truth": truth.tolist(), "small": small.tolist()}
        return record


def _mse(some: NDArray, others: NDArray) -> float:
    """The mean squared difference of intensities."""
    return round(float(np.mean((some.astype(float) - others.astype(float)) ** 2)), 4)


def _bicubic(small: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """A small picture u8[h, w, C] enlarged without any model."""
    height, width = shape[:2]
    enlarged = [
        np.asarray(Image.fromarray(channel).resize((width, height), Image.Resampling.BICUBIC))
        for channel in np.moveaxis(small, 2, 0)
    ]
    return np.stack(enlarged, axis=2)
