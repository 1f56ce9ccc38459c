"""What results follow from: the keys of kept inversions and of loops that can be resumed."""

from __future__ import annotations

import hashlib
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from tav_sdk.bundle.layout import TEXT_ENCODER, TOKENIZER, TUNED_FILE, UNET, VAE_ENCODER, WINDOWED_UNET
from tav_sdk.cache.entry import cache_key
from tav_sdk.diffusion.schedule import DDIMSchedule
from tav_sdk.pipeline.controlnet import Control
from tav_sdk.pipeline.engines import GraphEngines
from tav_sdk.pipeline.inversion_cache import InversionFacts
from tav_sdk.request.settings import InvertSettings, SampleSettings
from tav_sdk.video.clip import Clip


def inversion_facts(
    engines: GraphEngines,
    schedule: DDIMSchedule,
    clip: Clip,
    settings: InvertSettings,
    *,
    unet: str,
    control: Control | None,
) -> InversionFacts | None:
    """What an inversion follows from; ``None`` where an engine was given, of whose weights nothing is known.

    Args:
        engines: what inverts.
        schedule: the base's.
        clip: what is inverted.
        settings: how.
        unet: the graph of the U-Net that runs.
        control: what steers it.
    """
    graphs = (TEXT_ENCODER, VAE_ENCODER, unet)
    if not engines.given.keys().isdisjoint(graphs):
        return None
    manifest = engines.manifest
    files = {path: entry.sha256 for path, entry in manifest.files.items()}
    tuned = (PurePosixPath(manifest.graphs[UNET].file).parent / TUNED_FILE).as_posix()
    return InversionFacts(
        clip=clip.content_hash,
        graphs={name: str(engines.bundle.graph(name).key) for name in graphs},
        tuned=files.get(tuned, ""),  # in format 1 they are in the graph's key
        tokenizer=cache_key({path: sha for path, sha in files.items() if path.startswith(f"{TOKENIZER}/")}),
        schedule=schedule.to_config(),
        scaling_factor=manifest.scaling_factor,
        precision=manifest.precision,
        engine=engines.name,
        prompt=settings.prompt,
        num_inversion_steps=settings.num_inversion_steps,
        posterior_seed=settings.posterior_seed,
        adapter_scale=engines.adapter_scale,
        correction=settings.correction,
        control=None if control is None else control.facts,
        start_timestep=settings.start_timestep,
    )


def sampling_facts(
    engines: GraphEngines,
    schedule: DDIMSchedule,
    settings: SampleSettings,
    *,
    unet: str,
    prompt: str,
    latents: np.ndarray,
    states: np.ndarray,
    negative: np.ndarray | None,
    offsets: np.ndarray | None,
    start_timestep: int | None,
) -> dict[str, Any] | None:
    """What sampled latents follow from, as plain JSON values; ``None`` where the U-Net's engine was given.

    Args:
        latents: ``(1, c, f, h, w)`` float32, where sampling starts.
        states, negative: ``(1, s, d)`` float32, text states.
        offsets: ``(n, 1, c, f, h, w)`` float32, of the correction ``direct``.
    """
    if not engines.given.keys().isdisjoint((UNET, WINDOWED_UNET)):
        return None
    return {
        "stage": "sampling",
        "prompt": prompt,
        "inputs": [_hash(latents), _hash(states)],
        "negative": _hash(negative),
        "offsets": _hash(offsets),
        "unet": str(engines.bundle.graph(unet).key),
        "weights": None if engines.weights is None else engines.weights.key,
        "schedule": schedule.to_config(),
        "steps": settings.num_inference_steps,
        "start_timestep": start_timestep,
        "guidance_scale": settings.guidance_scale,
        "engine": engines.name,
    }


def _hash(array: np.ndarray | None) -> str | None:
    return None if array is None else hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
