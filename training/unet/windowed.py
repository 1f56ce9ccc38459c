"""The inflated U-Net for a window of a longer video: keys and values of the frames before go in, those for the next
window come out, so that a video made window by window equals the one made in one pass.
"""

# diffusers and transformers annotate loosely:
# pyright: reportOptionalMemberAccess=false, reportAttributeAccessIssue=false, reportArgumentType=false

from __future__ import annotations

import re

from torch import Tensor, nn

from tav_sdk.errors import InputError
from tav_sdk.training.config import InflationOptions
from tav_sdk.training.unet.attention import Window
from tav_sdk.training.unet.inflation import transformer_blocks
from tav_sdk.training.unet.video_unet import VideoUNet


def can_continue(options: InflationOptions, num_frames: int) -> bool:
    """Whether a frame depends on some former frames, a bounded number of them, and on no later one."""
    temporal = not options.temporal or options.temporal_mask == "causal"
    spatial = options.attention in ("sparse_causal", "first", "spatial")
    return temporal and spatial and options.group_norm == "frame" and num_frames > 1


def past_shapes(model: VideoUNet, height: int, width: int) -> dict[str, tuple[int, ...]]:
    """What a window keeps for the next one, for one video: the projected keys and values of frame 0, of the former
    frame, and, pixel by pixel, of the last ``W - 1`` frames.

    Args:
        model: an inflated U-Net.
        height: of its latents.
        width: of its latents.

    Returns:
        Shapes without the batch, ``(n, d)`` or ``(n, W - 1, d)``, by names such as ``3.former_key``, in a fixed order.
    """
    options, levels = model.options, len(model.config.block_out_channels)
    shapes: dict[str, tuple[int, ...]] = {}
    for index, (name, block) in enumerate(transformer_blocks(model.image_unet)):
        n = _tokens(name, levels, height, width)
        width_of_keys = int(block.attn1.to_k.out_features)
        kept = {"sparse_causal": ("first", "former"), "first": ("first",)}.get(options.attention, ())
        for source in kept:
            shapes |= {f"{index}.{source}_{kind}": (n, width_of_keys) for kind in ("key", "value")}
        if options.temporal:
            span = model.frames.span - 1
            width_of_keys = int(block.attn_temp.to_k.out_features)
            shapes |= {f"{index}.temporal_{kind}": (n, span, width_of_keys) for kind in ("key", "value")}
    return shapes


def _tokens(block: str, levels: int, height: int, width: int) -> int:
    """Pixels where a transformer block stands, by its name in diffusers' U-Net."""
    kind, number = re.match(r"(down|mid|up)_block(?:s\.(\d+))?", block).groups()
    level = {"down": int(number or 0), "mid": levels - 1, "up": levels - 1 - int(number or 0)}[kind]
    for _ in range(level):  # a convolution of stride 2
        height, width = -(-height // 2), -(-width // 2)
    return height * width


class WindowedUNet(nn.Module):
    """A :class:`VideoUNet` that continues a video; it shares all parts with it, and its parameters keep their names.

    Args:
        model: an inflated U-Net that :func:`can_continue`.
        height: of its latents.
        width: of its latents.

    Raises:
        InputError: its frames depend on later ones, or on all former ones.

    Attributes:
        names: what is kept, by name, in the order of the arguments ``past`` and of the results.
    """

    def __init__(self, model: VideoUNet, height: int, width: int) -> None:
        super().__init__()
        if not can_continue(model.options, model.frames.span):
            raise InputError(
                "this U-Net's frames depend on later frames, or on all former ones, so that it cannot go on window by "
                f"window: {model.options.to_dict()}, {model.frames.span} frames"
            )
        for name, child in model.named_children():
            self.add_module(name, child)
        self._model = (model,)  # not a child, which would give every parameter a second name
        self.names = tuple(past_shapes(model, height, width))

    def forward(
        self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, position: Tensor, *past: Tensor
    ) -> tuple[Tensor, ...]:
        """Predict one window of ``W`` frames.

        Args:
            sample: ``(b, c, W, h, w)``.
            timestep: ``()`` int64.
            encoder_hidden_states: ``(b, s, d)``.
            position: ``()`` int64, index of the window's first frame in the video; at 0 ``past`` is not used.
            past: ``(b, n, d)`` or ``(b, n, W - 1, d)``, in the order of :attr:`names`.

        Returns:
            The prediction, ``(b, c, W, h, w)``, and the next window's ``past``.
        """
        model = self._model[0]
        window = Window(position, dict(zip(self.names, past, strict=True)))
        model.frames.window = window
        try:
            predicted = model(sample, timestep, encoder_hidden_states)
        finally:
            model.frames.window = None
        return (predicted, *(window.present[name].to(past[0].dtype) for name in self.names))
