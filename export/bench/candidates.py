"""What is measured on a bundle: its engines, and PyTorch beside them where the bundle's run is given."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tav_sdk.bundle.bundle import Bundle
from tav_sdk.bundle.layout import UNET
from tav_sdk.engines.select import available_engines, choose_engine, obstacle, open_engine
from tav_sdk.errors import EngineError, InputError
from tav_sdk.export.bench.measure import progress

if TYPE_CHECKING:
    from tav_sdk.engines.base import Engine


class Candidates:
    """What is measured on a bundle.

    Args:
        bundle: the bundle.
        engines: names of engines; by default all that run its U-Net here.
        run: the run that it was exported from, for the peers in PyTorch; without it there are none.

    Raises:
        EngineError: an engine does not work here, or not with the bundle.
        InputError: the run is of other weights or another size than the bundle.
        MissingExtraError: PyTorch is needed and not installed.
    """

    def __init__(self, bundle: Bundle, engines: Sequence[str] | None, run: Path | None) -> None:
        self.bundle, self.run = bundle, run
        graph = bundle.graph(UNET)
        if engines:
            for name in engines:
                choose_engine(name, [graph])
            self.engines = list(dict.fromkeys(engines))
        else:
            self.engines = [name for name in available_engines() if obstacle(graph, name) is None]
        if not self.engines:
            raise EngineError(f"no engine that works here runs the bundle {bundle.folder}; tav doctor says why")
        self.peers: tuple[str, ...] = ()
        self.device = "cpu"
        if run is not None:
            self._open_run(run)

    def _open_run(self, run: Path) -> None:
        from tav_sdk.training.run_folder import load_run

        self.loaded = load_run(run)
        if self.loaded.record["tuned_sha256"] != self.bundle.manifest.tuned_sha256:
            raise InputError(f"the bundle {self.bundle.folder} was not exported from the run {run}; give its own run")
        from tav_sdk.export.bench.peers import PEERS
        from tav_sdk.training.tuning import find_device

        self.peers = PEERS
        self.device = str(find_device(None))

    @property
    def names(self) -> list[str]:
        """All of them, peers first."""
        return [*self.peers, *self.engines]

    def precision_of(self, name: str) -> str:
        """What one of them computes in: engines in the bundle's precision, peers on the CPU always in float32."""
        precision = self.bundle.manifest.precision
        return "fp32" if name in self.peers and (self.device == "cpu" or precision == "int8") else precision

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What was measured, for whoever reads the numbers."""
        manifest = self.bundle.manifest
        return {
            "name": self.bundle.folder.resolve().name,
            "base": manifest.base.name,
            "precision": manifest.precision,
            "num_frames": manifest.num_frames,
            "height": manifest.height,
            "width": manifest.width,
            "device": self.device,
        }

    @contextlib.contextmanager
    def unets(self) -> Iterator[dict[str, Engine]]:
        """The U-Net on every candidate, open."""
        with contextlib.ExitStack() as stack:
            opened: dict[str, Engine] = {}
            for peer in self.peers:
                from tav_sdk.export.bench.peers import peer_engines

                progress(f"opening {peer}")
                engines = peer_engines(
                    peer, self.loaded, self.bundle, device=self.device, precision=self.precision_of(peer)
                )
                opened[peer] = stack.enter_context(engines[UNET])
            for name in self.engines:
                progress(f"opening {name}")
                opened[name] = stack.enter_context(open_engine(self.bundle.graph(UNET), engine=name))
            yield opened
