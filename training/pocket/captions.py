"""Captions: what a scene is called in words."""

from __future__ import annotations

import numpy as np

from tav_sdk.training.pocket.backgrounds import BACKGROUND_NAMES, BACKGROUNDS
from tav_sdk.training.pocket.styles import STYLE_NAMES, STYLES
from tav_sdk.training.pocket.subjects import SUBJECT_NAMES, SUBJECTS


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def caption(
    *,
    subject: str,
    background: str,
    style: str = "plain",
    color: str | None = None,
    rng: np.random.Generator | None = None,
) -> str:
    """The scene in words, as in "a red car is moving on the road, pixel art style".

    With ``rng`` one of the paraphrases is drawn; without, the first of each phrase is taken.
    """
    thing = SUBJECTS[SUBJECT_NAMES.index(subject)]
    place = BACKGROUNDS[BACKGROUND_NAMES.index(background)]
    look = STYLES[STYLE_NAMES.index(style)]

    def pick(options: tuple[str, ...]) -> str:
        return options[0] if rng is None else options[int(rng.integers(len(options)))]

    noun = subject if color is None else f"{color} {subject}"
    verb, phrase, suffix = pick(thing.verbs), pick(place.phrases), pick(look.phrases)
    linking = "" if rng is not None and rng.random() < 0.2 else "is "
    return f"{_article(noun)} {noun} {linking}{verb} {phrase}{suffix}"
