"""The U-Net over videos that are longer than its window.

Each of these is a ``unet(sample, timestep, encoder_hidden_states)`` as the loops of :mod:`tav_sdk.diffusion.inversion`
and :mod:`tav_sdk.diffusion.sampling` take it, so that a long video is inverted and sampled by the same equations as a
short one.

- :class:`WindowedUNet`: exact. Timesteps outside, windows inside: what a window keeps for the next one is of the
  current timestep alone, so memory does not grow with the video.
- :class:`StreamedUNet`: exact as well, for one window at a time, through all timesteps. So the first frames are done
  before the last have begun, at the price of what is kept for every timestep.
- :class:`BlendedUNet`: for bundles whose frames depend on later ones. Approximate.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from tav_sdk.array_file import read_array
from tav_sdk.bundle.layout import PAST, PRESENT
from tav_sdk.engines.base import TensorSpec
from tav_sdk.errors import InputError, OutputError
from tav_sdk.progress import Callback, Part, Stage, StepProgress, UNet, report

Past = Mapping[str, np.ndarray]
"""What is kept of the frames before a window: by input of the graph, ``(b, ...)`` float32."""
RunGraph = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
"""Runs the windowed graph: feeds to outputs, by name."""
WindowReport = Callable[[Part, int], None]
"""Told of each window of an evaluation that is done, with the timestep."""
MEMORY_BYTES = 2 * 10**9
"""What :class:`PastStore` keeps in memory before it goes to disk."""


class WindowGraph:
    """The windowed graph, for one window at a time.

    Args:
        run: runs it.
        inputs: what it takes.

    Attributes:
        num_frames: frames of a window.
    """

    def __init__(self, run: RunGraph, inputs: Sequence[TensorSpec]) -> None:
        self._run = run
        self._past = [spec for spec in inputs if spec.name.startswith(f"{PAST}.")]
        self.num_frames = int(inputs[0].shape[2])

    def nothing(self, batch: int) -> Past:
        """What the first window is given: of the right shapes, and not looked at."""
        shapes = {spec.name: tuple(int(axis) for axis in spec.shape[1:]) for spec in self._past}
        return {name: np.zeros((batch, *shape), np.float32) for name, shape in shapes.items()}

    def __call__(
        self, sample: np.ndarray, timestep: np.ndarray, states: np.ndarray, position: int, past: Past
    ) -> tuple[np.ndarray, Past]:
        """Predict one window.

        Args:
            sample: ``(b, c, f, h, w)`` float32; fewer frames than a window are the video's last.
            timestep: ``()`` int64.
            states: ``(b, s, d)`` float32.
            position: index of its first frame in the video.
            past: what the window before has left, or :meth:`nothing`.

        Returns:
            ``(b, c, f, h, w)``, and what the next window is to be given.
        """
        f = sample.shape[2]
        # Later frames change nothing in former ones, so that the last window may be filled with anything.
        filled = np.pad(sample, ((0, 0), (0, 0), (0, self.num_frames - f), (0, 0), (0, 0)), mode="edge")
        inputs = {"sample": filled, "timestep": timestep, "encoder_hidden_states": states}
        outputs = self._run({**inputs, "position": np.asarray(position, np.int64), **past})
        kept = {spec.name: outputs[PRESENT + spec.name.removeprefix(PAST)] for spec in self._past}
        return outputs["out_sample"][:, :, :f], kept


class WindowedUNet:
    """The U-Net over a video of any length, window by window: equal to one pass over all of it.

    Args:
        graph: the windowed graph.
        reported: called after each window.
    """

    def __init__(self, graph: WindowGraph, reported: WindowReport | None = None) -> None:
        self._graph, self._reported = graph, reported

    def __call__(self, sample: np.ndarray, timestep: np.ndarray, encoder_hidden_states: np.ndarray) -> np.ndarray:
        """``(b, c, f, h, w)``, ``()``, ``(b, s, d)`` -> ``(b, c, f, h, w)``, any f."""
        length = self._graph.num_frames
        starts = range(0, sample.shape[2], length)
        predicted, past = np.empty_like(sample), self._graph.nothing(len(sample))
        for index, start in enumerate(starts):
            here = slice(start, start + length)
            predicted[:, :, here], past = self._graph(sample[:, :, here], timestep, encoder_hidden_states, start, past)
            if self._reported is not None:
                self._reported(Part(index=index + 1, count=len(starts)), int(timestep))
        return predicted


class LoopReport:
    """Reports the windows of each step of a loop as its parts. The U-Net is evaluated once per step.

    Args:
        callback: is told; ``False`` cancels.
        stage: of the loop.
        total: its steps.
        done: those that were done before.
    """

    def __init__(self, callback: Callback | None, stage: Stage, total: int, done: int = 0) -> None:
        self._callback, self._total, self._step = callback, total, done
        self._stage: Stage = stage

    def __call__(self, part: Part, timestep: int) -> None:
        """Report one window.

        Raises:
            CancelledError: the callback returned ``False``.
        """
        if part.index == 1:
            self._step += 1
        report(self._callback, StepProgress(self._stage, self._step, self._total, timestep, part=part))


class PastStore:
    """What one window keeps for the next, for every evaluation of the U-Net: in memory up to a limit, then on disk.

    Args:
        max_bytes: bytes of memory.
        folder: where the rest goes, in a folder of its own that :meth:`close` removes; by default the system's for
            temporary files.

    Raises:
        OutputError: the rest cannot be written, or read back.
    """

    def __init__(self, max_bytes: int = MEMORY_BYTES, folder: str | Path | None = None) -> None:
        self._max_bytes, self._in = max_bytes, folder
        self._memory: dict[int, Past] = {}
        self._names: dict[int, dict[str, tuple[int, int]]] = {}  # number of axes and bytes of each
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def get(self, index: int) -> Past | None:
        """What was put for an evaluation, or ``None``."""
        if index in self._memory or self._folder is None or index not in self._names:
            return self._memory.get(index)
        folder = Path(self._folder.name, str(index))
        try:
            return {
                name: read_array(folder / f"{name}.npy", dtype="float32", axes=axes, max_bytes=size)
                for name, (axes, size) in self._names[index].items()
            }
        except ValueError as error:
            raise OutputError(f"a temporary file of the stream was changed: {error}; start it again") from error

    def put(self, index: int, past: Past) -> None:
        """Keep the past of an evaluation in place of what was kept for it before."""
        self._memory.pop(index, None)
        held = sum(array.nbytes for kept in self._memory.values() for array in kept.values())
        if held + sum(array.nbytes for array in past.values()) <= self._max_bytes:
            self._memory[index] = past
            return
        try:
            if self._folder is None:
                self._folder = tempfile.TemporaryDirectory(prefix="tav-past-", dir=self._in)
            folder = Path(self._folder.name, str(index))
            folder.mkdir(exist_ok=True)
            for name, array in past.items():
                np.save(folder / f"{name}.npy", array, allow_pickle=False)
        except OSError as error:
            where = self._in or tempfile.gettempdir()
            raise OutputError(
                f"the stream cannot write its temporary files to {where}: {error.strerror or error}. Make room there, "
                "name another folder in TMPDIR, or edit without streaming, which writes none"
            ) from error
        self._names[index] = {name: (array.ndim, array.nbytes) for name, array in past.items()}

    def close(self) -> None:
        """Forget everything."""
        self._memory.clear()
        self._names.clear()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def __enter__(self) -> PastStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class StreamedUNet:
    """The U-Net over one window of a video, in a loop of its own: equal to one pass over all of it.

    Every window's loop has the same timesteps, so that its i-th evaluation continues the i-th of the window before.

    Args:
        graph: the windowed graph.
        store: what is kept; the same for all windows of one loop, and used by no other loop.
        position: index of the window's first frame in the video.
    """

    def __init__(self, graph: WindowGraph, store: PastStore, position: int) -> None:
        self._graph, self._store, self._position = graph, store, position
        self._index = 0

    def __call__(self, sample: np.ndarray, timestep: np.ndarray, encoder_hidden_states: np.ndarray) -> np.ndarray:
        """``(b, c, f, h, w)``, ``()``, ``(b, s, d)`` -> ``(b, c, f, h, w)``, f at most a window."""
        past = self._store.get(self._index) if self._position else self._graph.nothing(len(sample))
        if past is None:
            raise InputError("this window has more steps than the window before it; take as many for every window")
        predicted, past = self._graph(sample, timestep, encoder_hidden_states, self._position, past)
        self._store.put(self._index, past)
        self._index += 1
        return predicted


def stream_windows(
    graph: WindowGraph,
    sources: Iterable[np.ndarray],
    invert: Callable[[UNet, np.ndarray], np.ndarray],
    sample: Callable[[UNet, np.ndarray], np.ndarray],
    *,
    max_bytes: int = MEMORY_BYTES,
) -> Iterator[np.ndarray]:
    """Invert and sample a video window by window, each through all timesteps before the next begins.

    Args:
        graph: the windowed graph.
        sources: latents of the windows in order, ``(1, c, f, h, w)`` float32, f frames of a window but for the last.
        invert: ``invert(unet, source)``: the noise of a window.
        sample: ``sample(unet, noise)``: its clean latents.
        max_bytes: of memory for each of the two loops, see :class:`PastStore`.

    Yields:
        Clean latents of every window.
    """
    with PastStore(max_bytes) as inverting, PastStore(max_bytes) as sampling:
        position = 0
        for source in sources:
            noise = invert(StreamedUNet(graph, inverting, position), source)
            yield sample(StreamedUNet(graph, sampling, position), noise)
            position += source.shape[2]


class BlendedUNet:
    """The U-Net over a video of any length by overlapping windows, for frames that depend on later ones. Approximate.

    Every window is frame 0, which keeps the look, and a run of consecutive frames; predictions are blended where runs
    overlap, so that there is no seam.

    Args:
        unet: for a window.
        num_frames: frames of a window.
        reported: called after each window.
    """

    def __init__(self, unet: UNet, num_frames: int, reported: WindowReport | None = None) -> None:
        self._unet, self._num_frames, self._reported = unet, num_frames, reported

    def __call__(self, sample: np.ndarray, timestep: np.ndarray, encoder_hidden_states: np.ndarray) -> np.ndarray:
        """``(b, c, f, h, w)``, ``()``, ``(b, s, d)`` -> ``(b, c, f, h, w)``, f at least a window."""
        length = self._num_frames - 1  # of a run
        runs = blended_runs(sample.shape[2], length)
        predicted = np.zeros_like(sample)
        total = np.zeros(sample.shape[2], np.float32)
        weights = np.minimum(np.arange(1, length + 1), np.arange(length, 0, -1)).astype(np.float32)
        for index, start in enumerate(runs):
            frames = [0, *range(start, start + length)]
            part = self._unet(np.ascontiguousarray(sample[:, :, frames]), timestep, encoder_hidden_states)
            if index == 0:
                predicted[:, :, 0], total[0] = part[:, :, 0], 1.0
            predicted[:, :, start : start + length] += part[:, :, 1:] * weights[:, None, None]
            total[start : start + length] += weights
            if self._reported is not None:
                self._reported(Part(index=index + 1, count=len(runs)), int(timestep))
        return predicted / total[:, None, None]


def blended_runs(num_frames: int, length: int) -> list[int]:
    """Where runs of ``length`` frames start that cover all frames but frame 0, each overlapping the one before by half.

    Raises:
        InputError: there are not as many frames as one run and frame 0, or a run has none.
    """
    if length < 1:
        raise InputError("a window of one frame cannot make a longer video; tune and export with more frames")
    last = num_frames - length
    if last < 1:
        raise InputError(
            f"this bundle makes videos of at least {length + 1} frames, since its frames depend on later ones; got "
            f"{num_frames}"
        )
    step = max(length - length // 2, 1)
    starts = list(range(1, last, step))
    return [*starts, last]
