"""A folder of graphs whose files are listed and hashed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from tav_sdk.bundle.layout import GRAPH_FILES, MANIFEST, TUNED_FILE, UNTUNED_FILE
from tav_sdk.bundle.manifest import FileEntry, GraphEntry
from tav_sdk.engines.base import Graph
from tav_sdk.errors import BundleError
from tav_sdk.files import sha256_of


class GraphFolder:
    """A folder of graphs and other files, whose sizes and hashes its manifest lists.

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
        """SHA-256 of a graph and its weights, without the clip's own weights and without other graphs in the folder."""
        folder = PurePosixPath(file).parent.as_posix()
        left_out = (
            f"/{TUNED_FILE}",
            f"/{UNTUNED_FILE}",
            *(f"/{name}" for name in GRAPH_FILES if not file.endswith(name)),
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


def file_entries(folder: Path) -> dict[str, FileEntry]:
    """Size and hash of every file in a folder but the manifest."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {
        path.relative_to(folder).as_posix(): FileEntry(size=path.stat().st_size, sha256=sha256_of(path))
        for path in paths
    }
