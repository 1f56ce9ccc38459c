"""The largest setting that a budget of memory holds."""

from __future__ import annotations

import math
from collections.abc import Callable

MAX_FRAMES, MAX_SIZE_STEPS = 1024, 64
"""Where the search for what fits a budget ends; steps of the base's size multiple."""


def largest(peak: Callable[[int], float], budget: float, *, start: int, limit: int, power: int = 1) -> int:
    """The largest ``n`` in [1, limit] with ``peak(n) <= budget``; 0 if there is none.

    ``peak`` must not fall. It is about affine in ``n ** power``, so the next try is where the line through the two
    nearest known points meets the budget; every third try halves the bracket, so the search ends whatever the shape.
    """
    low, high = 0, limit + 1
    known: dict[int, float] = {}
    guess, tries = min(max(start, 1), limit), 0
    while high - low > 1:
        value = known[guess] = peak(guess)
        low, high = (guess, high) if value <= budget else (low, guess)
        tries += 1
        nearest = sorted(known, key=lambda n: abs(known[n] - budget))[:2]
        if len(nearest) == 2 and tries % 3 and known[nearest[0]] != known[nearest[1]]:
            a, b = nearest
            slope = (known[b] - known[a]) / (b**power - a**power)
            target = max(a**power + (budget - known[a]) / slope, 0.0) ** (1 / power)
            guess = math.floor(min(target, limit))
        elif len(nearest) == 1:
            guess = guess * 2 if value <= budget else guess // 2
        else:
            guess = (low + high) // 2
        guess = min(max(guess, low + 1), high - 1)
    return low
