"""A bundle's models on engines, numpy in and numpy out: what a pipeline's loops are made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from tav_sdk.bundle.bundle import Bundle, check_same_base
from tav_sdk.bundle.layout import GRAPHS, TEXT_ENCODER, TOKENIZER, UNET, VAE_DECODER, VAE_ENCODER, WINDOWED_UNET
from tav_sdk.bundle.manifest import Manifest
from tav_sdk.bundle.tokenizer import Tokenizer
from tav_sdk.bundle.tuned_weights import check_adapter_scale
from tav_sdk.diffusion.sampling import random_generator
from tav_sdk.diffusion.schedule import DDIMSchedule
from tav_sdk.engines.base import Engine, TensorSpec
from tav_sdk.engines.select import choose_engine
from tav_sdk.engines.shared import SharedEngine
from tav_sdk.errors import InputError
from tav_sdk.pipeline.controlnet import Control, no_residuals
from tav_sdk.pipeline.windows import BlendedUNet, WindowedUNet, WindowGraph, blended_runs
from tav_sdk.progress import Callback, StepProgress, UNet, report
from tav_sdk.video.clip import Clip, Video
from tav_sdk.video.file import VideoFile
from tav_sdk.video.frames import VAE_CHUNK, chunk_lengths, to_frames, to_pixels

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from typing_extensions import Self


class BundleModels:
    """The text encoder, the VAE and the U-Net of a bundle; see :class:`~tav_sdk.pipeline.pipeline.Pipeline` for
    arguments."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        engine: str = "auto",
        engines: Mapping[str, Engine] | None = None,
        adapter_scale: float = 1.0,
    ) -> None:
        self._given = dict(engines or {})
        for graph, given in self._given.items():
            _check_engine(graph, given, bundle.manifest)
        if self._given.keys() >= set(GRAPHS):
            self.engine = ", ".join(sorted({given.backend for given in self._given.values()}))
            self.why = "as given"
        else:
            self.engine, self.why = choose_engine(
                engine, [bundle.graph(name) for name in GRAPHS if name not in self._given]
            )
        self.manifest: Manifest = bundle.manifest
        self.schedule: DDIMSchedule = bundle.schedule
        self._bundle = bundle
        self.adapter_scale = adapter_scale
        self._tokenizer = Tokenizer.from_folder(bundle.folder / TOKENIZER)
        self._engines: dict[str, SharedEngine] = {}

    def __repr__(self) -> str:
        m = self.manifest
        return (
            f"Pipeline({str(self._bundle.folder)!r}, engine={self.engine!r}, precision={m.precision!r}, "
            f"num_frames={m.num_frames}, height={m.height}, width={m.width})"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the engines that the pipeline opened; they open again when next used."""
        while self._engines:
            self._engines.popitem()[1].close()

    @property
    def adapter_scale(self) -> float:
        """How much of the tuning is used, as in :func:`load`; it may be set, and costs no new engine.

        Raises:
            InputError: it is out of range, or not 1 with a U-Net's engine that was given to the pipeline.
            BundleError: the bundle does not hold what a scale other than 1 needs.
        """
        return self._adapter_scale

    @adapter_scale.setter
    def adapter_scale(self, scale: float) -> None:
        scale = check_adapter_scale(scale)
        if scale != 1 and UNET in self._given:
            raise InputError(
                f"the pipeline was given its unet engine, whose weights are fixed: adapter_scale must be 1, got {scale}"
            )
        self._weights = self._bundle.weights(scale)
        self._adapter_scale = scale

    @property
    def bundle(self) -> Bundle:
        """The bundle whose weights are in use."""
        return self._bundle

    @property
    def exact_long_video(self) -> bool:
        """Whether videos longer than the bundle's clips are made exactly, as in one pass; otherwise approximately."""
        return WINDOWED_UNET in self._given or (WINDOWED_UNET in self.manifest.graphs and UNET not in self._given)

    @property
    def long_video_note(self) -> str:
        """Why it is not exactly; empty if it is."""
        if self.exact_long_video:
            return ""
        options = self.manifest.inflation
        if options["temporal_mask"] == "none" or options["group_norm"] == "video":
            return "its frames depend on later ones (temporal_mask none or group_norm video)"
        if self.manifest.precision == "int8" or options["attention"] in ("causal", "full"):
            return "there is no windowed U-Net in int8, or with attention over all frames"
        return "it was exported with --no-windows, or by an older version: export its run again"

    def swap(self, bundle: str | Path | Bundle, *, verify: bool = True) -> None:
        """Go on with another clip's tuned weights on the same engines.

        The other bundle has the same base, options and size: best one that was exported with ``tav export RUN --bundle
        THIS``. Swapping back gives bit-identical results. The adapter scale stays. After an error the pipeline is as
        it was.

        Args:
            bundle: the other clip's bundle.
            verify: compare the hash of every file with the manifest, as in :func:`load`.

        Raises:
            BundleError: it is damaged, or does not fit the engines; says what differs.
            InputError: the pipeline runs on engines that were given to it, whose weights are theirs.
        """
        if UNET in self._given:
            raise InputError("the pipeline was given its unet engine, whose weights are fixed; make another pipeline")
        other = bundle if isinstance(bundle, Bundle) else Bundle(bundle, verify=verify)
        check_same_base(self._bundle, other)
        weights = other.weights(self.adapter_scale)
        self._bundle, self._weights, self.manifest = other, weights, other.manifest

    def encode(self, clip: Clip, *, seed: int | None = None, callback: Callback | None = None) -> np.ndarray:
        """A clip's latents times the scaling factor: ``(1, c, f, h / s, w / s)`` float32; see :meth:`invert`."""
        self._check_clip(clip)
        length = min(VAE_CHUNK, self.manifest.num_frames)
        parts, total = [], -(-clip.num_frames // length)
        for part in self._latents(clip, length, seed):
            parts.append(part)
            report(callback, StepProgress("encode", len(parts), total))
        return np.concatenate(parts, axis=2)

    def _latents(self, clip: Clip, length: int, seed: int | None) -> Iterator[np.ndarray]:
        """A clip's latents in parts of so many frames, drawn from one stream of random numbers."""
        rng = None if seed is None else random_generator(seed)
        for frames in clip.chunks(length):
            parameters = [
                self._run(VAE_ENCODER, sample=pixels)["latent_parameters"][:count]
                for pixels, count in self._vae_chunks(to_pixels(frames))
            ]
            mean, log_variance = np.split(np.concatenate(parameters), 2, axis=1)  # (f, c, h, w)
            if rng is not None:
                noise = rng.standard_normal(mean.shape, dtype=np.float32)
                # diffusers' bounds of the log-variance
                mean = mean + np.exp(0.5 * np.clip(log_variance, -30.0, 20.0)) * noise
            yield np.ascontiguousarray((mean * self.manifest.scaling_factor).swapaxes(0, 1)[None])

    def _vae_chunks(self, frames: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
        """Frames in chunks of a length that the VAE's graphs are made for, and how many of each are not filled in."""
        longest, *shorter = sorted(chunk_lengths(self.manifest.num_frames), reverse=True)
        for start in range(0, len(frames), longest):
            chunk = frames[start : start + longest]
            count = len(chunk)
            if count not in (longest, *shorter):
                chunk = np.concatenate([chunk, np.repeat(chunk[-1:], longest - count, axis=0)])
            yield chunk, count

    def decode(self, latents: np.ndarray, *, fps: float, callback: Callback | None = None) -> Video:
        """The video that clean latents ``(1, c, f, h / s, w / s)`` stand for; see :meth:`edit`."""
        return Video(frames=np.concatenate(list(self.decode_frames(latents, callback=callback))), fps=fps)

    def decode_frames(self, latents: np.ndarray, *, callback: Callback | None = None) -> Iterator[NDArray[np.uint8]]:
        """The frames that clean latents stand for in parts, ``(f, h, w, 3)`` uint8 RGB."""
        frames = latents[0].swapaxes(0, 1) / self.manifest.scaling_factor  # (f, c, h, w)
        total = -(-len(frames) // min(VAE_CHUNK, self.manifest.num_frames))
        for index, (chunk, count) in enumerate(self._vae_chunks(frames)):
            outputs = self._run(VAE_DECODER, latent_sample=chunk)
            report(callback, StepProgress("decode", index + 1, total))
            yield to_frames(outputs["sample"][:count])

    def encode_prompt(self, prompt: str) -> np.ndarray:
        """Text states of a prompt, ``(1, s, d)`` float32; a prompt that is too long is cut with a warning."""
        return self._run(TEXT_ENCODER, input_ids=self._tokenizer(prompt))["last_hidden_state"]

    def _check_clip(self, clip: Clip) -> None:
        if not isinstance(clip, (Video, VideoFile)):
            raise InputError(
                f"a clip must be a tav_sdk.Video, got {type(clip).__name__}; wrap frames: Video(frames=, fps=)"
            )
        want = (self.manifest.num_frames, self.manifest.height, self.manifest.width)
        got = (clip.num_frames, clip.height, clip.width)
        if got[1:] != want[1:] or (got[0] < want[0] and not self.exact_long_video):
            frames = "any number of frames" if self.exact_long_video else f"{want[0]} frames or more"
            raise InputError(
                f"the bundle takes clips of {frames} of {want[1]}x{want[2]} pixels (height x width), got {got[0]} "
                f"frames of {got[1]}x{got[2]}; read the clip with size={want[1:]}, or tune and export at its size"
            )

    def _unet_over(
        self, num_frames: int, control: Control | None, callback: Callback | None, loop: tuple[str, int]
    ) -> UNet:
        """The U-Net as a loop takes it, for a video of so many frames."""
        window = self.manifest.num_frames
        if num_frames == window:
            if control is None:
                return self._unet
            control.controlnet.check_fits(self._bundle)
            return control.of(self._unet)
        if control is not None:
            raise InputError(f"control steers videos of the bundle's {window} frames, got {num_frames}")
        if self.exact_long_video:
            return WindowedUNet(self._window_graph(), callback, loop)
        blended_runs(num_frames, window - 1)  # its errors now, not after the VAE
        return BlendedUNet(self._unet, window, callback, loop)

    def _window_graph(self) -> WindowGraph:
        given = self._given.get(WINDOWED_UNET)
        inputs = self._bundle.graph(WINDOWED_UNET).inputs if given is None else given.inputs
        return WindowGraph(lambda feeds: self._run(WINDOWED_UNET, **feeds), inputs)

    def _unet(
        self,
        sample: np.ndarray,
        timestep: np.ndarray,
        encoder_hidden_states: np.ndarray,
        residuals: Mapping[str, np.ndarray] | None = None,
    ) -> np.ndarray:
        if residuals is None:
            residuals = no_residuals(self._bundle.residuals, len(sample))
        inputs = {"sample": sample, "timestep": timestep, "encoder_hidden_states": encoder_hidden_states}
        return self._run(UNET, **inputs, **residuals)["out_sample"]

    def _run(self, graph: str, **feeds: np.ndarray) -> dict[str, np.ndarray]:
        if graph in self._given:
            return self._given[graph].run(feeds)
        if graph not in self._engines:
            self._engines[graph] = SharedEngine(self._bundle.graph(graph), self.engine)
        return self._engines[graph].engine.run(feeds, self._weights if graph in (UNET, WINDOWED_UNET) else None)


def _check_engine(graph: str, engine: Engine, manifest: Manifest) -> None:
    if graph not in manifest.graphs:
        raise InputError(f"engines: the bundle has no {graph!r} graph; its graphs are {', '.join(manifest.graphs)}")
    entry = manifest.graphs[graph]
    for kind, entries, got in (("inputs", entry.inputs, engine.inputs), ("outputs", entry.outputs, engine.outputs)):
        want = tuple(tensor.spec for tensor in entries)
        if got != want:
            raise InputError(
                f"engines: the {graph} engine fits another bundle: expected the {kind} {_listed(want)}, got "
                f"{_listed(got)}; make it with the specs of manifest.graphs[{graph!r}]"
            )


def _listed(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{spec.name} {spec}" for spec in specs)
