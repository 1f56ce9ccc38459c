"""What tuning, export, build and editing take of memory, predicted from a base's configurations before any of it runs.

    plan = plan_memory("sd14", num_frames=24, height=512, width=512, memory=12_000_000_000)
    plan["tune"].peak, plan.budget["tune"].max_frames

Models are made on torch's ``meta`` device, which has shapes and no memory, and run there: one tuning step with
autograd, one pass of each graph. Every storage that lives is counted, so the counts are of the very code that tunes and
exports. What a runtime adds to them is measured, by ``benchmarks/memory.py``, and stands below with what it is of.
"""

# diffusers and transformers annotate loosely:
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import math
import weakref
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint
from transformers import CLIPTextConfig, CLIPTextModel

from tav_sdk.errors import ConfigError, InputError
from tav_sdk.frames import check_size
from tav_sdk.training.base import BaseModel
from tav_sdk.training.config import InflationOptions, MixedPrecision, check_choice
from tav_sdk.training.inflation import freeze_all_but_tuned, inflate
from tav_sdk.training.reading import reading
from tav_sdk.training.tuner import default_mixed_precision

Precision = Literal["fp32", "fp16", "bf16", "int8"]
"""What a bundle's U-Net computes in; ``int8`` is planned as ``fp32``."""
Device = Literal["cpu", "cuda"]
Stage = Literal["tune", "export", "build", "invert", "sample", "edit"]
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
VAE_CHUNK = 4
"""Frames that go through the VAE at a time, in tuning and in editing."""
MAX_FRAMES, MAX_SIZE_STEPS = 1024, 64
"""Where the search for what fits a budget ends; steps of the base's size multiple."""

# --- calibration -----------------------------------------------------------------------------------------------------
# Measured as peak resident memory of a process on Linux, glibc, one thread: see benchmarks/memory.py.

MB = 1_000_000
TRAINING_IMPORTS = 440 * MB
"""Python with torch, diffusers and transformers, their libraries' pages in use, and the clip's reader."""
EXPORT_IMPORTS = 580 * MB
"""The same with onnxscript, onnx and ONNX Runtime, and what one trace leaves behind."""
SDK_IMPORTS, SDK_TENSORRT = 105 * MB, 130 * MB
"""What an edit imports: Python with numpy, PyAV, ONNX Runtime and the tokenizer; and TensorRT for RTX where it is
installed, whose libraries are loaded to see whether it works."""
TORCH_HEAP, TORCH_HEAP_CHECKPOINTED = 1.2, 2.3
"""Of torch's tensors on the CPU: what glibc's heap keeps of freed blocks under 32 MB, more where blocks come and go as
they do with gradient checkpointing, and scratch of oneDNN. With ``MALLOC_MMAP_THRESHOLD_=1000000`` it was 1.04."""
SESSION_WEIGHTS = 1.06
"""Of a graph's weights in a session of ONNX Runtime: a few are there twice, packed and as they were."""
SESSION_HEAP = 90 * MB
"""Of all sessions together, but no more than their weights: heap that graphs went through while they were optimised."""
ORT_UNET = 1.03
"""Of the U-Net's counted tensors, in ONNX Runtime's arena."""
ORT_SCORES = 2
"""Matrices of all attention scores that ONNX Runtime's ``Attention`` has on the CPU at a time: products and softmax."""
ORT_ROUNDED = 1.5
"""Times that, in the parity check of half precision: every tensor is rounded, so it is there in both types."""
ORT_VAE = {"encoder": (1.05, 1.0), "decoder": (1.71, 1.39)}
"""Of the VAE's counted tensors: in the arena at the first chunk, and in one block that is added when the same shape
comes again (memory pattern). Convolutions reorder their inputs and outputs to blocks of channels, so it is more than
torch has."""
TRT_IMPORTS, TRT_LAYER, TRT_WEIGHTS = 220 * MB, 185_000, 3.0
"""A build with TensorRT for RTX: its libraries, bytes of each layer of the network, copies of the weights."""
TRT_LAYERS, TRT_TEXT_LAYERS = 1.7, 77
"""Layers of the network for each operator of the U-Net that torch dispatches, and for a layer of the text encoder."""


# --- the plan --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class StageMemory:
    """The most that one stage takes, in bytes; the parts add up to :attr:`peak`.

    Attributes:
        stage: ``tune``; ``export``; ``build``, with TensorRT for RTX; ``invert`` and ``sample``, each in a process of
            its own; ``edit``, both in one, as ``tav edit`` runs them.
        peak: at the worst moment.
        weights: of the models in use at that moment, each once.
        activations: tensors of the computation, gradients included.
        optimizer: AdamW's state; 0 but for ``tune``.
        runtime: libraries, copies of weights, scratch and heap: what was calibrated, not counted.
        device: whose memory that is; export and build compute on the CPU whatever the device.
        calibrated: whether such predictions were compared with measurements; not for a GPU.
    """

    stage: Stage
    peak: int
    weights: int
    activations: int
    optimizer: int = 0
    runtime: int = 0
    device: Device = "cpu"
    calibrated: bool = True


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """An option of the SDK that makes a stage smaller.

    Attributes:
        option: as the command line has it, such as ``--gradient-checkpointing``.
        peak: bytes with it.
        fits: whether that is within the budget.
    """

    option: str
    peak: int
    fits: bool


@dataclass(frozen=True, kw_only=True)
class BudgetFit:
    """Whether a stage is within a budget, and what would be.

    Attributes:
        memory: the budget in bytes.
        fits: whether the stage as planned is within it.
        max_frames: most frames at the planned size; 0 if not even one fits; at most :data:`MAX_FRAMES`.
        max_size: greatest ``(height, width)`` in pixels at the planned number of frames and about the planned aspect
            ratio; ``None`` if not even the smallest fits.
        remedies: options that the plan does not use yet, smallest peak first.
    """

    memory: int
    fits: bool
    max_frames: int
    max_size: tuple[int, int] | None
    remedies: tuple[Remedy, ...]


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """Predicted memory of every stage; ``plan["tune"]`` is one of them.

    Attributes:
        base: the base's folder or file, or its id on the hub.
        num_frames: of the clip.
        height: in pixels.
        width: in pixels.
        precision: the bundle's.
        mixed_precision: tuning's.
        gradient_checkpointing: tuning's.
        device: what tunes and edits.
        stages: in the order in which a user meets them.
        budget: ``tune``, ``export`` and ``edit`` compared with a budget; empty without one.
        notes: what was left out, and why.
    """

    base: str
    num_frames: int
    height: int
    width: int
    precision: Precision
    mixed_precision: MixedPrecision
    gradient_checkpointing: bool
    device: Device
    stages: tuple[StageMemory, ...]
    budget: Mapping[str, BudgetFit] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __getitem__(self, stage: str) -> StageMemory:
        for found in self.stages:
            if found.stage == stage:
                return found
        raise KeyError(stage)

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain values, for JSON; sizes in bytes."""
        return dataclasses.asdict(self)


def plan_memory(
    base: str | Path | BaseModel,
    *,
    num_frames: int = 8,
    height: int | None = None,
    width: int | None = None,
    precision: str = "fp32",
    mixed_precision: str | None = None,
    gradient_checkpointing: bool = False,
    inflation: InflationOptions | None = None,
    guidance: bool = True,
    device: str | None = None,
    memory: int | None = None,
) -> MemoryPlan:
    """Predict the peak memory of tuning, export, build and editing.

    Takes seconds and a few hundred MB at any size: no weights are read.

    Args:
        base: what :class:`BaseModel` takes, or one made with ``weights=False``.
        num_frames: frames of the clip.
        height: pixels; by default what the base recommends.
        width: likewise.
        precision: of the bundle's U-Net: ``fp32``, ``fp16``, ``bf16`` or ``int8``, which is planned as ``fp32``.
        mixed_precision: of tuning: ``no``, ``fp16`` or ``bf16``; by default what tuning takes: on a GPU ``bf16``, or
            ``fp16`` if the one here has no bf16; ``no`` on a CPU.
        gradient_checkpointing: of tuning.
        inflation: how the base is inflated.
        guidance: whether editing uses classifier-free guidance, a batch of two.
        device: ``cpu`` or ``cuda``; by default a GPU if there is one. Predictions for a GPU count tensors only, and
            none was compared with a measurement.
        memory: a budget in bytes to compare ``tune``, ``export`` and ``edit`` with.

    Raises:
        BaseModelError: the base is missing, incomplete, or cannot be inflated.
        SizeError: the base cannot take height or width; names the nearest that it can.
        ConfigError: a precision, a device or the number of frames is none that can be; fp16 tuning on a CPU.
        InputError: the budget is not positive.
    """
    found = base if isinstance(base, BaseModel) else BaseModel(base, weights=False)
    height = found.recommended.height if height is None else height
    width = found.recommended.width if width is None else width
    if num_frames < 1:
        raise ConfigError(f"num_frames must be at least 1, got {num_frames}")
    if memory is not None and memory <= 0:
        raise InputError(f"memory must be a positive number of bytes, got {memory}")
    check_size(height, width, found.size_multiple)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    check_choice("device", device, Device)
    notes = []
    check_choice("precision", precision, Precision)
    if precision == "int8":
        precision = "fp32"
        notes.append("int8 is planned as fp32, which its export calibrates in; an edit needs less")
    mixed_precision = mixed_precision or default_mixed_precision(device)
    check_choice("mixed_precision", mixed_precision, MixedPrecision)
    if mixed_precision == "fp16" and device == "cpu":
        raise ConfigError("fp16 tuning needs a GPU; on a CPU choose --mixed-precision no or bf16")
    setting = _Setting(
        num_frames=num_frames,
        height=height,
        width=width,
        precision=precision,
        mixed_precision=mixed_precision,
        gradient_checkpointing=gradient_checkpointing,
        guidance=guidance,
        device=device,
    )
    planner = _Planner(found, inflation or InflationOptions())
    stages: list[Stage] = ["tune", "export", "build", "invert", "sample", "edit"]
    if not planner.can_edit(setting):
        stages = ["tune", "export", "build"]
        notes.append("ONNX Runtime has no bf16 on the CPU: edit on a GPU, or export with --precision fp32")
    return MemoryPlan(
        base=found.name if found.commit else str(found.path),
        stages=tuple(planner.stage(stage, setting) for stage in stages),
        budget={stage: planner.fit(stage, setting, memory) for stage in ("tune", "export", "edit") if stage in stages}
        if memory is not None
        else {},
        notes=tuple(notes),
        **{
            field.name: getattr(setting, field.name)
            for field in dataclasses.fields(setting)
            if field.name not in ("guidance", "parity")
        },
    )


@dataclass(frozen=True, kw_only=True)
class _Setting:
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


class _Planner:
    """Predicts the stages of one base; what was counted once is not counted again."""

    def __init__(self, base: BaseModel, inflation: InflationOptions) -> None:
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
        self.unet_size, self.tuned_size = _numel(self.unet.parameters()), _numel(self.tuned.values())
        self.text_size = _numel(text.parameters())
        # One row of it is read for a token; the rest of the file's pages stays on disk.
        self.embedding_size = _numel(text.get_input_embeddings().parameters())
        parts = (
            ("encoder", self.vae.encoder, self.vae.quant_conv),
            ("decoder", self.vae.decoder, self.vae.post_quant_conv),
        )
        self.vae_size = {
            name: sum(_numel(part.parameters()) for part in several if part is not None) for name, *several in parts
        }
        self.stage = functools.cache(self._stage)

    def can_edit(self, setting: _Setting) -> bool:
        """Whether a bundle of this precision runs on the device."""
        return not (setting.device == "cpu" and setting.precision == "bf16")

    # -- stages --------------------------------------------------------------------------------------------------

    def _stage(self, stage: Stage, setting: _Setting) -> StageMemory:
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

    def _tune(self, s: _Setting) -> list[_Moment]:
        """The caption, the clip, the model's way into half precision, and a step that is not the first."""
        cpu = s.device == "cpu"
        imports, heap = (TRAINING_IMPORTS, TORCH_HEAP) if cpu else (0, 1.0)
        step_heap = TORCH_HEAP_CHECKPOINTED if cpu and s.gradient_checkpointing else heap
        amp = None if s.mixed_precision == "no" else DTYPES[s.mixed_precision]
        encoding = self._count_vae("encoder", min(VAE_CHUNK, s.num_frames), s.height, s.width, 0)
        # On a CPU weights are pages of their file, there when first used: the VAE's decoder never is.
        vae = 4 * (self.vae_size["encoder"] if cpu else sum(self.vae_size.values()))
        mixed = 4 * self.tuned_size + _width(amp) * (self.unet_size - self.tuned_size)
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

    def _export(self, s: _Setting) -> list[_Moment]:
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
            session = _sessions(4 * weights) + half * 2 * weights
            in_session *= ORT_ROUNDED if half else 1.0
            moments.append(_Moment(EXPORT_IMPORTS + session + in_session, 4 * weights, round(in_session)))
        return moments

    def _build(self, s: _Setting) -> list[_Moment]:
        """Each graph by itself."""
        weights = _width(DTYPES[s.precision]) * self.unet_size
        text = (2 if s.precision == "fp16" else 4) * self.text_size
        return [
            _Moment(TRT_IMPORTS + TRT_LAYER * TRT_LAYERS * self._unet_operators + TRT_WEIGHTS * weights, weights, 0),
            _Moment(TRT_IMPORTS + TRT_LAYER * TRT_TEXT_LAYERS * self.text_layers + TRT_WEIGHTS * text, text, 0),
        ]

    def _invert(self, s: _Setting) -> list[_Moment]:
        return [self._edited(s, ("encoder",), batch=1)]

    def _sample(self, s: _Setting) -> list[_Moment]:
        return [self._edited(s, ("decoder",), batch=2 if s.guidance else 1)]

    def _edit(self, s: _Setting) -> list[_Moment]:
        return [self._edited(s, ("encoder", "decoder"), batch=2 if s.guidance else 1)]

    def _edited(self, s: _Setting, vae: tuple[str, ...], *, batch: int) -> _Moment:
        """Engines stay open, and keep what their runs took, so all of them count at the end."""
        if s.device == "cuda":
            return self._edited_on_gpu(s, vae, batch)
        half = s.precision == "fp16"
        halved = (self.unet_size, self.text_size - self.embedding_size)
        weights = (2 if half else 4) * sum(halved) + 4 * sum(self.vae_size[part] for part in vae)
        held = _sessions(4 * (sum(halved) + sum(self.vae_size[part] for part in vae)))
        # In float16 the CPU computes in float32: weights are cast when the session opens.
        held += half * 2 * sum(halved)
        # Its attention has a kernel for float16, so scores are as small.
        activations = self._ort_unet(batch, s, torch.float16 if half else torch.float32)
        activations += sum(self._ort_vae(part, min(VAE_CHUNK, s.num_frames), s) for part in vae)
        imports = SDK_IMPORTS + SDK_TENSORRT * (importlib.util.find_spec("tensorrt_rtx") is not None)
        return _Moment(imports + held + activations, weights, round(activations))

    def _edited_on_gpu(self, s: _Setting, vae: tuple[str, ...], batch: int) -> _Moment:
        dtype = DTYPES[s.precision]
        weights = _width(dtype) * self.unet_size + (2 if s.precision == "fp16" else 4) * self.text_size
        weights += 4 * sum(self.vae_size[part] for part in vae)
        # Attention is one kernel in half precision; in float32 it is made of products.
        scores = 1 if s.precision == "fp32" else 0
        activations = self._count_unet(batch, s, dtype, scores)
        activations += sum(self._count_vae(part, min(VAE_CHUNK, s.num_frames), s.height, s.width, 1) for part in vae)
        return _Moment(weights + activations, weights, activations)

    def _ort_unet(self, batch: int, s: _Setting, dtype: torch.dtype = torch.float32) -> float:
        return ORT_UNET * self._count_unet(batch, s, dtype, ORT_SCORES)

    def _ort_vae(self, part: str, frames: int, s: _Setting) -> float:
        first, again = ORT_VAE[part]
        repeats = s.num_frames // VAE_CHUNK >= 2 and frames == VAE_CHUNK
        return (first + again * repeats) * self._count_vae(part, frames, s.height, s.width, 1)

    # -- counts --------------------------------------------------------------------------------------------------

    def _count_step(self, s: _Setting, amp: torch.dtype | None) -> int:
        """Bytes of a step's tensors, gradients included, forward and backward."""
        return self._counted(
            "step", s.num_frames, s.height, s.width, amp, s.gradient_checkpointing, s.device if amp else "cpu"
        )

    def _count_unet(self, batch: int, s: _Setting, dtype: torch.dtype, scores: int) -> int:
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
    ) -> _Counter:
        model = self.unet.to(amp or torch.float32).train()
        for parameter in self.tuned.values():
            parameter.data = parameter.data.float()
            parameter.grad = None
        calls = functools.partial(_Calls, scores=0, amp=amp, device=device)
        if checkpointing:
            # As model.enable_gradient_checkpointing(), but with the calls seen when they are repeated, too.
            again = functools.partial(checkpoint, use_reentrant=False, context_fn=lambda: (nullcontext(), calls()))
            model.image_unet.enable_gradient_checkpointing(again)
        sample = self._video(1, f, height, width, amp or torch.float32)
        states = _meta(1, self.num_tokens, self.text_width)
        try:
            with _Counter(model) as counter:
                with calls():
                    predicted = model(sample, _meta(dtype=torch.int64), states)
                F.mse_loss(predicted.float(), sample.float()).backward()
        finally:
            model.disable_gradient_checkpointing()
            for parameter in self.tuned.values():
                parameter.grad = None
        return counter

    @torch.no_grad()
    def _run_unet(self, batch: int, f: int, height: int, width: int, dtype: torch.dtype, scores: int) -> _Counter:
        model = self.unet.to(dtype).eval()
        sample = self._video(batch, f, height, width, dtype)
        states = _meta(batch, self.num_tokens, self.text_width, dtype=dtype)
        with _Counter(model) as counter, _Calls(scores=scores):
            model(sample, _meta(dtype=torch.int64), states)
        return counter

    @torch.no_grad()
    def _run_vae(self, part: str, frames: int, height: int, width: int, scores: int) -> _Counter:
        factor = self.base.vae_scale_factor
        with _Counter(self.vae) as counter, _Calls(scores=scores):
            if part == "encoder":
                self.vae.encode(_meta(frames, 3, height, width))
            else:
                channels = int(self.base.configs["vae"]["latent_channels"])
                self.vae.decode(_meta(frames, channels, height // factor, width // factor))
        return counter

    def _video(self, batch: int, f: int, height: int, width: int, dtype: torch.dtype) -> Tensor:
        factor = self.base.vae_scale_factor
        channels = int(self.base.configs["unet"]["in_channels"])
        return _meta(batch, channels, f, height // factor, width // factor, dtype=dtype)

    # -- a budget ------------------------------------------------------------------------------------------------

    def fit(self, stage: Stage, setting: _Setting, memory: int) -> BudgetFit:
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

    def _remedies(self, stage: Stage, setting: _Setting, memory: int) -> tuple[Remedy, ...]:
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


def largest(peak: Callable[[int], float], budget: float, *, start: int, limit: int, power: int = 1) -> int:
    """The largest ``n`` in [1, limit] with ``peak(n) <= budget``; 0 if there is none.

    ``peak`` must not fall. It is about affine in ``n ** power``, so the next try is where the line through the two
    nearest known points meets the budget; every third try halves the bracket, so the search ends whatever the shape.
    """
    low, high = 0, limit + 1
    known: dict[int, float] = {}
    guess, tries = min(max(start, 1), limit), 0
    while high - low > 1:
        value = known[guess] = peak(guess)
        low, high = (guess, high) if value <= budget else (low, guess)
        tries += 1
        nearest = sorted(known, key=lambda n: abs(known[n] - budget))[:2]
        if len(nearest) == 2 and tries % 3 and known[nearest[0]] != known[nearest[1]]:
            a, b = nearest
            slope = (known[b] - known[a]) / (b**power - a**power)
            target = max(a**power + (budget - known[a]) / slope, 0.0) ** (1 / power)
            guess = math.floor(min(target, limit))
        elif len(nearest) == 1:
            guess = guess * 2 if value <= budget else guess // 2
        else:
            guess = (low + high) // 2
        guess = min(max(guess, low + 1), high - 1)
    return low


# --- counting --------------------------------------------------------------------------------------------------------


class _Counter(TorchDispatchMode):
    """Counts the bytes of the storages that operators make and that are alive, a model's own left out.

    Attributes:
        peak: the most bytes alive at a time.
        operators: how many operators ran.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.peak = self.operators = self._alive = 0
        self._known: dict[int, Any] = {}
        self._own = [tensor.untyped_storage() for tensor in (*model.parameters(), *model.buffers())]
        self._known.update((id(storage), None) for storage in self._own)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.operators += 1
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._see(leaf.untyped_storage())
        return result

    def _see(self, storage: torch.UntypedStorage) -> None:
        # A storage has one Python object as long as it lives, so its id and a weak reference to it are its own.
        key, size = id(storage), storage.nbytes()
        if key in self._known:
            return

        def drop(_: object) -> None:
            del self._known[key]
            self._alive -= size

        self._known[key] = weakref.ref(storage, drop)
        self._alive += size
        self.peak = max(self.peak, self._alive)


class _Calls(TorchFunctionMode):
    """What ``meta`` does otherwise than the device that is planned for: attention, and autocast.

    Args:
        scores: matrices of all attention scores in memory at a time; 0 where attention is one kernel.
        amp: what autocast computes in.
        device: whose list of operators autocast goes by.
    """

    LOWER = (F.linear, F.conv2d, torch.matmul, torch.bmm, F.scaled_dot_product_attention)
    HIGHER_ON_CUDA = (F.layer_norm, F.group_norm, F.softmax)

    def __init__(self, *, scores: int, amp: torch.dtype | None = None, device: Device = "cpu") -> None:
        super().__init__()
        self.scores, self.amp, self.device = scores, amp, device

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.amp is not None:
            wanted = self.amp if func in self.LOWER else None
            if func in self.HIGHER_ON_CUDA and self.device == "cuda":
                wanted = torch.float32
            if wanted is not None:
                args = tuple(_cast(arg, wanted) for arg in args)
                kwargs = {key: _cast(value, wanted) for key, value in kwargs.items()}
        if func is F.scaled_dot_product_attention:
            return self._attention(*args, **kwargs)
        return func(*args, **kwargs)

    def _attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        **_: object,
    ) -> Tensor:
        """The fused kernel's inputs, outputs and saved tensors; on ``meta`` torch would take the unfused one."""
        shape = (*query.shape[:-1], key.shape[-2])
        held = [torch.empty(shape, dtype=query.dtype, device="meta") for _ in range(self.scores)]
        if attn_mask is not None:
            attn_mask = attn_mask.to(query.dtype)  # as torch turns a mask of booleans into one to add
        fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        result = fused(query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)[0]
        held.clear()
        return result


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def _meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _sessions(weights: int) -> float:
    """Bytes of sessions of ONNX Runtime on the CPU before they run; ``weights`` of all of them together, in float32."""
    return SESSION_WEIGHTS * weights + min(SESSION_HEAP, weights)


def _numel(parameters: Any) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _width(dtype: torch.dtype | None) -> int:
    """Bytes of a number."""
    return (dtype or torch.float32).itemsize
