"""Inflation and one-shot tuning in PyTorch: the extra ``training``.

The names below are the public ones; they are imported when first used, so that reading a configuration does not load
torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tav_sdk.errors import MissingExtraError

if TYPE_CHECKING:
    from tav_sdk.training.base.model import PretrainedBase as PretrainedBase
    from tav_sdk.training.base.tiny import make_tiny_base as make_tiny_base
    from tav_sdk.training.clip_scorer import ClipScorer as ClipScorer
    from tav_sdk.training.config import InflationOptions as InflationOptions
    from tav_sdk.training.config import TuneConfig as TuneConfig
    from tav_sdk.training.import_original import import_original as import_original
    from tav_sdk.training.memory.plan import plan_memory as plan_memory
    from tav_sdk.training.run_base import base_of_config as base_of_config
    from tav_sdk.training.run_base import base_of_run as base_of_run
    from tav_sdk.training.run_folder import Run as Run
    from tav_sdk.training.run_folder import load_run as load_run
    from tav_sdk.training.snapshots import compare_snapshots as compare_snapshots
    from tav_sdk.training.torch_engine import TorchEngine as TorchEngine
    from tav_sdk.training.tuning import tune as tune
    from tav_sdk.training.unet.inflation import deflate as deflate
    from tav_sdk.training.unet.inflation import inflate as inflate
    from tav_sdk.training.unet.inflation import load_original_state as load_original_state
    from tav_sdk.training.unet.inflation import trainable_parameters as trainable_parameters
    from tav_sdk.training.unet.video_unet import VideoUNet as VideoUNet

_HOMES = {
    "PretrainedBase": "base.model",
    "ClipScorer": "clip_scorer",
    "InflationOptions": "config",
    "Run": "run_folder",
    "TorchEngine": "torch_engine",
    "TuneConfig": "config",
    "VideoUNet": "unet.video_unet",
    "base_of_config": "run_base",
    "base_of_run": "run_base",
    "compare_snapshots": "snapshots",
    "deflate": "unet.inflation",
    "import_original": "import_original",
    "inflate": "unet.inflation",
    "load_original_state": "unet.inflation",
    "load_run": "run_folder",
    "make_tiny_base": "base.tiny",
    "plan_memory": "memory.plan",
    "trainable_parameters": "unet.inflation",
    "tune": "tuning",
}
__all__ = [
    "ClipScorer",
    "InflationOptions",
    "PretrainedBase",
    "Run",
    "TorchEngine",
    "TuneConfig",
    "VideoUNet",
    "base_of_config",
    "base_of_run",
    "compare_snapshots",
    "deflate",
    "import_original",
    "inflate",
    "load_original_state",
    "load_run",
    "make_tiny_base",
    "plan_memory",
    "trainable_parameters",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(f"{__name__}.{_HOMES[name]}")
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("torch", "diffusers", "transformers", "safetensors", "accelerate", "huggingface_hub"):
            raise MissingExtraError("tav_sdk.training", "training", missing) from error
        raise
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return __all__
