"""An exported ControlNet: a graph of its own, which steers the U-Net of any bundle of its shape that takes control.

``tav export-controlnet`` writes its folder: ``controlnet.json`` and the graph with its weights. Nothing in it is
executed or unpickled.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from tav_sdk.bundle.bundle import Bundle
from tav_sdk.bundle.graph_folder import GraphFolder
from tav_sdk.bundle.layout import CONTROLNET, UNET
from tav_sdk.bundle.manifest import MAX_MANIFEST_BYTES, FileEntry, GraphEntry, Name, Strict
from tav_sdk.engines.base import TensorSpec
from tav_sdk.engines.select import choose_engine
from tav_sdk.engines.shared import SharedEngine
from tav_sdk.errors import BundleError, InputError
from tav_sdk.progress import UNet
from tav_sdk.reading import read_json, validated
from tav_sdk.request.options import check_control_scale
from tav_sdk.video.clip import Video

MANIFEST = "controlnet.json"
_PICTURES = "controlnet_cond"
_INPUTS = (
    ("sample", "float32", 5),
    ("timestep", "int64", 0),
    ("encoder_hidden_states", "float32", 3),
    (_PICTURES, "float32", 4),
    ("conditioning_scale", "float32", 0),
)
"""Name, dtype and number of axes of what the graph takes, in this order."""
ControlledUNet = Callable[[np.ndarray, np.ndarray, np.ndarray, Mapping[str, np.ndarray]], np.ndarray]
"""``unet(sample, timestep, encoder_hidden_states, residuals) -> noise_pred``."""


class ControlNetManifest(Strict):
    """``controlnet.json``.

    Attributes:
        format_version: of this file.
        graph: the graph's contract: latents, timestep, text states, control pictures and scale to residuals.
        files: size and hash of every file, by its path in the folder.
        provenance: name and hash of what was exported, and versions, for people.
    """

    format_version: Literal[1] = 1
    graph: GraphEntry
    files: dict[Name, FileEntry] = Field(max_length=1000)
    provenance: dict[Name, Any] = Field(max_length=1000)


class ControlNet:
    """An exported ControlNet, opened; several pipelines may share it.

    Args:
        folder: what ``tav export-controlnet`` wrote.
        engine: as in :func:`tav_sdk.load`.
        verify: compare the hash of every file with the manifest.

    Raises:
        BundleError: there is no exported ControlNet, or it is damaged.
        EngineError: ``engine`` does not work on this machine.

    Attributes:
        manifest: what the folder holds.
        num_frames: frames of the clips that it steers.
        height: of its control pictures, in pixels.
        width: of its control pictures, in pixels.
        engine: the name of the engine that runs it.
    """

    def __init__(self, folder: str | Path, *, engine: str = "auto", verify: bool = True) -> None:
        if not isinstance(folder, str | os.PathLike):
            raise BundleError(f"an exported ControlNet must be the path of a folder, got {type(folder).__name__}")
        self.folder = Path(folder)
        self.manifest = read_controlnet_manifest(self.folder)
        entry = self.manifest.graph
        inputs = _checked_inputs(self.folder, entry)
        files = GraphFolder("ControlNet", self.folder, self.manifest.files, {CONTROLNET: entry}, verify=verify)
        self._graph = files.graph(CONTROLNET)
        self.num_frames, _, self.height, self.width = (int(axis) for axis in inputs[_PICTURES].shape)
        self.engine = choose_engine(engine, [self._graph])[0]
        self._shared: SharedEngine | None = None

    def __enter__(self) -> ControlNet:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"ControlNet({str(self.folder)!r}, engine={self.engine!r})"

    def close(self) -> None:
        """Release the engine; it opens again when next used."""
        if self._shared is not None:
            self._shared.close()
            self._shared = None

    @property
    def key(self) -> str:
        """SHA-256 of the graph and its weights."""
        return str(self._graph.key)

    def check_fits(self, bundle: Bundle) -> None:
        """Check that the U-Net of a bundle takes the residuals.

        Raises:
            BundleError: the bundle was exported without control, or the two are of other bases, sizes or numbers of
                frames; names the first tensor that differs.
        """
        bundle.check_control()
        taken = bundle.residuals
        unet = {tensor.name: tensor.spec for tensor in bundle.manifest.graphs[UNET].inputs}
        for mine in (*self._graph.inputs[:3], *self._graph.outputs):
            theirs = unet.get(mine.name)
            if theirs is None or theirs != mine:
                got = f"has {theirs} there" if theirs is not None else "takes none of that name"
                raise BundleError(
                    f"the ControlNet {self.folder} does not fit the bundle {bundle.folder}: its {mine.name} is {mine}, "
                    f"the U-Net {got}. A ControlNet is for one kind of base; export it for this bundle with: "
                    f"tav export-controlnet CONTROLNET --bundle {bundle.folder} --out OUT"
                )
        if len(taken) != len(self._graph.outputs):
            raise BundleError(
                f"the ControlNet {self.folder} does not fit the bundle {bundle.folder}: it gives "
                f"{len(self._graph.outputs)} residuals, the U-Net takes {len(taken)}"
            )

    def residuals(
        self, sample: np.ndarray, timestep: np.ndarray, states: np.ndarray, pixels: np.ndarray, scale: float
    ) -> dict[str, np.ndarray]:
        """What to add inside the U-Net, by name: ``(b, f, c, h, w)`` float32 each.

        Args:
            sample: ``(b, c, f, h, w)`` noisy latents.
            timestep: ``()``.
            states: ``(b, s, d)`` text states.
            pixels: ``(f, 3, H, W)`` float32 control pictures in [0, 1].
            scale: what the residuals are multiplied by.
        """
        if self._shared is None:
            self._shared = SharedEngine(self._graph, self.engine)
        return self._shared.engine.run(
            {
                "sample": sample,
                "timestep": timestep,
                "encoder_hidden_states": states,
                "controlnet_cond": pixels,
                "conditioning_scale": np.asarray(scale, np.float32),
            }
        )


@dataclass(frozen=True, kw_only=True)
class Control:
    """What steers an edit beside its prompt.

    Attributes:
        video: the control video, as many frames and as large as the clip; see :mod:`tav_sdk.video.edges`.
        controlnet: what was trained to follow such videos.
        scale: how much it counts; 0 is not at all, 1 as it was trained.

    Raises:
        InputError: the video's size or number of frames is not the ControlNet's, the scale is out of range, or one of
            them is something else.
    """

    video: Video
    controlnet: ControlNet
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.video, Video):
            raise InputError(
                f"the control must be a Video, got {type(self.video).__name__}; Video(frames=canny(clip.frames), "
                "fps=clip.fps) makes one of frames"
            )
        if not isinstance(self.controlnet, ControlNet):
            raise InputError(f"controlnet must be a ControlNet, got {type(self.controlnet).__name__}; open one first")
        check_control_scale(self.scale)
        net = self.controlnet
        want = (net.num_frames, net.height, net.width)
        got = (self.video.num_frames, self.video.height, self.video.width)
        if got != want:
            raise InputError(
                f"the control video has {got[0]} frames of {got[1]}x{got[2]} pixels (height x width), the ControlNet "
                f"takes {want[0]} of {want[1]}x{want[2]}; read it with num_frames={want[0]}, size={want[1:]}"
            )

    @property
    def facts(self) -> dict[str, Any]:
        """What results follow from."""
        return {"video": self.video.content_hash, "controlnet": self.controlnet.key, "scale": float(self.scale)}

    def of(self, unet: ControlledUNet) -> UNet:
        """The U-Net with this control, as the loops of inversion and sampling take it."""
        pixels = np.ascontiguousarray(self.video.frames.transpose(0, 3, 1, 2), np.float32) / 255  # (f, 3, h, w)

        def controlled(sample: np.ndarray, timestep: np.ndarray, states: np.ndarray) -> np.ndarray:
            residuals = self.controlnet.residuals(sample, timestep, states, pixels, self.scale)
            return unet(sample, timestep, states, residuals)

        return controlled


def no_residuals(specs: Sequence[TensorSpec], batch: int) -> dict[str, np.ndarray]:
    """Residuals that change nothing."""
    return {
        spec.name: np.zeros([batch if isinstance(axis, str) else axis for axis in spec.shape], np.float32)
        for spec in specs
    }


def read_controlnet_manifest(folder: Path) -> ControlNetManifest:
    path = folder / MANIFEST
    if not os.path.isfile(path):  # unlike Path.is_file, it takes any name
        raise BundleError(
            f"there is no exported ControlNet at {folder}: {MANIFEST} is missing; export one with: tav "
            "export-controlnet CONTROLNET --bundle BUNDLE --out OUT"
        )
    advice = "export the ControlNet again"
    values = read_json(path, max_bytes=MAX_MANIFEST_BYTES, error=BundleError, advice=advice)
    return validated(ControlNetManifest, values, what=str(path), error=BundleError, advice=advice)


def _checked_inputs(folder: Path, entry: GraphEntry) -> dict[str, TensorSpec]:
    """The graph's inputs by name, if they are a ControlNet's."""
    inputs = {tensor.name: tensor.spec for tensor in entry.inputs}
    for name, dtype, axes in _INPUTS:
        spec = inputs.get(name)
        fits = spec is not None and spec.dtype == dtype and len(spec.shape) == axes
        if spec is None or not fits or (name == _PICTURES and any(isinstance(axis, str) for axis in spec.shape)):
            _refuse(folder, f"the input {name!r} as {dtype} with {axes} axes", spec)
    for tensor in entry.outputs:
        if tensor.dtype != "float32" or len(tensor.shape) != 5:
            _refuse(folder, f"the output {tensor.name[:80]!r} as float32 with 5 axes", tensor.spec)
    return inputs


def _refuse(folder: Path, expected: str, spec: TensorSpec | None) -> None:
    got = "none" if spec is None else str(spec)
    raise BundleError(f"{folder / MANIFEST} is not valid: expected {expected}, got {got}; export the ControlNet again")
