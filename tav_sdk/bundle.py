"""A bundle on disk: one folder that a machine without PyTorch can run. Its file names are declared here and only here.

Nothing in a bundle is executed or unpickled. Every path in it is relative and stays inside, and hashes are checked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from tav_sdk.adapter import is_in_base, scale_adapter
from tav_sdk.engines.base import Graph, TensorSpec, Weights
from tav_sdk.errors import BundleError, BundleVersionError, ConfigError
from tav_sdk.files import sha256_of, write_text
from tav_sdk.inversion import InvertWith
from tav_sdk.schedule import DDIMSchedule

FORMAT_VERSION = 2
"""Of bundles that are written; those of format 1 are read, too, but their clip's weights cannot be swapped."""
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer"
SCHEDULER = "scheduler/scheduler_config.json"
TEXT_ENCODER, VAE_ENCODER, VAE_DECODER, UNET = "text_encoder", "vae_encoder", "vae_decoder", "unet"
GRAPHS = (TEXT_ENCODER, VAE_ENCODER, VAE_DECODER, UNET)
WINDOWED_UNET = "windowed_unet"
"""The U-Net for a window of a longer video; not in every bundle. It stands beside the U-Net and shares its weights."""
PAST, PRESENT = "past", "present"
"""Of its inputs and outputs, with a point and a name: what it keeps of the windows before, and for the next one."""
CONTROLNET = "controlnet"
"""A graph that no bundle has: it is exported by itself, see :mod:`tav_sdk.controlnet`."""
DOWN_RESIDUAL, MID_RESIDUAL = "down_block_additional_residual", "mid_block_additional_residual"
"""Inputs of a U-Net that takes a ControlNet's residuals; the former with a number each."""
GRAPH_FILE = "model.onnx"
WINDOWED_FILE = "windowed.onnx"
_GRAPH_FILES = (GRAPH_FILE, WINDOWED_FILE)
WEIGHTS_FILE = "model.onnx_data"
"""Weights of a graph; of the U-Net, those that tuning leaves alone."""
TUNED_FILE = "tuned.onnx_data"
"""The U-Net's tuned weights, so that clips on one base differ in this file alone."""
UNTUNED_FILE = "untuned.safetensors"
"""The base's values of the tuned weights that it has, beside :data:`TUNED_FILE`; equal for all clips on one base."""
REFERENCES = "reference"
"""Folder of one ``GRAPH.npz`` a graph: an input, and what the float32 model gave for it; see :mod:`tav_sdk.verify`."""
Precision = Literal["fp32", "fp16", "bf16", "int8"]
"""What a bundle's U-Net computes in."""
PRECISIONS: tuple[str, ...] = get_args(Precision)
TOLERANCES: dict[str, float] = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 5e-2, "int8": 1.5e-1}
"""By precision, how far a graph's output may be from the float32 model's, relative to its largest magnitude."""
VAE_CHUNK = 4
"""Frames that go through the VAE at a time: memory of a chunk, not of a clip."""


def chunk_lengths(num_frames: int) -> tuple[int, ...]:
    """The numbers of frames that the VAE's graphs are called with for one clip."""
    return tuple(sorted({min(VAE_CHUNK, num_frames), num_frames % VAE_CHUNK or VAE_CHUNK}))


def check_precision(precision: str) -> None:
    """Check the name of a precision.

    Raises:
        ConfigError: it is unknown; lists those that are known.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"there is no precision {precision!r}; choose one of {', '.join(PRECISIONS)}")


class Strict(BaseModel):
    """A part of a manifest: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FileEntry(Strict):
    """Size in bytes and SHA-256 of a file."""

    size: int
    sha256: str


class TensorEntry(Strict):
    """A graph's input or output; see :class:`~tav_sdk.engines.base.TensorSpec`."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    @property
    def spec(self) -> TensorSpec:
        """The same for an engine."""
        return TensorSpec(self.name, self.dtype, self.shape)


class StoredTensor(Strict):
    """A tensor's name, dtype and shape, and where its bytes lie in a file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int

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
        untuned: where the base's values of them lie in :data:`UNTUNED_FILE`; none in bundles of before there was one.
    """

    file: str
    opset: int
    inputs: tuple[TensorEntry, ...]
    outputs: tuple[TensorEntry, ...]
    parity_max_abs: float | None
    precision: Precision = "fp32"
    kept: tuple[str, ...] = ()
    axes: dict[str, tuple[int, ...]] = {}
    tuned: tuple[StoredTensor, ...] = ()
    untuned: tuple[StoredTensor, ...] = ()


class _Base(BaseModel):
    name: str
    sha256: str


class _Clip(BaseModel):
    fps: float


class _Tuning(BaseModel):
    start: int
    stride: int


class _Provenance(BaseModel):
    """What code relies on of a manifest's provenance; the rest is for people."""

    base: _Base
    clip: _Clip
    tuning: _Tuning


class Manifest(Strict):
    """``manifest.json``: what a bundle holds, for whom, and where it came from.

    Attributes:
        num_frames: frames of every clip that it edits.
        height: pixels.
        width: pixels.
        prompt: the caption that the clip was tuned with.
        latent_channels: channels of a latent.
        vae_scale_factor: pixels per latent along one side.
        scaling_factor: what the VAE's latents are multiplied with.
        inflation: how the U-Net was inflated.
        num_inference_steps: DDIM steps that the base does best with, the paper's 50 for Stable Diffusion.
        guidance_scale: what the base is best edited with, the paper's 12.5 for Stable Diffusion.
        invert_with: the prompt that clips are best inverted with: none, or the tuned clip's caption.
        graphs: the four graphs by name.
        quality: how the export's edits compared with those of the float32 model, see :mod:`tav_sdk.export.quality`;
            none where they were not compared.
        files: size and hash of every file, by its path in the bundle.
        provenance: base, clip, tuning and versions, for people.
    """

    format_version: Literal[1, 2]
    precision: Precision
    prompt: str
    num_frames: int
    height: int
    width: int
    latent_channels: int
    vae_scale_factor: int
    scaling_factor: float
    inflation: dict[str, Any]
    num_inference_steps: int = 50
    guidance_scale: float = 12.5
    invert_with: InvertWith = "empty"
    graphs: dict[str, GraphEntry]
    quality: dict[str, float] | None = None
    files: dict[str, FileEntry]
    provenance: dict[str, Any]

    @field_validator("provenance")
    @classmethod
    def _has_what_the_pipeline_reads(cls, value: dict[str, Any]) -> dict[str, Any]:
        _Provenance.model_validate(value)
        return value

    @property
    def inversion_prompt(self) -> str:
        """What clips are best inverted with, as :attr:`invert_with` says."""
        return self.prompt if self.invert_with == "caption" else ""

    @property
    def latents_shape(self) -> tuple[int, int, int, int, int]:
        """``(1, c, f, h, w)`` of one clip's latents."""
        factor = self.vae_scale_factor
        return (1, self.latent_channels, self.num_frames, self.height // factor, self.width // factor)


class GraphFolder:
    """A folder of graphs and other files, of which a manifest that has been read knows the hashes.

    Args:
        kind: what it is, for messages.
        folder: where it is.
        files: size and hash of every file.
        graphs: its graphs by name.
        verify: compare every file's size and hash.

    Raises:
        BundleError: it is damaged, or a path in it leaves the folder.
    """

    def __init__(
        self,
        kind: str,
        folder: Path,
        files: Mapping[str, FileEntry],
        graphs: Mapping[str, GraphEntry],
        *,
        verify: bool,
    ) -> None:
        self.kind, self.folder = kind, folder
        self._files, self._graphs = files, graphs
        for path, entry in files.items():
            self._check_file(path, entry, verify=verify)
        for graph in graphs.values():
            self.path(graph.file)

    def path(self, relative: str) -> Path:
        """Where a file of the folder lies.

        Raises:
            BundleError: the path leaves the folder, or the manifest has no hash for it.
        """
        pure = PurePosixPath(relative)
        inside = not pure.is_absolute() and ".." not in pure.parts and "\\" not in relative and ":" not in relative
        path = self.folder / relative
        if "\0" in relative or not inside or not path.resolve().is_relative_to(self.folder.resolve()):
            raise BundleError(
                f"the {self.kind} {self.folder} names {relative!r}, which leaves its folder; do not use it"
            )
        if relative not in self._files:
            raise BundleError(
                f"the {self.kind} {self.folder} uses {relative!r}, which its manifest does not list; export it again"
            )
        return path

    def graph(self, name: str) -> Graph:
        """A graph as an engine opens it."""
        entry = self._graphs[name]
        return Graph(
            name=name,
            path=self.path(entry.file),
            inputs=tuple(tensor.spec for tensor in entry.inputs),
            outputs=tuple(tensor.spec for tensor in entry.outputs),
            precision=entry.precision,
            axes=entry.axes,
            tuned=tuple(tensor.spec for tensor in entry.tuned),
            key=self._key(entry.file),
        )

    def _key(self, file: str) -> str:
        """SHA-256 of a graph and of its weights, the clip's own and other graphs in the folder left out."""
        folder = PurePosixPath(file).parent.as_posix()
        left_out = (
            f"/{TUNED_FILE}",
            f"/{UNTUNED_FILE}",
            *(f"/{name}" for name in _GRAPH_FILES if not file.endswith(name)),
        )
        parts = sorted(
            f"{path} {entry.sha256}"
            for path, entry in self._files.items()
            if path.startswith(f"{folder}/") and not path.endswith(left_out)
        )
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def _check_file(self, relative: str, entry: FileEntry, *, verify: bool) -> None:
        path = self.path(relative)
        if not path.is_file():
            raise BundleError(f"the {self.kind} {self.folder} lacks {relative}; copy it completely or export it again")
        if (size := path.stat().st_size) != entry.size:
            raise BundleError(
                f"{relative} in the {self.kind} {self.folder} was changed: expected {entry.size} bytes, got {size}; "
                "copy it completely or export it again"
            )
        if verify and (got := sha256_of(path)) != entry.sha256:
            raise BundleError(
                f"{relative} in the {self.kind} {self.folder} was changed: expected sha256 {entry.sha256[:12]}..., got "
                f"{got[:12]}...; copy it again or export it again"
            )


class Bundle(GraphFolder):
    """A bundle folder whose manifest has been read and checked.

    Args:
        folder: the bundle.
        verify: compare every file's size and hash with the manifest.

    Raises:
        BundleVersionError: the bundle's format is newer than this version reads.
        BundleError: there is no bundle, it is damaged, or a path in it leaves the folder.
    """

    def __init__(self, folder: str | Path, *, verify: bool = True) -> None:
        folder = Path(folder)
        self.manifest = _read_manifest(folder)
        super().__init__("bundle", folder, self.manifest.files, self.manifest.graphs, verify=verify)
        for name in GRAPHS:
            if name not in self.manifest.graphs:
                raise BundleError(f"the bundle {self.folder} has no {name} graph; export it again")

    @property
    def residuals(self) -> tuple[TensorSpec, ...]:
        """What the U-Net takes of a ControlNet; none if it was exported without control."""
        inputs = (tensor.spec for tensor in self.manifest.graphs[UNET].inputs)
        return tuple(spec for spec in inputs if spec.name.startswith((DOWN_RESIDUAL, MID_RESIDUAL)))

    def check_control(self) -> None:
        """Check that the U-Net takes a ControlNet's residuals.

        Raises:
            BundleError: it was exported without control.
        """
        if not self.residuals:
            raise BundleError(
                f"the U-Net of the bundle {self.folder} takes no control; export its run again with --control"
            )

    def weights(self, adapter_scale: float = 1.0) -> Weights | None:
        """The clip's tuned weights, read from disk as they are used; none in a bundle of format 1.

        Args:
            adapter_scale: how much of the tuning is used, see :mod:`tav_sdk.adapter`; other weights than the tuned ones
                are made in memory.

        Raises:
            BundleError: the manifest's places do not fit a file, or the bundle lacks what a scale other than 1 needs.
        """
        entry = self.manifest.graphs[UNET]
        tuned = self._stored(entry, TUNED_FILE, entry.tuned) if entry.tuned else None
        if adapter_scale == 1:
            return tuned
        names = {tensor.name for tensor in entry.tuned if is_in_base(tensor.name)}
        if tuned is None or names != {tensor.name for tensor in entry.untuned}:
            raise BundleError(
                f"the bundle {self.folder} does not hold the base's own weights, which adapter_scale {adapter_scale:g} "
                "needs; export its run again, or leave the scale at 1"
            )
        return scale_adapter(tuned, self._stored(entry, UNTUNED_FILE, entry.untuned), adapter_scale)

    def _stored(self, entry: GraphEntry, file: str, stored: tuple[StoredTensor, ...]) -> Weights:
        """Tensors in a file beside a graph, where they are on disk."""
        relative = (PurePosixPath(entry.file).parent / file).as_posix()
        data = np.memmap(self.path(relative), dtype=np.uint8, mode="r")
        tensors = {}
        for tensor in stored:
            dtype = np.dtype("uint16" if tensor.dtype == "bfloat16" else tensor.dtype)
            stop = tensor.offset + tensor.length
            if stop > data.size or tensor.length != dtype.itemsize * int(np.prod(tensor.shape)):
                raise BundleError(
                    f"{relative} in the bundle {self.folder} does not hold {tensor.name}; export it again"
                )
            tensors[tensor.name] = data[tensor.offset : stop].view(dtype).reshape(tensor.shape)
        return Weights(self.manifest.files[relative].sha256, tensors)

    @property
    def schedule(self) -> DDIMSchedule:
        """The base's noise schedule."""
        return DDIMSchedule.from_config(json.loads(self.path(SCHEDULER).read_text(encoding="utf-8")))


def check_same_base(mine: Bundle, other: Bundle) -> None:
    """Check that the engines of ``mine`` can run with the tuned weights of ``other``.

    Raises:
        BundleError: they cannot; says what differs.
    """
    if not (mine.manifest.graphs[UNET].tuned and other.manifest.graphs[UNET].tuned):
        old = mine if not mine.manifest.graphs[UNET].tuned else other
        raise BundleError(f"the bundle {old.folder} is of format 1, whose weights cannot be swapped; export it again")
    for what, here, there in _differences(mine.manifest, other.manifest):
        raise BundleError(f"{other.folder} does not fit {mine.folder}: its {what} is {there}, expected {here}")
    hint = f"export its run with: tav export RUN --bundle {mine.folder} --out BUNDLE"
    for name in [name for name in mine.manifest.graphs if name in other.manifest.graphs]:
        if mine.graph(name).key != other.graph(name).key or mine.graph(name).tuned != other.graph(name).tuned:
            raise BundleError(f"{other.folder} does not fit {mine.folder}: its {name} graph is another one; {hint}")


def _differences(mine: Manifest, other: Manifest) -> Iterator[tuple[str, object, object]]:
    """What keeps two bundles apart, the most telling first: a name, and the value in each."""
    bases = [_Provenance.model_validate(manifest.provenance).base for manifest in (mine, other)]
    if bases[0].sha256 != bases[1].sha256:
        here, there = (f"{base.name} ({base.sha256[:12]}...)" for base in bases)
        yield "base model", here, there
    for name in ("precision", "num_frames", "height", "width", "inflation"):
        here, there = getattr(mine, name), getattr(other, name)
        if here != there:
            if isinstance(here, dict):
                here, there = only_differing(here, there)
            yield name.replace("_", " "), here, there


def only_differing(here: dict[str, Any], there: dict[str, Any]) -> tuple[str, str]:
    """Two sets of options as text, without those that are the same in both."""
    names = [name for name in {**here, **there} if here.get(name) != there.get(name)]
    first, second = (", ".join(f"{name}={found.get(name)}" for name in names) for found in (here, there))
    return first, second


def file_entries(folder: Path) -> dict[str, FileEntry]:
    """Size and hash of every file in a folder but the manifest."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {
        path.relative_to(folder).as_posix(): FileEntry(size=path.stat().st_size, sha256=sha256_of(path))
        for path in paths
    }


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.json``."""
    write_text(folder / MANIFEST, manifest.model_dump_json(indent=2) + "\n")


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    if (folder / "run.json").is_file() and not path.is_file():
        raise BundleError(f"{folder} is a run, not a bundle; export it first: tav export {folder} --out BUNDLE")
    if not path.is_file():
        raise BundleError(
            f"there is no bundle in {folder} (no {MANIFEST}); make one with: tav export RUN --out {folder}"
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path} cannot be read: {error}; export the bundle again") from error
    version = values.get("format_version") if isinstance(values, dict) else None
    if isinstance(version, (int, float)) and version > FORMAT_VERSION:
        raise BundleVersionError(
            f"the bundle {folder} has format {version}, this version reads up to {FORMAT_VERSION}; "
            "update with: pip install --upgrade tav-sdk"
        )
    try:
        return Manifest.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise BundleError(
            f"{path} is not a valid manifest: {where}: {first['msg']}; export the bundle again"
        ) from error
