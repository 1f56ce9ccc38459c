"""A worker: a process with one device and one resident base, which does one job at a time.

It is started by the server, reads commands from one pipe and writes words to another, and ends when the server does. It
opens no socket and no database.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import queue
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tav_sdk.errors import (
    BundleError,
    CancelledError,
    EngineError,
    InputError,
    NonFiniteOutputError,
    OutputError,
    TavError,
    VideoError,
)
from tav_sdk.server.jobs import FailureCode
from tav_sdk.server.logs import set_up_logs
from tav_sdk.server.protocol import Cancel, Completed, Failed, Ready, Run, Word, command_of, send
from tav_sdk.words import logger

_log = logger(__name__)

_MESSAGES: dict[FailureCode, str] = {
    "cancelled": "the job was cancelled",
    "out_of_memory": "the memory did not suffice; ask for fewer frames or a smaller model",
    "engine_error": "the engine failed; the server's log says why",
    "non_finite_output": "the engine gave values that are no numbers; ask for other settings or another model",
    "bundle_damaged": "the model's files are damaged or missing; whoever runs the server has to mend them",
    "invalid_video": "the clip cannot be read to its end; send it again",
    "storage_full": "the server's disk is full; try again later",
    "internal_error": "the server made a mistake; its log says which",
}
"""What clients are told: a library's message may name files of the server."""


class Worker:
    """Does what it is told, one job after the other.

    Args:
        say: takes a word for the server.
        engine: what runs the bundles, as in :func:`tav_sdk.load`.
        max_bases: how many bases are kept open.
    """

    def __init__(self, say: Callable[[Word], None], *, engine: str = "auto", max_bases: int = 1) -> None:
        self._say, self._engine, self._max_bases = say, engine, max_bases
        self._runs: queue.SimpleQueue[Run | None] = queue.SimpleQueue()
        self._cancelled: set[tuple[str, int]] = set()
        self._lock = threading.Lock()

    def tell(self, command: Run | Cancel | None) -> None:
        """Take a command, from any thread; ``None``: end after the present job."""
        if isinstance(command, Cancel):
            with self._lock:
                self._cancelled.add((command.job, command.fence))
        else:
            self._runs.put(command)

    def work(self) -> None:
        """Do jobs until told to end, or until one leaves the process too large or unfit for another."""
        from tav_sdk.server.videos import Videos

        videos = Videos(self._say, engine=self._engine, max_bases=self._max_bases)
        self._say(Ready(engine=self._engine))
        while (run := self._runs.get()) is not None:
            ended = self._do(run, videos)
            with self._lock:
                self._cancelled.discard((run.job, run.fence))
            if run.kind == "tuning" or (isinstance(ended, Failed) and ended.ends):
                return  # torch's memory goes with the process
            self._say(Ready(engine=self._engine))

    def _do(self, run: Run, videos: object) -> Word:
        from tav_sdk.server.tunings import tune_job
        from tav_sdk.server.videos import Videos

        assert isinstance(videos, Videos)  # noqa: S101

        def is_cancelled() -> bool:
            with self._lock:
                return (run.job, run.fence) in self._cancelled

        out = Path(run.out)
        began = time.monotonic()
        try:
            if is_cancelled():
                raise CancelledError("before it began")
            if run.kind == "tuning":
                videos.close()  # a tuning needs the memory
                result = tune_job(run, self._say, is_cancelled)
            else:
                result = videos.make(run, is_cancelled)
            word: Word = Completed(
                job=run.job,
                fence=run.fence,
                result={**result, "inference_time_s": round(time.monotonic() - began, 3)},
            )
        except BaseException as error:
            if run.kind == "video":
                shutil.rmtree(out, ignore_errors=True)
            word = failure_of(run, error)
            told = {"job_id": run.job}
            _log.warning("job %s: %s", run.job, word.code, exc_info=word.code == "internal_error", extra=told)
            if not isinstance(error, Exception):
                self._say(word)
                raise
        self._say(word)
        return word


def failure_of(run: Run, error: BaseException) -> Failed:
    """What is said of a job that an error ended."""
    code = _code_of(error)
    return Failed(
        job=run.job,
        fence=run.fence,
        code=code,
        message=_MESSAGES[code],
        detail=f"{type(error).__name__}: {error}"[:2000],
        ends=code == "out_of_memory",
    )


def _code_of(error: BaseException) -> FailureCode:
    causes: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and len(causes) < 10:
        causes.append(one)
        one = one.__cause__ or one.__context__
    if isinstance(error, CancelledError):
        return "cancelled"
    if any(isinstance(cause, MemoryError) or _is_allocation(cause) for cause in causes):
        return "out_of_memory"
    if any(isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT) for cause in causes):
        return "storage_full"
    kinds: tuple[tuple[type[TavError], FailureCode], ...] = (
        (NonFiniteOutputError, "non_finite_output"),
        (EngineError, "engine_error"),
        (BundleError, "bundle_damaged"),
        (VideoError, "invalid_video"),
    )
    for kind, code in kinds:
        if isinstance(error, kind):
            return code
    return "internal_error"


def _is_allocation(error: BaseException) -> bool:
    """Whether an engine's error says that memory was missing; ONNX Runtime, TensorRT and torch say it in words."""
    if not isinstance(error, (EngineError, RuntimeError)) or isinstance(error, (InputError, OutputError)):
        return False
    text = str(error).lower()
    return any(words in text for words in ("out of memory", "failed to allocate", "bad_alloc", "bad allocation"))


def die_with_parent() -> None:
    """Let the system end this process when its parent does; the end of the pipe says it where the system cannot."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def main(commands: int, words: int, *, engine: str, max_bases: int, log_format: str = "text") -> None:
    """The process: read commands from one descriptor, write words to another, end when the first one does."""
    die_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM):  # the server says when to end
        signal.signal(number, signal.SIG_IGN)
    set_up_logs(log_format)
    lock = threading.Lock()
    with open(words, "wb") as to_server, open(commands, "rb") as from_server:

        def say(word: Word) -> None:
            with lock, contextlib.suppress(BrokenPipeError):
                send(to_server, word)

        worker = Worker(say, engine=engine, max_bases=max_bases)

        def listen() -> None:
            for line in from_server:
                worker.tell(command_of(line))
            os._exit(0)  # the server is gone: nobody wants the job

        threading.Thread(target=listen, daemon=True).start()
        worker.work()
        to_server.flush()
        os._exit(0)


if __name__ == "__main__":
    main(
        int(sys.argv[1]),
        int(sys.argv[2]),
        engine=sys.argv[3],
        max_bases=int(sys.argv[4]),
        log_format=(sys.argv[5:] or ["text"])[0],
    )
