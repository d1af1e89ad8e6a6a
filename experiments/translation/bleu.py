"""BLEU by sacrebleu from counts that can be added up, and the interval of a difference of two systems.

Koehn 2004, "Statistical significance tests for machine translation evaluation": sentences are drawn with
replacement, the same ones for both systems.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics.bleu import BLEU

NUM_SAMPLES = 1000
ORDER = 4


def counts(output: str, reference: str) -> list[int]:
    """Of a sentence: n-grams that are right, n-grams, both for n = 1 to 4, and the lengths of both texts."""
    score = BLEU(effective_order=True).sentence_score(output, [reference])
    return [*map(int, score.counts), *map(int, score.totals), int(score.sys_len), int(score.ref_len)]


def bleu(some: NDArray[np.integer]) -> float:
    """Of sentences together. some i64[n, 10]: their counts."""
    total = some.sum(axis=0).tolist()
    right, of = total[:ORDER], total[ORDER : 2 * ORDER]
    said, wanted = total[2 * ORDER :]
    return float(BLEU.compute_bleu(right, of, said, wanted, smooth_method="exp").score)


def difference(ours: NDArray[np.integer], others: NDArray[np.integer]) -> tuple[float, float, float]:
    """By how much our BLEU is higher, and the middle 95 % of what samples of the sentences say."""
    random = np.random.default_rng(0)
    samples = random.integers(0, len(ours), (NUM_SAMPLES, len(ours)))
    found = [bleu(ours[sample]) - bleu(others[sample]) for sample in samples]
    low, high = np.percentile(found, [2.5, 97.5])
    return bleu(ours) - bleu(others), float(low), float(high)
