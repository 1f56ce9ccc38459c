"""The SDK's pipeline: a bundle's graphs on engines, numpy in and numpy out."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from tav_sdk.bundle.bundle import Bundle
from tav_sdk.bundle.layout import TEXT_ENCODER, TOKENIZER, TUNED_FILE, UNET, VAE_ENCODER, WINDOWED_UNET
from tav_sdk.cache.entry import cache_key
from tav_sdk.diffusion.inversion import (
    Correction,
    Inversion,
    check_correction,
    ddim_invert,
    direct_offsets,
    fast_steps,
    multistep_invert,
)
from tav_sdk.diffusion.sampling import ddim_sample, draw_noise
from tav_sdk.engines.base import Engine
from tav_sdk.errors import BundleError, InputError
from tav_sdk.pipeline.controlnet import Control
from tav_sdk.pipeline.engines import BundleModels
from tav_sdk.pipeline.inversion_cache import InversionCache, InversionFacts
from tav_sdk.pipeline.resume import Unfinished
from tav_sdk.pipeline.windows import MEMORY_BYTES, stream_windows
from tav_sdk.progress import Callback, StepProgress, UNet, report
from tav_sdk.video.clip import Clip, Video

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Pipeline(BundleModels):
    """Inverts and edits clips with one bundle; made by :func:`tav_sdk.load`.

    Same seed, same clip and same prompt give the same video on the same engine. Engines open when first used;
    pipelines on one base, in one process, share them.

    Args:
        bundle: what to run.
        engine: what runs the bundle's graphs, as in :func:`load`.
        engines: engines by graph name that run in place of the bundle's graphs, such as the reference in PyTorch. They
            stay the caller's: :meth:`close` leaves them open.
        cache: keep inversions on disk, for this user alone, and take them from there; see :mod:`tav_sdk.cache.store`.
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
        super().__init__(bundle, engine=engine, engines=engines, adapter_scale=adapter_scale)
        self._inversions = InversionCache() if cache else None

    def invert(
        self,
        clip: Clip,
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
            clip: a :class:`~tav_sdk.Video`, or a :class:`~tav_sdk.VideoFile`, which is not held in memory; as high and
                wide as the bundle takes. One that is longer than the bundle's clips goes window by window: with the
                same result as in one pass if the pipeline :attr:`exact_long_video`, and then a shorter one is taken,
                too; otherwise by blended windows. A long inversion that was interrupted goes on where it stopped.
            prompt: what to invert with; by default what the base does best with (:attr:`Manifest.invert_with`): the
                empty prompt as in the released code, or the tuned clip's caption; the caption if ``correction`` is
                ``negative-prompt``.
            num_inversion_steps: U-Net evaluations, in [1, T]; by default :attr:`Manifest.num_inference_steps`, if
                ``fast`` half of them.
            seed: draw the clip's latents from the VAE's posterior with this seed, as the released code does; by
                default its mean is taken.
            correction: how edits are kept near the clip, see :class:`~tav_sdk.diffusion.inversion.Inversion`:
                ``negative-prompt``, which costs nothing, ``direct``, which costs one more U-Net evaluation a step here
                and nothing in an edit, or ``none``.
            fast: fewer evaluations for nearly the same edits: :func:`~tav_sdk.diffusion.inversion.multistep_invert`,
                and in :meth:`edit` a third of the usual steps; not with the correction ``direct``.
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
            prompt = self.manifest.prompt if correction == "negative-prompt" else self.manifest.inversion_prompt
        if correction == "negative-prompt" and not prompt.strip():
            raise InputError(
                "the correction negative-prompt needs an inversion with the clip's caption: expected a prompt that "
                f"says what the clip shows, got {prompt!r}"
            )
        self._check_clip(clip)
        unet = self._unet_over(clip.num_frames, control, callback, ("inversion", num_inversion_steps))
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
        elif correction == "direct":
            latents = ddim_invert(unet, source, states, self.schedule, num_inversion_steps, record)
        else:
            given = None if facts is None else {"stage": "inversion", **facts.to_dict()}
            with self._resumed(given, source, callback, num_inversion_steps) as (done, start, keep):
                latents = ddim_invert(unet, start, states, self.schedule, num_inversion_steps, keep, done=done)
        offsets = None
        if correction == "direct":
            unet = self._unet_over(clip.num_frames, control, callback, ("correction", num_inversion_steps))
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
        frames = self.edit_frames(
            prompt,
            inversion,
            negative_prompt=negative_prompt,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            control=control,
            callback=callback,
        )
        return Video(frames=np.concatenate(list(frames)), fps=inversion.fps)

    def edit_frames(
        self,
        prompt: str,
        inversion: Inversion,
        *,
        negative_prompt: str = "",
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        control: Control | None = None,
        callback: Callback | None = None,
    ) -> Iterator[NDArray[np.uint8]]:
        """Like :meth:`edit`, but the video comes in parts ``(f, h, w, 3)`` uint8 RGB, as they are decoded.

        So no more than a few of its frames are in memory. Sampling begins when the first part is asked for; a long one
        that was interrupted goes on where it stopped.
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
        clean = self._sample(
            prompt,
            negative_prompt,
            inversion.latents,
            num_inference_steps,
            guidance_scale,
            callback,
            inversion.offsets,
            control,
            inversion.start_timestep,
        )
        yield from self.decode_frames(clean, callback=callback)

    def stream(
        self,
        prompt: str,
        clip: Clip,
        *,
        negative_prompt: str = "",
        inversion_prompt: str | None = None,
        num_inversion_steps: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        seed: int | None = None,
        max_bytes: int = MEMORY_BYTES,
        callback: Callback | None = None,
    ) -> Iterator[NDArray[np.uint8]]:
        """Invert and edit a clip of any length window by window, so that its first frames are done before its last.

        The frames are those of :meth:`invert` and :meth:`edit`. For every timestep of both it keeps what the next
        window needs of the one before; nothing is kept in the cache.

        Args:
            prompt: what the video is to show.
            clip: as in :meth:`invert`.
            negative_prompt: what it is not to show.
            inversion_prompt: as ``prompt`` of :meth:`invert`.
            num_inversion_steps: as in :meth:`invert`.
            num_inference_steps: as in :meth:`edit`.
            guidance_scale: as in :meth:`edit`.
            seed: as in :meth:`invert`.
            max_bytes: of memory, each, for what is kept of inversion and of sampling; the rest goes to temporary files.
            callback: called after each step, as in both, with the ``window``, from 1, of ``windows`` in its metrics;
                ``False`` cancels.

        Returns:
            The frames in parts ``(f, h, w, 3)`` uint8 RGB, as they are decoded: those of a window, before the next one
            is read.

        Raises:
            BundleError: the bundle's frames depend on later ones, or it was exported before it could continue.
            InputError: as in :meth:`invert` and :meth:`edit`; now, not when the first frames are asked for.
        """
        if not self.exact_long_video:
            raise BundleError(
                f"the bundle {self._bundle.folder} cannot be streamed: {self.long_video_note}; edit the clip "
                "without streaming"
            )
        self._check_clip(clip)
        usual, total = self.manifest.num_inference_steps, self.schedule.num_train_timesteps
        inverting, sampling = (usual if n is None else n for n in (num_inversion_steps, num_inference_steps))
        for name, steps in (("num_inversion_steps", inverting), ("num_inference_steps", sampling)):
            if not 1 <= steps <= total:
                raise InputError(f"{name} must be between 1 and {total}, got {steps}")
        if inversion_prompt is None:
            inversion_prompt = self.manifest.inversion_prompt
        scale = self._guidance(guidance_scale)
        states = [self.encode_prompt(words) for words in (inversion_prompt, prompt, negative_prompt)]
        graph, schedule = self._window_graph(), self.schedule
        window, num_windows = 0, -(-clip.num_frames // graph.num_frames)

        def seen(step: StepProgress) -> bool | None:
            metrics = {"window": window, "windows": num_windows}
            return None if callback is None else callback(dataclasses.replace(step, metrics=metrics))

        def invert(unet: UNet, source: np.ndarray) -> np.ndarray:
            nonlocal window
            window += 1
            return ddim_invert(unet, source, states[0], schedule, inverting, seen)

        def sample(unet: UNet, latents: np.ndarray) -> np.ndarray:
            return ddim_sample(unet, latents, states[1], states[2], schedule, sampling, scale, seen)

        windows = stream_windows(
            graph, self._latents(clip, graph.num_frames, seed), invert, sample, max_bytes=max_bytes
        )
        return (frames for clean in windows for frames in self.decode_frames(clean))

    def generate(
        self,
        prompt: str,
        *,
        num_frames: int | None = None,
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
            num_frames: of the video, by default the bundle's; other numbers as in :meth:`invert`.
            seed: of the noise, at least 0.
            fps: frame rate of the result; by default the tuned clip's.

        The other arguments and the errors are those of :meth:`edit`.
        """
        rate = float(self.manifest.provenance["clip"]["fps"]) if fps is None else fps
        frames = self.generate_frames(
            prompt,
            num_frames=num_frames,
            seed=seed,
            negative_prompt=negative_prompt,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            control=control,
            callback=callback,
        )
        return Video(frames=np.concatenate(list(frames)), fps=rate)

    def generate_frames(
        self,
        prompt: str,
        *,
        num_frames: int | None = None,
        seed: int = 0,
        negative_prompt: str = "",
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        control: Control | None = None,
        callback: Callback | None = None,
    ) -> Iterator[NDArray[np.uint8]]:
        """Like :meth:`generate`, but the video comes in parts, as in :meth:`edit_frames`."""
        one, c, f, h, w = self.manifest.latents_shape
        if num_frames is None:
            num_frames = f
        if num_frames < 1:
            raise InputError(f"num_frames must be at least 1, got {num_frames}")
        noise = draw_noise((one, c, num_frames, h, w), seed)
        clean = self._sample(
            prompt, negative_prompt, noise, num_inference_steps, guidance_scale, callback, control=control
        )
        yield from self.decode_frames(clean, callback=callback)

    def _inversion_facts(
        self,
        clip: Clip,
        prompt: str,
        num_steps: int,
        seed: int | None,
        correction: Correction,
        control: Control | None,
        start_timestep: int | None,
    ) -> InversionFacts | None:
        """What an inversion follows from; ``None`` where an engine was given, of whose weights nothing is known."""
        unet = WINDOWED_UNET if self.exact_long_video and clip.num_frames != self.manifest.num_frames else UNET
        graphs = (TEXT_ENCODER, VAE_ENCODER, unet)
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
        num_inference_steps: int | None,
        guidance_scale: float | None,
        callback: Callback | None,
        offsets: np.ndarray | None = None,
        control: Control | None = None,
        start_timestep: int | None = None,
    ) -> np.ndarray:
        """Clean latents."""
        num_frames = latents.shape[2]
        if num_inference_steps is None:
            num_inference_steps = self.manifest.num_inference_steps
        unet = self._unet_over(num_frames, control, callback, ("sampling", num_inference_steps))
        scale = self._guidance(guidance_scale)
        states = self.encode_prompt(prompt)
        negative = self.encode_prompt(negative_prompt) if scale > 1 else None
        facts = None
        if num_frames != self.manifest.num_frames and self._given.keys().isdisjoint((UNET, WINDOWED_UNET)):
            facts = {
                "stage": "sampling",
                "prompt": prompt,
                "inputs": [hashlib.sha256(array.tobytes()).hexdigest() for array in (latents, states)],
                "negative": None if negative is None else hashlib.sha256(negative.tobytes()).hexdigest(),
                "offsets": None if offsets is None else hashlib.sha256(offsets.tobytes()).hexdigest(),
                "unet": str(self._bundle.graph(WINDOWED_UNET if self.exact_long_video else UNET).key),
                "weights": None if self._weights is None else self._weights.key,
                "schedule": self.schedule.to_config(),
                "steps": num_inference_steps,
                "start_timestep": start_timestep,
                "guidance_scale": scale,
                "engine": self.engine,
            }
        with self._resumed(facts, latents, callback, num_inference_steps) as (done, start, keep):
            return ddim_sample(
                unet,
                start,
                states,
                negative,
                self.schedule,
                num_inference_steps,
                scale,
                keep,
                offsets=offsets,
                start_timestep=start_timestep,
                done=done,
            )

    def _guidance(self, scale: float | None) -> float:
        """The guidance scale that was given, checked, or the base's."""
        scale = self.manifest.guidance_scale if scale is None else scale
        if not math.isfinite(scale):
            raise InputError(f"guidance_scale must be a finite number, got {scale}")
        return float(scale)

    @contextlib.contextmanager
    def _resumed(
        self, facts: Mapping[str, Any] | None, latents: np.ndarray, callback: Callback | None, total: int
    ) -> Iterator[tuple[int, np.ndarray, Callback | None]]:
        """A loop over a long video that goes on where an interrupted one stopped: its steps done, the latents then, and
        its callback, which keeps them.
        """
        if facts is None or self._inversions is None or latents.shape[2] == self.manifest.num_frames:
            yield 0, latents, callback
            return
        unfinished = Unfinished(facts)
        done, start = unfinished.find() or (0, latents)
        if done:
            report(callback, StepProgress(facts["stage"], done, total, metrics={"from": "an interrupted one"}))
        yield done, start, unfinished.keeping(callback)
        unfinished.finish()


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
            it was tuned; see :mod:`tav_sdk.bundle.tuned_weights`.

    Raises:
        InputError: ``adapter_scale`` is out of range.
        BundleError: there is no bundle, it is damaged, or of a newer format, or does not hold what an ``adapter_scale``
            other than 1 needs.
        EngineError: the engine does not work on this machine.
    """
    return Pipeline(Bundle(bundle, verify=verify), engine=engine, cache=cache, adapter_scale=adapter_scale)
