"""Cases in a worker process that is watched, and started anew when it dies or takes too long."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.fuzz.formats import Format, place

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 20.0
"""What one case may take; the first of a process may take :data:`FIRST_SECONDS`, which imports."""
FIRST_SECONDS = 180.0
BYTES = 1 << 30
"""What one case may take of memory."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of one case.

    Attributes:
        wrong: neither loaded nor refused, or beyond a bound.
        loaded: the file was taken.
        what: the error, signal or bound.
        where: the function of the package that it came from, if known.
        seconds: it took so long.
    """

    wrong: bool
    loaded: bool
    what: str
    where: str
    seconds: float

    @property
    def signature(self) -> str:
        """What cases of one cause share."""
        return f"{self.what.partition(':')[0]} at {self.where or 'unknown'}"


class Runner:
    """Tries files.

    Args:
        seeds: folders of valid files, see :mod:`tests.fuzz.seeds`.
        scratch: an empty folder for copies of them.
        tree: the checkout whose package is tried.
    """

    def __init__(self, seeds: Path, scratch: Path, tree: Path = ROOT) -> None:
        self.seeds, self.scratch, self.tree = seeds, scratch, tree
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.Queue[str] = queue.Queue()
        self._warm: set[str] = set()

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def attempt(self, form: Format, content: bytes) -> Outcome:
        """Try one content of a format's file."""
        path = place(form, self.seeds, self.scratch / form.name, content)
        if self._process is None or self._process.poll() is not None:
            self._start()
        process = self._process
        assert process is not None
        assert process.stdin is not None
        began = time.monotonic()
        limit = SECONDS if form.name in self._warm else FIRST_SECONDS
        try:
            process.stdin.write(json.dumps({"format": form.name, "path": str(path)}) + "\n")
            process.stdin.flush()
            answer = self._answers.get(timeout=limit)
        except (queue.Empty, BrokenPipeError):
            answer = ""
        seconds = time.monotonic() - began
        if not answer:
            return self._lost(seconds, limit)
        self._warm.add(form.name)
        return _outcome(json.loads(answer), seconds)

    def _lost(self, seconds: float, limit: float) -> Outcome:
        what = f"Endless: more than {limit:g} s"
        process = self._process
        if process is not None and seconds < limit:
            process.wait(10)
            code = process.returncode
            what = f"Died: {signal.Signals(-code).name if code < 0 else f'exit code {code}'}"
        self._stop()
        return Outcome(wrong=True, loaded=False, what=what, where="", seconds=seconds)

    def _start(self) -> None:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PYTEST")},
            "PYTHONPATH": str(self.tree),
            "OMP_NUM_THREADS": "1",
            "TAV_NUM_THREADS": "1",
            "TAV_CACHE": str(self.scratch / "cache"),
            "HF_HUB_OFFLINE": "1",
            "ORT_DISABLE_TELEMETRY": "1",
        }
        self._warm, answers = set(), queue.Queue[str]()
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "fuzz" / "worker.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=self.scratch,
            env=environment,
        )

        def listen() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                answers.put(line)
            answers.put("")

        threading.Thread(target=listen, daemon=True).start()
        self._process, self._answers = process, answers

    def _stop(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except OSError:
                    continue
        self._process = None


def _outcome(told: dict[str, Any], seconds: float) -> Outcome:
    wrong, what = told["outcome"] == "wrong", told["what"]
    if told["bytes"] > BYTES:
        wrong, what = True, f"Memory: {told['bytes'] >> 20} MiB; {what}"
    return Outcome(wrong=wrong, loaded=told["outcome"] == "loaded", what=what, where=told["where"], seconds=seconds)
