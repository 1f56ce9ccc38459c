"""Does a bundle in low precision edit as well as the float32 model? Part of the export, which refuses if not.

Parity compares one call of one graph; an edit is some fifty of them, one on top of the other. So the whole edit is
made twice: with the bundle's graphs, and with the float32 modules in PyTorch. How well it shows what its prompt says
needs a CLIP. A base that has its own beside its parts, as Pocket has, brings all that is needed; for others parity is
all there is, and ``tav evaluate``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import nn

from tav_sdk.bundle.bundle import Bundle
from tav_sdk.bundle.layout import TEXT_ENCODER, UNET
from tav_sdk.engines.base import Engine
from tav_sdk.engines.select import open_engine
from tav_sdk.errors import NonFiniteOutputError, QualityError, VideoError
from tav_sdk.evaluation.evaluate import clip_text, reconstruction_psnr
from tav_sdk.export.graphs import TextEncoderGraph
from tav_sdk.export.parity import rounded
from tav_sdk.export.precision import HALF
from tav_sdk.pipeline.pipeline import Pipeline
from tav_sdk.pocket import sample_clips
from tav_sdk.progress import Callback, StepProgress, report
from tav_sdk.training.base.model import PretrainedBase
from tav_sdk.training.checkpoint import load_tuned_weights
from tav_sdk.training.clip_scorer import ClipScorer
from tav_sdk.training.run_folder import Run
from tav_sdk.training.torch_engine import TorchEngine
from tav_sdk.training.unet.inflation import inflate
from tav_sdk.video.clip import Video, read_video
from tav_sdk.words import logger as named_logger

logger = named_logger(__name__)

CLIP = "clip"
"""Folder of the CLIP of a base that has its own."""
_BEST_PSNR = 99.0  # dB of equal frames: JSON has no infinity


@dataclass(frozen=True, kw_only=True)
class QualityTolerance:
    """How far edits may be from those of the float32 model.

    Attributes:
        psnr: least PSNR of a video in dB, of 8-bit values, median over the videos: one that is at the tipping point of
            two pictures says nothing.
        clip_text: greatest loss of the mean CLIP score, as a fraction of the float32 model's.
    """

    psnr: float
    clip_text: float


QUALITY_TOLERANCES = {
    "fp16": QualityTolerance(psnr=50, clip_text=0.02),
    "bf16": QualityTolerance(psnr=38, clip_text=0.02),
    "int8": QualityTolerance(psnr=28, clip_text=0.02),
}
"""By precision. On Pocket's sample clips the medians are about 64, 52 and 33 to 43 dB, and weights of 5 bits have 24;
the score falls by 0.1 % at most, and what was not edited at all has 30 % less."""


def check_edit_quality(
    folder: Path, run: Run, base: PretrainedBase, *, callback: Callback | None = None
) -> dict[str, float] | None:
    """Compare a bundle's edits with those of the float32 model, with the base's own steps and guidance.

    The tuned clip is inverted and edited, if its file is still there; otherwise videos are made from seeded noise.

    Args:
        folder: the bundle, complete with its manifest, in a precision of :data:`QUALITY_TOLERANCES`.
        run: what it was exported from.
        base: the run's base.
        callback: called after each video; ``False`` cancels.

    Returns:
        ``psnr``, dB of a video's frames against the float32 model's, median over the videos; ``clip_text`` and
        ``clip_text_fp32``, the mean CLIP scores of both; ``None`` for a base without a CLIP of its own, which is not
        checked.

    Raises:
        QualityError: one of them is outside the tolerance; names precision, what was measured, tolerance, and what to
            try.
        EngineError: an engine failed.
        CancelledError: the callback returned ``False``.
    """
    if not (base.path / CLIP / "config.json").is_file():
        logger.info("%s has no CLIP of its own: edits in low precision are not compared", base.path.name)
        return None
    bundle = Bundle(folder, verify=False)
    precision = bundle.manifest.precision
    prompts, clip = _prompts(run), _tuned_clip(run)
    steps = _Steps(2 * len(prompts), callback)
    with _model_pipeline(bundle, run, base) as pipeline:
        expected = _videos(pipeline, prompts, clip, steps)
    with bundle_pipeline(bundle) as pipeline:
        try:
            got = _videos(pipeline, prompts, clip, steps)
        except NonFiniteOutputError as error:
            raise QualityError(f"{error}; nothing was written") from error
    scorer = ClipScorer(base.path / CLIP, device="cpu")
    quality = {
        "psnr": min(float(np.median(list(map(reconstruction_psnr, expected, got)))), _BEST_PSNR),
        "clip_text": _score(scorer, got, prompts),
        "clip_text_fp32": _score(scorer, expected, prompts),
    }
    check_tolerance(precision, quality)
    return quality


def check_tolerance(precision: str, quality: dict[str, float]) -> None:
    """Compare what was measured with the tolerance of a precision; errors as of :func:`check_edit_quality`."""
    tolerance = QUALITY_TOLERANCES[precision]
    advice = f"nothing was written. Export with precision {_FINER[precision]}"
    if not quality["psnr"] >= tolerance.psnr:
        raise QualityError(
            f"edits in {precision} differ from those of the float32 model: PSNR {quality['psnr']:.1f} dB, tolerance "
            f"{tolerance.psnr:g} dB; {advice}"
        )
    score, expected = quality["clip_text"], quality["clip_text_fp32"]
    if not expected - score <= tolerance.clip_text * abs(expected):
        raise QualityError(
            f"edits in {precision} show their prompts less well than those of the float32 model: clip_text "
            f"{score:.2f} instead of {expected:.2f}, tolerance {tolerance.clip_text:.0%} less; {advice}"
        )


_FINER = {"fp16": "fp32", "bf16": "fp16 or fp32", "int8": "fp16 or fp32"}


class _Steps:
    """Counts videos for a callback."""

    def __init__(self, total: int, callback: Callback | None) -> None:
        self.done, self.total, self.callback = 0, total, callback

    def __call__(self) -> None:
        self.done += 1
        report(self.callback, StepProgress("quality", self.done, self.total))


def _prompts(run: Run) -> list[str]:
    """Edits that are known for the run's clip, or else its caption and edits that the base can show."""
    caption, samples = run.config.prompt, list(sample_clips().values())
    for sample in samples:
        if sample.caption == caption:
            return list(sample.edits.values())
    return [caption, *samples[0].edits.values()]


def _tuned_clip(run: Run) -> Video | None:
    """The clip that the run was tuned on, if it can still be read, and is the same."""
    config = run.config
    try:
        clip = read_video(
            config.video,
            num_frames=config.num_frames,
            start=config.start,
            stride=config.stride,
            size=(config.height, config.width),
        )
    except VideoError:
        return None
    return clip if clip.content_hash == run.record["clip"]["sha256"] else None


def _videos(pipeline: Pipeline, prompts: Sequence[str], clip: Video | None, steps: _Steps) -> list[np.ndarray]:
    """A video for each prompt, ``(f, h, w, 3)`` uint8."""
    inversion = None if clip is None else pipeline.invert(clip)
    videos = []
    for prompt in prompts:
        video = pipeline.generate(prompt, seed=0) if inversion is None else pipeline.edit(prompt, inversion)
        videos.append(video.frames)
        steps()
    return videos


def _score(scorer: ClipScorer, videos: Sequence[np.ndarray], prompts: Sequence[str]) -> float:
    texts = scorer.embed_text(prompts)
    return float(np.mean([clip_text(scorer.embed_frames(v), text) for v, text in zip(videos, texts, strict=True)]))


@contextlib.contextmanager
def _model_pipeline(bundle: Bundle, run: Run, base: PretrainedBase) -> Iterator[Pipeline]:
    """The bundle with the float32 modules in place of the graphs that low precision touches."""
    unet = inflate(base.load_unet(), run.config.inflation, run.config.num_frames).eval()
    load_tuned_weights(unet, run.tuned_path)
    modules: dict[str, nn.Module] = {TEXT_ENCODER: TextEncoderGraph(base.load_text_encoder()), UNET: unet}
    engines: dict[str, Engine] = {}
    for name, module in modules.items():
        graph = bundle.graph(name)
        engines[name] = TorchEngine(module, name, graph.inputs, graph.outputs)
    with Pipeline(bundle, engine="onnxruntime-cpu", engines=engines, cache=False) as pipeline:
        yield pipeline


@contextlib.contextmanager
def bundle_pipeline(bundle: Bundle) -> Iterator[Pipeline]:
    """The bundle as it is; half precision by way of copies that round as a GPU does, see :mod:`.parity`."""
    with contextlib.ExitStack() as stack:
        engines: dict[str, Engine] = {}
        for name, entry in bundle.manifest.graphs.items():
            if entry.precision in HALF:
                graph = bundle.graph(name)
                copy = stack.enter_context(rounded(graph.path, entry.precision))
                graph = replace(graph, path=copy, precision="fp32", tuned=(), key=None)
                engines[name] = stack.enter_context(open_engine(graph, engine="onnxruntime-cpu"))
        yield stack.enter_context(Pipeline(bundle, engine="onnxruntime-cpu", engines=engines, cache=False))
