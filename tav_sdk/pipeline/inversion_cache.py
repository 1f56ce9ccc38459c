"""Inversions kept on disk, so that a clip that was inverted once is edited again without waiting.

    cache = InversionCache()
    inversion = cache.find(facts, fps=clip.fps)
    if inversion is None:
        inversion = ...
        cache.keep(facts, inversion)

What is kept is a clip's latents and the prompt it was inverted with, in the user's own cache folder with mode 0700; see
:mod:`tav_sdk.cache.store` for where that is, who may read it and how it is limited. ``TAV_CACHE_SIZE_INVERSIONS=0``
keeps nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tav_sdk.array_file import read_array
from tav_sdk.cache.entry import cache_key
from tav_sdk.cache.store import Cache
from tav_sdk.diffusion.inversion import Correction, Inversion
from tav_sdk.errors import TavError
from tav_sdk.pipeline.resume import MAX_LATENTS_BYTES
from tav_sdk.words import logger

METHOD = 2
"""To be raised when the same facts come to give other latents, so that what was kept before is not found again."""

OFFSETS = "offsets.npy"
_HARMLESS = (TavError, OSError, ValueError, EOFError)

_log = logger(__name__)


@dataclass(frozen=True, kw_only=True)
class InversionFacts:
    """All that an inversion's latents depend on. The frame rate is not among them.

    Attributes:
        clip: :attr:`~tav_sdk.video.clip.Video.content_hash` of the clip.
        graphs: the keys of the graphs that invert, by name: text encoder, VAE encoder, U-Net.
        tuned: SHA-256 of the tuned weights.
        tokenizer: SHA-256 of the tokenizer's files.
        schedule: :meth:`~tav_sdk.diffusion.schedule.DDIMSchedule.to_config` of the base's schedule.
        scaling_factor: what the VAE's latents are multiplied by.
        precision: what the graphs compute in.
        engine: what runs them; other engines round otherwise.
        prompt: what the clip is inverted with.
        num_inversion_steps: U-Net evaluations.
        posterior_seed: of the draw from the VAE's posterior; ``None`` for its mean.
        adapter_scale: how much of the tuning is used.
        correction: how edits are kept near the clip.
        control: what steered the U-Net, if anything.
        start_timestep: of a fast inversion, where it ends.
    """

    clip: str
    graphs: Mapping[str, str]
    tuned: str
    tokenizer: str
    schedule: Mapping[str, Any]
    scaling_factor: float
    precision: str
    engine: str
    prompt: str
    num_inversion_steps: int
    posterior_seed: int | None
    adapter_scale: float
    correction: Correction
    control: Mapping[str, Any] | None = None
    start_timestep: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """The facts as plain JSON values, with :data:`METHOD`."""
        return {"method": METHOD, **dataclasses.asdict(self)}


class InversionCache:
    """Inversions by the facts that they follow from.

    It never fails an edit: whatever is wrong with the cache becomes a logged warning, and the inversion is made as if
    there were none.

    Args:
        cache: where to keep them; by default ``Cache("inversions")``.
    """

    def __init__(self, cache: Cache | None = None) -> None:
        if cache is None:
            try:
                cache = Cache("inversions")
            except _HARMLESS as error:
                _log.warning("inversions are not kept: %s", error)
        self._cache = cache if cache is not None and cache.max_bytes > 0 else None

    def find(self, facts: InversionFacts, *, fps: float) -> Inversion | None:
        """The inversion that was kept for these facts, or ``None``.

        Args:
            facts: what it has to follow from.
            fps: the frame rate that it is to carry; its latents are the same at any.
        """
        if self._cache is None:
            return None
        try:
            key = cache_key(facts.to_dict())
            folder = self._cache.get(key)
            if folder is None:
                return None
            try:
                return Inversion(
                    latents=_load(folder / "latents.npy"),
                    source_latents=_load(folder / "source_latents.npy"),
                    fps=fps,
                    prompt=facts.prompt,
                    num_inversion_steps=facts.num_inversion_steps,
                    correction=facts.correction,
                    offsets=_load(folder / OFFSETS, axes=6) if facts.correction == "direct" else None,
                    start_timestep=facts.start_timestep,
                )
            finally:
                self._cache.release(key)
        except _HARMLESS as error:
            _log.warning("a kept inversion cannot be used: %s", error)
            return None

    def keep(self, facts: InversionFacts, inversion: Inversion) -> None:
        """Keep an inversion for :meth:`find`, until the cache's limit takes it."""

        def make(folder: Path) -> None:
            np.save(folder / "latents.npy", inversion.latents, allow_pickle=False)
            np.save(folder / "source_latents.npy", inversion.source_latents, allow_pickle=False)
            if inversion.offsets is not None:
                np.save(folder / OFFSETS, inversion.offsets, allow_pickle=False)

        if self._cache is None:
            return
        try:
            key = cache_key(facts.to_dict())
            self._cache.get_or_make(key, make, facts=facts.to_dict())
            self._cache.release(key)
        except _HARMLESS as error:
            _log.warning("the inversion is not kept: %s", error)


def _load(path: Path, axes: int = 5) -> np.ndarray:
    """Latents ``(1, c, f, h, w)`` float32, or offsets ``(n, 1, c, f, h, w)``.

    Raises:
        ValueError: the file holds something else.
    """
    return read_array(path, dtype="float32", axes=axes, max_bytes=MAX_LATENTS_BYTES)
