"""The peak of each stage, from tuning to editing."""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass

import torch

from tav_sdk.training.base.model import PretrainedBase
from tav_sdk.training.config import InflationOptions
from tav_sdk.training.memory.base_counts import BaseCounts
from tav_sdk.training.memory.calibration import (
    EXPORT_IMPORTS,
    ORT_ROUNDED,
    ORT_SCORES,
    ORT_UNET,
    ORT_VAE,
    SDK_IMPORTS,
    SDK_TENSORRT,
    TORCH_HEAP,
    TORCH_HEAP_CHECKPOINTED,
    TRAINING_IMPORTS,
    TRT_IMPORTS,
    TRT_LAYER,
    TRT_LAYERS,
    TRT_TEXT_LAYERS,
    TRT_WEIGHTS,
    session_memory,
)
from tav_sdk.training.memory.count import DTYPES, byte_width
from tav_sdk.training.memory.report import Stage, StageMemory
from tav_sdk.training.memory.setting import Setting
from tav_sdk.video.frames import VAE_CHUNK


@dataclass(frozen=True)
class _Moment:
    """One moment of a stage, in bytes; ``peak`` is measured from nothing."""

    peak: float
    weights: int
    activations: int
    optimizer: int = 0


class Planner:
    """Predicts the stages of one base; what was counted once is not counted again."""

    def __init__(self, base: PretrainedBase, inflation: InflationOptions) -> None:
        self.size_multiple = base.size_multiple
        self.counts = BaseCounts(base, inflation)
        self.stage = functools.cache(self._stage)

    def can_edit(self, setting: Setting) -> bool:
        """Whether a bundle of this precision runs on the device."""
        return not (setting.device == "cpu" and setting.precision == "bf16")

    def _stage(self, stage: Stage, setting: Setting) -> StageMemory:
        device = "cpu" if stage in ("export", "build") else setting.device
        moments = getattr(self, f"_{stage}")(setting)
        worst = max(moments, key=lambda moment: moment.peak)
        peak = round(worst.peak)
        return StageMemory(
            stage=stage,
            peak=peak,
            weights=worst.weights,
            activations=worst.activations,
            optimizer=worst.optimizer,
            runtime=peak - worst.weights - worst.activations - worst.optimizer,
            device=device,
            calibrated=device == "cpu",
        )

    def _tune(self, s: Setting) -> list[_Moment]:
        """The caption, the clip, the model's way into half precision, and a step that is not the first."""
        counts = self.counts
        cpu = s.device == "cpu"
        imports, heap = (TRAINING_IMPORTS, TORCH_HEAP) if cpu else (0, 1.0)
        step_heap = TORCH_HEAP_CHECKPOINTED if cpu and s.gradient_checkpointing else heap
        amp = None if s.mixed_precision == "no" else DTYPES[s.mixed_precision]
        encoding = counts.vae_pass("encoder", min(VAE_CHUNK, s.num_frames), s, 0)
        # On a CPU weights are pages of their file, there when first used: the VAE's decoder never is.
        vae = 4 * (counts.vae_size["encoder"] if cpu else sum(counts.vae_size.values()))
        mixed = 4 * counts.tuned_size + byte_width(amp) * (counts.unet_size - counts.tuned_size)
        states = 2 * 4 * counts.tuned_size
        step = counts.step(s, amp)
        update = (1 if cpu else 2) * 4 * counts.tuned_size  # gradients; on a GPU a temporary of their size
        moments = [
            _Moment(imports + 4 * counts.text_size, 4 * counts.text_size, 0),
            _Moment(imports + vae + heap * encoding, vae, encoding),
            _Moment(imports + mixed + states + step_heap * step, mixed, step, states),
            _Moment(imports + mixed + states + heap * update, mixed, update, states),
        ]
        if amp is not None and cpu:
            moments.append(_Moment(imports + mixed + 4 * counts.unet_size, mixed, 0))
        return moments

    def _export(self, s: Setting) -> list[_Moment]:
        """Each graph's reference and trace, with its module; then the check of its parity, without: a session's run."""
        counts = self.counts
        encoder, decoder = (
            (part, counts.vae_pass(part, 1, s, 0), self._ort_vae(part, 1, s)) for part in ("encoder", "decoder")
        )
        unet = ("unet", counts.unet_pass(1, s, torch.float32, 0), self._ort_unet(1, s))
        moments = []
        for graph, in_torch, in_session in (("text", 0, 0.0), encoder, decoder, unet):
            half = s.precision != "fp32" if graph == "unet" else s.precision == "fp16" and graph == "text"
            module, weights = {
                "text": (counts.text_size, counts.text_size - counts.embedding_size),
                "unet": (counts.unet_size, counts.unet_size),
            }.get(graph) or (sum(counts.vae_size.values()), counts.vae_size[graph])
            # Islands that stay in float32 keep the whole file of float32 weights mapped.
            held = (6 if half else 4) * module
            moments.append(_Moment(EXPORT_IMPORTS + held + TORCH_HEAP * in_torch, held, in_torch))
            if not s.parity:
                continue
            # A graph in half precision is checked in float32, by a session whose weights were cast.
            session = session_memory(4 * weights) + half * 2 * weights
            in_session *= ORT_ROUNDED if half else 1.0
            moments.append(_Moment(EXPORT_IMPORTS + session + in_session, 4 * weights, round(in_session)))
        return moments

    def _build(self, s: Setting) -> list[_Moment]:
        """Each graph by itself."""
        counts = self.counts
        weights = byte_width(DTYPES[s.precision]) * counts.unet_size
        text = (2 if s.precision == "fp16" else 4) * counts.text_size
        return [
            _Moment(TRT_IMPORTS + TRT_LAYER * TRT_LAYERS * counts.unet_operators + TRT_WEIGHTS * weights, weights, 0),
            _Moment(TRT_IMPORTS + TRT_LAYER * TRT_TEXT_LAYERS * counts.text_layers + TRT_WEIGHTS * text, text, 0),
        ]

    def _invert(self, s: Setting) -> list[_Moment]:
        return [self._edited(s, ("encoder",), batch=1)]

    def _sample(self, s: Setting) -> list[_Moment]:
        return [self._edited(s, ("decoder",), batch=2 if s.guidance else 1)]

    def _edit(self, s: Setting) -> list[_Moment]:
        return [self._edited(s, ("encoder", "decoder"), batch=2 if s.guidance else 1)]

    def _edited(self, s: Setting, vae: tuple[str, ...], *, batch: int) -> _Moment:
        """Engines stay open, and keep what their runs took, so all of them count at the end."""
        counts = self.counts
        if s.device == "cuda":
            return self._edited_on_gpu(s, vae, batch)
        half = s.precision == "fp16"
        halved = (counts.unet_size, counts.text_size - counts.embedding_size)
        weights = (2 if half else 4) * sum(halved) + 4 * sum(counts.vae_size[part] for part in vae)
        held = session_memory(4 * (sum(halved) + sum(counts.vae_size[part] for part in vae)))
        # In float16 the CPU computes in float32: weights are cast when the session opens.
        held += half * 2 * sum(halved)
        # Its attention has a kernel for float16, so scores are as small.
        activations = self._ort_unet(batch, s, torch.float16 if half else torch.float32)
        activations += sum(self._ort_vae(part, min(VAE_CHUNK, s.num_frames), s) for part in vae)
        imports = SDK_IMPORTS + SDK_TENSORRT * (importlib.util.find_spec("tensorrt_rtx") is not None)
        return _Moment(imports + held + activations, weights, round(activations))

    def _edited_on_gpu(self, s: Setting, vae: tuple[str, ...], batch: int) -> _Moment:
        counts = self.counts
        dtype = DTYPES[s.precision]
        weights = byte_width(dtype) * counts.unet_size + (2 if s.precision == "fp16" else 4) * counts.text_size
        weights += 4 * sum(counts.vae_size[part] for part in vae)
        # Attention is one kernel in half precision; in float32 it is made of products.
        scores = 1 if s.precision == "fp32" else 0
        activations = counts.unet_pass(batch, s, dtype, scores)
        activations += sum(counts.vae_pass(part, min(VAE_CHUNK, s.num_frames), s, 1) for part in vae)
        return _Moment(weights + activations, weights, activations)

    def _ort_unet(self, batch: int, s: Setting, dtype: torch.dtype = torch.float32) -> float:
        return ORT_UNET * self.counts.unet_pass(batch, s, dtype, ORT_SCORES)

    def _ort_vae(self, part: str, frames: int, s: Setting) -> float:
        first, again = ORT_VAE[part]
        repeats = s.num_frames // VAE_CHUNK >= 2 and frames == VAE_CHUNK
        return (first + again * repeats) * self.counts.vae_pass(part, frames, s, 1)
