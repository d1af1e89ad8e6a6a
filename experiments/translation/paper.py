"""What Stern et al. 2018, arXiv:1811.03115, report on English-German.

Their distilled targets are beams of a teacher of another seed; ours are own output, renewed or not.
"""

from __future__ import annotations

Points = dict[int, tuple[float, float]]
"""k -> (BLEU, mean accepted block size), of newstest2013."""

BY_REGIME: dict[tuple[str, str], Points] = {
    ("frozen", "gold"): {
        1: (26.00, 1.00), 2: (25.81, 1.51), 4: (25.84, 1.73), 6: (26.08, 1.76), 8: (25.82, 1.76),
        10: (25.69, 1.74),
    },
    ("frozen", "own"): {
        1: (26.41, 1.00), 2: (26.52, 1.55), 4: (26.31, 1.85), 6: (26.26, 1.90), 8: (26.25, 1.91),
        10: (26.34, 1.90),
    },
    ("finetuned", "gold"): {
        2: (25.74, 1.78), 4: (25.05, 2.69), 6: (24.69, 2.98), 8: (24.27, 3.01), 10: (23.51, 2.87),
    },
    ("finetuned", "own"): {
        2: (26.58, 1.88), 4: (26.36, 3.27), 6: (26.18, 4.18), 8: (26.11, 4.69), 10: (25.60, 4.95),
    },
}  # fmt: skip
BY_REGIME["finetuned", "renewed"] = BY_REGIME["finetuned", "own"]

# Finetuned on distilled targets.
BY_RULE: dict[str, Points] = {
    "topk:k=2": {
        2: (26.49, 1.92), 4: (26.22, 3.47), 6: (25.90, 4.59), 8: (25.71, 5.34), 10: (25.04, 5.67),
    },
    "topk:k=3": {
        2: (26.41, 1.93), 4: (26.14, 3.52), 6: (25.56, 4.69), 8: (25.41, 5.52), 10: (24.68, 5.91),
    },
}  # fmt: skip

# Finetuned on distilled targets, one sentence at a time, newstest2014: times greedy's speed.
SPEED = {1: 1.00, 2: 1.72, 4: 2.69, 6: 3.10, 8: 3.31, 10: 3.04}
