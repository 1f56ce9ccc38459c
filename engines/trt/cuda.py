"""The little of the CUDA runtime that an engine needs: the device, buffers, a stream, and graphs recorded from it."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tav_sdk.errors import EngineError, MissingExtraError

_HINTS = {
    2: "The GPU's memory is full: close other programs on it, or edit fewer frames or smaller ones.",
    35: "There is no NVIDIA driver, or one too old: update it.",
    100: "There is no NVIDIA GPU, or it is hidden from this process (CUDA_VISIBLE_DEVICES).",
}


@dataclass(frozen=True)
class Device:
    """The GPU in use: its name, and its compute capability such as ``8.9``."""

    name: str
    capability: str

    def __str__(self) -> str:
        return f"{self.name} ({self.capability})"


def runtime() -> Any:
    """``cuda.bindings.runtime``, whose calls return an error code and then their values.

    Raises:
        MissingExtraError: cuda-python is not installed.
    """
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise MissingExtraError("running on an NVIDIA GPU", "tensorrt", "cuda.bindings") from error


def check(result: tuple[Any, ...], what: str) -> Any:
    """The value that a call of the runtime returned.

    Args:
        result: the call's error code, then at most one value.
        what: what was asked for, after "CUDA cannot".

    Raises:
        EngineError: names the error, its number and what to do.
    """
    code = int(result[0])
    if code == 0:
        return result[1] if len(result) > 1 else None
    cuda = runtime()
    name, text = (call(result[0])[1].decode() for call in (cuda.cudaGetErrorName, cuda.cudaGetErrorString))
    raise EngineError(f"CUDA cannot {what}: {name} ({code}): {text}. {_HINTS.get(code, '')}".rstrip())


def device() -> Device:
    """The first GPU that this process may use; ``CUDA_VISIBLE_DEVICES`` says which that is.

    Raises:
        EngineError: there is none, or no driver that works.
        MissingExtraError: cuda-python is not installed.
    """
    cuda = runtime()
    check(cuda.cudaGetDeviceCount(), "find a GPU")
    properties = check(cuda.cudaGetDeviceProperties(0), "describe the GPU")
    return Device(properties.name.split(b"\0")[0].decode(), f"{properties.major}.{properties.minor}")


class Memory:
    """Bytes on the GPU at a fixed address.

    Args:
        size: bytes.

    Raises:
        EngineError: there is not that much left.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.address: int = check(runtime().cudaMalloc(max(size, 1)), f"allocate {size} bytes")

    def fill(self, array: np.ndarray) -> None:
        """Copy an array of that many bytes to the GPU, and wait for it."""
        array = np.ascontiguousarray(array)
        if array.nbytes != self.size:
            raise EngineError(f"expected {self.size} bytes for the GPU, got {array.nbytes}")
        cuda = runtime()
        kind = cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        check(cuda.cudaMemcpy(self.address, array.ctypes.data, self.size, kind), "copy to the GPU")
        # From memory that is not pinned, the copy itself returns before all is there, and our streams do not wait.
        check(cuda.cudaDeviceSynchronize(), "copy to the GPU")

    def close(self) -> None:
        """Free it; closing twice is allowed."""
        if self.address:
            address, self.address = self.address, 0
            runtime().cudaFree(address)


class Stream:
    """A queue of work on the GPU."""

    def __init__(self) -> None:
        cuda = runtime()
        # Non-blocking: other work of the process, on the default stream, does not wait for this one.
        self._stream = check(cuda.cudaStreamCreateWithFlags(cuda.cudaStreamNonBlocking), "make a stream")
        self.handle = int(self._stream)

    def synchronize(self) -> None:
        """Wait until all is done.

        Raises:
            EngineError: some of it failed.
        """
        check(runtime().cudaStreamSynchronize(self._stream), "finish its work")

    def record(self, enqueue: Callable[[], bool]) -> Recording | None:
        """What ``enqueue`` puts on the stream, not run but kept; ``None`` if it fails or does what cannot be kept."""
        cuda = runtime()
        # Of this thread alone: what other threads do meanwhile, such as allocate, does not break it.
        mode = cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        check(cuda.cudaStreamBeginCapture(self._stream, mode), "record a graph")
        done = False
        try:
            done = enqueue()
        finally:
            error, graph = cuda.cudaStreamEndCapture(self._stream)
        if int(error) != 0:
            cuda.cudaGetLastError()  # or the next call would report it
            return None
        try:
            error, executable = cuda.cudaGraphInstantiate(graph, 0) if done else (1, None)
        finally:
            cuda.cudaGraphDestroy(graph)
        if int(error) != 0:
            cuda.cudaGetLastError()
            return None
        return Recording(executable, self._stream)

    def close(self) -> None:
        """Destroy it; closing twice is allowed."""
        if self._stream is not None:
            stream, self._stream = self._stream, None
            runtime().cudaStreamDestroy(stream)


class Recording:
    """Work that was recorded from a stream, which starts as a whole."""

    def __init__(self, executable: Any, stream: Any) -> None:
        self._executable, self._stream = executable, stream

    def launch(self) -> None:
        """Put all of it on the stream.

        Raises:
            EngineError: CUDA refuses.
        """
        check(runtime().cudaGraphLaunch(self._executable, self._stream), "launch a graph")

    def close(self) -> None:
        """Destroy it; closing twice is allowed."""
        if self._executable is not None:
            executable, self._executable = self._executable, None
            runtime().cudaGraphExecDestroy(executable)


class Buffer:
    """An array on the GPU with its copy in pinned memory of the host, which the GPU reads and writes by itself.

    Args:
        shape: of the array.
        dtype: of the array.

    Raises:
        EngineError: there is not that much memory left.

    Attributes:
        host: the host's copy.
    """

    def __init__(self, shape: tuple[int, ...], dtype: str) -> None:
        count = int(np.prod(shape, dtype=np.int64))
        size = count * np.dtype(dtype).itemsize
        with contextlib.ExitStack() as stack:
            self._memory = Memory(size)
            stack.callback(self._memory.close)
            self._pinned: int = check(runtime().cudaHostAlloc(max(size, 1), 0), f"pin {size} bytes")
            stack.pop_all()
        block = (ctypes.c_byte * max(size, 1)).from_address(self._pinned)
        self.host = np.frombuffer(memoryview(block), dtype, count).reshape(shape)

    @property
    def address(self) -> int:
        """Where it is on the GPU."""
        return self._memory.address

    def upload(self, array: np.ndarray, stream: Stream) -> None:
        """Put the copy of an array of that shape and dtype on the stream; the array may change at once."""
        np.copyto(self.host, array, casting="no")
        self._copy(self.address, self._pinned, "cudaMemcpyHostToDevice", stream)

    def download(self, stream: Stream) -> None:
        """Put the copy back to :attr:`host` on the stream."""
        self._copy(self._pinned, self.address, "cudaMemcpyDeviceToHost", stream)

    def _copy(self, target: int, source: int, kind: str, stream: Stream) -> None:
        cuda = runtime()
        kind = getattr(cuda.cudaMemcpyKind, kind)
        check(cuda.cudaMemcpyAsync(target, source, self._memory.size, kind, stream.handle), "copy from or to the GPU")

    def close(self) -> None:
        """Free both; closing twice is allowed."""
        self._memory.close()
        if self._pinned:
            pinned, self._pinned = self._pinned, 0
            self.host = np.empty(0)
            runtime().cudaFreeHost(pinned)
