from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tav_sdk.server.live_server import LiveServer, serving


@pytest.fixture(scope="session")
def server_bundles(made_once, tiny_bundle, other_bundle, clip_path) -> Path:
    """A folder of two models on one base, ``skiing`` with a clip and ``bare`` without; do not write into it."""

    def make(path: Path) -> None:
        path.mkdir()
        shutil.copytree(tiny_bundle, path / "skiing")
        shutil.copytree(other_bundle, path / "bare")
        shutil.copyfile(clip_path, path / "skiing.mp4")

    return made_once("server_bundles", make)


@pytest.fixture(scope="session")
def live(server_bundles, tmp_path_factory) -> Iterator[LiveServer]:
    """A server without tokens that all tests share: leave it running and its queue empty."""
    with serving(server_bundles, tmp_path_factory.mktemp("live") / "state", "--engine", "onnxruntime-cpu") as server:
        yield server
