"""A server for benchmarks: bundles to serve, its processes, and a small client that costs little of the machine.

The client is asyncio on plain sockets: a load generator that takes much of the two cores measures itself. It speaks
only what ``tav serve`` answers: HTTP/1.1 with a Content-Length, or chunks until the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import progress, speed
from tav_sdk.pocket import sample_clips

ROOT = Path(__file__).resolve().parents[1]
UNSORTED = "import tav_sdk.server.store as s; s.MAX_OVERTAKEN = 0; from tav_sdk.cli import main; main()"
"""A server whose workers always take the first job that waits."""
ENGINE = "onnxruntime-cpu"


def make_bundles(size: str, work: Path, *, num_clips: int) -> Path:
    """A folder of bundles on one base, ``clip0`` and on, each with its clip beside it; made if it is not there.

    All but the first have its tuned weights, each a little longer: what a swap costs does not depend on their values.
    """
    from safetensors.numpy import load_file, save_file

    from tav_sdk.export import export_clip
    from tav_sdk.files import sha256_of

    folder = work / f"{size}-served"
    if (folder / f"clip{num_clips - 1}" / "manifest.json").exists():
        return folder
    bundle, run = speed.prepare(size, work)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for index, sample in zip(range(num_clips), sample_clips().values(), strict=False):
        name = folder / f"clip{index}"
        if index == 0:
            shutil.copytree(bundle, name, copy_function=os.link)
        else:
            other = work / f"{size}-run{index}"
            shutil.rmtree(other, ignore_errors=True)
            other.mkdir()
            tuned = other / "tuned.safetensors"
            weights = load_file(run / tuned.name)
            save_file({key: tensor * (1 + 0.1 * index) for key, tensor in weights.items()}, tuned)
            record = json.loads((run / "run.json").read_text())
            (other / "run.json").write_text(json.dumps(record | {"tuned_sha256": sha256_of(tuned)}))
            export_clip(other, name, bundle=bundle)
        shutil.copyfile(sample.path, name.with_suffix(".mp4"))
    return folder


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Served:
    """A server in a process of its own, on loopback; it can be killed and started again on the same state.

    Args:
        bundles: what it serves.
        state: its folder; it has the cache of inversions as well.
        options: more of ``tav serve``.
        unsorted: let workers take jobs in the order they came in.
    """

    def __init__(self, bundles: Path, state: Path, *options: str, unsorted: bool = False) -> None:
        self.bundles, self.state, self.port = bundles, state, free_port()
        start = ["-c", UNSORTED] if unsorted else ["-m", "tav_sdk.cli"]
        given = ["--state", str(state), "--port", str(self.port), "--no-tunings", *options]
        self._command = [sys.executable, *start, "serve", str(bundles), *given]
        if "--engine" not in options:
            self._command += ["--engine", ENGINE]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, seconds: float = 120) -> None:
        """Start it, and wait until a worker can take a job.

        Raises:
            RuntimeError: it ended, or takes longer.
        """
        self.state.mkdir(parents=True, exist_ok=True)
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, "TAV_CACHE": str(self.state / "cache"), "PYTHONPATH": path}
        with (self.state / "log").open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log, env=environment, cwd=ROOT)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended with {self.process.returncode}; see {self.state / 'log'}")
            with contextlib.suppress(OSError):
                if asyncio.run(ask_once(self.port, "GET", "/readyz")).status == 200:
                    return
            time.sleep(0.05)
        raise RuntimeError(f"the server was not ready after {seconds} s; see {self.state / 'log'}")

    def signal(self, number: int) -> int:
        """Send a signal that ends it; its exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(timeout=120)

    def worker_pids(self) -> list[int]:
        """The workers' processes."""
        answer = asyncio.run(ask_once(self.port, "GET", "/readyz"))
        return [worker["pid"] for worker in answer.json["workers"] if worker["pid"]]

    def memory_mb(self) -> dict[str, float]:
        """Proportional memory of the server and of its workers together, in MB."""
        assert self.process is not None
        return {
            "server": pss_mb(self.process.pid),
            "workers": sum(pss_mb(pid) for pid in self.worker_pids()),
        }

    def __enter__(self) -> Served:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.signal(signal.SIGKILL)


def pss_mb(pid: int) -> float:
    """Memory of a process, pages that it shares counted by their share, in MB."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1000


# --- the client -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came back."""

    status: int
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)


class Connection:
    """One connection that is kept open.

    Args:
        port: of a server on loopback.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        """One request; a body is sent as JSON."""
        status, length = await self._send(method, path, body, headers or {})
        assert self._reader is not None
        if length is None:
            content = b"".join([part async for part in self._chunks()])
        else:
            content = await self._reader.readexactly(length)
        return Answer(status=status, content=content)

    async def events(self, path: str) -> AsyncIterator[tuple[int, str]]:
        """Number and type of each event of a stream, until it ends."""
        await self._send("GET", path, None, {"Accept": "text/event-stream"})
        kept = b""
        async for part in self._chunks():
            *whole, kept = (kept + part).split(b"\n\n")
            for block in whole:
                found = re.match(rb"id: (\d+)\nevent: ([a-z._]+)\n", block)
                if found is not None:
                    yield int(found[1]), found[2].decode()

    def close(self) -> None:
        """Hang up."""
        if self._writer is not None:
            self._writer.close()

    async def _send(self, method: str, path: str, body: Any, headers: Mapping[str, str]) -> tuple[int, int | None]:
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        assert self._reader is not None
        data = b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{self._port}", f"Content-Length: {len(data)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        lines += ["Content-Type: application/json"] if body is not None else []
        self._writer.write("\r\n".join([*lines, "", ""]).encode() + data)
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        found = re.search(r"\r\ncontent-length: *(\d+)", head)
        return int(head.split(" ", 2)[1]), int(found[1]) if found else None

    async def _chunks(self) -> AsyncIterator[bytes]:
        assert self._reader is not None
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            yield (await self._reader.readexactly(size + 2))[:-2]
        await self._reader.readexactly(2)


async def ask_once(port: int, method: str, path: str, body: Any = None) -> Answer:
    """One request on a connection of its own."""
    connection = Connection(port)
    try:
        return await connection.ask(method, path, body)
    finally:
        connection.close()


async def until_ended(port: int, ids: Sequence[str], *, pause_s: float = 0.2) -> list[dict[str, Any]]:
    """The jobs as they are when all have ended."""
    connection, ended = Connection(port), []
    for job in ids:
        while (now := (await connection.ask("GET", f"/v1/videos/{job}")).json)["status"] not in ("completed", "failed"):
            await asyncio.sleep(pause_s)
        ended.append(now)
    connection.close()
    return ended


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """How many, and percentiles in ms."""
    ordered = sorted(seconds)
    cuts = statistics.quantiles(ordered, n=100, method="inclusive") if len(ordered) > 1 else ordered * 99
    return {
        "count": len(ordered),
        "p50_ms": round(cuts[49] * 1000, 2),
        "p95_ms": round(cuts[94] * 1000, 2),
        "p99_ms": round(cuts[98] * 1000, 2),
        "max_ms": round(ordered[-1] * 1000, 2),
    }


def said(text: str) -> None:
    """A line with the time."""
    progress(f"{time.strftime('%H:%M:%S')} {text}")
