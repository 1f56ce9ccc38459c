from __future__ import annotations

import dataclasses
import errno
import os
from typing import Any

import numpy as np
import pytest

from tav_sdk.cache.entry import cache_key
from tav_sdk.cache.store import Cache
from tav_sdk.diffusion.inversion import Inversion
from tav_sdk.diffusion.schedule import DDIMSchedule
from tav_sdk.pipeline import inversion_cache
from tav_sdk.pipeline.inversion_cache import InversionCache, InversionFacts

FACTS = InversionFacts(
    clip="c" * 64,
    graphs={"text_encoder": "t", "vae_encoder": "v", "unet": "u"},
    tuned="w",
    tokenizer="k",
    schedule=DDIMSchedule().to_config(),
    scaling_factor=0.18215,
    precision="fp32",
    engine="onnxruntime-cpu",
    prompt="a man is skiing",
    num_inversion_steps=50,
    posterior_seed=None,
    adapter_scale=1.0,
    correction="none",
)
OTHERS: dict[str, Any] = {
    "clip": "d" * 64,
    "graphs": {"text_encoder": "t", "vae_encoder": "v", "unet": "x"},
    "tuned": "x",
    "tokenizer": "x",
    "schedule": DDIMSchedule(steps_offset=1).to_config(),
    "scaling_factor": 1.0,
    "precision": "fp16",
    "engine": "tensorrt",
    "prompt": "",
    "num_inversion_steps": 25,
    "posterior_seed": 0,
    "adapter_scale": 0.5,
    "correction": "direct",
    "control": {"video": "e" * 64, "scale": 1.0},
    "start_timestep": 961,
}


@pytest.fixture
def cache(tmp_path) -> Cache:
    return Cache("inversions", root=tmp_path / "root")


@pytest.fixture
def inversion() -> Inversion:
    random = np.random.default_rng(0)
    latents, source = random.standard_normal((2, 1, 4, 2, 8, 8), dtype=np.float32)
    return Inversion(latents=latents, source_latents=source, fps=8.0, prompt=FACTS.prompt, num_inversion_steps=50)


def test_what_was_kept_is_found_to_the_bit(cache, inversion):
    InversionCache(cache).keep(FACTS, inversion)
    found = InversionCache(cache).find(FACTS, fps=8.0)
    assert found is not None
    for name in ("latents", "source_latents"):
        got, want = getattr(found, name), getattr(inversion, name)
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)
    assert (found.fps, found.prompt, found.num_inversion_steps) == (8.0, "a man is skiing", 50)


def test_the_offsets_of_a_direct_inversion_are_kept_to_the_bit(cache, inversion):
    facts = dataclasses.replace(FACTS, correction="direct")
    offsets = np.random.default_rng(1).standard_normal((50, *inversion.latents.shape), dtype=np.float32)
    InversionCache(cache).keep(facts, dataclasses.replace(inversion, correction="direct", offsets=offsets))
    found = InversionCache(cache).find(facts, fps=8.0)
    assert found is not None
    assert found.correction == "direct"
    np.testing.assert_array_equal(found.offsets, offsets)


def test_a_direct_inversion_without_its_offsets_is_not_used(cache, inversion, caplog):
    facts = dataclasses.replace(FACTS, correction="direct")
    InversionCache(cache).keep(facts, inversion)
    assert InversionCache(cache).find(facts, fps=8.0) is None
    assert "a kept inversion cannot be used: " in caplog.text


def test_what_was_not_kept_is_not_found(cache):
    assert InversionCache(cache).find(FACTS, fps=8.0) is None


def test_every_fact_counts():
    assert OTHERS.keys() == {field.name for field in dataclasses.fields(InversionFacts)}


@pytest.mark.parametrize("name", OTHERS)
def test_another_fact_is_another_inversion(cache, inversion, name):
    kept = InversionCache(cache)
    kept.keep(FACTS, inversion)
    assert kept.find(dataclasses.replace(FACTS, **{name: OTHERS[name]}), fps=8.0) is None


def test_another_method_is_another_inversion(cache, inversion, monkeypatch):
    InversionCache(cache).keep(FACTS, inversion)
    monkeypatch.setattr(inversion_cache, "METHOD", inversion_cache.METHOD + 1)
    assert InversionCache(cache).find(FACTS, fps=8.0) is None


def test_the_frame_rate_is_the_clips(cache, inversion):
    InversionCache(cache).keep(FACTS, inversion)
    found = InversionCache(cache).find(FACTS, fps=25.0)
    assert found is not None
    assert found.fps == 25.0


def test_what_was_found_may_be_evicted(tmp_path, inversion):
    cache = Cache("inversions", root=tmp_path, max_bytes=6000)  # for one
    kept = InversionCache(cache)
    kept.keep(FACTS, inversion)
    assert kept.find(FACTS, fps=8.0) is not None
    other = dataclasses.replace(FACTS, posterior_seed=1)
    kept.keep(other, inversion)
    assert [entry.facts["posterior_seed"] for entry in cache.entries()] == [1]


def test_a_damaged_one_is_not_found_and_kept_again(cache, inversion, caplog):
    kept = InversionCache(cache)
    kept.keep(FACTS, inversion)
    path = cache.folder / cache_key(FACTS.to_dict()) / "latents.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert kept.find(FACTS, fps=8.0) is None
    assert "latents.npy was changed" in caplog.text
    kept.keep(FACTS, inversion)
    assert kept.find(FACTS, fps=8.0) is not None


@pytest.mark.parametrize(
    "array", [np.zeros((1, 4, 2, 8, 8)), np.zeros((4, 2), np.float32), np.array([{}], dtype=object)]
)
def test_what_holds_something_else_is_not_used(cache, caplog, array):
    def make(folder):
        for name in ("latents.npy", "source_latents.npy"):
            np.save(folder / name, array, allow_pickle=True)

    cache.get_or_make(cache_key(FACTS.to_dict()), make, facts=FACTS.to_dict())
    assert InversionCache(cache).find(FACTS, fps=8.0) is None
    assert "a kept inversion cannot be used: " in caplog.text


def test_objects_are_not_kept(cache, inversion, caplog):
    InversionCache(cache).keep(FACTS, dataclasses.replace(inversion, latents=np.array([{}], dtype=object)))
    assert "the inversion is not kept: Object arrays cannot be saved when allow_pickle=False" in caplog.text
    assert cache.entries() == []


def test_a_cache_that_cannot_be_written_is_a_warning(tmp_path, inversion, caplog):
    (tmp_path / "file").write_text("x")
    kept = InversionCache(Cache("inversions", root=tmp_path / "file" / "root"))
    assert kept.find(FACTS, fps=8.0) is None
    kept.keep(FACTS, inversion)
    assert "the inversion is not kept: the cache " in caplog.text
    assert "name another folder for the caches in TAV_CACHE" in caplog.text


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), OSError("8 requested, 0 written")])
def test_a_full_disk_is_a_warning(cache, inversion, caplog, monkeypatch, error):
    def fail(*_args, **_options):
        raise error

    monkeypatch.setattr(np, "save", fail)
    InversionCache(cache).keep(FACTS, inversion)
    assert "the inversion is not kept: " in caplog.text
    assert os.listdir(cache.folder) == []


def test_facts_that_are_no_json_are_a_warning(cache, inversion, caplog):
    kept, facts = InversionCache(cache), dataclasses.replace(FACTS, scaling_factor=float("nan"))
    assert kept.find(facts, fps=8.0) is None
    kept.keep(facts, inversion)
    assert "the inversion is not kept: the facts of a cache entry must be plain JSON values" in caplog.text


def test_a_limit_of_nothing_keeps_nothing(tmp_path, inversion, monkeypatch):
    monkeypatch.setenv("TAV_CACHE", str(tmp_path / "root"))
    monkeypatch.setenv("TAV_CACHE_SIZE_INVERSIONS", "0")
    kept = InversionCache()
    kept.keep(FACTS, inversion)
    assert kept.find(FACTS, fps=8.0) is None
    assert not (tmp_path / "root").exists()


def test_a_limit_that_is_no_size_is_a_warning(tmp_path, inversion, monkeypatch, caplog):
    monkeypatch.setenv("TAV_CACHE", str(tmp_path / "root"))
    monkeypatch.setenv("TAV_CACHE_SIZE_INVERSIONS", "much")
    kept = InversionCache()
    kept.keep(FACTS, inversion)
    assert kept.find(FACTS, fps=8.0) is None
    assert "inversions are not kept: TAV_CACHE_SIZE_INVERSIONS: expected a size" in caplog.text
