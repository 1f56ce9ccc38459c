"""The SDK's pipeline: a bundle's graphs on engines, numpy in and numpy out."""

from __future__ import annotations

import copy
import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

import numpy as np

from tav_sdk.bundle.bundle import Bundle
from tav_sdk.bundle.manifest import Manifest
from tav_sdk.diffusion.inversion import Correction, Inversion
from tav_sdk.diffusion.sampling import draw_noise
from tav_sdk.diffusion.schedule import DDIMSchedule
from tav_sdk.engines.base import Engine
from tav_sdk.pipeline.controlnet import Control
from tav_sdk.pipeline.engines import GraphEngines
from tav_sdk.pipeline.inversion_cache import InversionCache
from tav_sdk.pipeline.invert import invert
from tav_sdk.pipeline.model import TunedModel
from tav_sdk.pipeline.sample import sample, stream
from tav_sdk.pipeline.unet import GraphUNet
from tav_sdk.pipeline.vae import VAE
from tav_sdk.pipeline.windows import MEMORY_BYTES
from tav_sdk.progress import Callback, Item, check_callback, labelled
from tav_sdk.request.bundle_checks import check_clip, check_inversion, check_latents
from tav_sdk.request.frames import check_whole
from tav_sdk.request.options import MAX_SEED, InvertOptions, SampleOptions, check_prompts, check_seed
from tav_sdk.request.settings import InvertSettings, SampleSettings
from tav_sdk.video.clip import Clip, Video

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from typing_extensions import Self

_MethodT = TypeVar("_MethodT", bound=Callable[..., Any])


def _with_weights_of_its_start(method: _MethodT) -> _MethodT:
    """A method of the pipeline that reads its weights, and all that belongs to them, once: when it is called."""

    @functools.wraps(method)
    def called(self: Pipeline, *args: Any, **kwargs: Any) -> Any:
        check_callback(kwargs.get("callback"))
        return method(self.fixed(), *args, **kwargs)

    return cast(_MethodT, called)


class Pipeline:
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
        graphs = GraphEngines(bundle, engine=engine, given=engines, adapter_scale=adapter_scale)
        self._model = TunedModel.on(graphs, inversions=InversionCache() if cache else None)
        self._changing = threading.Lock()

    @staticmethod
    def from_pretrained(
        bundle: str | Path, *, engine: str = "auto", verify: bool = True, cache: bool = True, adapter_scale: float = 1.0
    ) -> Pipeline:
        """Open a bundle: :func:`load` by the name that diffusers has for it."""
        return load(bundle, engine=engine, verify=verify, cache=cache, adapter_scale=adapter_scale)

    def __repr__(self) -> str:
        m = self.manifest
        return (
            f"Pipeline({str(self.bundle.folder)!r}, engine={self.engine!r}, precision={m.precision!r}, "
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
        self._model.engines.close()

    @property
    def bundle(self) -> Bundle:
        """The bundle whose weights are in use."""
        return self._model.bundle

    @property
    def manifest(self) -> Manifest:
        """What that bundle holds."""
        return self._model.manifest

    @property
    def schedule(self) -> DDIMSchedule:
        """The base's noise schedule."""
        return self._model.schedule

    @property
    def engines(self) -> GraphEngines:
        """What runs the graphs, with the weights that are in use."""
        return self._model.engines

    @property
    def engine(self) -> str:
        """The name of the engine that runs the graphs, or those that were given for all of them."""
        return self._model.engines.name

    @property
    def why(self) -> str:
        """Why that engine."""
        return self._model.engines.why

    @property
    def vae(self) -> VAE:
        """Encodes and decodes."""
        return self._model.vae

    @property
    def unet(self) -> GraphUNet:
        """``unet(sample, timestep, encoder_hidden_states) -> noise_pred`` for the bundle's number of frames."""
        return self._model.unet

    @property
    def adapter_scale(self) -> float:
        """How much of the tuning is used, as in :func:`load`; it may be set, and costs no new engine.

        What was begun goes on with the scale that it began with.

        Raises:
            InputError: it is out of range, or not 1 with a U-Net's engine that was given to the pipeline.
            BundleError: the bundle does not hold what a scale other than 1 needs.
        """
        return self._model.engines.adapter_scale

    @adapter_scale.setter
    def adapter_scale(self, scale: float) -> None:
        with self._changing:
            self._use(self._model.engines.with_adapter_scale(scale))

    @property
    def exact_long_video(self) -> bool:
        """Whether videos longer than the bundle's clips are made exactly, as in one pass; otherwise approximately."""
        return self._model.unet.exact_long_video

    @property
    def long_video_note(self) -> str:
        """Why longer videos are approximate; empty where they are exact."""
        return self._model.unet.long_video_note

    def fixed(self) -> Pipeline:
        """This pipeline as it is now: a later :meth:`swap` or another adapter scale of this one does not reach it.

        It shares the engines, whose release stays with this one. For work of several calls that other threads may not
        change, such as an inversion and its edits.
        """
        other = copy.copy(self)
        other._changing = threading.Lock()
        return other

    def _use(self, engines: GraphEngines) -> None:
        self._model = self._model.with_engines(engines)

    def swap(self, bundle: str | Path | Bundle, *, verify: bool = True) -> None:
        """Go on with another clip's tuned weights on the same engines.

        The other bundle has the same base, options and size: best one that was exported with ``tav export RUN --bundle
        THIS``. Swapping back gives bit-identical results. The adapter scale stays. After an error the pipeline is as
        it was. What was begun, in this thread or another, goes on with the weights that it began with.

        Args:
            bundle: the other clip's bundle.
            verify: compare the hash of every file with the manifest, as in :func:`load`.

        Raises:
            BundleError: it is damaged, or does not fit the engines; says what differs.
            InputError: the pipeline runs on engines that were given to it, whose weights are theirs.
        """
        other = bundle if isinstance(bundle, Bundle) else Bundle(bundle, verify=verify)
        with self._changing:
            self._use(self._model.engines.with_bundle(other))

    @_with_weights_of_its_start
    def encode(self, clip: Clip, *, posterior_seed: int | None = None, callback: Callback | None = None) -> np.ndarray:
        """A clip's latents times the scaling factor: ``(1, c, f, h / s, w / s)`` float32; see :meth:`invert`."""
        check_clip(clip, self.manifest, exact_long_video=self.exact_long_video)
        check_seed("invert.posterior_seed", posterior_seed)
        return self.vae.encode(clip, posterior_seed=posterior_seed, callback=callback)

    def decode(self, latents: np.ndarray, *, fps: float, callback: Callback | None = None) -> Video:
        """The video that clean latents ``(1, c, f, h / s, w / s)`` stand for; see :meth:`edit`."""
        return Video(frames=np.concatenate(list(self.decode_frames(latents, callback=callback))), fps=fps)

    def decode_frames(self, latents: np.ndarray, *, callback: Callback | None = None) -> Iterator[NDArray[np.uint8]]:
        """The frames that clean latents stand for in parts, ``(f, h, w, 3)`` uint8 RGB."""
        return self.vae.decode(latents, callback=callback)

    def encode_prompt(self, prompt: str) -> np.ndarray:
        """Text states of a prompt, ``(1, s, d)`` float32; a prompt that is too long is cut with a warning."""
        return self._model.encode_prompt(prompt)

    @_with_weights_of_its_start
    def invert(
        self,
        clip: Clip,
        *,
        prompt: str | None = None,
        num_inversion_steps: int | None = None,
        posterior_seed: int | None = None,
        correction: Correction = "none",
        fast: bool = False,
        control: Control | None = None,
        callback: Callback | None = None,
    ) -> Inversion:
        """DDIM inversion of a clip (paper, section 4.3); one that was made before comes from the cache.

        Args:
            clip: a :class:`~tav_sdk.Video`, or a :class:`~tav_sdk.VideoFile`, which is not held in memory; as high and
                wide as the bundle takes. One that is longer than the bundle's clips goes window by window: with the
                same result as in one pass where the pipeline has :attr:`exact_long_video`, and then a shorter one is
                taken as well; otherwise by blended windows. A long inversion that was interrupted goes on where it
                stopped.
            prompt: what to invert with; by default what the base does best with (:attr:`Manifest.invert_with`): the
                empty prompt as in the released code, or the tuned clip's caption; the caption if ``correction`` is
                ``negative-prompt``.
            num_inversion_steps: U-Net evaluations, in [1, T]; by default as many as sampling takes by default,
                :attr:`Manifest.num_inference_steps`, if ``fast`` half of them.
            posterior_seed: draw the clip's latents from the VAE's posterior with this seed, as the released code does;
                by default its mean is taken.
            correction: how edits are kept near the clip, see :class:`~tav_sdk.diffusion.inversion.Inversion`:
                ``negative-prompt``, which costs nothing, ``direct``, which costs one more U-Net evaluation per step
                here and nothing in an edit, or ``none``.
            fast: fewer evaluations for nearly the same edits: :func:`~tav_sdk.diffusion.inversion.multistep_invert`,
                and in :meth:`edit` a third of the usual steps; not with the correction ``direct``.
            control: what steers the U-Net here as well; by default nothing does, and only the edit is steered.
            callback: called after each step of ``encode``, ``inversion`` and ``correction``; ``False`` cancels.

        Raises:
            InputError: the clip's size or frame count differs from the bundle's, a number is out of range, the
                correction is unknown, or it is ``negative-prompt`` and the prompt is empty.
            EngineError: an engine failed.
            CancelledError: the callback returned ``False``.
        """
        options = InvertOptions(
            prompt=prompt,
            num_inversion_steps=num_inversion_steps,
            correction=correction,
            fast=fast,
            posterior_seed=posterior_seed,
        )
        settings = InvertSettings.of(options, self.manifest, self.schedule)
        return self.invert_with(clip, settings, control=control, callback=callback)

    def invert_with(
        self,
        clip: Clip,
        settings: InvertSettings,
        *,
        source_latents: np.ndarray | None = None,
        control: Control | None = None,
        callback: Callback | None = None,
    ) -> Inversion:
        """:meth:`invert` with settings that were resolved before.

        ``source_latents``, what :meth:`encode` gave for the clip, spares encoding it again.
        """
        return invert(self._model, clip, settings, source_latents=source_latents, control=control, callback=callback)

    @overload
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
    ) -> Video: ...

    @overload
    def edit(
        self,
        prompt: list[str] | tuple[str, ...],
        inversion: Inversion,
        *,
        negative_prompt: str = "",
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        control: Control | None = None,
        callback: Callback | None = None,
    ) -> list[Video]: ...

    @_with_weights_of_its_start
    def edit(
        self,
        prompt: str | list[str] | tuple[str, ...],
        inversion: Inversion,
        *,
        negative_prompt: str = "",
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        control: Control | None = None,
        callback: Callback | None = None,
    ) -> Video | list[Video]:
        """Sample a new video for ``prompt`` from an inverted clip, with classifier-free guidance.

        Args:
            prompt: what the video is to show, at most 77 tokens; one that is too long is cut with a warning. A list of
                prompts gives one video each.
            inversion: from :meth:`invert`, whose correction is applied.
            negative_prompt: what it is not to show; not with the correction ``negative-prompt``, which has the clip's
                caption there.
            num_inference_steps: DDIM steps, in [1, T]; by default :attr:`Manifest.num_inference_steps`, after a fast
                inversion a third of them. With the correction ``direct`` as many as the inversion took.
            guidance_scale: at most 1 switches guidance off, which halves the work; by default what the base is best
                edited with, :attr:`Manifest.guidance_scale`.
            control: a control video and the ControlNet that follows it; the bundle has to be one that was exported with
                control.
            callback: called after each step of ``sampling`` and ``decode``; ``False`` cancels.

        Raises:
            BundleError: the U-Net takes no control, or the ControlNet is for another base.
            PromptError: the prompt is no string.
            InputError: the inversion is of another bundle's shape, a number is out of range, or the inversion's
                correction allows no negative prompt, not so many steps, or no sampling without guidance.
            EngineError: an engine failed.
            CancelledError: the callback returned ``False``.
        """
        prompts = check_prompts(prompt, "prompt")
        videos = []
        for index, text in enumerate(prompts):
            item = Item(kind="prompt", index=index + 1, count=len(prompts))
            told = callback if isinstance(prompt, str) else labelled(callback, item)
            frames = self.edit_frames(
                text,
                inversion,
                negative_prompt=negative_prompt,
                num_inference_steps=num_inference_steps,
                guidance_scale=guidance_scale,
                control=control,
                callback=told,
            )
            videos.append(Video(frames=np.concatenate(list(frames)), fps=inversion.fps))
        return videos[0] if isinstance(prompt, str) else videos

    @_with_weights_of_its_start
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

        So no more than a few of its frames are in memory. Arguments are checked at once; sampling begins when the first
        part is asked for. A long one that was interrupted goes on where it stopped.
        """
        options = SampleOptions(
            negative_prompt=negative_prompt, num_inference_steps=num_inference_steps, guidance_scale=guidance_scale
        )
        settings = SampleSettings.from_inversion(options, self.manifest, self.schedule, inversion)
        (prompt,) = check_prompts((prompt,), "prompt")
        return self.edit_with(prompt, inversion, settings, control=control, callback=callback)

    @_with_weights_of_its_start
    def edit_with(
        self,
        prompt: str,
        inversion: Inversion,
        settings: SampleSettings,
        *,
        control: Control | None = None,
        callback: Callback | None = None,
    ) -> Iterator[NDArray[np.uint8]]:
        """:meth:`edit_frames` with settings that were resolved before."""
        check_inversion(inversion)
        check_latents(inversion.latents, self.manifest, exact_long_video=self.exact_long_video)
        if inversion.correction == "negative-prompt":
            settings = replace(settings, negative_prompt=inversion.prompt)
        return sample(
            self._model,
            prompt,
            settings,
            inversion.latents,
            offsets=inversion.offsets,
            start_timestep=inversion.start_timestep,
            control=control,
            callback=callback,
        )

    @_with_weights_of_its_start
    def reconstruct_frames(
        self, inversion: Inversion, *, num_inference_steps: int | None = None, callback: Callback | None = None
    ) -> Iterator[NDArray[np.uint8]]:
        """Sample the clip itself again: with the tuned clip's caption, without guidance.

        Args:
            inversion: from :meth:`invert`; the correction ``direct`` is applied.
            num_inference_steps: as in :meth:`edit`.
            callback: as in :meth:`edit`.

        Returns:
            The frames in parts ``(f, h, w, 3)`` uint8 RGB.
        """
        check_inversion(inversion)
        correction: Correction = "direct" if inversion.correction == "direct" else "none"  # others act by guidance
        settings = SampleSettings.of(
            SampleOptions(num_inference_steps=num_inference_steps, guidance_scale=1.0),
            self.manifest,
            self.schedule,
            correction=correction,
            fast=inversion.start_timestep is not None,
            num_inversion_steps=inversion.num_inversion_steps,
        )
        return self.edit_with(self.manifest.prompt, inversion, settings, callback=callback)

    @_with_weights_of_its_start
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
        posterior_seed: int | None = None,
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
            num_inversion_steps: as in :meth:`invert`; by default as many as sampling takes.
            num_inference_steps: as in :meth:`edit`.
            guidance_scale: as in :meth:`edit`.
            posterior_seed: as in :meth:`invert`.
            max_bytes: bytes of memory for what is kept of inversion, and as many for sampling; the rest goes to
                temporary files.
            callback: called after each step, as in both, with the window as its ``item``; ``False`` cancels.

        Returns:
            The frames in parts ``(f, h, w, 3)`` uint8 RGB, as they are decoded: those of a window, before the next one
            is read.

        Raises:
            BundleError: the bundle's frames depend on later ones, or it was exported without windows.
            InputError: as in :meth:`invert` and :meth:`edit`; raised now, not when the first frames are asked for.
        """
        (prompt,) = check_prompts((prompt,), "prompt")
        sample = SampleSettings.of(
            SampleOptions(
                negative_prompt=negative_prompt, num_inference_steps=num_inference_steps, guidance_scale=guidance_scale
            ),
            self.manifest,
            self.schedule,
        )
        invert = InvertSettings.of(
            InvertOptions(
                prompt=inversion_prompt, num_inversion_steps=num_inversion_steps, posterior_seed=posterior_seed
            ),
            self.manifest,
            self.schedule,
            num_inference_steps=sample.num_inference_steps,
        )
        return self.stream_with(prompt, clip, invert, sample, max_bytes=max_bytes, callback=callback)

    def stream_with(
        self,
        prompt: str,
        clip: Clip,
        invert: InvertSettings,
        sample: SampleSettings,
        *,
        max_bytes: int = MEMORY_BYTES,
        callback: Callback | None = None,
    ) -> Iterator[NDArray[np.uint8]]:
        """:meth:`stream` with settings that were resolved before."""
        return stream(self._model, prompt, clip, invert, sample, max_bytes=max_bytes, callback=callback)

    @_with_weights_of_its_start
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
            num_frames: frames of the video, by default the bundle's; other numbers as in :meth:`invert`.
            seed: of the noise, at least 0.
            fps: frames per second of the result; by default the tuned clip's.

        The other arguments and the errors are those of :meth:`edit`.
        """
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
        return Video(frames=np.concatenate(list(frames)), fps=self.manifest.clip.fps if fps is None else fps)

    @_with_weights_of_its_start
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
        (prompt,) = check_prompts((prompt,), "prompt")
        if num_frames is not None:
            check_whole("num_frames", num_frames, 1)
        check_whole("seed", seed, 0, MAX_SEED)
        options = SampleOptions(
            negative_prompt=negative_prompt, num_inference_steps=num_inference_steps, guidance_scale=guidance_scale
        )
        settings = SampleSettings.of(options, self.manifest, self.schedule)
        return self.generate_with(
            prompt, settings, num_frames=num_frames, seed=seed, control=control, callback=callback
        )

    @_with_weights_of_its_start
    def generate_with(
        self,
        prompt: str,
        settings: SampleSettings,
        *,
        num_frames: int | None = None,
        seed: int = 0,
        control: Control | None = None,
        callback: Callback | None = None,
    ) -> Iterator[NDArray[np.uint8]]:
        """:meth:`generate_frames` with settings that were resolved before."""
        one, c, f, h, w = self.manifest.latents_shape
        noise = draw_noise((one, c, num_frames or f, h, w), seed)
        return sample(self._model, prompt, settings, noise, control=control, callback=callback)


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
