"""The inflated U-Net: a diffusers ``UNet2DConditionModel`` that sees frames folded into the batch."""

from __future__ import annotations

import functools

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tav_sdk.errors import InputError
from tav_sdk.training.config import InflationOptions
from tav_sdk.training.unet.attention import FrameAxis


class VideoUNet(nn.Module):
    """A video U-Net made by :func:`tav_sdk.training.inflate`.

    It adopts the image U-Net's children, so every parameter keeps the image model's name, and temporal ones are
    called ``...transformer_blocks.N.attn_temp.*`` and ``norm_temp.*`` as in the released code.

    Attributes:
        options: how it was inflated.
        frames: the number of frames folded into the batch; follows the input.
    """

    def __init__(self, unet: UNet2DConditionModel, options: InflationOptions, frames: FrameAxis) -> None:
        super().__init__()
        for name, child in unet.named_children():
            self.add_module(name, child)
        # In a tuple: registered as a child it would give every parameter a second name.
        self._image_unet = (unet,)
        self.options = options
        self.frames = frames
        self.num_frames = frames.num_frames
        self.train(unet.training)

    @property
    def image_unet(self) -> UNet2DConditionModel:
        """The diffusers model inside, with the injected parts in place."""
        return self._image_unet[0]

    @property
    def config(self):
        """The image U-Net's configuration."""
        return self.image_unet.config

    @property
    def dtype(self) -> torch.dtype:
        """The parameters' dtype."""
        return next(self.parameters()).dtype

    def forward(
        self, sample: Tensor, timestep: Tensor | float | int, encoder_hidden_states: Tensor, *residuals: Tensor
    ) -> Tensor:
        """Predict the noise (or velocity, as the base was trained for) of a batch of videos.

        Args:
            sample: ``(b, c, f, h, w)`` noisy latents, the model's dtype; any ``f``, but ``h`` and ``w`` multiples of
                2^(number of upsamplers).
            timestep: a number, ``()`` or ``(b,)``; in [0, T).
            encoder_hidden_states: ``(b, s, d)`` text states, once per video.
            residuals: a ControlNet's, to add to what the down blocks and the middle block give: ``(b, f, c, h, w)``
                each, the middle's last; all or none.

        Returns:
            ``(b, c, f, h, w)``, the input's dtype.

        Raises:
            InputError: ``sample`` is not 5-dimensional, or the batches differ.
        """
        if sample.ndim != 5:
            raise InputError(f"sample must be (b, c, f, h, w), got shape {tuple(sample.shape)}")
        b, _, f, _, _ = sample.shape
        self.frames.num_frames = f
        timestep = torch.as_tensor(timestep, device=sample.device)
        if timestep.ndim == 1 and timestep.shape[0] != 1:
            if timestep.shape[0] != b:
                raise InputError(f"timestep must be (), (1,) or ({b},) for {b} videos, got {tuple(timestep.shape)}")
            timestep = timestep.repeat_interleave(f)  # (b f,)
        folded = sample.transpose(1, 2).flatten(0, 1)  # (b f, c, h, w)
        *down, mid = [residual.flatten(0, 1) for residual in residuals] or [None]
        predicted = self.image_unet(
            folded,
            timestep,
            encoder_hidden_states,
            down_block_additional_residuals=down or None,
            mid_block_additional_residual=mid,
            return_dict=False,
        )[0]
        return predicted.unflatten(0, (-1, f)).transpose(1, 2)

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations in the backward pass.

        Never reentrant: reentrant checkpoints over frozen inputs would leave the down blocks without a gradient.
        """
        self.image_unet.enable_gradient_checkpointing(functools.partial(checkpoint, use_reentrant=False))

    def disable_gradient_checkpointing(self) -> None:
        """Keep activations for the backward pass."""
        self.image_unet.disable_gradient_checkpointing()
