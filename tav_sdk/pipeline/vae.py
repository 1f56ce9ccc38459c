"""The VAE of a bundle: frames to latents and back, a few at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from tav_sdk.bundle.layout import VAE_DECODER, VAE_ENCODER
from tav_sdk.diffusion.sampling import random_generator
from tav_sdk.pipeline.engines import GraphEngines
from tav_sdk.progress import Callback, StepProgress, report
from tav_sdk.video.clip import Clip
from tav_sdk.video.frames import VAE_CHUNK, chunk_lengths, to_frames, to_pixels

if TYPE_CHECKING:
    from numpy.typing import NDArray


class VAE:
    """Encodes and decodes with the graphs of a bundle.

    Args:
        engines: what runs them.
    """

    def __init__(self, engines: GraphEngines) -> None:
        self._engines = engines

    def encode(self, clip: Clip, *, posterior_seed: int | None = None, callback: Callback | None = None) -> np.ndarray:
        """A clip's latents times the scaling factor: ``(1, c, f, h / s, w / s)`` float32.

        Args:
            clip: of the bundle's size.
            posterior_seed: draw from the posterior with this seed; ``None``: its mean.
            callback: called after each chunk with the stage ``encode``; ``False`` cancels.
        """
        length = min(VAE_CHUNK, self._engines.manifest.num_frames)
        parts, total = [], -(-clip.num_frames // length)
        for part in self.latents(clip, length, posterior_seed):
            parts.append(part)
            report(callback, StepProgress("encode", len(parts), total))
        return np.concatenate(parts, axis=2)

    def latents(self, clip: Clip, length: int, posterior_seed: int | None) -> Iterator[np.ndarray]:
        """A clip's latents in parts of ``length`` frames, drawn from one stream of random numbers.

        Yields:
            ``(1, c, length, h / s, w / s)`` float32; the last may be shorter.
        """
        rng = None if posterior_seed is None else random_generator(posterior_seed)
        for frames in clip.chunks(length):
            parameters = [
                self._engines.run(VAE_ENCODER, sample=pixels)["latent_parameters"][:count]
                for pixels, count in self._chunks(to_pixels(frames))
            ]
            mean, log_variance = np.split(np.concatenate(parameters), 2, axis=1)  # (f, c, h, w)
            if rng is not None:
                noise = rng.standard_normal(mean.shape, dtype=np.float32)
                # diffusers' bounds of the log-variance
                mean = mean + np.exp(0.5 * np.clip(log_variance, -30.0, 20.0)) * noise
            yield np.ascontiguousarray((mean * self._engines.manifest.scaling_factor).swapaxes(0, 1)[None])

    def decode(self, latents: np.ndarray, *, callback: Callback | None = None) -> Iterator[NDArray[np.uint8]]:
        """The frames that clean latents ``(1, c, f, h / s, w / s)`` stand for, in parts.

        Yields:
            ``(f, h, w, 3)`` uint8 RGB.
        """
        frames = latents[0].swapaxes(0, 1) / self._engines.manifest.scaling_factor  # (f, c, h, w)
        total = -(-len(frames) // min(VAE_CHUNK, self._engines.manifest.num_frames))
        for index, (chunk, count) in enumerate(self._chunks(frames)):
            outputs = self._engines.run(VAE_DECODER, latent_sample=chunk)
            report(callback, StepProgress("decode", index + 1, total))
            yield to_frames(outputs["sample"][:count])

    def _chunks(self, frames: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
        """Frames in chunks of a length that the graphs are made for, and how many of each are not filled in."""
        longest, *shorter = sorted(chunk_lengths(self._engines.manifest.num_frames), reverse=True)
        for start in range(0, len(frames), longest):
            chunk = frames[start : start + longest]
            count = len(chunk)
            if count not in (longest, *shorter):
                chunk = np.concatenate([chunk, np.repeat(chunk[-1:], longest - count, axis=0)])
            yield chunk, count
