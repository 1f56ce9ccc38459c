"""The peak of each stage, from tuning to editing."""

# diffusers and transformers annotate loosely:
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import CLIPTextConfig, CLIPTextModel

from tav_sdk.bundle.precision import Precision
from tav_sdk.training.base.model import PretrainedBase
from tav_sdk.training.base.reading import reading
from tav_sdk.training.config import InflationOptions, MixedPrecision
from tav_sdk.training.memory.budget import MAX_FRAMES, MAX_SIZE_STEPS, largest
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
from tav_sdk.training.memory.count import DTYPES, CallCounter, MemoryCounter, byte_width, count_elements, meta_tensor
from tav_sdk.training.memory.report import BudgetFit, Device, Remedy, Stage, StageMemory
from tav_sdk.training.unet.inflation import freeze_all_but_tuned, inflate
from tav_sdk.video.frames import VAE_CHUNK


@dataclass(frozen=True, kw_only=True)
class Setting:
    """All that a stage's memory depends on, but the base and its inflation."""

    num_frames: int
    height: int
    width: int
    precision: Precision
    mixed_precision: MixedPrecision
    gradient_checkpointing: bool
    guidance: bool
    device: Device
    parity: bool = True


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
        self.base = base
        with reading(f"the configurations of the base model {base.path}"), torch.device("meta"):
            unet = UNet2DConditionModel.from_config(base.configs["unet"])
            self.vae = AutoencoderKL.from_config(base.configs["vae"]).eval().requires_grad_(False)
            text = CLIPTextModel(CLIPTextConfig(**base.configs["text_encoder"]))
            self.num_tokens = int(base.configs["text_encoder"].get("max_position_embeddings", 77))
            self.text_width = int(base.configs["text_encoder"]["hidden_size"])
            self.text_layers = int(base.configs["text_encoder"]["num_hidden_layers"])
        with torch.device("meta"):
            self.unet = inflate(unet, inflation)
        self.tuned = freeze_all_but_tuned(self.unet)
        self.unet_size, self.tuned_size = count_elements(self.unet.parameters()), count_elements(self.tuned.values())
        self.text_size = count_elements(text.parameters())
        # One row of it is read for a token; the rest of the file's pages stays on disk.
        self.embedding_size = count_elements(text.get_input_embeddings().parameters())
        parts = (
            ("encoder", self.vae.encoder, self.vae.quant_conv),
            ("decoder", self.vae.decoder, self.vae.post_quant_conv),
        )
        self.vae_size = {
            name: sum(count_elements(part.parameters()) for part in several if part is not None)
            for name, *several in parts
        }
        self.stage = functools.cache(self._stage)

    def can_edit(self, setting: Setting) -> bool:
        """Whether a bundle of this precision runs on the device."""
        return not (setting.device == "cpu" and setting.precision == "bf16")

    # -- stages --------------------------------------------------------------------------------------------------

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
        cpu = s.device == "cpu"
        imports, heap = (TRAINING_IMPORTS, TORCH_HEAP) if cpu else (0, 1.0)
        step_heap = TORCH_HEAP_CHECKPOINTED if cpu and s.gradient_checkpointing else heap
        amp = None if s.mixed_precision == "no" else DTYPES[s.mixed_precision]
        encoding = self._count_vae("encoder", min(VAE_CHUNK, s.num_frames), s.height, s.width, 0)
        # On a CPU weights are pages of their file, there when first used: the VAE's decoder never is.
        vae = 4 * (self.vae_size["encoder"] if cpu else sum(self.vae_size.values()))
        mixed = 4 * self.tuned_size + byte_width(amp) * (self.unet_size - self.tuned_size)
        states = 2 * 4 * self.tuned_size
        step = self._count_step(s, amp)
        update = (1 if cpu else 2) * 4 * self.tuned_size  # gradients; on a GPU a temporary of their size
        moments = [
            _Moment(imports + 4 * self.text_size, 4 * self.text_size, 0),
            _Moment(imports + vae + heap * encoding, vae, encoding),
            _Moment(imports + mixed + states + step_heap * step, mixed, step, states),
            _Moment(imports + mixed + states + heap * update, mixed, update, states),
        ]
        if amp is not None and cpu:
            moments.append(_Moment(imports + mixed + 4 * self.unet_size, mixed, 0))
        return moments

    def _export(self, s: Setting) -> list[_Moment]:
        """Each graph's reference and trace, with its module; then the check of its parity, without: a session's run."""
        encoder, decoder = (
            (part, self._count_vae(part, 1, s.height, s.width, 0), self._ort_vae(part, 1, s))
            for part in ("encoder", "decoder")
        )
        unet = ("unet", self._count_unet(1, s, torch.float32, 0), self._ort_unet(1, s))
        moments = []
        for graph, in_torch, in_session in (("text", 0, 0.0), encoder, decoder, unet):
            half = s.precision != "fp32" if graph == "unet" else s.precision == "fp16" and graph == "text"
            module, weights = {
                "text": (self.text_size, self.text_size - self.embedding_size),
                "unet": (self.unet_size, self.unet_size),
            }.get(graph) or (sum(self.vae_size.values()), self.vae_size[graph])
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
        weights = byte_width(DTYPES[s.precision]) * self.unet_size
        text = (2 if s.precision == "fp16" else 4) * self.text_size
        return [
            _Moment(TRT_IMPORTS + TRT_LAYER * TRT_LAYERS * self._unet_operators + TRT_WEIGHTS * weights, weights, 0),
            _Moment(TRT_IMPORTS + TRT_LAYER * TRT_TEXT_LAYERS * self.text_layers + TRT_WEIGHTS * text, text, 0),
        ]

    def _invert(self, s: Setting) -> list[_Moment]:
        return [self._edited(s, ("encoder",), batch=1)]

    def _sample(self, s: Setting) -> list[_Moment]:
        return [self._edited(s, ("decoder",), batch=2 if s.guidance else 1)]

    def _edit(self, s: Setting) -> list[_Moment]:
        return [self._edited(s, ("encoder", "decoder"), batch=2 if s.guidance else 1)]

    def _edited(self, s: Setting, vae: tuple[str, ...], *, batch: int) -> _Moment:
        """Engines stay open, and keep what their runs took, so all of them count at the end."""
        if s.device == "cuda":
            return self._edited_on_gpu(s, vae, batch)
        half = s.precision == "fp16"
        halved = (self.unet_size, self.text_size - self.embedding_size)
        weights = (2 if half else 4) * sum(halved) + 4 * sum(self.vae_size[part] for part in vae)
        held = session_memory(4 * (sum(halved) + sum(self.vae_size[part] for part in vae)))
        # In float16 the CPU computes in float32: weights are cast when the session opens.
        held += half * 2 * sum(halved)
        # Its attention has a kernel for float16, so scores are as small.
        activations = self._ort_unet(batch, s, torch.float16 if half else torch.float32)
        activations += sum(self._ort_vae(part, min(VAE_CHUNK, s.num_frames), s) for part in vae)
        imports = SDK_IMPORTS + SDK_TENSORRT * (importlib.util.find_spec("tensorrt_rtx") is not None)
        return _Moment(imports + held + activations, weights, round(activations))

    def _edited_on_gpu(self, s: Setting, vae: tuple[str, ...], batch: int) -> _Moment:
        dtype = DTYPES[s.precision]
        weights = byte_width(dtype) * self.unet_size + (2 if s.precision == "fp16" else 4) * self.text_size
        weights += 4 * sum(self.vae_size[part] for part in vae)
        # Attention is one kernel in half precision; in float32 it is made of products.
        scores = 1 if s.precision == "fp32" else 0
        activations = self._count_unet(batch, s, dtype, scores)
        activations += sum(self._count_vae(part, min(VAE_CHUNK, s.num_frames), s.height, s.width, 1) for part in vae)
        return _Moment(weights + activations, weights, activations)

    def _ort_unet(self, batch: int, s: Setting, dtype: torch.dtype = torch.float32) -> float:
        return ORT_UNET * self._count_unet(batch, s, dtype, ORT_SCORES)

    def _ort_vae(self, part: str, frames: int, s: Setting) -> float:
        first, again = ORT_VAE[part]
        repeats = s.num_frames // VAE_CHUNK >= 2 and frames == VAE_CHUNK
        return (first + again * repeats) * self._count_vae(part, frames, s.height, s.width, 1)

    # -- counts --------------------------------------------------------------------------------------------------

    def _count_step(self, s: Setting, amp: torch.dtype | None) -> int:
        """Bytes of a step's tensors, gradients included, forward and backward."""
        return self._counted(
            "step", s.num_frames, s.height, s.width, amp, s.gradient_checkpointing, s.device if amp else "cpu"
        )

    def _count_unet(self, batch: int, s: Setting, dtype: torch.dtype, scores: int) -> int:
        return self._counted("unet", batch, s.num_frames, s.height, s.width, dtype, scores)

    def _count_vae(self, part: str, frames: int, height: int, width: int, scores: int) -> int:
        return self._counted("vae", part, frames, height, width, scores)

    @functools.cached_property
    def _unet_operators(self) -> int:
        """How many operators a pass of the U-Net has; at any size."""
        multiple = self.base.size_multiple
        counter = self._run_unet(1, 2, multiple, multiple, torch.float32, 0)
        return counter.operators

    @functools.cached_property
    def _counted(self) -> Callable[..., int]:
        runs = {"step": self._run_step, "unet": self._run_unet, "vae": self._run_vae}
        return functools.cache(lambda what, *args: runs[what](*args).peak)

    def _run_step(
        self, f: int, height: int, width: int, amp: torch.dtype | None, checkpointing: bool, device: Device
    ) -> MemoryCounter:
        model = self.unet.to(amp or torch.float32).train()
        for parameter in self.tuned.values():
            parameter.data = parameter.data.float()
            parameter.grad = None
        calls = functools.partial(CallCounter, scores=0, amp=amp, device=device)
        if checkpointing:
            # As model.enable_gradient_checkpointing(), but with the calls seen when they are repeated, too.
            again = functools.partial(checkpoint, use_reentrant=False, context_fn=lambda: (nullcontext(), calls()))
            model.image_unet.enable_gradient_checkpointing(again)
        sample = self._video(1, f, height, width, amp or torch.float32)
        states = meta_tensor(1, self.num_tokens, self.text_width)
        try:
            with MemoryCounter(model) as counter:
                with calls():
                    predicted = model(sample, meta_tensor(dtype=torch.int64), states)
                F.mse_loss(predicted.float(), sample.float()).backward()
        finally:
            model.disable_gradient_checkpointing()
            for parameter in self.tuned.values():
                parameter.grad = None
        return counter

    @torch.no_grad()
    def _run_unet(self, batch: int, f: int, height: int, width: int, dtype: torch.dtype, scores: int) -> MemoryCounter:
        model = self.unet.to(dtype).eval()
        sample = self._video(batch, f, height, width, dtype)
        states = meta_tensor(batch, self.num_tokens, self.text_width, dtype=dtype)
        with MemoryCounter(model) as counter, CallCounter(scores=scores):
            model(sample, meta_tensor(dtype=torch.int64), states)
        return counter

    @torch.no_grad()
    def _run_vae(self, part: str, frames: int, height: int, width: int, scores: int) -> MemoryCounter:
        factor = self.base.vae_scale_factor
        with MemoryCounter(self.vae) as counter, CallCounter(scores=scores):
            if part == "encoder":
                self.vae.encode(meta_tensor(frames, 3, height, width))
            else:
                channels = int(self.base.configs["vae"]["latent_channels"])
                self.vae.decode(meta_tensor(frames, channels, height // factor, width // factor))
        return counter

    def _video(self, batch: int, f: int, height: int, width: int, dtype: torch.dtype) -> Tensor:
        factor = self.base.vae_scale_factor
        channels = int(self.base.configs["unet"]["in_channels"])
        return meta_tensor(batch, channels, f, height // factor, width // factor, dtype=dtype)

    # -- a budget ------------------------------------------------------------------------------------------------

    def fit(self, stage: Stage, setting: Setting, memory: int) -> BudgetFit:
        """Compare a stage with a budget."""
        multiple = self.base.size_multiple

        def peak(**changes: Any) -> int:
            return self.stage(stage, dataclasses.replace(setting, **changes)).peak

        def sized(steps: int) -> tuple[int, int]:
            """``steps`` size multiples along the shorter side, the aspect ratio kept as well as multiples can."""
            short, long = sorted((setting.height, setting.width))
            small, large = steps * multiple, max(steps, round(steps * long / short)) * multiple
            return (small, large) if setting.height <= setting.width else (large, small)

        def peak_of_size(steps: int) -> int:
            height, width = sized(steps)
            return peak(height=height, width=width)

        planned = min(setting.height, setting.width) // multiple
        steps = largest(peak_of_size, memory, start=planned, limit=MAX_SIZE_STEPS, power=2)
        return BudgetFit(
            memory=memory,
            fits=peak() <= memory,
            max_frames=largest(
                lambda frames: peak(num_frames=frames), memory, start=setting.num_frames, limit=MAX_FRAMES
            ),
            max_size=sized(steps) if steps else None,
            remedies=self._remedies(stage, setting, memory),
        )

    def _remedies(self, stage: Stage, setting: Setting, memory: int) -> tuple[Remedy, ...]:
        options: dict[str, dict[str, Any]] = {}
        if stage == "tune":
            if not setting.gradient_checkpointing:
                options["--gradient-checkpointing"] = {"gradient_checkpointing": True}
            if setting.mixed_precision == "no":
                options["--mixed-precision bf16"] = {"mixed_precision": "bf16"}
        elif stage == "export":
            options["--no-parity"] = {"parity": False}
        else:
            if setting.guidance:
                options["--guidance-scale 1"] = {"guidance": False}
            if setting.precision == "fp32" and setting.device == "cuda":
                options["--precision fp16"] = {"precision": "fp16"}
        if len(options) > 1:
            options[" ".join(options)] = {
                key: value for change in list(options.values()) for key, value in change.items()
            }
        before, remedies = self.stage(stage, setting).peak, []
        for option, change in options.items():
            peak = self.stage(stage, dataclasses.replace(setting, **change)).peak
            if peak < before:
                remedies.append(Remedy(option=option, peak=peak, fits=peak <= memory))
        return tuple(sorted(remedies, key=lambda remedy: remedy.peak))
