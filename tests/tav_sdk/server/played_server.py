"""The whole application in this process, with workers whose words the test says; requests to it without a socket."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from email.message import Message
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from tav_sdk.server.access import Access
from tav_sdk.server.assembly import assemble
from tav_sdk.server.protocol import Cancel, Completed, Failed, Progressed, Ready, Run
from tav_sdk.server.settings import ServerSettings
from tav_sdk.server.state import State
from tests.tav_sdk.server.empty_bundle import make_bundle
from tests.tav_sdk.server.live_server import Answer, encoded_form

PROMPT = {"prompt": "a panda is skiing", "model": "skiing"}


class PlayedWorker:
    """A worker whose words the test says."""

    pid = 1

    def __init__(self, index: int, heard: Any, ended: Any) -> None:
        self.index, self._heard, self._ended = index, heard, ended
        self.told: list[Any] = []
        self.killed = False

    def send(self, command: Any) -> None:
        self.told.append(command)

    def kill(self) -> None:
        self.killed = True

    def ready(self) -> None:
        self._heard(self, Ready())

    @property
    def run(self) -> Run:
        """What it was told last to do."""
        return [command for command in self.told if isinstance(command, Run)][-1]

    @property
    def cancels(self) -> list[str]:
        return [command.job for command in self.told if isinstance(command, Cancel)]

    def progress(self, percent: int, **more: Any) -> None:
        run = self.run
        values = {"stage": "sampling", "step": percent, "total": 100, "step_s": 0.01, **more}
        self._heard(self, Progressed(job=run.job, fence=run.fence, progress=percent, **values))

    def complete(self, **files: bytes) -> None:
        run = self.run
        out = Path(run.out)
        if run.kind == "tuning":
            make_bundle(out)
        else:
            out.mkdir()
            contents = {
                "video.mp4": b"video",
                "thumbnail.webp": b"small",
                "spritesheet.webp": b"all",
                "sheet.png": b"s",
            }
            for name, content in {**contents, **files}.items():
                (out / name.replace("_", ".")).write_bytes(content)
        result = {
            "num_frames": 8,
            "fps": 12.0,
            "inference_time_s": 1.5,
            "stage_durations": {"sampling": 1.0},
            "peak_memory_mb": 100,
            "inversion_cached": False,
        }
        self._heard(self, Completed(job=run.job, fence=run.fence, result=result))
        self.ready()

    def fail(self, code: Any) -> None:
        run = self.run
        self._heard(self, Failed(job=run.job, fence=run.fence, code=code, message=f"it was {code}"))
        self.ready()

    def die(self) -> None:
        self._ended(self, -9)


class Planner:
    """Lets every tuning fit in memory."""

    async def check(self, params: Mapping[str, Any]) -> None:
        pass


class Exchange:
    """One request that is under way.

    Attributes:
        status: of the answer; 0 before it began.
    """

    def __init__(self, app: Any, method: str, target: str, headers: Mapping[str, str], chunks: list[bytes]) -> None:
        self.status, self.headers, self.received = 0, Message(), b""
        self.ended = False
        self._chunks, self._gone, self._news = list(chunks), asyncio.Event(), asyncio.Event()
        path, _, query = target.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote(path),
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": query.encode(),
            "headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8000),
        }
        self.task = asyncio.create_task(app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        if self._chunks:
            chunk = self._chunks.pop(0)
            return {"type": "http.request", "body": chunk, "more_body": bool(self._chunks)}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            for name, value in message["headers"]:
                self.headers[name.decode()] = value.decode()
        elif message["type"] == "http.response.body":
            self.received += message.get("body", b"")
            self.ended = not message.get("more_body", False)
        self._news.set()

    def leave(self) -> None:
        """Close the connection."""
        self._gone.set()

    async def until(self, is_there: Callable[[bytes], bool]) -> bytes:
        """What was received when it is as the test wants it."""
        while not is_there(self.received):
            self._news.clear()
            await asyncio.wait_for(self._news.wait(), 10)
        return self.received

    async def answer(self) -> Answer:
        await asyncio.wait_for(self.task, 30)
        return Answer(self.status, self.headers, self.received)


class PlayedServer:
    """An application with its state, its played workers, and everything inside within reach."""

    def __init__(self, folder: Path, *, token: str | None = None, can_tune: bool = True, **settings: Any) -> None:
        self.settings = ServerSettings(**{"bundles": folder / "bundles", "state": folder / "state", **settings})
        self.token = token
        self.hired: list[PlayedWorker] = []
        self.state = State(self.settings.state)
        self.service, self.app = assemble(
            self.settings, self.state, Access(self.settings), self._hire, can_tune=can_tune
        )
        self.store = self.service.store
        self.service._planner = Planner()  # type: ignore[assignment]  # the real one imports torch

    def _hire(self, index: int, *, heard: Any, ended: Any) -> PlayedWorker:
        self.hired.append(PlayedWorker(index, heard, ended))
        return self.hired[-1]

    @property
    def worker(self) -> PlayedWorker:
        """The newest one."""
        return self.hired[-1]

    def begin(
        self,
        method: str,
        target: str,
        *,
        json_body: Any = None,
        form: Mapping[str, Any] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        token: str | None = None,
    ) -> Exchange:
        """A request that goes on by itself."""
        given = {"Host": "127.0.0.1:8000", **(headers or {})}
        if (token or self.token) is not None:
            given.setdefault("Authorization", f"Bearer {token or self.token}")
        if json_body is not None:
            body = json.dumps(json_body).encode()
            given.setdefault("Content-Type", "application/json")
        if form is not None:
            body, given["Content-Type"] = encoded_form(form), "multipart/form-data; boundary=between"
        return Exchange(self.app, method, target, given, [body or b""])

    async def ask(self, method: str, target: str, **more: Any) -> Answer:
        """A request and its whole answer."""
        answer = await self.begin(method, target, **more).answer()
        await asyncio.sleep(0)  # what the answer left for the next round of the loop
        return answer

    async def post(self, **fields: Any) -> dict[str, Any]:
        """A new video's job."""
        answer = await self.ask("POST", "/v1/videos", json_body={**PROMPT, **fields})
        assert answer.status == 200, answer.content
        return answer.json

    async def get(self, job: Mapping[str, Any]) -> dict[str, Any]:
        return (await self.ask("GET", f"/v1/videos/{job['id']}")).json

    async def finished(self, **fields: Any) -> dict[str, Any]:
        """A video that is done."""
        job = await self.post(**fields)
        assert self.worker.run.job == job["id"]
        self.worker.complete()
        return await self.get(job)

    def close(self) -> None:
        self.store.close()
        self.state.close()


@asynccontextmanager
async def playing(folder: Path, *, ready: bool = True, **settings: Any) -> AsyncIterator[PlayedServer]:
    """A server on the models ``skiing``, with a clip, and ``bare``; its worker waits for a job."""
    if not (folder / "bundles").exists():
        make_bundle(folder / "bundles" / "skiing")
        make_bundle(folder / "bundles" / "bare", prompt="an empty road")
        (folder / "bundles" / "skiing.mp4").write_bytes(b"a clip that only workers read")
    server = PlayedServer(folder, **settings)
    try:
        await server.service.catalog.models()
        server.service.dispatcher.start()
        if ready:
            for worker in server.hired:
                worker.ready()
        yield server
    finally:
        server.close()


def tokens_file(folder: Path, **tokens: str) -> Path:
    """A file of tokens: ``name=token``."""
    path = folder / "tokens.txt"
    path.write_text("".join(f"{name}:{sha256(token.encode()).hexdigest()}\n" for name, token in tokens.items()))
    return path


def scene(**settings: Any) -> Callable[[Callable[..., Awaitable[None]]], Callable[..., None]]:
    """``@scene(max_queue=1)``: a test ``async def test(server, folder)`` that runs with a server of its own."""

    def made(played: Callable[..., Awaitable[None]]) -> Callable[..., None]:
        def test(tmp_path: Path) -> None:
            async def run() -> None:
                async with playing(tmp_path, **settings) as server:
                    await played(server)

            asyncio.run(run())

        test.__name__, test.__doc__ = played.__name__, played.__doc__
        return test

    return made


def check_problem(answer: Answer, status: int, code: str, param: str | None = None) -> str:
    """Check an error's whole body; its message."""
    types = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    type_ = types.get(status, "server_error" if status >= 500 else "invalid_request_error")
    assert answer.status == status, answer.content
    assert set(answer.json) == {"error"}
    error = dict(answer.error)
    message = error.pop("message")
    assert error == {"type": type_, "param": param, "code": code}, message
    assert message
    assert "/tmp" not in message
    assert "Traceback" not in message
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers.get("x-should-retry") == ("false" if status in (500, 501, 504, 507) else None)
    return message


def clip_file(path: Path, *, frames: int = 10, width: int = 96, height: int = 64) -> Path:
    """A clip that can be uploaded."""
    av = pytest.importorskip("av")
    np = pytest.importorskip("numpy")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=12)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(frames):
            picture = np.full((height, width, 3), 20 * index % 255, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def emptied(folder: Path) -> None:
    """Remove a folder's contents."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def words(text: str) -> set[str]:
    """The words of a text."""
    return set(text.split())
