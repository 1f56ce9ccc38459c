"""TensorRT 10 and 11, and TensorRT for RTX: one Python API, and here the few calls in which they differ.

====================  ============================  ==================================================================
what                  TensorRT 10, 11               TensorRT for RTX 1
====================  ============================  ==================================================================
module                ``tensorrt``                  ``tensorrt_rtx``; Polygraphy has to be told before it is used
strong typing         10: a flag; 11: always        always; the flag is still there
building              for the GPU that it runs on   without a GPU, for a list of compute capabilities
timing cache          yes                           builds time nothing
TF32                  Polygraphy clears the flag    cleared here
CUDA graphs           recorded by the caller        recorded by the runtime, as its runtime configuration says
kernels               in the plan                   compiled when a context first runs, for the shapes that it runs with
why a plan is bad     its log                       its log, and ``get_engine_validity``
====================  ============================  ==================================================================

Both print into a log of ours, so that errors can say what TensorRT said.
"""

from __future__ import annotations

import collections
import importlib
import importlib.util
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tav_sdk.errors import EngineError, InputError, MissingExtraError

MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""The engines' names, and the module of each."""
TITLES = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT for RTX"}

_lock = threading.Lock()
_loaded: dict[str, Flavour] = {}


class Log:
    """What TensorRT last complained of. It knows one logger per process, and calls it from any thread."""

    def __init__(self, trt: Any) -> None:
        messages: collections.deque[str] = collections.deque(maxlen=20)
        kept = (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR)

        class Logger(trt.ILogger):
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, msg: str) -> None:
                if severity in kept:
                    messages.append(msg)

        self._messages = messages
        self.logger = Logger()

    def clear(self) -> None:
        """Forget what was said before."""
        self._messages.clear()

    def __iter__(self) -> Iterator[str]:
        """The messages, the first first."""
        return iter(tuple(self._messages))

    def __str__(self) -> str:
        """The messages in one line, for an error."""
        lines = dict.fromkeys(" ".join(message.split()) for message in self)  # each once
        return "; ".join(line[:500] for line in list(lines)[:3]) or "it said nothing"


@dataclass(frozen=True)
class Flavour:
    """One of the two, imported.

    Attributes:
        engine: ``tensorrt`` or ``tensorrt-rtx``.
        trt: its module.
        log: the logger of everything that is made with it.
    """

    engine: str
    trt: Any
    log: Log

    @property
    def title(self) -> str:
        """Name and version, for messages."""
        return f"{TITLES[self.engine]} {self.version}"

    @property
    def version(self) -> str:
        """The library's version; a plan runs on no other."""
        return self.trt.__version__

    @property
    def is_rtx(self) -> bool:
        """Whether it builds without a GPU and finishes the kernels when a plan first runs."""
        return self.engine == "tensorrt-rtx"

    # -- building --------------------------------------------------------------------------------------------------

    @property
    def has_typing_flag(self) -> bool:
        """Whether strong typing has to be asked for; without it TensorRT 10 would choose precisions itself."""
        return hasattr(self.trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")

    @property
    def known_capabilities(self) -> tuple[str, ...]:
        """The compute capabilities that it can build for without such a GPU."""
        if not self.is_rtx:
            return ()
        names = [name[2:] for name in self.trt.ComputeCapability.__members__ if name.startswith("SM")]
        return tuple(f"{name[:-1]}.{name[-1]}" for name in sorted(names, key=int))

    def check_capabilities(self, capabilities: Sequence[str]) -> None:
        """Check that it can build for these compute capabilities.

        Raises:
            InputError: it cannot; lists those known.
        """
        if capabilities and not self.is_rtx:
            raise InputError(
                f"{self.engine} builds for the GPU that it runs on, got compute capability {capabilities[0]}; "
                "engine tensorrt-rtx builds for others"
            )
        for capability in capabilities:
            if capability not in self.known_capabilities:
                raise InputError(
                    f"{self.title} cannot build for compute capability {capability!r}; it knows "
                    f"{', '.join(self.known_capabilities)}"
                )

    def create_config(self, capabilities: Sequence[str], **options: Any) -> Any:
        """Polygraphy's builder configuration: ``create_config(...)(builder, network)``.

        Args:
            capabilities: checked; none for the default, which for RTX is 8.0, 8.6, 8.9, 12.0 and later.
            options: what Polygraphy's configurations have in common.
        """
        if not self.is_rtx:
            return self.polygraphy("polygraphy.backend.trt").CreateConfig(**options)
        targets = [tuple(map(int, capability.split("."))) for capability in capabilities]
        create = self.polygraphy("polygraphy.backend.tensorrt_rtx").CreateConfigRTX(
            compute_capabilities=targets or None, **options
        )

        def without_tf32(builder: Any, network: Any) -> Any:
            config = create(builder, network)
            config.clear_flag(self.trt.BuilderFlag.TF32)
            return config

        return without_tf32

    def polygraphy(self, module: str) -> Any:
        """A module of Polygraphy, set up for this flavour; it can be set up for one per process.

        Raises:
            MissingExtraError: it is not installed.
            EngineError: it is set up for the other flavour.
        """
        try:
            config: Any = importlib.import_module("polygraphy.config")
        except ImportError as error:
            raise MissingExtraError(f"building with {TITLES[self.engine]}", "tensorrt", "polygraphy") from error
        with _lock:
            # What the variable POLYGRAPHY_USE_TENSORRT_RTX sets; this is the module that reads it, once.
            if "polygraphy.mod.trt_importer" not in sys.modules:
                config.USE_TENSORRT_RTX = self.is_rtx
            elif self.is_rtx != config.USE_TENSORRT_RTX:
                other = next(title for engine, title in TITLES.items() if engine != self.engine)
                raise EngineError(
                    f"this process has set up Polygraphy for {other}, and it serves only one of the two; build for "
                    f"{self.engine} in a process of its own, with POLYGRAPHY_USE_TENSORRT_RTX={int(self.is_rtx)}"
                )
        # The only way to hand Polygraphy a logger; TensorRT takes the first that it is given.
        util: Any = importlib.import_module("polygraphy.backend.trt.util")
        util.TRT_LOGGER = self.log.logger
        return importlib.import_module(module)

    # -- running ---------------------------------------------------------------------------------------------------

    @property
    def records_graphs(self) -> bool:
        """Whether the runtime records CUDA graphs by itself."""
        return self.is_rtx

    def create_context(self, engine: Any) -> Any:
        """An execution context with scratch memory for the profile that it is set to, not for the largest of all.

        Returns:
            The context, ``None`` if TensorRT cannot make it.
        """
        strategy = self.trt.ExecutionContextAllocationStrategy.ON_PROFILE_CHANGE
        if not self.is_rtx:
            return engine.create_execution_context(strategy)
        config = engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(strategy)
        config.cuda_graph_strategy = self.trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        # Shapes are few and known. "Lazy" would change kernels, and the last bits of results, in the middle of a video.
        kernels = self.trt.DynamicShapesKernelSpecializationStrategy
        config.dynamic_shapes_kernel_specialization_strategy = kernels.EAGER
        return engine.create_execution_context(config)

    def what_is_wrong(self, runtime: Any, plan: Any) -> list[str]:
        """What the runtime itself finds wrong with a plan, such as ``VERSION_MISMATCH``; empty if it does not say."""
        if not hasattr(runtime, "get_engine_validity"):
            return []
        found = int(runtime.get_engine_validity(plan)[1])
        return [name for name, flag in self.trt.EngineInvalidityDiagnostics.__members__.items() if found & int(flag)]


def load(engine: str) -> Flavour:
    """Import TensorRT or TensorRT for RTX.

    Raises:
        MissingExtraError: TensorRT for RTX is not installed.
        EngineError: TensorRT is not installed, its libraries are missing, or this process has loaded the other one.
    """
    with _lock:
        if engine not in _loaded:
            trt = _import(engine)
            _loaded[engine] = Flavour(engine, trt, Log(trt))
        return _loaded[engine]


def loaded_other(engine: str) -> str:
    """The other flavour if this process has loaded it: both bind the same C++ types, and Python takes them once."""
    return next((other for other, module in MODULES.items() if other != engine and module in sys.modules), "")


def _import(engine: str) -> Any:
    module = MODULES[engine]
    if importlib.util.find_spec(module) is None:
        if engine == "tensorrt-rtx":
            raise MissingExtraError(TITLES[engine], "tensorrt", module)
        raise EngineError(f"{module} is not installed. Install it with: pip install tensorrt")
    if other := loaded_other(engine):
        raise EngineError(
            f"this process has loaded {TITLES[other]}, and can load only one of the two; use {engine} in a new process"
        )
    try:
        return importlib.import_module(module)
    except Exception as error:  # libraries that are missing or do not fit raise anything
        raise EngineError(f"{module} is installed, but cannot be loaded: {error}") from error
