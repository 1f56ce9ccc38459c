"""The engines that run a bundle's graphs, opened when first used, and the tuned weights they run with."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tav_sdk.bundle.bundle import Bundle, check_same_base
from tav_sdk.bundle.layout import GRAPHS, UNET, WINDOWED_UNET
from tav_sdk.bundle.manifest import Manifest
from tav_sdk.bundle.tuned_weights import check_adapter_scale
from tav_sdk.engines.base import Engine, TensorSpec, Weights
from tav_sdk.engines.select import choose_engine
from tav_sdk.engines.shared import SharedEngine
from tav_sdk.errors import InputError


class GraphEngines:
    """A bundle's graphs on one engine each, with one clip's weights; see :class:`~tav_sdk.pipeline.pipeline.Pipeline`.

    It never changes, so that what runs on it has the same weights from its start to its end: :meth:`with_bundle` and
    :meth:`with_adapter_scale` give another one, on the same engines. Threads may share it.

    Attributes:
        bundle: the bundle whose weights are in use.
        given: engines that the caller gave, by graph; they stay the caller's.
        name: the name of the engine that runs the graphs, or those that were given for all of them.
        why: why that engine.
        adapter_scale: how much of the tuning is used.
        weights: the clip's tuned weights as they are used; ``None`` where they are the engine's own.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        engine: str = "auto",
        given: Mapping[str, Engine] | None = None,
        adapter_scale: float = 1.0,
    ) -> None:
        self.given = dict(given or {})
        for graph, one in self.given.items():
            _check_engine(graph, one, bundle.manifest)
        if self.given.keys() >= set(GRAPHS):
            self.name, self.why = ", ".join(sorted({one.backend for one in self.given.values()})), "as given"
        else:
            self.name, self.why = choose_engine(
                engine, [bundle.graph(name) for name in GRAPHS if name not in self.given]
            )
        self._opened = _Opened()
        self._use(bundle, adapter_scale)

    def _use(self, bundle: Bundle, scale: float) -> None:
        scale = check_adapter_scale(scale)
        if scale != 1 and UNET in self.given:
            raise InputError(
                f"must be 1, got {scale:g}: the pipeline was given its unet engine, whose weights are fixed",
                field="adapter_scale",
            )
        self.weights: Weights | None = bundle.weights(scale)
        self.bundle, self.adapter_scale = bundle, scale

    @property
    def manifest(self) -> Manifest:
        """What the bundle holds."""
        return self.bundle.manifest

    def with_adapter_scale(self, scale: float) -> GraphEngines:
        """The same engines and clip with another share of the tuning.

        Raises:
            InputError: it is out of range, or not 1 with a U-Net's engine that was given.
            BundleError: the bundle does not hold what a scale other than 1 needs.
        """
        other = copy.copy(self)
        other._use(self.bundle, scale)
        return other

    def with_bundle(self, bundle: Bundle) -> GraphEngines:
        """The same engines with another bundle's tuned weights.

        Raises:
            BundleError: the bundle does not fit the engines.
            InputError: the U-Net's engine was given.
        """
        if UNET in self.given:
            raise InputError("the pipeline was given its unet engine, whose weights are fixed; make another pipeline")
        check_same_base(self.bundle, bundle)
        other = copy.copy(self)
        other._use(bundle, self.adapter_scale)
        return other

    def run(self, graph: str, **feeds: np.ndarray) -> dict[str, np.ndarray]:
        """Run a graph once: an array for every input, an array for every output, by name.

        Raises:
            InputError: a feed does not fit.
            EngineError: the engine cannot be opened, or failed.
        """
        if graph in self.given:
            return self.given[graph].run(feeds)
        engine = self._opened.get(graph, lambda: SharedEngine(self.bundle.graph(graph), self.name))
        return engine.run(feeds, self.weights if graph in (UNET, WINDOWED_UNET) else None)

    def inputs(self, graph: str) -> Sequence[TensorSpec]:
        """What a graph takes."""
        return self.given[graph].inputs if graph in self.given else self.bundle.graph(graph).inputs

    def engine(self, graph: str) -> Engine | None:
        """The engine of a graph, if it is open."""
        return self._opened.find(graph) or self.given.get(graph)

    def close(self) -> None:
        """Release the engines that were opened here; they open again when next used."""
        self._opened.close()


class _Opened:
    """Engines by graph, each opened once however many threads ask for it."""

    def __init__(self) -> None:
        self._engines: dict[str, SharedEngine] = {}
        self._lock = threading.Lock()

    def get(self, graph: str, opened: Callable[[], SharedEngine]) -> Engine:
        with self._lock:
            if graph not in self._engines:
                self._engines[graph] = opened()
            return self._engines[graph].engine

    def find(self, graph: str) -> Engine | None:
        with self._lock:
            return self._engines[graph].engine if graph in self._engines else None

    def close(self) -> None:
        with self._lock:
            while self._engines:
                self._engines.popitem()[1].close()


def _check_engine(graph: str, engine: Engine, manifest: Manifest) -> None:
    if graph not in manifest.graphs:
        raise InputError(f"engines: the bundle has no {graph!r} graph; its graphs are {', '.join(manifest.graphs)}")
    entry = manifest.graphs[graph]
    for kind, entries, got in (("inputs", entry.inputs, engine.inputs), ("outputs", entry.outputs, engine.outputs)):
        want = tuple(tensor.spec for tensor in entries)
        if got != want:
            raise InputError(
                f"engines: the {graph} engine fits another bundle: expected the {kind} {_listed(want)}, got "
                f"{_listed(got)}; make it with the specs of manifest.graphs[{graph!r}]"
            )


def _listed(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{spec.name} {spec}" for spec in specs)
