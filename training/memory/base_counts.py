"""The numbers and bytes of a base's models, inflated, counted on the meta device as they run."""

# diffusers and transformers annotate loosely:
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import CLIPTextConfig, CLIPTextModel

from tav_sdk.training.base.model import PretrainedBase
from tav_sdk.training.base.reading import reading
from tav_sdk.training.config import InflationOptions
from tav_sdk.training.memory.count import CallCounter, MemoryCounter, count_elements, meta_tensor
from tav_sdk.training.memory.report import Device
from tav_sdk.training.memory.setting import Setting
from tav_sdk.training.unet.inflation import freeze_all_but_tuned, inflate


class BaseCounts:
    """What one base's models have and hold; what was counted once is not counted again.

    Attributes:
        unet_size: parameters of the inflated U-Net.
        tuned_size: those of them that tuning changes.
        vae_size: parameters of the VAE's ``encoder`` and ``decoder``.
        text_size: parameters of the text encoder.
        embedding_size: those of them that embed tokens.
        text_layers: the text encoder's layers.
    """

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

    def step(self, s: Setting, amp: torch.dtype | None) -> int:
        """Bytes of the tensors of a tuning step, gradients included, forward and backward."""
        return self._counted(
            "step", s.num_frames, s.height, s.width, amp, s.gradient_checkpointing, s.device if amp else "cpu"
        )

    def unet_pass(self, batch: int, s: Setting, dtype: torch.dtype, scores: int) -> int:
        """Bytes of the tensors of one pass of the U-Net; ``scores`` as :class:`CallCounter` has it."""
        return self._counted("unet", batch, s.num_frames, s.height, s.width, dtype, scores)

    def vae_pass(self, part: str, frames: int, s: Setting, scores: int) -> int:
        """Bytes of the tensors of one pass of the VAE's ``encoder`` or ``decoder`` in float32."""
        return self._counted("vae", part, frames, s.height, s.width, scores)

    @functools.cached_property
    def unet_operators(self) -> int:
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
            # As model.enable_gradient_checkpointing(), but the calls are also seen when they are repeated.
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
