"""The reference engine: a PyTorch module behind the engine protocol, to compare with, and to preview while tuning."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from tav_sdk.engines.base import Engine, TensorSpec, Weights
from tav_sdk.errors import EngineError


class TorchEngine(Engine):
    """A module, run where its parameters are.

    The module is shared, not copied: each run uses the parameters of that moment, in evaluation mode, and leaves every
    submodule in the mode that it was in. So the model that is being tuned can be looked at between two steps.

    Args:
        module: takes the inputs in order and returns the outputs in order: one tensor, or a tuple of them.
        name: what it runs, for messages.
        inputs: the module's inputs.
        outputs: the module's outputs.
        autocast: ``torch.bfloat16`` or ``torch.float16``: compute as tuning in mixed precision does. Inputs of floating
            point are cast to it, outputs to the dtype of their spec.
    """

    def __init__(
        self,
        module: nn.Module,
        name: str,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        *,
        autocast: torch.dtype | None = None,
    ) -> None:
        super().__init__(name, inputs, outputs)
        self.backend = f"torch-{_device_of(module).type}"
        self._module: nn.Module | None = module
        self._autocast = autocast

    def _run(self, feeds: dict[str, np.ndarray], weights: Weights | None) -> dict[str, np.ndarray]:
        module = self._module
        if module is None:
            raise EngineError(f"the {self.name} engine is closed")
        try:
            with torch.inference_mode(), _evaluating(module):
                results = self._forward(module, _device_of(module), feeds)
                results = (results,) if isinstance(results, Tensor) else tuple(results)
                if len(results) == len(self.outputs):
                    return {
                        spec.name: result.to("cpu", getattr(torch, spec.dtype)).numpy()
                        for spec, result in zip(self.outputs, results, strict=True)
                    }
        except Exception as error:  # a module may raise anything
            raise EngineError(f"PyTorch failed in the {self.name} graph: {error}") from error
        names = ", ".join(spec.name for spec in self.outputs)
        raise EngineError(f"the {self.name} module returned {len(results)} tensors, expected {names}")

    def _forward(
        self, module: nn.Module, device: torch.device, feeds: dict[str, np.ndarray]
    ) -> Tensor | Sequence[Tensor]:
        # Copies: arrays may be read-only, and a module may work in place.
        tensors = [torch.tensor(feeds[spec.name], device=device) for spec in self.inputs]
        if self._autocast is None:
            return module(*tensors)
        with torch.autocast(device.type, self._autocast):
            return module(*(t.to(self._autocast) if t.is_floating_point() else t for t in tensors))

    def _close(self) -> None:
        self._module = None


def _device_of(module: nn.Module) -> torch.device:
    for tensor in (*module.parameters(), *module.buffers()):
        return tensor.device
    return torch.device("cpu")


@contextlib.contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards every submodule is in the mode that it was in, which need not be the parent's."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
