"""A server that answers as it is told, in the place of the network."""

from __future__ import annotations

import json
from typing import Any

import httpx2

from tav_sdk.client import Client

VIDEO, TUNING = f"video_{'0' * 32}", f"tun_{'a' * 32}"


def video(**values: Any) -> dict[str, Any]:
    """A Video object."""
    return {"id": VIDEO, "object": "video", "status": "queued", "progress": 0, "attempts": 0, "warnings": [], **values}


def answer(values: Any, status: int = 200, **headers: str) -> httpx2.Response:
    """An answer in JSON; ``_`` in names of headers stands for ``-``."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx2.Response(status, json=values, headers=names)


def refusal(status: int, code: str, param: str | None = None, **headers: str) -> httpx2.Response:
    """An error in the contract's shape."""
    error = {"message": f"{code} it is", "type": "server_error", "param": param, "code": code}
    return answer({"error": error}, status, **headers)


def stream(*parts: Any) -> httpx2.Response:
    """A stream of events: jobs as ``(id, type, values)``, exceptions that break it, and plain bytes."""

    def chunks():
        yield b"retry: 0\n\n"
        for part in parts:
            if isinstance(part, Exception):
                raise part
            if isinstance(part, bytes):
                yield part
                continue
            number, kind, values = part
            yield f"id: {number}\nevent: {kind}\ndata: {json.dumps(values, ensure_ascii=False)}\n\n".encode()

    return httpx2.Response(200, headers={"Content-Type": "text/event-stream"}, content=chunks())


class Stub:
    """What came, and what is answered: each answer once, in order; an exception is raised."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.requests: list[httpx2.Request] = []
        self.slept: list[float] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        request.read()
        self.requests.append(request)
        assert self.answers, f"nobody expected {request.method} {request.url}"
        given = self.answers.pop(0)
        if isinstance(given, Exception):
            raise given
        return given

    def client(self, url: str = "http://stub", token: str | None = None, **options: Any) -> Client:
        """A client whose pauses take no time."""
        made = Client(url, token, transport=httpx2.MockTransport(self), **options)
        made._connection.sleep = self.slept.append
        return made

    @property
    def asked(self) -> list[str]:
        return [f"{request.method} {request.url.raw_path.decode()}" for request in self.requests]
