"""Random edits of all three kinds, and what they do token by token."""

from __future__ import annotations

import numpy as np

from outpace.core.edits import Edit


def random_edit(rng: np.random.Generator, vocab_size: int) -> Edit:
    """Biases and bans, a penalty and a mask, each there or not; one token at least stays possible."""
    stays = rng.integers(vocab_size)

    def some() -> np.ndarray:
        return rng.integers(0, vocab_size, rng.integers(0, vocab_size))  # tokens come twice too

    ids = some() if rng.random() < 0.7 else some()[:0]
    ids = ids[ids != stays]
    allowed = rng.random(vocab_size) < rng.choice([0.05, 0.5, 0.97])
    allowed[stays] = True
    return Edit(
        ids,
        rng.choice([-np.inf, -3.25, 0.1, 2.0], len(ids), p=[0.1, 0.3, 0.3, 0.3]),
        repeated=some() if rng.random() < 0.7 else (),
        penalty=float(rng.choice([0.4, 1.1, 1.3, 4.0])),
        allowed=allowed if rng.random() < 0.7 else None,
    )


def by_token(logits: np.ndarray, edit: Edit, *, wrong_sign: bool = False) -> np.ndarray:
    """`edited`, written down once more with scalars; with the rule for signs left out where asked."""
    found = logits.astype(np.float32)
    added = dict(zip(edit.ids.tolist(), edit.added, strict=True))
    for token in range(len(found)):
        one = found[token] + added.get(token, np.float32(0))
        if token in set(edit.repeated.tolist()):
            penalty = np.float32(edit.penalty)
            one = one * penalty if one < 0 and not wrong_sign else one / penalty
        if edit.allowed is not None and not int(edit.allowed[token // 8]) >> token % 8 & 1:
            one = np.float32(-np.inf)
        found[token] = one
    return found
