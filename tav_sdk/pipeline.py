"""The SDK's pipeline: a bundle's graphs on engines, numpy in and numpy out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import TracebackType

import numpy as np

from tav_sdk.bundle import (
    GRAPHS,
    TEXT_ENCODER,
    TOKENIZER,
    TUNED_FILE,
    UNET,
    VAE_CHUNK,
    VAE_DECODER,
    VAE_ENCODER,
    Bundle,
    Manifest,
    check_same_base,
)
from tav_sdk.cache import cache_key
from tav_sdk.engines.base import Engine, TensorSpec
from tav_sdk.engines.select import choose_engine
from tav_sdk.engines.shared import SharedEngine
from tav_sdk.errors import InputError
from tav_sdk.frames import to_frames, to_pixels
from tav_sdk.inversion import Inversion, ddim_invert
from tav_sdk.inversion_cache import InversionCache, InversionFacts
from tav_sdk.progress import Callback, StepProgress, report
from tav_sdk.sampling import ddim_sample
from tav_sdk.schedule import DDIMSchedule
from tav_sdk.text import Tokenizer
from tav_sdk.video import Video


class Pipeline:
    """Inverts and edits clips with one bundle; made by :func:`tav_sdk.load`.

    Same seed, same clip and same prompt give the same video on the same engine. Engines open when first used;
    pipelines on one base, in one process, share them.

    Args:
        bundle: what to run.
        engine: what runs the bundle's graphs, as in :func:`load`.
        engines: engines by graph name that run in place of the bundle's graphs, such as the reference in PyTorch. They
            stay the caller's: :meth:`close` leaves them open.
        cache: keep inversions on disk, for this user alone, and take them from there; see :mod:`tav_sdk.cache`.

    Raises:
        InputError: one of ``engines`` is for no graph of a bundle, or takes or returns something else than the graph.
        EngineError: ``engine`` does not work on this machine; it is not looked at if ``engines`` has all graphs.

    Attributes:
        manifest: what the bundle holds.
        schedule: the base's noise schedule.
        engine: the name of the engine that runs the graphs, or those that were given for all of them.
        why: why that engine.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        engine: str = "auto",
        engines: Mapping[str, Engine] | None = None,
        cache: bool = True,
    ) -> None:
        self._given = dict(engines or {})
        for graph, given in self._given.items():
            _check_engine(graph, given, bundle.manifest)
        if self._given.keys() == set(GRAPHS):
            self.engine = ", ".join(sorted({given.backend for given in self._given.values()}))
            self.why = "as given"
        else:
            self.engine, self.why = choose_engine(
                engine, [bundle.graph(name) for name in GRAPHS if name not in self._given]
            )
        self.manifest: Manifest = bundle.manifest
        self.schedule: DDIMSchedule = bundle.schedule
        self._bundle = bundle
        self._weights = bundle.weights()
        self._tokenizer = Tokenizer.from_folder(bundle.folder / TOKENIZER)
        self._engines: dict[str, SharedEngine] = {}
        self._inversions = InversionCache() if cache else None

    def __repr__(self) -> str:
        m = self.manifest
        return (
            f"Pipeline({str(self._bundle.folder)!r}, engine={self.engine!r}, precision={m.precision!r}, "
            f"num_frames={m.num_frames}, height={m.height}, width={m.width})"
        )

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the engines that the pipeline opened; they open again when next used."""
        while self._engines:
            self._engines.popitem()[1].close()

    def swap(self, bundle: str | Path | Bundle, *, verify: bool = True) -> None:
        """Go on with another clip's tuned weights on the same engines.

        The other bundle has the same base, options and size: best one that was exported with ``tav export RUN --bundle
        THIS``. Swapping back gives bit-identical results. After an error the pipeline is as it was.

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
        weights = other.weights()
        self._bundle, self._weights, self.manifest = other, weights, other.manifest

    # -- the main job --------------------------------------------------------------------------------------------

    def invert(
        self,
        clip: Video,
        *,
        prompt: str | None = None,
        num_inversion_steps: int | None = None,
        seed: int | None = None,
        callback: Callback | None = None,
    ) -> Inversion:
        """DDIM inversion of a clip (paper, section 4.3); one that was made before comes from the cache.

        Args:
            clip: as many frames, and as high and wide, as the bundle takes.
            prompt: what to invert with; by default what the base does best with (:attr:`Manifest.invert_with`): the
                empty prompt as in the released code, or the tuned clip's caption.
            num_inversion_steps: U-Net evaluations, in [1, T]; by default :attr:`Manifest.num_inference_steps`.
            seed: draw the clip's latents from the VAE's posterior with this seed, as the released code does; by
                default its mean is taken.
            callback: called after each step of ``encode`` and ``inversion``; ``False`` cancels.

        Raises:
            InputError: the clip's size or frame count differs from the bundle's, or a number is out of range.
            EngineError: an engine failed.
            CancelledError: the callback returned ``False``.
        """
        total = self.schedule.num_train_timesteps
        if num_inversion_steps is None:
            num_inversion_steps = self.manifest.num_inference_steps
        if not 1 <= num_inversion_steps <= total:
            raise InputError(f"num_inversion_steps must be between 1 and {total}, got {num_inversion_steps}")
        if prompt is None:
            prompt = self.manifest.prompt if self.manifest.invert_with == "caption" else ""
        self._check_clip(clip)
        facts = self._inversion_facts(clip, prompt, num_inversion_steps, seed)
        if self._inversions and facts and (kept := self._inversions.find(facts, fps=clip.fps)):
            steps = num_inversion_steps
            report(callback, StepProgress("inversion", steps, steps, metrics={"from": "the cache"}))
            return kept
        source = self.encode(clip, seed=seed, callback=callback)
        states = self.encode_prompt(prompt)
        latents = ddim_invert(self._unet, source, states, self.schedule, num_inversion_steps, callback)
        inversion = Inversion(
            latents=latents,
            source_latents=source,
            fps=clip.fps,
            prompt=prompt,
            num_inversion_steps=num_inversion_steps,
        )
        if self._inversions and facts:
            self._inversions.keep(facts, inversion)
        return inversion

    def edit(
        self,
        prompt: str,
        inversion: Inversion,
        *,
        negative_prompt: str = "",
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        callback: Callback | None = None,
    ) -> Video:
        """Sample a new video for ``prompt`` from an inverted clip, with classifier-free guidance.

        Args:
            prompt: what the video is to show, at most 77 tokens; one that is too long is cut with a warning.
            inversion: from :meth:`invert`.
            negative_prompt: what it is not to show.
            num_inference_steps: DDIM steps, in [1, T]; by default :attr:`Manifest.num_inference_steps`.
            guidance_scale: at most 1 switches guidance off, which halves the work; by default what the base is best
                edited with, :attr:`Manifest.guidance_scale`.
            callback: called after each step of ``sampling`` and ``decode``; ``False`` cancels.

        Raises:
            PromptError: the prompt is no string.
            InputError: the inversion is of another bundle's shape, or a number is out of range.
            EngineError: an engine failed.
            CancelledError: the callback returned ``False``.
        """
        return self._sample(
            prompt,
            negative_prompt,
            inversion.latents,
            inversion.fps,
            num_inference_steps,
            guidance_scale,
            callback,
        )

    def generate(
        self,
        prompt: str,
        *,
        seed: int = 0,
        negative_prompt: str = "",
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        fps: float | None = None,
        callback: Callback | None = None,
    ) -> Video:
        """Sample a video for ``prompt`` from noise, with the tuned clip's motion but not its layout.

        Args:
            seed: of the noise, at least 0.
            fps: frame rate of the result; by default the tuned clip's.

        The other arguments and the errors are those of :meth:`edit`.
        """
        noise = _noise(self.manifest.latents_shape, seed)
        rate = float(self.manifest.provenance["clip"]["fps"]) if fps is None else fps
        return self._sample(prompt, negative_prompt, noise, rate, num_inference_steps, guidance_scale, callback)

    # -- its parts -----------------------------------------------------------------------------------------------

    def encode(self, clip: Video, *, seed: int | None = None, callback: Callback | None = None) -> np.ndarray:
        """A clip's latents times the scaling factor: ``(1, c, f, h / s, w / s)`` float32; see :meth:`invert`."""
        self._check_clip(clip)
        pixels, parts = to_pixels(clip.frames), []
        starts = range(0, len(pixels), VAE_CHUNK)
        for index, start in enumerate(starts):
            outputs = self._run(VAE_ENCODER, sample=pixels[start : start + VAE_CHUNK])
            parts.append(outputs["latent_parameters"])
            report(callback, StepProgress("encode", index + 1, len(starts)))
        mean, log_variance = np.split(np.concatenate(parts), 2, axis=1)  # (f, c, h, w)
        if seed is not None:
            # diffusers' bounds of the log-variance
            mean = mean + np.exp(0.5 * np.clip(log_variance, -30.0, 20.0)) * _noise(mean.shape, seed)
        return np.ascontiguousarray((mean * self.manifest.scaling_factor).swapaxes(0, 1)[None])

    def decode(self, latents: np.ndarray, *, fps: float, callback: Callback | None = None) -> Video:
        """The video that clean latents ``(1, c, f, h / s, w / s)`` stand for; see :meth:`edit`."""
        frames = latents[0].swapaxes(0, 1) / self.manifest.scaling_factor  # (f, c, h, w)
        starts, parts = range(0, len(frames), VAE_CHUNK), []
        for index, start in enumerate(starts):
            outputs = self._run(VAE_DECODER, latent_sample=frames[start : start + VAE_CHUNK])
            parts.append(to_frames(outputs["sample"]))
            report(callback, StepProgress("decode", index + 1, len(starts)))
        return Video(frames=np.concatenate(parts), fps=fps)

    def encode_prompt(self, prompt: str) -> np.ndarray:
        """Text states of a prompt, ``(1, s, d)`` float32; a prompt that is too long is cut with a warning."""
        return self._run(TEXT_ENCODER, input_ids=self._tokenizer(prompt))["last_hidden_state"]

    def _check_clip(self, clip: Video) -> None:
        if not isinstance(clip, Video):
            raise InputError(
                f"a clip must be a tav_sdk.Video, got {type(clip).__name__}; wrap frames: Video(frames=, fps=)"
            )
        want = (self.manifest.num_frames, self.manifest.height, self.manifest.width)
        got = (clip.num_frames, clip.height, clip.width)
        if got != want:
            raise InputError(
                f"the bundle takes clips of {want[0]} frames of {want[1]}x{want[2]} pixels (height x width), got "
                f"{got[0]} frames of {got[1]}x{got[2]}; read the clip with num_frames={want[0]}, size={want[1:]}, or "
                "tune and export at the clip's size"
            )

    def _inversion_facts(self, clip: Video, prompt: str, num_steps: int, seed: int | None) -> InversionFacts | None:
        """What an inversion follows from; ``None`` where an engine was given, of whose weights nothing is known."""
        graphs = (TEXT_ENCODER, VAE_ENCODER, UNET)
        if not self._given.keys().isdisjoint(graphs):
            return None
        files = {path: entry.sha256 for path, entry in self.manifest.files.items()}
        return InversionFacts(
            clip=clip.content_hash,
            graphs={name: str(self._bundle.graph(name).key) for name in graphs},
            tuned=files[(PurePosixPath(self.manifest.graphs[UNET].file).parent / TUNED_FILE).as_posix()],
            tokenizer=cache_key({path: sha for path, sha in files.items() if path.startswith(f"{TOKENIZER}/")}),
            schedule=self.schedule.to_config(),
            scaling_factor=self.manifest.scaling_factor,
            precision=self.manifest.precision,
            engine=self.engine,
            prompt=prompt,
            num_inversion_steps=num_steps,
            seed=seed,
        )

    def _sample(
        self,
        prompt: str,
        negative_prompt: str,
        latents: np.ndarray,
        fps: float,
        num_inference_steps: int | None,
        guidance_scale: float | None,
        callback: Callback | None,
    ) -> Video:
        if num_inference_steps is None:
            num_inference_steps = self.manifest.num_inference_steps
        if guidance_scale is None:
            guidance_scale = self.manifest.guidance_scale
        if not math.isfinite(guidance_scale):
            raise InputError(f"guidance_scale must be a finite number, got {guidance_scale}")
        states = self.encode_prompt(prompt)
        negative = self.encode_prompt(negative_prompt) if guidance_scale > 1 else None
        clean = ddim_sample(
            self._unet, latents, states, negative, self.schedule, num_inference_steps, float(guidance_scale), callback
        )
        return self.decode(clean, fps=fps, callback=callback)

    def _unet(self, sample: np.ndarray, timestep: np.ndarray, encoder_hidden_states: np.ndarray) -> np.ndarray:
        outputs = self._run(UNET, sample=sample, timestep=timestep, encoder_hidden_states=encoder_hidden_states)
        return outputs["out_sample"]

    def _run(self, graph: str, **feeds: np.ndarray) -> dict[str, np.ndarray]:
        if graph in self._given:
            return self._given[graph].run(feeds)
        if graph not in self._engines:
            self._engines[graph] = SharedEngine(self._bundle.graph(graph), self.engine)
        return self._engines[graph].engine.run(feeds, self._weights if graph == UNET else None)


def _noise(shape: tuple[int, ...], seed: int) -> np.ndarray:
    if seed < 0:
        raise InputError(f"seed must not be negative, got {seed}")
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def _check_engine(graph: str, engine: Engine, manifest: Manifest) -> None:
    if graph not in GRAPHS:
        raise InputError(f"engines: a bundle has no {graph!r} graph; its graphs are {', '.join(GRAPHS)}")
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


def load(bundle: str | Path, *, engine: str = "auto", verify: bool = True, cache: bool = True) -> Pipeline:
    """Open a bundle.

    Args:
        bundle: a folder written by ``tav export``.
        engine: ``auto``, the best that works here and needs no build, or a name of
            :data:`tav_sdk.engines.select.MODULES`.
        verify: compare the hash of every file with the manifest (about 1 s for 1 GB).
        cache: keep inversions on disk, and take them from there, so that a second edit of a clip starts at once.

    Raises:
        BundleError: there is no bundle, it is damaged, or of a newer format.
        EngineError: the engine does not work on this machine.
    """
    return Pipeline(Bundle(bundle, verify=verify), engine=engine, cache=cache)
