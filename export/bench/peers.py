"""What the engines are measured against: the same bundle's models in PyTorch, behind the same pipeline."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tav_sdk.bundle.bundle import Bundle
from tav_sdk.bundle.layout import TEXT_ENCODER, UNET, VAE_DECODER, VAE_ENCODER
from tav_sdk.engines.base import Engine, Weights
from tav_sdk.errors import InputError
from tav_sdk.export.graphs import TextEncoderGraph, VaeDecoderGraph, VaeEncoderGraph
from tav_sdk.training.base.model import PretrainedBase
from tav_sdk.training.checkpoint import load_tuned_weights
from tav_sdk.training.run_base import base_of_run
from tav_sdk.training.run_folder import Run
from tav_sdk.training.torch_engine import TorchEngine
from tav_sdk.training.unet.inflation import inflate

EXPLICIT, SDPA, COMPILED = "torch, explicit products", "torch SDPA", "torch.compile"
PEERS = (EXPLICIT, SDPA, COMPILED)
"""Attention by explicit matrix products with all scores in memory, as the released code has it on a CPU;
``scaled_dot_product_attention``; and that compiled."""

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def peer_engines(
    peer: str,
    run: Run,
    bundle: Bundle,
    *,
    base: PretrainedBase | None = None,
    device: str = "cpu",
    precision: str = "fp32",
) -> dict[str, Engine]:
    """Engines for all graphs of a bundle.

    Args:
        peer: one of :data:`PEERS`.
        run: what the bundle was exported from.
        bundle: says what goes in and out.
        base: the run's base, by default as recorded.
        device: where to run.
        precision: what the models compute in, ``fp32``, ``fp16`` or ``bf16``.

    Raises:
        InputError: there is no such peer, or PyTorch has no such precision.
        BaseModelError: the base is missing, or not the run's.
    """
    if peer not in PEERS:
        raise InputError(f"there is no peer {peer!r}; choose one of {', '.join(PEERS)}")
    if precision not in DTYPES:
        raise InputError(f"a peer cannot compute in {precision!r}; choose one of {', '.join(DTYPES)}")
    dtype = DTYPES[precision]
    base = base or base_of_run(run)
    unet = inflate(base.load_unet(), run.config.inflation, run.config.num_frames)
    load_tuned_weights(unet, run.tuned_path)
    vae = base.load_vae()
    modules: dict[str, nn.Module] = {
        TEXT_ENCODER: TextEncoderGraph(base.load_text_encoder()),
        VAE_ENCODER: VaeEncoderGraph(vae),
        VAE_DECODER: VaeDecoderGraph(vae),
        UNET: unet,
    }
    engines: dict[str, Engine] = {}
    for name, module in modules.items():
        module.eval().requires_grad_(False).to(device, dtype)
        if peer == COMPILED:
            module.compile()
        graph = bundle.graph(name)
        autocast = None if dtype == torch.float32 else dtype
        engine = TorchEngine(module, name, graph.inputs, graph.outputs, autocast=autocast)
        engines[name] = ExplicitEngine(engine) if peer == EXPLICIT else engine
    return engines


class ExplicitEngine(Engine):
    """An engine in PyTorch whose attention keeps every score in memory."""

    def __init__(self, engine: TorchEngine) -> None:
        super().__init__(engine.name, engine.inputs, engine.outputs)
        self.backend = engine.backend
        self._engine = engine

    def _run(self, feeds: dict[str, np.ndarray], weights: Weights | None) -> dict[str, np.ndarray]:
        with explicit_products():
            return self._engine.run(feeds, weights)

    def _close(self) -> None:
        self._engine.close()


def explicit_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """``softmax(q k^T scale) v`` with every score in memory; stands in for ``scaled_dot_product_attention``."""
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    return scores.softmax(-1) @ value


@contextlib.contextmanager
def explicit_products() -> Iterator[None]:
    """Within it every attention of a model is computed by :func:`explicit_attention`."""
    with mock.patch.object(F, "scaled_dot_product_attention", explicit_attention):
        yield
