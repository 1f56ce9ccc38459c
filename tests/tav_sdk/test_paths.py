"""Paths that somebody gave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tav_sdk
from tav_sdk.errors import InputError
from tav_sdk.paths import given_path

NONE: Any = None
FOUR: Any = 4


@pytest.fixture
def loop(tmp_path: Path) -> Path:
    """A link to itself."""
    path = tmp_path / "loop"
    path.symlink_to(path)
    return path


def test_a_path_stays_as_it_was_given(tmp_path):
    assert given_path("path", "a/../b") == Path("a/../b")
    assert given_path("path", tmp_path) == tmp_path


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "clip must be a path, got None"),
        (3, "clip must be a path, got 3"),
        (b"clip.mp4", "clip must be a path, got b'clip.mp4'"),
        ("a\0b", "clip must be usable, got 'a\\x00b': embedded null byte"),
        ("x" * 300, "': File name too long"),
        ("x/" * 3000, "': File name too long"),
    ],
)
def test_what_is_no_path_is_refused(value, text):
    with pytest.raises(InputError) as error:
        given_path("clip", value)
    assert text in str(error.value).replace("...:", "':")
    assert error.value.field == "clip"


def test_links_in_a_circle_are_refused(loop):
    with pytest.raises(InputError, match="Too many levels of symbolic links"):
        given_path("clip", loop / "clip.mp4")


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda _: tav_sdk.load(NONE), "bundle must be a path, got None"),
        (lambda loop: tav_sdk.load(loop), "bundle must be usable, got '"),
        (lambda _: tav_sdk.read_video(NONE), "path must be a path, got None"),
        (lambda _: tav_sdk.probe(FOUR), "path must be a path, got 4"),
        (lambda _: tav_sdk.VideoFile(NONE), "path must be a path, got None"),
    ],
)
def test_python_refuses_them_by_name(call, text, loop):
    with pytest.raises(InputError) as error:
        call(loop)
    assert str(error.value).startswith(text)
