"""What `outpace train c2t` does: prompts, rows of full trees, and the training of a classifier on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from outpace.core.errors import OutpaceError
from outpace.heads.c2t import C2TConfig
from outpace.heads.folder import MAX_SIZE
from outpace.heads.proposals import tapped
from outpace.models.text import load
from outpace.progress import Progress
from outpace.train.c2t import FullTrees, read_start, train_c2t, write_rows
from outpace.train.data import Pair, data_hash
from outpace.train.origin import ORIGIN, claim

ROWS = "rows"


@dataclass(frozen=True, slots=True)
class C2TJob:
    """The command's options, by their names."""

    target: str
    draft: str
    output: Path
    k: int
    depth: int
    max_tokens: int
    width: int
    epochs: int
    lr: float
    start: Path | None
    seed: int
    threads: int | None

    def run(self, pairs: Sequence[Pair], progress: Progress | None) -> dict[str, float]:
        """Write the rows and train. Returns how the classifier does on trees held out."""
        if self.threads:
            torch.set_num_threads(self.threads)
        if self.width > MAX_SIZE:
            raise OutpaceError(f"c2t has width={self.width}, accepted are whole numbers from 1 to {MAX_SIZE}")
        FullTrees(k=self.k, depth=self.depth)  # refuses those that are too large
        config = C2TConfig(self.width, draft=self.draft)
        if self.start is not None:
            read_start(self.start, config)  # what is wrong with it is said before an hour has passed
        if self.max_tokens < self.depth:
            raise OutpaceError(
                f"c2t has max_tokens={self.max_tokens} and depth={self.depth}; accepted are texts as "
                "long as trees are deep, or longer"
            )
        model = load(self.target, threads=self.threads)
        most = model.target.context_length - self.max_tokens
        if most < 1:
            raise OutpaceError(
                f"c2t has max_tokens={self.max_tokens}, accepted are 1 to {model.target.context_length - 1}"
            )
        prompts = [
            pair.given if isinstance(pair.given, list) else model.prompt_ids(pair.given) for pair in pairs
        ]
        prompts = [prompt for prompt in prompts if len(prompt) <= most]
        if not prompts:
            raise OutpaceError(
                f"every input of the data has more than {most} tokens, accepted are shorter ones"
            )
        facts = {
            "target": tapped(model.target, "training").fingerprint(), "draft": self.draft,
            "data": data_hash(pairs), "k": self.k, "depth": self.depth, "max_tokens": self.max_tokens,
        }  # fmt: skip
        folder = self.output / ROWS
        claim(folder / ORIGIN, facts, begun=any(folder.glob("*.npz")))
        rows = write_rows(
            model,
            self.draft,
            prompts,
            folder,
            k=self.k,
            depth=self.depth,
            max_tokens=self.max_tokens,
            progress=progress,
        )
        return train_c2t(
            rows,
            self.output,
            replace(config, model=model.name),
            epochs=self.epochs,
            lr=self.lr,
            start=self.start,
            data=", ".join(f"{name} {value}" for name, value in facts.items()),
            seed=self.seed,
            progress=progress,
        )
