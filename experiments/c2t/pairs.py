"""The pairs of a target and a drafter, the prompts that a target makes up, and the classifiers of a pair."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import outpace
from experiments.c2t.scales import ALL, Features, Scale
from outpace.files.whole import write_whole
from outpace.heads.c2t import C2TConfig
from outpace.models.text import Model
from outpace.progress import progress_bar
from outpace.train.c2t import Rows, train_c2t, write_rows
from outpace.train.checkpoint import RUN
from outpace.train.self_text import write_text

WORK = Path(__file__).parent / "work"
PROMPTS, ROWS, ADAPTED = "prompts.json", "rows", "adapted"
LR, FINE = 3e-3, 3e-4  # of a classifier, and of one that goes on from another
Ids = list[int]


@dataclass(frozen=True, slots=True)
class Pair:
    """name: of its folder and in the report. target: as `outpace.load` reads it. draft: a drafter's spec."""

    name: str
    target: str
    draft: str

    @property
    def drafter(self) -> str:
        """Its name; a spec may hold paths of this machine."""
        return self.draft.partition(":")[0]

    def load(self) -> Model:
        """The target."""
        return outpace.load(self.target)


def classifier_of(pair: Path, features: Features) -> Path:
    """The folder of the classifier of a pair's folder that reads these features."""
    return pair / ("-".join(features))


def train_pair(folder: Path, pair: Pair, scale: Scale, *, first: Path | None, seed: int) -> None:
    """Every classifier of a pair into folder/PAIR; done already: nothing.

    first  the folder of another pair, whose classifier is gone on with too.
    """
    where = folder / pair.name
    wanted = [(classifier_of(where, features), features) for features in (ALL, *scale.ablation)]
    adapted = None if first is None else where / ADAPTED
    if all(_is_done(one) for one in [*(path for path, _ in wanted), *filter(None, [adapted])]):
        return
    print(f"{pair.name}: full trees", flush=True)
    with pair.load() as model, progress_bar() as progress:
        prompts = own_prompts(model, where / PROMPTS, scale.prompts, seed)
        rows_folder = where / ROWS
        rows_folder.mkdir(parents=True, exist_ok=True)
        few, rows = (
            write_rows(
                model,
                pair.draft,
                prompts[:count],
                rows_folder,
                k=scale.k,
                depth=scale.depth,
                max_tokens=scale.written,
                progress=progress,
            )
            for count in (scale.adapted, len(prompts))
        )
        name = Path(model.name).stem
    for path, features in wanted:
        _train(rows, path, C2TConfig(48, features, pair.drafter, name), scale, seed)
    if adapted is not None and first is not None:
        config = C2TConfig(48, ALL, pair.drafter, name)
        _train(few, adapted, config, scale, seed, start=classifier_of(first, ALL))


def _train(
    rows: Rows, path: Path, config: C2TConfig, scale: Scale, seed: int, *, start: Path | None = None
) -> None:
    lr = LR if start is None else FINE
    facts = train_c2t(rows, path, config, epochs=scale.epochs, lr=lr, start=start, seed=seed)
    print(f"{path.name}: " + ", ".join(f"{name} {value}" for name, value in facts.items()), flush=True)


def own_prompts(model: Model, path: Path, count: int, seed: int) -> list[Ids]:
    """User messages that the model makes up, as it reads them; kept in a file."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        made: list[Ids] = []
        for group in write_text(model, seed=seed, batch=min(48, count), max_answer=1):
            made += [list(one.prompt_ids) for one in group]
            if len(made) >= count:
                break
        write_whole(path, json.dumps(made[:count]).encode())
    prompts: list[Ids] = json.loads(path.read_text())
    return prompts


def _is_done(folder: Path) -> bool:
    path = folder / RUN
    return path.exists() and "held_out" in json.loads(path.read_text())


def pairs_of(target: str | None, model: str | None) -> Sequence[Pair]:
    """A model with a draft model, if they are given, and the default model with some layers of its own."""
    own = Pair("own-layers", "smollm2-135m-instruct", "layer_skip:stop=0.0,adapt=0.0")
    return [own] if target is None else [Pair("draft-model", target, f"small_model:model=[{model}]"), own]
