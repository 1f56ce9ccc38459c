"""``Inversion.save`` and ``Inversion.load``."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tav_sdk import Inversion
from tav_sdk.errors import InputError, OutputError

LATENTS = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 2, 2)
PLAIN = Inversion(latents=LATENTS, source_latents=LATENTS + 1, fps=8.0, prompt="a man", num_inversion_steps=3)
DIRECT = dataclasses.replace(PLAIN, correction="direct", offsets=np.stack([LATENTS] * 3))
FAST = dataclasses.replace(PLAIN, start_timestep=961)


@pytest.mark.parametrize("inversion", [PLAIN, DIRECT, FAST], ids=["plain", "direct", "fast"])
def test_it_comes_back_as_it_was(inversion: Inversion, tmp_path: Path) -> None:
    again = Inversion.load(inversion.save(tmp_path / "a.safetensors"))
    for field in dataclasses.fields(Inversion):
        np.testing.assert_array_equal(getattr(again, field.name), getattr(inversion, field.name))
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_an_edit_from_a_file_is_the_same(tiny_bundle: Path, tmp_path: Path) -> None:
    import tav_sdk

    clip = tav_sdk.Video(frames=np.zeros((4, 64, 64, 3), np.uint8), fps=8)
    with tav_sdk.load(tiny_bundle, cache=False) as pipeline:
        inversion = pipeline.invert(clip, num_inversion_steps=1)
        loaded = Inversion.load(inversion.save(tmp_path / "a.safetensors"))
        one, two = (pipeline.edit("a man", each, num_inference_steps=1).frames for each in (inversion, loaded))
    np.testing.assert_array_equal(one, two)


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"path must end in \.safetensors, got .*a\.npz"):
        PLAIN.save(tmp_path / "a.npz")


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        PLAIN.save(tmp_path / "none" / "a.safetensors")


def written(path: Path, facts: object, **arrays: np.ndarray) -> Path:
    save_file(arrays, path, metadata={"inversion": json.dumps(facts)})
    return path


FACTS = {
    "format_version": 1,
    "fps": 8.0,
    "prompt": "",
    "num_inversion_steps": 3,
    "correction": "none",
    "start_timestep": None,
}


@pytest.mark.parametrize(
    ("facts", "arrays", "text"),
    [
        ({**FACTS, "format_version": 2}, {"latents": LATENTS}, "path must be of format 1, got 2"),
        ([], {"latents": LATENTS}, "path must be of format 1, got None"),
        ({**FACTS, "fps": "fast"}, {"latents": LATENTS}, "path has no usable fps"),
        ({**FACTS, "num_inversion_steps": True}, {"latents": LATENTS}, "path has no usable num_inversion_steps"),
        (
            {**FACTS, "correction": "null"},
            {"latents": LATENTS},
            "path has a correction, a prompt, a frame rate or a number of steps out of range",
        ),
        (FACTS, {"latents": LATENTS}, "path must hold latents, source_latents, got latents"),
        (
            FACTS,
            {"latents": LATENTS, "source_latents": LATENTS[0]},
            r"path must hold finite float32 source_latents with 5 axes, got float32\[2, 3, 2, 2\]",
        ),
        ({**FACTS, "num_inversion_steps": 10**12}, {}, "path has a correction, a prompt, a frame rate or a number of"),
        ({**FACTS, "start_timestep": -1}, {}, "path has a correction, a prompt, a frame rate or a number of steps"),
        ({**FACTS, "prompt": "a" * 100_001}, {}, "path has a correction, a prompt, a frame rate or a number of steps"),
        ({**FACTS, "prompt": "\ud800"}, {}, "path has a correction, a prompt, a frame rate or a number of steps"),
        (
            FACTS,
            {"latents": LATENTS[..., :0], "source_latents": LATENTS[..., :0]},
            "path must hold finite float32 latents",
        ),
        (
            FACTS,
            {"latents": LATENTS * np.float32("nan"), "source_latents": LATENTS},
            "path must hold finite float32 latents",
        ),
    ],
)
def test_what_is_no_inversion_is_refused(facts: object, arrays: dict, text: str, tmp_path: Path) -> None:
    path = written(tmp_path / "a.safetensors", facts, **arrays)
    with pytest.raises(InputError, match=f"^{text}"):
        Inversion.load(path)


@pytest.mark.parametrize("content", [None, b"", b"x" * 100])
def test_another_file_is_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"^path must be a file that Inversion\.save wrote"):
        Inversion.load(path)


@pytest.mark.parametrize("path", [None, 3, b"a"])
def test_a_path_that_is_none_is_refused(path: object) -> None:
    with pytest.raises(InputError, match=r"path must be a file that Inversion\.save wrote, got (NoneType|int|bytes)"):
        Inversion.load(path)  # type: ignore[arg-type]


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.safetensors").open("wb") as file:
        file.truncate((1 << 34) + 1)
    with pytest.raises(InputError, match="path has 17179869185 bytes, at most 17179869184 are read"):
        Inversion.load(tmp_path / "a.safetensors")
