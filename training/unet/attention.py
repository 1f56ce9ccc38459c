"""Sparse-causal attention, cross-attention over a whole clip, and temporal attention (paper, section 4.1).

All three are processors for diffusers' ``Attention``, so its projections keep their names and their weights.
"""

# diffusers and transformers annotate loosely:
# pyright: reportOptionalSubscript=false, reportOptionalCall=false, reportArgumentType=false

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from tav_sdk.training.config import AttentionMode


@dataclass
class Window:
    """A part of a longer video: its place, and keys and values of the frames before it (paper, section 4.1).

    Attributes:
        position: ``()`` int64, index of its first frame in the video; at 0 nothing of ``past`` is used.
        past: by name, see :func:`~tav_sdk.training.unet.windowed.past_shapes`.
        present: the same for the window after this one, filled in by the model.
    """

    position: Tensor
    past: dict[str, Tensor]
    present: dict[str, Tensor] = field(default_factory=dict)

    def at_start(self, own: Tensor, name: str) -> Tensor:
        """``own`` in the first window, what was kept under ``name`` in every other."""
        return torch.where(self.position == 0, own, self.past[name].to(own.dtype))


@dataclass
class FrameAxis:
    """The frames that are folded into the batch right now; shared by all injected parts of one model.

    Attributes:
        num_frames: how many.
        span: how many frames causal temporal attention reaches over, a frame's own included: those of a tuned clip.
        window: the part of a longer video that they are; ``None`` if they are all of it.
    """

    num_frames: int
    span: int
    window: Window | None = None


def _heads(attn: Attention, states: Tensor) -> Tensor:
    """``(b, n, d)`` to ``(b, heads, n, d / heads)``."""
    return states.unflatten(-1, (attn.heads, -1)).transpose(1, 2)


def _attended(attn: Attention, query: Tensor, key: Tensor, value: Tensor, **how: object) -> Tensor:
    """Scaled dot-product attention; ``(b, n, d)``, ``(b, m, d)`` -> ``(b, n, d)``."""
    attended = F.scaled_dot_product_attention(
        _heads(attn, query), _heads(attn, key), _heads(attn, value), scale=attn.scale, **how
    )
    return attended.transpose(1, 2).flatten(2).to(query.dtype)


def _project(attn: Attention, states: Tensor) -> Tensor:
    """The output projection."""
    return attn.to_out[1](attn.to_out[0](states))


def _attend(attn: Attention, query: Tensor, key: Tensor, value: Tensor, **how: object) -> Tensor:
    """Attention and its output projection."""
    return _project(attn, _attended(attn, query, key, value, **how))


def source_frames(mode: AttentionMode, num_frames: int) -> list[list[int]]:
    """The frames that give keys and values to each frame: one list per frame, all of one length.

    ``causal`` and ``full`` look at every frame (``causal`` behind a mask), so they have no table here.
    """
    if mode == "sparse_causal":
        return [[0, max(i - 1, 0)] for i in range(num_frames)]
    if mode == "first":
        return [[0] for _ in range(num_frames)]
    return [[i] for i in range(num_frames)]


class FrameAttnProcessor:
    """Spatial self-attention whose keys and values come from other frames (``attn1``).

    Keys and values are projected once per frame and gathered afterwards, with constant indices along the frame axis.
    """

    def __init__(self, frames: FrameAxis, mode: AttentionMode, block: int) -> None:
        self.frames = frames
        self.mode: AttentionMode = mode
        self.block = block

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **_: object,
    ) -> Tensor:
        f, n = self.frames.num_frames, hidden_states.shape[1]
        query = attn.to_q(hidden_states)  # (b f, n, d)
        key = attn.to_k(hidden_states)
        value = attn.to_v(hidden_states)
        if self.mode == "spatial":
            return _attend(attn, query, key, value)
        if self.mode in ("causal", "full"):
            mask = None
            if self.mode == "causal":
                frame = torch.arange(f, device=query.device).repeat_interleave(n)  # (f n,)
                mask = frame[:, None] >= frame[None, :]  # (f n, f n)
            query, key, value = (x.unflatten(0, (-1, f)).flatten(1, 2) for x in (query, key, value))  # (b, f n, d)
            return _attend(attn, query, key, value, attn_mask=mask).unflatten(1, (f, n)).flatten(0, 1)
        if self.frames.window is not None:
            return self._continued(attn, query, key, value, self.frames.window)
        if self.mode == "sparse_causal" and f > 2:
            return self._sparse_causal(attn, query, key, value)
        table = torch.tensor(source_frames(self.mode, f), device=query.device)  # (f, sources)
        key, value = (_gather(x.unflatten(0, (-1, f)), table) for x in (key, value))  # (b f, sources n, d)
        return _attend(attn, query, key, value)

    def _sparse_causal(self, attn: Attention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Frames 0 and 1 see frame 0 twice; a softmax over doubled scores equals the plain one, so n keys do."""
        f = self.frames.num_frames
        query, key, value = (x.unflatten(0, (-1, f)) for x in (query, key, value))  # (b, f, n, d)
        first = _attended(attn, query[:, :2].flatten(1, 2), key[:, 0], value[:, 0])  # (b, 2 n, d)
        table = torch.tensor(source_frames(self.mode, f)[2:], device=query.device)  # (f - 2, 2)
        key, value = (_gather(x, table) for x in (key, value))  # (b (f - 2), 2 n, d)
        rest = _attended(attn, query[:, 2:].flatten(0, 1), key, value)  # (b (f - 2), n, d)
        both = torch.cat([first.unflatten(1, (2, -1)), rest.unflatten(0, (-1, f - 2))], dim=1)  # (b, f, n, d)
        return _project(attn, both.flatten(0, 1))

    def _continued(self, attn: Attention, query: Tensor, key: Tensor, value: Tensor, window: Window) -> Tensor:
        """Frame 0, and of the window's first frame the former one, may lie in the windows before."""
        f = self.frames.num_frames
        sources = []
        for name, states in (("key", key.unflatten(0, (-1, f))), ("value", value.unflatten(0, (-1, f)))):
            first = window.at_start(states[:, 0], f"{self.block}.first_{name}")  # (b, n, d)
            window.present[f"{self.block}.first_{name}"] = first
            given = [first[:, None].expand(-1, f, -1, -1)]  # (b, f, n, d)
            if self.mode == "sparse_causal":
                former = window.at_start(states[:, 0], f"{self.block}.former_{name}")
                window.present[f"{self.block}.former_{name}"] = states[:, -1]
                given.append(torch.cat([former[:, None], states[:, :-1]], dim=1))
            sources.append(torch.cat(given, dim=2).flatten(0, 1))  # (b f, sources n, d)
        return _attend(attn, query, *sources)


def _gather(states: Tensor, table: Tensor) -> Tensor:
    """Keys or values of every frame's sources, one after the other: ``(b, f, n, d)`` -> ``(b rows, sources n, d)``."""
    rows, sources = table.shape
    gathered = states.index_select(1, table.flatten())  # (b, rows sources, n, d)
    return gathered.unflatten(1, (rows, sources)).flatten(2, 3).flatten(0, 1)


class ClipCrossAttnProcessor:
    """Cross-attention (``attn2``) with text states given once per video instead of repeated for every frame."""

    def __init__(self, frames: FrameAxis) -> None:
        self.frames = frames

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        **_: object,
    ) -> Tensor:
        f, n = self.frames.num_frames, hidden_states.shape[1]
        query = attn.to_q(hidden_states).unflatten(0, (-1, f)).flatten(1, 2)  # (b, f n, d)
        key, value = attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states)  # (b, s, d)
        return _attend(attn, query, key, value).unflatten(1, (f, n)).flatten(0, 1)  # (b f, n, d)


class TemporalAttnProcessor:
    """Self-attention over the frames at each pixel; ``(b n, f, d)`` with the pixels in the batch.

    Causal, it reaches back over ``frames.span`` frames, so that a video of any length is made of windows.
    """

    def __init__(self, frames: FrameAxis, *, causal: bool, block: int) -> None:
        self.frames = frames
        self.causal = causal
        self.block = block

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **_: object,
    ) -> Tensor:
        query, key, value = attn.to_q(hidden_states), attn.to_k(hidden_states), attn.to_v(hidden_states)
        f, span, window = self.frames.num_frames, self.frames.span, self.frames.window
        if window is not None:
            key, value = (self._continued(x, name, window) for x, name in ((key, "key"), (value, "value")))
            return _attend(attn, query, key, value, attn_mask=_reach(f, span, query.device, window.position))
        if self.causal and f > span:
            return _attend(attn, query, key, value, attn_mask=_reach(f, span, query.device)[:, span - 1 :])
        return _attend(attn, query, key, value, is_causal=self.causal)

    def _continued(self, states: Tensor, name: str, window: Window) -> Tensor:
        """Keys or values with those of the ``span - 1`` frames before: ``(b n, span - 1 + f, d)``."""
        name = f"{self.block}.temporal_{name}"
        past = window.past[name].to(states.dtype)  # (b, n, span - 1, d)
        both = torch.cat([past.flatten(0, 1), states], dim=1)
        window.present[name] = both[:, self.frames.num_frames :].unflatten(0, (-1, past.shape[1]))
        return both


def _reach(f: int, span: int, device: torch.device, position: Tensor | None = None) -> Tensor:
    """Which of the ``span - 1`` frames before a window, and of its own, its frames see: ``(f, span - 1 + f)`` bool.

    Without ``position`` as if there were frames before it; with it only those that the video has.
    """
    frame = torch.arange(f, device=device)[:, None]
    source = torch.arange(span - 1 + f, device=device)[None] - (span - 1)
    seen = (source <= frame) & (source > frame - span)
    return seen if position is None else seen & (source + position >= 0)


def make_temporal_attention(attn1: Attention, frames: FrameAxis, *, causal: bool, block: int) -> Attention:
    """A temporal attention of ``attn1``'s width and heads whose output is zero: projection and bias (section 4.1)."""
    dim = attn1.to_q.in_features
    attn_temp = Attention(
        query_dim=dim,
        heads=attn1.heads,
        dim_head=attn1.to_q.out_features // attn1.heads,
        bias=attn1.to_q.bias is not None,
        processor=TemporalAttnProcessor(frames, causal=causal, block=block),
    )
    nn.init.zeros_(attn_temp.to_out[0].weight)
    nn.init.zeros_(attn_temp.to_out[0].bias)
    return attn_temp
