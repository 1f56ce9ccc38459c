"""``manifest.json``: what a bundle holds, typed and checked when it is read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tav_sdk.bundle.layout import DOWN_RESIDUAL, FORMAT_VERSION, MANIFEST, MID_RESIDUAL, UNET
from tav_sdk.bundle.precision import Precision
from tav_sdk.engines.base import TensorSpec
from tav_sdk.errors import BundleError, BundleVersionError
from tav_sdk.files import write_text
from tav_sdk.reading import read_json, validated

InvertWith = Literal["empty", "caption"]
"""The prompt of an inversion: none, or the clip's caption."""

MAX_MANIFEST_BYTES = 32 << 20
MAX_PIXELS = 1 << 31
"""Most pixels of a clip, over all its frames."""
_MANY = 20_000
Name = Annotated[str, Field(max_length=1000)]
"""A name of anything: a path, a tensor, an axis."""
Dtype = Literal[
    "float16", "float32", "float64", "bfloat16", "bool", "int8", "int16", "int32", "int64", "uint8", "uint16",
    "uint32", "uint64",
]  # fmt: skip
"""What a tensor may consist of, by numpy's name; numpy has no ``bfloat16``."""
Length = Annotated[int, Field(ge=0, le=1 << 40)]
"""Length of an axis, or a number of bytes."""


class Strict(BaseModel):
    """A part of a manifest: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FileEntry(Strict):
    """Size in bytes and SHA-256 of a file."""

    size: Length
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class TensorEntry(Strict):
    """A graph's input or output; see :class:`~tav_sdk.engines.base.TensorSpec`."""

    name: Name
    dtype: Dtype
    shape: tuple[Length | Name, ...] = Field(max_length=16)

    @classmethod
    def of(cls, spec: TensorSpec) -> TensorEntry:
        """The entry of what an engine takes or gives."""
        return cls.model_validate({"name": spec.name, "dtype": spec.dtype, "shape": spec.shape})

    @property
    def spec(self) -> TensorSpec:
        """The same for an engine."""
        return TensorSpec(self.name, self.dtype, self.shape)


class StoredTensor(Strict):
    """A tensor's name, dtype and shape, and where its bytes lie in a file."""

    name: Name
    dtype: Dtype
    shape: tuple[Length, ...] = Field(max_length=16)
    offset: Length
    length: Length

    @property
    def spec(self) -> TensorSpec:
        """The same for an engine."""
        return TensorSpec(self.name, self.dtype, self.shape)


class GraphEntry(Strict):
    """A graph's contract.

    Attributes:
        file: the graph, by its path in the bundle.
        opset: version of the ONNX operator set.
        inputs: what it takes, tuned weights left out.
        outputs: what it gives.
        parity_max_abs: how far it was from the model at export; none if that was left to ``tav verify``.
        precision: what it computes in.
        kept: the parts that compute in float32 whatever the precision is.
        axes: the lengths in use of each dynamic axis.
        tuned: where the tuned weights lie in :data:`TUNED_FILE` beside the graph.
        untuned: where the base's values of them lie in :data:`UNTUNED_FILE`; none in bundles of older versions.
    """

    file: Name
    opset: int = Field(ge=0, le=1000)
    inputs: tuple[TensorEntry, ...] = Field(max_length=_MANY)
    outputs: tuple[TensorEntry, ...] = Field(max_length=_MANY)
    parity_max_abs: float | None
    precision: Precision = "fp32"
    kept: tuple[Name, ...] = Field(default=(), max_length=_MANY)
    axes: dict[Name, Annotated[tuple[Annotated[int, Field(ge=1, le=1 << 20)], ...], Field(max_length=1000)]] = Field(
        default={}, max_length=100
    )
    tuned: tuple[StoredTensor, ...] = Field(default=(), max_length=_MANY)
    untuned: tuple[StoredTensor, ...] = Field(default=(), max_length=_MANY)


class BaseEntry(Strict):
    """The base that a bundle was made from: its name, and SHA-256 of what it computes with."""

    name: Name
    sha256: Name


class ClipEntry(Strict):
    """The clip that was tuned on, as it was read.

    Attributes:
        fps: frames per second of the frames that were taken, at least 0.01.
        start: index of the first of them in the clip's file.
        stride: distance between two of them in the file, in frames.
    """

    fps: float = Field(ge=0.01, le=1000)
    start: int = Field(ge=0, le=1 << 40)
    stride: int = Field(ge=1, le=1 << 40)


class Manifest(Strict):
    """``manifest.json``: what a bundle holds, for whom, and where it came from.

    Attributes:
        num_frames: frames of every clip that it edits.
        height: of every frame, in pixels.
        width: of every frame, in pixels.
        prompt: the caption that the clip was tuned with.
        latent_channels: channels of a latent.
        vae_scale_factor: pixels per latent along one side.
        scaling_factor: what the VAE's latents are multiplied by.
        inflation: how the U-Net was inflated.
        num_inference_steps: DDIM steps that the base does best with, the paper's 50 for Stable Diffusion.
        guidance_scale: what the base is best edited with, the paper's 12.5 for Stable Diffusion.
        invert_with: the prompt that clips are best inverted with: none, or the tuned clip's caption.
        graphs: the four graphs by name.
        quality: how the export's edits compared with those of the float32 model, see :mod:`tav_sdk.export.quality`;
            none where they were not compared.
        files: size and hash of every file, by its path in the bundle.
        base: the base that it was made from.
        clip: the clip that was tuned on.
        tuned_sha256: SHA-256 of the file of tuned weights that it was exported from.
        provenance: base, clip, tuning and versions, for people; no code reads it.
    """

    format_version: Literal[1, 2, 3]
    precision: Precision
    prompt: str = Field(max_length=100_000)
    num_frames: int = Field(ge=1, le=1 << 16)
    height: int = Field(ge=1, le=1 << 14)
    width: int = Field(ge=1, le=1 << 14)
    latent_channels: int = Field(ge=1, le=1024)
    vae_scale_factor: int = Field(ge=1, le=256)
    scaling_factor: float = Field(gt=0, le=1e6, allow_inf_nan=False)
    inflation: dict[Name, Any] = Field(max_length=100)
    num_inference_steps: int = Field(default=50, ge=1, le=1000)
    guidance_scale: float = Field(default=12.5, ge=0, le=1e6, allow_inf_nan=False)
    invert_with: InvertWith = "empty"
    graphs: dict[Name, GraphEntry] = Field(max_length=20)
    quality: dict[Name, float] | None = Field(default=None, max_length=1000)
    files: dict[Name, FileEntry] = Field(max_length=_MANY)
    base: BaseEntry
    clip: ClipEntry
    tuned_sha256: Name
    provenance: dict[Name, Any] = Field(max_length=1000)

    @model_validator(mode="after")
    def _bounded(self) -> Manifest:
        if self.num_frames * self.height * self.width > MAX_PIXELS:
            raise ValueError(f"num_frames * height * width is more than {MAX_PIXELS}")
        return self

    @property
    def residuals(self) -> tuple[TensorSpec, ...]:
        """The ControlNet residuals that the U-Net takes; none if it was exported without control."""
        inputs = (tensor.spec for tensor in self.graphs[UNET].inputs)
        return tuple(spec for spec in inputs if spec.name.startswith((DOWN_RESIDUAL, MID_RESIDUAL)))

    @property
    def inversion_prompt(self) -> str:
        """What clips are best inverted with, as :attr:`invert_with` says."""
        return self.prompt if self.invert_with == "caption" else ""

    @property
    def latents_shape(self) -> tuple[int, int, int, int, int]:
        """``(1, c, f, h, w)`` of one clip's latents."""
        factor = self.vae_scale_factor
        return (1, self.latent_channels, self.num_frames, self.height // factor, self.width // factor)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.json``."""
    write_text(folder / MANIFEST, manifest.model_dump_json(indent=2) + "\n")


def read_manifest(folder: Path) -> Manifest:
    """Read and check ``manifest.json``.

    Raises:
        BundleVersionError: its format is newer than this version reads.
        BundleError: there is none, or it is not valid; says what.
    """
    path = folder / MANIFEST
    if not os.path.isfile(path) and os.path.isfile(folder / "run.json"):
        raise BundleError(f"{folder} is a run, not a bundle; export it first: tav export {folder} --out BUNDLE")
    if not os.path.isfile(path):  # unlike Path.is_file, it takes any name
        raise BundleError(
            f"there is no bundle in {folder} (no {MANIFEST}); make one with: tav export RUN --out {folder}"
        )
    advice = "export the bundle again"
    values = read_json(path, max_bytes=MAX_MANIFEST_BYTES, error=BundleError, advice=advice)
    version = values.get("format_version") if isinstance(values, dict) else None
    if isinstance(version, (int, float)) and version > FORMAT_VERSION:
        raise BundleVersionError(
            f"the bundle {folder} has format {version}, this version reads up to {FORMAT_VERSION}; "
            "update with: pip install --upgrade tav-sdk"
        )
    return validated(Manifest, _typed(values), what=f"the manifest {path}", error=BundleError, advice=advice)


def _typed(values: Any) -> Any:
    """A manifest of format 1 or 2 with the entries of format 3, taken from its ``provenance``."""
    if not isinstance(values, dict) or values.get("format_version") not in (1, 2):
        return values
    told = values.get("provenance")
    told = told if isinstance(told, dict) else {}
    base, clip, tuning = (one if isinstance(one := told.get(name), dict) else {} for name in ("base", "clip", "tuning"))
    return {
        **values,
        "base": {name: base[name] for name in ("name", "sha256") if name in base},
        "clip": {
            **({"fps": clip["fps"]} if "fps" in clip else {}),
            **{name: tuning[name] for name in ("start", "stride") if name in tuning},
        },
        "tuned_sha256": told.get("delta_sha256", ""),
    }
