"""The SDK's pipeline: a bundle's graphs on engines, numpy in and numpy out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import TracebackType

import numpy as np

from tav_sdk.adapter import check_adapter_scale
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
from tav_sdk.controlnet import Control, no_residuals
from tav_sdk.engines.base import Engine, TensorSpec
from tav_sdk.engines.select import choose_engine
from tav_sdk.engines.shared import SharedEngine
from tav_sdk.errors import InputError
from tav_sdk.frames import to_frames, to_pixels
from tav_sdk.inversion import (
    Correction,
    Inversion,
    check_correction,
    ddim_invert,
    direct_offsets,
    fast_steps,
    multistep_invert,
)
from tav_sdk.inversion_cache import InversionCache, InversionFacts
from tav_sdk.progress import Callback, StepProgress, UNet, report
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
        adapter_scale: how much of the tuning is used, as in :func:`load`.

    Raises:
        InputError: one of ``engines`` is for no graph of a bundle, or takes or returns something else than the graph;
            or ``adapter_scale`` is out of range, or not 1 with a U-Net's engine that was given.
        BundleError: the bundle does not hold what an ``adapter_scale`` other than 1 needs.
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
        adapter_scale: float = 1.0,
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
        self.adapter_scale = adapter_scale
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

    # -- the main job --------------------------------------------------------------------------------------------

    def invert(
        self,
        clip: Video,
        *,
        prompt: str | None = None,
        num_inversion_steps: int | None = None,
        seed: int | None = None,
        correction: Correction = "none",
        fast: bool = False,
        control: Control | None = None,
        callback: Callback | None = None,
    ) -> Inversion:
        """DDIM inversion of a clip (paper, section 4.3); one that was made before comes from the cache.

        Args:
            clip: as many frames, and as high and wide, as the bundle takes.
            prompt: what to invert with; by default what the base does best with (:attr:`Manifest.invert_with`): the
                empty prompt as in the released code, or the tuned clip's caption; the caption if ``correction`` is
                ``negative-prompt``.
            num_inversion_steps: U-Net evaluations, in [1, T]; by default :attr:`Manifest.num_inference_steps`, if
                ``fast`` half of them.
            seed: draw the clip's latents from the VAE's posterior with this seed, as the released code does; by
                default its mean is taken.
            correction: how edits are kept near the clip, see :class:`~tav_sdk.inversion.Inversion`:
                ``negative-prompt``, which costs nothing, ``direct``, which costs one more U-Net evaluation a step here
                and nothing in an edit, or ``none``.
            fast: fewer evaluations for nearly the same edits: :func:`~tav_sdk.inversion.multistep_invert`, and in
                :meth:`edit` a third of the usual steps; not with the correction ``direct``.
            control: what steers the U-Net here, too; by default nothing does, and only the edit is steered.
            callback: called after each step of ``encode``, ``inversion`` and ``correction``; ``False`` cancels.

        Raises:
            InputError: the clip's size or frame count differs from the bundle's, a number is out of range, the
                correction is unknown, or it is ``negative-prompt`` and the prompt is empty.
            EngineError: an engine failed.
            CancelledError: the callback returned ``False``.
        """
        total = self.schedule.num_train_timesteps
        usual = self.manifest.num_inference_steps
        if num_inversion_steps is None:
            num_inversion_steps = fast_steps(usual)[0] if fast else usual
        if not 1 <= num_inversion_steps <= total:
            raise InputError(f"num_inversion_steps must be between 1 and {total}, got {num_inversion_steps}")
        check_correction(correction)
        if fast and correction == "direct":
            raise InputError(
                "a fast inversion takes another way than sampling back does, so the correction direct does not fit it"
            )
        start_timestep = int(self.schedule.timesteps(usual)[0]) if fast else None
        if prompt is None:
            caption = self.manifest.invert_with == "caption" or correction == "negative-prompt"
            prompt = self.manifest.prompt if caption else ""
        if correction == "negative-prompt" and not prompt.strip():
            raise InputError(
                "the correction negative-prompt needs an inversion with the clip's caption: expected a prompt that "
                f"says what the clip shows, got {prompt!r}"
            )
        self._check_clip(clip)
        unet = self._controlled(control)
        facts = self._inversion_facts(clip, prompt, num_inversion_steps, seed, correction, control, start_timestep)
        if self._inversions and facts and (kept := self._inversions.find(facts, fps=clip.fps)):
            steps = num_inversion_steps
            report(callback, StepProgress("inversion", steps, steps, metrics={"from": "the cache"}))
            return kept
        source = self.encode(clip, seed=seed, callback=callback)
        states = self.encode_prompt(prompt)
        trajectory = [source]

        def record(step: StepProgress) -> bool | None:
            if correction == "direct":
                trajectory.append(np.asarray(step.latents))
            return None if callback is None else callback(step)

        if fast:
            latents = multistep_invert(unet, source, states, self.schedule, num_inversion_steps, usual, record)
        else:
            latents = ddim_invert(unet, source, states, self.schedule, num_inversion_steps, record)
        offsets = None
        if correction == "direct":
            offsets = direct_offsets(unet, np.stack(trajectory), states, self.schedule, callback)
        inversion = Inversion(
            latents=latents,
            source_latents=source,
            fps=clip.fps,
            prompt=prompt,
            num_inversion_steps=num_inversion_steps,
            correction=correction,
            offsets=offsets,
            start_timestep=start_timestep,
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
        control: Control | None = None,
        callback: Callback | None = None,
    ) -> Video:
        """Sample a new video for ``prompt`` from an inverted clip, with classifier-free guidance.

        Args:
            prompt: what the video is to show, at most 77 tokens; one that is too long is cut with a warning.
            inversion: from :meth:`invert`, whose correction is applied.
            negative_prompt: what it is not to show; not with the correction ``negative-prompt``, which has the clip's
                caption there.
            num_inference_steps: DDIM steps, in [1, T]; by default :attr:`Manifest.num_inference_steps`, after a fast
                inversion a third of them. With the correction ``direct`` as many as the inversion took, by default too.
            guidance_scale: at most 1 switches guidance off, which halves the work; by default what the base is best
                edited with, :attr:`Manifest.guidance_scale`.
            control: a control video and the ControlNet that follows it; the bundle has to be one that was exported with
                control.
            callback: called after each step of ``sampling`` and ``decode``; ``False`` cancels.

        Raises:
            BundleError: the U-Net takes no control, or the ControlNet is for another base.
            PromptError: the prompt is no string.
            InputError: the inversion is of another bundle's shape, a number is out of range, or the inversion's
                correction allows no negative prompt, or not so many steps.
            EngineError: an engine failed.
            CancelledError: the callback returned ``False``.
        """
        if inversion.correction == "negative-prompt":
            if negative_prompt:
                raise InputError(
                    "the correction negative-prompt has the inversion's prompt in the negative prompt's place, got "
                    f"{negative_prompt!r} for it, too; leave one of them out"
                )
            negative_prompt = inversion.prompt
        if num_inference_steps is None:
            if inversion.offsets is not None:
                num_inference_steps = inversion.num_inversion_steps
            elif inversion.start_timestep is not None:
                num_inference_steps = fast_steps(self.manifest.num_inference_steps)[1]
        return self._sample(
            prompt,
            negative_prompt,
            inversion.latents,
            inversion.fps,
            num_inference_steps,
            guidance_scale,
            callback,
            inversion.offsets,
            control,
            inversion.start_timestep,
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
        control: Control | None = None,
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
        return self._sample(
            prompt,
            negative_prompt,
            noise,
            rate,
            num_inference_steps,
            guidance_scale,
            callback,
            control=control,
        )

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

    def _inversion_facts(
        self,
        clip: Video,
        prompt: str,
        num_steps: int,
        seed: int | None,
        correction: Correction,
        control: Control | None,
        start_timestep: int | None,
    ) -> InversionFacts | None:
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
            adapter_scale=self.adapter_scale,
            correction=correction,
            control=None if control is None else control.facts,
            start_timestep=start_timestep,
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
        offsets: np.ndarray | None = None,
        control: Control | None = None,
        start_timestep: int | None = None,
    ) -> Video:
        unet = self._controlled(control)
        if num_inference_steps is None:
            num_inference_steps = self.manifest.num_inference_steps
        if guidance_scale is None:
            guidance_scale = self.manifest.guidance_scale
        if not math.isfinite(guidance_scale):
            raise InputError(f"guidance_scale must be a finite number, got {guidance_scale}")
        states = self.encode_prompt(prompt)
        negative = self.encode_prompt(negative_prompt) if guidance_scale > 1 else None
        clean = ddim_sample(
            unet,
            latents,
            states,
            negative,
            self.schedule,
            num_inference_steps,
            float(guidance_scale),
            callback,
            offsets=offsets,
            start_timestep=start_timestep,
        )
        return self.decode(clean, fps=fps, callback=callback)

    def _controlled(self, control: Control | None) -> UNet:
        """The U-Net as the loops take it."""
        if control is None:
            return self._unet
        control.controlnet.check_fits(self._bundle)
        return control.of(self._unet)

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


def load(
    bundle: str | Path,
    *,
    engine: str = "auto",
    verify: bool = True,
    cache: bool = True,
    adapter_scale: float = 1.0,
) -> Pipeline:
    """Open a bundle.

    Args:
        bundle: a folder written by ``tav export``.
        engine: ``auto``, the best that works here and needs no build, or a name of
            :data:`tav_sdk.engines.select.MODULES`.
        verify: compare the hash of every file with the manifest (about 1 s for 1 GB).
        cache: keep inversions on disk, and take them from there, so that a second edit of a clip starts at once.
        adapter_scale: how much of the tuning is used, in [0, 2]: 0 is the base, which draws each frame by itself, 1 as
            it was tuned; see :mod:`tav_sdk.adapter`.

    Raises:
        InputError: ``adapter_scale`` is out of range.
        BundleError: there is no bundle, it is damaged, or of a newer format, or does not hold what an ``adapter_scale``
            other than 1 needs.
        EngineError: the engine does not work on this machine.
    """
    return Pipeline(Bundle(bundle, verify=verify), engine=engine, cache=cache, adapter_scale=adapter_scale)
