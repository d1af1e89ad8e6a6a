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
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from experiments.kit.results import RESULTS, Record, Results, run_record
from experiments.kit.subjects import EXACT, Setting, Subject, by_model, one_by_one, settings_of
from experiments.superres import pictures
from experiments.superres.base import mean_bits
from experiments.superres.decoding import decode
from experiments.superres.heads import trainings
from experiments.superres.pictures import Pictures
from experiments.superres.scales import Scale
from outpace.core.contracts import Drafter
from outpace.drafters.heads.blockwise import Blockwise
from outpace.drafters.lookup.jacobi import Jacobi
from outpace.engine.request import Generation
from outpace.rules import RULES
from outpace.targets.pixel import PixelTarget
from outpace.targets.pixel_model import PixelModel
from outpace.train.bases_pixel import lines
from outpace.trees.chain import Chain

HEADS, NEAR, JACOBI = "heads", "near", "jacobi"
EPS = 2  # levels that the distance rule allows, and that heads which draft "near" aim at
DISTANCE = f"distance:eps={EPS}"
JACOBI_LENGTH = 23
GREEDY = {"regime": None, "data": None, "k": 1, "draft": "none", "rule": "greedy"}
BATCH = 32
NUM_SHOWN = 6  # pictures whose intensities are recorded, for the report
WARM_UP_TOKENS = 32


def drafter_of(setting: Setting, target: PixelTarget, folder: Path) -> Drafter:
    """For a target of its model, with what lies in the folder of a scale.

    "heads" drafts the best token of each; "near" of each the token that is likeliest to be within EPS of the
    right one; "jacobi" what the model said of the last draft, without heads.
    """
    if setting.draft == JACOBI:
        return Jacobi(length=setting.k - 1)
    return Blockwise(
        target,
        path=str(setting.training.heads(folder)),
        heads=setting.k,
        tree=Chain(length=setting.k - 1),
        near=EPS if setting.draft == NEAR else 0,
    )


class Pixels(Subject):
    """A model with the settings that write pictures with it. Greedy has a target without taps."""

    def __init__(self, folder: Path, settings: list[Setting], device: str) -> None:
        super().__init__(folder, settings)
        self.model = PixelModel.open(self.where).to(device)
        kernels = "block" if device == "cpu" else "torch"
        self.plain, self._tapped = (PixelTarget(self.model, kernels=kernels) for _ in range(2))
        self._drafters = [drafter_of(one, self._tapped, folder) for one in settings]

    def all_settings(
        self, smalls: NDArray[np.uint8], *, max_tokens: int | None = None
    ) -> Iterator[tuple[Record, list[Generation]]]:
        """Pictures of small ones u8[n, h, w, C] by greedy, then by each setting."""
        yield GREEDY, decode(self.plain, smalls, max_tokens=max_tokens)
        for setting, drafter in zip(self.settings, self._drafters, strict=True):
            rule = RULES.create(setting.rule)
            yield setting.record, decode(self._tapped, smalls, drafter, rule, max_tokens=max_tokens)

    def parting(self, small: NDArray[np.uint8], tokens: list[int], others: list[int]) -> float | None:
        """The margin of two pictures of a small one."""

        def logits(at: int) -> torch.Tensor:
            device = self.model.output.weight.device
            line = lines(torch.tensor([tokens], device=device))
            said: torch.Tensor = self.model(line, torch.from_numpy(small[None]).to(device))[0, at]
            return said

        return self.margin(tokens, others, logits)


def evaluate(patches: Path, folder: Path, scale: Scale, *, command: str = "", device: str = "cpu") -> None:
    """Bring folder/results.jsonl to the whole of a scale."""
    test = pictures.read(patches, "test", scale.config)
    numbers = np.linspace(0, len(test.large) - 1, min(scale.pictures, len(test.large))).astype(int).tolist()
    timed = numbers[:: max(1, len(numbers) // scale.timed)][: scale.timed]
    shown = set(numbers[:: max(1, len(numbers) // NUM_SHOWN)][:NUM_SHOWN])
    subjects = [Pixels(folder, some, device) for some in by_model(settings(scale), folder)]
    work = _Work(Results(folder / RESULTS, run_record(command, device)), test)
    for subject in subjects:
        work.describe(subject, numbers)
    tasks = [
        (f"pictures by {one.name}", partial(work.write_pictures, one, numbers, shown)) for one in subjects
    ]
    one_by_one([*tasks, *(("one by one", partial(work.time_picture, subjects, n)) for n in timed)])


def settings(scale: Scale) -> list[Setting]:
    """All rows of the table; jacobi drafts are for models of the largest k."""
    found = []
    for training in trainings(scale):
        some = ((HEADS, EXACT), (HEADS, DISTANCE), (NEAR, DISTANCE))
        found += settings_of(training, scale.num_heads, some)
        if training.data == "gold" and training.num_heads == max(scale.num_heads):
            found += [Setting(training, JACOBI_LENGTH + 1, JACOBI, rule) for rule in (EXACT, DISTANCE)]
    return found


class _Work:
    """What is still to be measured."""

    def __init__(self, results: Results, test: Pictures) -> None:
        self._results = results
        self._test = test
        self._warm = False

    def describe(self, subject: Pixels, numbers: list[int]) -> None:
        """A model's record."""
        some = Pictures(self._test.large[numbers], self._test.small[numbers])
        subject.describe(
            self._results,
            lambda: {
                "parameters": sum(parameter.numel() for parameter in subject.model.parameters()),
                "test_bits": round(mean_bits(subject.model, some), 4),
            },
        )

    def write_pictures(self, subject: Pixels, numbers: list[int], shown: set[int]) -> None:
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

    def time_picture(self, subjects: list[Pixels], number: int) -> None:
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
        subject: Pixels,
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
            record["margin"] = subject.parting(small, greedy, written.token_ids)
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
