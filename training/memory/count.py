"""Counting the bytes that a model's operations hold, on the meta device."""

from __future__ import annotations

import weakref
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tav_sdk.training.memory.report import Device

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class MemoryCounter(TorchDispatchMode):
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


class CallCounter(TorchFunctionMode):
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


def meta_tensor(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def count_elements(parameters: Any) -> int:
    return sum(parameter.numel() for parameter in parameters)


def byte_width(dtype: torch.dtype | None) -> int:
    """Bytes of a number."""
    return (dtype or torch.float32).itemsize
