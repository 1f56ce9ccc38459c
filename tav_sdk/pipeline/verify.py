"""Does a bundle compute what its model did, on this machine and engine? Without PyTorch.

An export stores, for one input per graph, what the float32 model gave; :func:`verify` runs every graph on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tav_sdk.array_file import read_arrays
from tav_sdk.bundle.bundle import Bundle
from tav_sdk.bundle.layout import GRAPHS, REFERENCES, TEXT_ENCODER, UNET, WINDOWED_UNET
from tav_sdk.bundle.precision import TOLERANCES
from tav_sdk.engines.base import Engine, Graph, Weights
from tav_sdk.engines.select import choose_engine, open_engine
from tav_sdk.errors import BundleError, EngineError
from tav_sdk.pipeline.windows import WindowGraph

CPU = "onnxruntime-cpu"
_VIDEO_INPUTS = ("sample", "timestep", "encoder_hidden_states")
"""What the windowed U-Net's check starts from; its other inputs follow, see :func:`_second_window`."""
MODEL, SAME_GRAPH, NOTHING = "the float32 model", f"the same graph on {CPU}", "nothing"
"""What a graph's output can be compared with."""


@dataclass(frozen=True, kw_only=True)
class GraphCheck:
    """How one graph's output compares.

    Attributes:
        graph: its name.
        precision: what it computes in.
        engine: what ran it.
        against: what its output was compared with: :data:`MODEL`; :data:`SAME_GRAPH`, for a clip that was exported onto
            another one's graphs and so has no model's output; or :data:`NOTHING`, if that is the engine itself, or
            cannot run the graph: then the output is finite, and no more is known.
        max_abs: largest absolute difference; none where there is nothing to compare with.
        relative: the same, relative to the largest magnitude of what it was compared with.
        psnr: of the difference in dB, the peak being the range of what it was compared with; infinite if equal.
        non_finite: number of NaNs and infinities in the output.
        tolerance: largest ``relative`` that passes.
        passed: whether the output is finite and within the tolerance.
    """

    graph: str
    precision: str
    engine: str
    against: str
    max_abs: float | None
    relative: float | None
    psnr: float | None
    non_finite: int
    tolerance: float | None
    passed: bool


def verify(bundle: str | Path | Bundle, engine: str = "auto") -> list[GraphCheck]:
    """Compare the hash of every file with the manifest, then every graph with its reference.

    Of the windowed U-Net, the second window of a video is compared; the engine makes the past of it itself.

    The tolerance is the precision's, of :data:`~tav_sdk.bundle.precision.TOLERANCES`; for a float32 graph on a GPU
    float16's, since engines may multiply float32 there in TF32, which has float16's mantissa.

    Args:
        bundle: the bundle; if it is a :class:`~tav_sdk.bundle.bundle.Bundle`, its hashes are not compared again.
        engine: what runs the graphs, as in :func:`tav_sdk.load`.

    Returns:
        One check per graph, in the order in which they run.

    Raises:
        BundleError: the bundle is damaged, or has no references.
        EngineError: the engine does not work here, or cannot run a graph.
    """
    bundle = bundle if isinstance(bundle, Bundle) else Bundle(bundle)
    if not any(_reference_file(name) in bundle.manifest.files for name in GRAPHS):
        raise BundleError(
            f"the bundle {bundle.folder} (format {bundle.manifest.format_version}) has no references to compare its "
            "graphs with; its files are as the manifest says. Export it again with this version"
        )
    chosen = choose_engine(engine, [bundle.graph(name) for name in GRAPHS])[0]
    return [_check(bundle, name, chosen) for name in bundle.manifest.graphs]


def _check(bundle: Bundle, name: str, engine: str) -> GraphCheck:
    graph, weights = bundle.graph(name), bundle.weights() if name in (UNET, WINDOWED_UNET) else None
    reference, against = _read_reference(bundle, name), MODEL
    if name == WINDOWED_UNET and reference:
        inputs = _read_reference(bundle, UNET)  # its own has none; without them it says nothing
        reference = {**inputs, **reference} if inputs else {}
    expected = {spec.name: reference[spec.name] for spec in graph.outputs if spec.name in reference}
    feeds = {spec.name: reference[spec.name] for spec in graph.inputs if spec.name in reference}
    if not expected:
        feeds = _made_feeds(bundle, graph)
        try:
            expected, against = _run(graph, CPU, feeds, weights) if engine != CPU else {}, SAME_GRAPH
        except EngineError:  # bfloat16 does not run there
            expected = {}
        against = SAME_GRAPH if expected else NOTHING
    results = _run(graph, engine, _lengthened(graph, feeds), weights)
    output = graph.outputs[0]
    result = results[output.name]
    non_finite = int(result.size - np.isfinite(result).sum())
    tolerance = TOLERANCES[graph.precision]
    if engine != CPU:
        tolerance = max(tolerance, TOLERANCES["fp16"])
    max_abs = relative = psnr = None
    if expected:
        max_abs, relative, psnr = _differences(result, expected[output.name])
    return GraphCheck(
        graph=name,
        precision=graph.precision,
        engine=engine,
        against=against,
        max_abs=max_abs,
        relative=relative,
        psnr=psnr,
        non_finite=non_finite,
        tolerance=tolerance if expected else None,
        passed=not non_finite and (relative is None or relative <= tolerance),
    )


def _run(graph: Graph, engine: str, feeds: dict[str, np.ndarray], weights: Weights | None) -> dict[str, np.ndarray]:
    with open_engine(graph, engine=engine) as opened:
        if graph.name == WINDOWED_UNET:
            return _second_window(opened, feeds, weights)
        return opened.run(feeds, weights, check_finite=False)  # what is not finite is counted


def _second_window(engine: Engine, feeds: dict[str, np.ndarray], weights: Weights | None) -> dict[str, np.ndarray]:
    """A video of twice a window's frames, there and back; what the second window gives."""
    graph = WindowGraph(lambda inputs: engine.run(inputs, weights, check_finite=False), engine.inputs)
    video = np.concatenate([feeds["sample"], feeds["sample"][:, :, ::-1]], axis=2)
    past, result = graph.nothing(len(video)), feeds["sample"]
    for position in (0, graph.num_frames):
        window = video[:, :, position : position + graph.num_frames]
        result, past = graph(window, feeds["timestep"], feeds["encoder_hidden_states"], position, past)
    return {engine.outputs[0].name: result}


def _differences(result: np.ndarray, expected: np.ndarray) -> tuple[float, float, float]:
    """Largest absolute difference, the same relative to the largest magnitude, PSNR in dB; NaN if either has one.

    ``expected`` may be 1 long where the result is longer, as one frame for several equal ones.
    """
    with np.errstate(all="ignore"):
        difference = np.abs(result.astype(np.float64) - expected)
        largest, error = float(difference.max()), float(np.sqrt((difference**2).mean()))
        relative = largest / max(float(np.abs(expected).max()), 1e-12)
        psnr = float("inf") if error == 0 else float(20 * np.log10(np.ptp(expected) / error))
    return largest, relative, psnr


def _lengthened(graph: Graph, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Repeat a reference's inputs along dynamic axes where a built engine takes no axis that is 1 long."""
    longer = {}
    for spec in graph.inputs:
        if spec.name not in feeds:
            continue
        array = feeds[spec.name]
        for place, axis in enumerate(spec.shape):
            lengths = graph.axes.get(axis, ()) if isinstance(axis, str) else ()
            if lengths and array.shape[place] == 1 and 1 not in lengths:
                array = np.repeat(array, min(lengths), axis=place)
        longer[spec.name] = array
    return longer


def _made_feeds(bundle: Bundle, graph: Graph) -> dict[str, np.ndarray]:
    """An input for a graph without a reference: noise, a third of the way to it, and the text encoder's states."""
    rng = np.random.default_rng(0)
    known = _read_reference(bundle, TEXT_ENCODER)
    feeds: dict[str, np.ndarray] = {}
    for spec in graph.inputs:
        if graph.name == WINDOWED_UNET and spec.name not in _VIDEO_INPUTS:
            continue
        shape = tuple(1 if isinstance(axis, str) else axis for axis in spec.shape)
        states = known.get("last_hidden_state")
        if spec.dtype == "int64":
            feeds[spec.name] = np.full(shape, bundle.schedule.num_train_timesteps // 3)
        elif states is not None and states.shape == shape:
            feeds[spec.name] = states
        else:
            feeds[spec.name] = rng.standard_normal(shape, dtype=np.float32)
    return feeds


def _read_reference(bundle: Bundle, name: str) -> dict[str, np.ndarray]:
    relative = _reference_file(name)
    if relative not in bundle.manifest.files:
        return {}
    entry = bundle.manifest.graphs[name]
    specs = {
        tensor.name: (tensor.dtype, tuple(axis if isinstance(axis, int) else -1 for axis in tensor.shape))
        for tensor in (*entry.inputs, *entry.outputs)
        if tensor.dtype != "bfloat16"  # numpy has none
    }
    try:
        reference = read_arrays(bundle.path(relative), specs)
    except ValueError as error:
        raise BundleError(f"{relative} in the bundle {bundle.folder}: {error}; export it again") from error
    needed = entry.outputs[:1] if name == WINDOWED_UNET else (*entry.inputs, *entry.outputs)
    if missing := [tensor.name for tensor in needed if tensor.name not in reference]:
        raise BundleError(f"{relative} in the bundle {bundle.folder} lacks {missing[0]!r}; export it again")
    return reference


def _reference_file(name: str) -> str:
    return f"{REFERENCES}/{name}.npz"
