"""Requests made up from the OpenAPI document: no 500, and no answer that the document does not have."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tav_sdk.server.protocol import Run
from tav_sdk.server.uploads import ClipFacts
from tests.tav_sdk.server.played_server import PlayedWorker, playing
from tests.tav_sdk.server.test_http_access import listening

CHECKS = "all"
LEFT_OUT = {
    "positive_data_acceptance": "a value may be refused for the model's sake: its size, its clip, another field",
}


class Eager(PlayedWorker):
    """A worker that does every job at once."""

    def send(self, command: Any) -> None:
        super().send(command)
        if isinstance(command, Run):
            asyncio.get_running_loop().call_later(0.01, self.complete)


@contextmanager
def eager_server(folder: Path) -> Iterator[str]:
    """A server in a thread of its own, whose jobs are done at once and whose clips are all good; its address."""
    address: list[str] = []
    started, ended = threading.Event(), threading.Event()

    async def serve() -> None:
        async with playing(folder, ready=False) as server:

            async def good(*_: object, **__: object) -> ClipFacts:
                return ClipFacts(width=96, height=64, frames=100_000, fps=12.0)

            server.service.uploads.probe = good
            for worker in server.hired:
                worker.__class__ = Eager
                worker.ready()
            async with listening(server) as port:
                address.append(f"http://127.0.0.1:{port}")
                started.set()
                while not ended.is_set():
                    await asyncio.sleep(0.05)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert started.wait(30)
        yield address[0]
    finally:
        ended.set()
        thread.join()


def campaign(folder: Path, url: str, *options: str) -> None:
    command = [Path(sys.executable).with_name("schemathesis"), "run", f"{url}/openapi.json"]
    fixed = ("--checks", CHECKS, "--exclude-checks", ",".join(LEFT_OUT), "--generation-database", "none", "--no-color")
    # A stream that does not end is no answer to be judged; 501 is one, and no mistake.
    left_out = ("--exclude-path-regex", "^/v1/events$|extensions$|characters$")
    quiet = ("--suppress-health-check", "all", "--warnings", "off")
    done = subprocess.run(
        [*map(str, command), *fixed, *left_out, *quiet, *options],
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=3600,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]


def test_made_up_requests(tmp_path):
    pytest.importorskip("schemathesis")
    with eager_server(tmp_path) as url:
        campaign(tmp_path, url, "--phases", "examples,fuzzing", "--max-examples", "8", "--seed", "1")


@pytest.mark.slow
def test_many_made_up_requests(tmp_path):
    pytest.importorskip("schemathesis")
    with eager_server(tmp_path) as url:
        campaign(tmp_path, url, "--max-examples", "200", "--request-timeout", "60")
