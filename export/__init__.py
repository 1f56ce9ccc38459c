"""Export of tuned runs to bundles of ONNX graphs: the extra ``export``.

The names below are the public ones; they are imported when first used, so that a second clip's export does not load
torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tav_sdk.errors import MissingExtraError

if TYPE_CHECKING:
    from tav_sdk.export.clip_bundle import export_clip as export_clip
    from tav_sdk.export.controlnet import cached_controlnet as cached_controlnet
    from tav_sdk.export.controlnet import export_controlnet as export_controlnet
    from tav_sdk.export.options import ExportOptions as ExportOptions
    from tav_sdk.export.write_bundle import export_bundle as export_bundle

_HOMES = {
    "ExportOptions": "options",
    "export_bundle": "write_bundle",
    "export_clip": "clip_bundle",
    "export_controlnet": "controlnet",
    "cached_controlnet": "controlnet",
}
__all__ = ["ExportOptions", "cached_controlnet", "export_bundle", "export_clip", "export_controlnet"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f"tav_sdk.export.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("torch", "diffusers", "transformers", "onnx", "onnx_ir", "onnxscript", "safetensors"):
            raise MissingExtraError("tav_sdk.export", "export", missing) from error
        raise
