"""Group norm whose statistics span all frames of a video, as in the released code."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from tav_sdk.training.unet.attention import FrameAxis


class VideoGroupNorm(nn.GroupNorm):
    """``nn.GroupNorm`` on frames that are folded into the batch, with statistics over the whole video.

    Takes over weight and bias of the norm that it stands in for, under the same names.
    """

    def __init__(self, norm: nn.GroupNorm, frames: FrameAxis) -> None:
        super().__init__(norm.num_groups, norm.num_channels, norm.eps, norm.affine, device="meta")
        self.weight, self.bias = norm.weight, norm.bias
        self.train(norm.training)
        self.frames = frames

    def forward(self, input: Tensor) -> Tensor:
        """``(b f, c, h, w)`` -> ``(b f, c, h, w)``, the input's dtype."""
        video = input.unflatten(0, (-1, self.frames.num_frames)).transpose(1, 2)  # (b, c, f, h, w)
        normed = F.group_norm(video.contiguous(), self.num_groups, self.weight, self.bias, self.eps)
        return normed.transpose(1, 2).flatten(0, 1)

    def deflate(self) -> nn.GroupNorm:
        """An ordinary group norm with the same weights."""
        norm = nn.GroupNorm(self.num_groups, self.num_channels, self.eps, self.affine, device="meta")
        norm.weight, norm.bias = self.weight, self.bias
        return norm.train(self.training)
