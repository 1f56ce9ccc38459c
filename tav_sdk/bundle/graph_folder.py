"""A folder of graphs whose files are listed and hashed, and whose graphs read no others."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from tav_sdk.bundle.graph_check import check_contract, external_files, read_graph
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
        verify: compare every file's hash as well; all else is checked whatever this is.

    Raises:
        BundleError: it is damaged, a path in it leaves the folder, or a graph may not be opened, see
            :mod:`tav_sdk.bundle.graph_check`.
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
        self._weights: dict[str, tuple[str, ...]] = {}
        for name, graph in graphs.items():
            self._weights[name] = self._check_graph(name, graph)

    def path(self, relative: str) -> Path:
        """Where a file of the folder lies.

        Raises:
            BundleError: the path leaves the folder, or the manifest has no hash for it.
        """
        if not self._is_inside(relative):
            raise BundleError(
                f"the {self.kind} {self.folder} names {relative!r}, which leaves its folder; do not use it"
            )
        if relative not in self._files:
            raise BundleError(
                f"the {self.kind} {self.folder} uses {relative!r}, which its manifest does not list; export it again"
            )
        return self.folder / relative

    def _is_inside(self, relative: str) -> bool:
        """Whether a path, and what its links lead to, is inside the folder."""
        pure = PurePosixPath(relative)
        if pure.is_absolute() or ".." in pure.parts or "\\" in relative or ":" in relative or "\0" in relative:
            return False
        try:
            return (self.folder / relative).resolve().is_relative_to(self.folder.resolve())
        except (OSError, RuntimeError):  # links in a circle
            return False

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
            key=self._key(name),
        )

    def _key(self, name: str) -> str:
        """SHA-256 of a graph and its weights, without the clip's own weights and without other graphs in the folder.

        Whatever the graph reads is in it, but for the tuned weights, which have a key of their own.
        """
        entry = self._graphs[name]
        folder = PurePosixPath(entry.file).parent.as_posix()
        left_out = (
            *((f"/{TUNED_FILE}",) if entry.tuned else ()),
            f"/{UNTUNED_FILE}",
            *(f"/{other}" for other in GRAPH_FILES if not entry.file.endswith(other)),
        )
        beside = {path for path in self._files if path.startswith(f"{folder}/") and not path.endswith(left_out)}
        read = beside.union([entry.file], self._weights[name])
        parts = sorted(f"{path} {self._files[path].sha256}" for path in read)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def _check_graph(self, name: str, entry: GraphEntry) -> tuple[str, ...]:
        """Check a graph and every file that it reads; those files but that of the tuned weights."""
        path, what = self.path(entry.file), f"{entry.file} in the {self.kind} {self.folder}"
        if not entry.file.endswith(".onnx"):  # engines would read some suffixes as another format
            raise BundleError(f"{what} is no graph: expected a name that ends in .onnx; export it again")
        if not path.stat().st_size:
            return ()  # of a pipeline that was given an engine for it; no library opens it
        model = read_graph(path, what)
        inputs, outputs = (
            [tensor.spec for tensor in tensors] for tensors in ((*entry.inputs, *entry.tuned), entry.outputs)
        )
        check_contract(model, inputs, outputs, what)
        folder = PurePosixPath(entry.file).parent
        read = []
        for location, tensors in external_files(model, what).items():
            relative = (folder / location).as_posix()
            self.path(relative)  # it is listed, so its size and hash were compared
            for tensor in tensors:
                if tensor.offset + tensor.length > self._files[relative].size:
                    raise BundleError(f"{what} takes {tensor.name} from behind the end of {relative}; export it again")
            if not (location == TUNED_FILE and entry.tuned):
                read.append(relative)
                continue
            places = {stored.name: (stored.offset, stored.length) for stored in entry.tuned}
            for tensor in tensors:
                if places.get(tensor.name) != (tensor.offset, tensor.length):
                    raise BundleError(
                        f"{what} takes {tensor.name} from the file of tuned weights, where its manifest has something "
                        "else; export it again"
                    )
        return tuple(read)

    def _check_file(self, relative: str, entry: FileEntry, *, verify: bool) -> None:
        path = self.path(relative)
        try:
            status = path.stat()
        except OSError:  # such as a name that is too long
            status = None
        if status is None or not stat.S_ISREG(status.st_mode):
            raise BundleError(f"the {self.kind} {self.folder} lacks {relative}; copy it completely or export it again")
        if (size := status.st_size) != entry.size:
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
