from __future__ import annotations

import numpy as np

from tav_sdk.training.pocket.backgrounds import BACKGROUNDS
from tav_sdk.training.pocket.styles import STYLES
from tav_sdk.training.pocket.world import sample, subject_center


def test_the_same_number_gives_the_same_picture_and_caption():
    first, again = sample(3, 17), sample(3, 17)
    assert first.picture.shape == (64, 64, 3)
    assert first.picture.dtype == np.uint8
    assert np.array_equal(first.picture, again.picture)
    assert (first.caption, first.scene) == (again.caption, again.scene)


def test_other_seeds_and_numbers_give_other_pictures():
    assert not np.array_equal(sample(3, 17).picture, sample(3, 18).picture)
    assert not np.array_equal(sample(3, 17).picture, sample(4, 17).picture)


def test_captions_say_what_the_scene_shows():
    for index in range(200):
        item = sample(5, index, 16)
        words, scene = item.caption, item.scene
        assert f" {scene.subject} " in words
        assert scene.color is None or f" {scene.color} " in words
        place = next(b for b in BACKGROUNDS if b.name == scene.background)
        assert any(phrase in words for phrase in place.phrases)
        assert (scene.style in words) == (scene.style != "plain")
        assert words.startswith("an " if scene.color is None and scene.subject == "elephant" else "a ")
    assert len(STYLES) == 3


def test_the_subject_lies_inside_the_picture():
    centers = np.asarray([subject_center(sample(6, index, 8).scene) for index in range(100)])
    assert centers.min() > 0.1
    assert centers.max() < 0.9
