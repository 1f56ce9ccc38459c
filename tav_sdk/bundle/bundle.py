"""A bundle on disk: one folder that a machine without PyTorch can run. Its file names are declared in :mod:`.layout`.

Nothing in a bundle is executed or unpickled. Every path in it is relative and stays inside, and hashes are checked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from tav_sdk.bundle.graph_folder import GraphFolder
from tav_sdk.bundle.graph_shapes import check_shapes
from tav_sdk.bundle.layout import GRAPHS, SCHEDULER, TOKENIZER, TOKENIZER_FILES, TUNED_FILE, UNET, UNTUNED_FILE
from tav_sdk.bundle.manifest import GraphEntry, Manifest, StoredTensor, read_manifest
from tav_sdk.bundle.tuned_weights import is_in_base, scale_tuned_weights
from tav_sdk.diffusion.schedule import DDIMSchedule
from tav_sdk.engines.base import TensorSpec, Weights
from tav_sdk.errors import BundleError
from tav_sdk.paths import given_path
from tav_sdk.reading import read_json

MAX_SCHEDULER_BYTES = 1 << 20
"""Largest ``scheduler_config.json``; explicit variances are a thousand numbers."""


class Bundle(GraphFolder):
    """A bundle folder whose manifest and graphs have been read and checked.

    Args:
        folder: the bundle.
        verify: compare every file's hash with the manifest. Without, a file that was changed is not found out; that
            files are listed, are inside, have their sizes, and that graphs may be opened, is checked all the same.

    Raises:
        BundleVersionError: the bundle's format is newer than this version reads.
        BundleError: there is no bundle, it is damaged, a path in it leaves the folder, or a graph may not be opened.
    """

    def __init__(self, folder: str | Path, *, verify: bool = True) -> None:
        folder = given_path("bundle", folder)
        self.manifest = read_manifest(folder)
        for name in GRAPHS:
            if name not in self.manifest.graphs:
                raise BundleError(f"the bundle {folder} has no {name} graph; export it again")
        super().__init__("bundle", folder, self.manifest.files, self.manifest.graphs, verify=verify)
        check_shapes(self.manifest, f"the bundle {folder}")
        for relative in (SCHEDULER, *(f"{TOKENIZER}/{name}" for name in TOKENIZER_FILES)):
            self.path(relative)  # they are read later, and have to be listed as well

    @property
    def residuals(self) -> tuple[TensorSpec, ...]:
        """The ControlNet residuals that the U-Net takes; none if it was exported without control."""
        return self.manifest.residuals

    def check_control(self) -> None:
        """Check that the U-Net takes a ControlNet's residuals.

        Raises:
            BundleError: it was exported without control.
        """
        if not self.residuals:
            raise BundleError(
                f"the U-Net of the bundle {self.folder} takes no control; export its run again with control"
            )

    def weights(self, adapter_scale: float = 1.0) -> Weights | None:
        """The clip's tuned weights, read from disk as they are used; none in a bundle of format 1.

        Args:
            adapter_scale: how much of the tuning is used, see :mod:`tav_sdk.bundle.tuned_weights`; other weights than
                the tuned ones are made in memory.

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
        return scale_tuned_weights(tuned, self._stored(entry, UNTUNED_FILE, entry.untuned), adapter_scale)

    def _stored(self, entry: GraphEntry, file: str, stored: tuple[StoredTensor, ...]) -> Weights:
        """Tensors in a file beside a graph, where they are on disk."""
        relative = (PurePosixPath(entry.file).parent / file).as_posix()
        path = self.path(relative)
        try:
            data = np.memmap(path, dtype=np.uint8, mode="r")
        except (OSError, ValueError) as error:  # ValueError: it is empty
            raise BundleError(
                f"{relative} in the bundle {self.folder} cannot be read: {error}; export it again"
            ) from error
        tensors = {}
        for tensor in stored:
            dtype = np.dtype("uint16" if tensor.dtype == "bfloat16" else tensor.dtype)
            stop = tensor.offset + tensor.length
            if stop > data.size or tensor.length != dtype.itemsize * math.prod(tensor.shape):
                raise BundleError(
                    f"{relative} in the bundle {self.folder} does not hold {tensor.name}; export it again"
                )
            tensors[tensor.name] = data[tensor.offset : stop].view(dtype).reshape(tensor.shape)
        return Weights(self.manifest.files[relative].sha256, tensors)

    @property
    def schedule(self) -> DDIMSchedule:
        """The base's noise schedule.

        Raises:
            BundleError: its file cannot be read.
            ConfigError: it describes no schedule that there is.
        """
        path, advice = self.path(SCHEDULER), "export the bundle again"
        config = read_json(path, max_bytes=MAX_SCHEDULER_BYTES, error=BundleError, advice=advice)
        if not isinstance(config, dict):
            raise BundleError(f"{path} must hold keys and values, got {type(config).__name__}; {advice}")
        return DDIMSchedule.from_config(config)


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
    """What differs between two bundles, the most telling first: a name, and the value in each."""
    bases = [mine.base, other.base]
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
