"""Export of tuned runs to bundles of ONNX graphs: the extra ``export``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tav_sdk.errors import MissingExtraError

if TYPE_CHECKING:
    from tav_sdk.export.write_bundle import export_bundle as export_bundle

__all__ = ["export_bundle"]


def __getattr__(name: str) -> Any:
    if name != "export_bundle":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from tav_sdk.export.write_bundle import export_bundle
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("torch", "diffusers", "transformers", "onnx", "onnx_ir", "onnxscript", "safetensors"):
            raise MissingExtraError("tav_sdk.export", "export", missing) from error
        raise
    return export_bundle
