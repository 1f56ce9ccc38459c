"""One step of tuning: what is drawn, predicted and updated (paper, equation 3), and the state that resumes it."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import BaseModel, Field
from safetensors.torch import load_file
from torch import Tensor, nn

from tav_sdk.diffusion.schedule import DDIMSchedule
from tav_sdk.errors import CheckpointError, ConfigError, NonFiniteLossError
from tav_sdk.reading import parse_json, validated
from tav_sdk.training.base.reading import reading
from tav_sdk.training.checkpoint import copy_strictly, save_tensors
from tav_sdk.training.config import MixedPrecision, TuneConfig
from tav_sdk.training.encode import ClipLatents
from tav_sdk.training.tensor_file import read_header
from tav_sdk.training.unet.inflation import freeze_all_but_tuned
from tav_sdk.training.unet.video_unet import VideoUNet
from tav_sdk.words import brief

OPTIMIZER_STATE = ("param", "step", "exp_avg", "exp_avg_sq")
"""What is kept of a tuned weight: itself, and AdamW's."""


class _Progress(BaseModel):
    """Texts in the file's header."""

    steps_done: Annotated[str, Field(pattern="^[0-9]{1,9}$")]
    scaler: Annotated[str, Field(max_length=10_000)]


class Tuner:
    """The tuning loop's state: model, optimizer and step; one call of :meth:`step` is one update.

    Args:
        model: an inflated U-Net; its parameters are frozen but for the tuned weights.
        latents: the clip's posterior.
        states: ``(1, s, d)`` text states of its caption.
        schedule: the base's schedule.
        config: see :class:`TuneConfig`.
        device: where to compute.

    Attributes:
        steps_done: how many updates were made.
        is_between_steps: whether the weights are those after ``steps_done`` updates.
    """

    def __init__(
        self,
        model: VideoUNet,
        latents: ClipLatents,
        states: Tensor,
        schedule: DDIMSchedule,
        config: TuneConfig,
        device: torch.device,
    ) -> None:
        self.config, self.schedule, self.device, self.latents = config, schedule, device, latents
        self.amp_dtype = _amp_dtype(config, device)
        self.tuned = freeze_all_but_tuned(model)
        # Frozen weights in half precision, tuned ones and their updates in float32.
        self.model = model.to(device, self.amp_dtype or torch.float32).train()
        for parameter in self.tuned.values():
            parameter.data = parameter.data.float()
        self.states = states.to(device)
        self.alphas_cumprod = torch.from_numpy(schedule.alphas_cumprod)
        self.optimizer = torch.optim.AdamW(
            self.tuned.values(),
            lr=config.learning_rate,
            betas=(config.adam_beta1, config.adam_beta2),
            eps=config.adam_epsilon,
            weight_decay=config.adam_weight_decay,
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.amp_dtype == torch.float16)
        self.steps_done = 0
        self.is_between_steps = True

    def step(self) -> dict[str, float]:
        """One update at a random timestep; returns ``loss``, ``grad_norm`` and ``timestep``.

        Raises:
            NonFiniteLossError: the loss is NaN or infinite; the parameters are as before the step.
        """
        noisy, target, timestep = self.draw(self.steps_done)
        autocast = torch.autocast(self.device.type, self.amp_dtype) if self.amp_dtype else contextlib.nullcontext()
        with autocast:
            predicted = self.model(noisy, timestep, self.states)
        loss = F.mse_loss(predicted.float(), target.float())  # paper, equation 3
        value = loss.item()
        if not torch.isfinite(loss):
            raise NonFiniteLossError(
                f"the loss is {value} at step {self.steps_done + 1}; try a lower learning_rate (now "
                f"{self.config.learning_rate:g}) or another mixed_precision (bf16 or no)"
            )
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.tuned.values(), self.config.max_grad_norm)
        self.is_between_steps = False  # an interrupt from here on leaves weights of neither step
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.steps_done += 1
        self.is_between_steps = True
        return {"loss": value, "grad_norm": norm.item(), "timestep": int(timestep)}

    def draw(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Noisy latents, target (both ``(1, c, f, h, w)``) and timestep ``()`` of a step.

        Each step has a generator of its own, on the CPU, so a resumed run draws what an uninterrupted one would.
        """
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + step)
        latents = self.latents.sample(generator)
        noise = torch.randn(latents.shape, generator=generator)
        timestep = torch.randint(len(self.alphas_cumprod), (), generator=generator)
        alpha = self.alphas_cumprod[timestep]
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        target = {
            "epsilon": noise,
            "v_prediction": alpha.sqrt() * noise - (1 - alpha).sqrt() * latents,
            "sample": latents,
        }[self.schedule.prediction_type]
        dtype = self.amp_dtype or torch.float32
        return noisy.to(self.device, dtype), target.to(self.device), timestep.to(self.device)

    def save(self, path: Path) -> None:
        """Write parameters, optimizer state and step, whole or not at all."""
        tensors = {f"param.{name}": parameter.detach() for name, parameter in self.tuned.items()}
        for name, parameter in self.tuned.items():
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"{key}.{name}"] = torch.as_tensor(value)
        metadata = {"steps_done": str(self.steps_done), "scaler": json.dumps(self.scaler.state_dict())}
        save_tensors(tensors, path, metadata)

    def load(self, path: Path) -> None:
        """Continue from what :meth:`save` wrote.

        Raises:
            CheckpointError: the file is damaged, or of another model.
        """
        advice = "start anew with overwrite"
        header = read_header(path, error=CheckpointError, advice=advice)
        told = validated(_Progress, header.metadata, what=str(path), error=CheckpointError, advice=advice)
        scaler = parse_json(told.scaler, what=f"the scaler in {path}", error=CheckpointError, advice=advice)
        shapes = {name: tuple(parameter.shape) for name, parameter in self.tuned.items()}
        for key, shape in header.shapes.items():
            kind, _, name = key.partition(".")
            if kind not in OPTIMIZER_STATE or name not in shapes or shape != (() if kind == "step" else shapes[name]):
                raise CheckpointError(
                    f"{path} does not fit the model: {brief(key)} has the shape {brief(shape)}; {advice}"
                )
        with reading(str(path), CheckpointError):
            tensors = load_file(path)
            self.scaler.load_state_dict(scaler)
        parts: dict[str, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            kind, _, name = key.partition(".")
            parts.setdefault(kind, {})[name] = tensor
        copy_strictly(parts.pop("param", {}), self.tuned, str(path))
        for name, parameter in self.tuned.items():
            state = {kind: values[name] for kind, values in parts.items() if name in values}
            self.optimizer.state[parameter] = {
                kind: value if kind == "step" else value.to(self.device) for kind, value in state.items()
            }
        self.steps_done = int(told.steps_done)


def default_mixed_precision(device: str) -> MixedPrecision:
    """What tuning computes in on a kind of device, ``cpu`` or ``cuda``: bf16 on a GPU, unless the one here has none."""
    if device != "cuda":
        return "no"
    return "fp16" if torch.cuda.is_available() and not torch.cuda.is_bf16_supported() else "bf16"


def _amp_dtype(config: TuneConfig, device: torch.device) -> torch.dtype | None:
    precision = config.mixed_precision or default_mixed_precision(device.type)
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError("fp16 tuning needs a GPU; on a CPU choose mixed_precision no or bf16")
    return {"no": None, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
