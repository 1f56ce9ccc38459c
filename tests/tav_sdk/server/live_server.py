"""A real server in a process of its own, and plain requests to it."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import Any


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: Message
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)

    @property
    def error(self) -> dict[str, Any]:
        return self.json["error"]


@dataclass
class LiveServer:
    """A server that listens."""

    url: str
    process: subprocess.Popen[str]
    state: Path
    bundles: Path
    lines: list[str] = field(default_factory=list)
    token: str | None = None

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def ask(
        self,
        method: str,
        path: str,
        *,
        json_body: Any = None,
        form: Mapping[str, Any] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 60,
    ) -> Answer:
        """One request. ``form``: texts, and paths as files."""
        given = dict(headers or {})
        if self.token is not None:
            given.setdefault("Authorization", f"Bearer {self.token}")
        if json_body is not None:
            body, given["Content-Type"] = json.dumps(json_body).encode(), "application/json"
        if form is not None:
            body, given["Content-Type"] = encoded_form(form), "multipart/form-data; boundary=between"
        request = urllib.request.Request(self.url + path, data=body, headers=given, method=method)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return Answer(answer.status, answer.headers, answer.read())
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.headers, error.read())

    def wait(self, job: Mapping[str, Any], *, seconds: float = 120) -> dict[str, Any]:
        """A job as it is when it has ended."""
        end = time.monotonic() + seconds
        now: dict[str, Any] = {}
        kind = "tunings" if job["object"] == "tuning" else "videos"
        while time.monotonic() < end:
            now = self.ask("GET", f"/v1/{kind}/{job['id']}").json
            if now["status"] in ("completed", "failed"):
                return now
            time.sleep(0.1)
        raise AssertionError(f"{job['id']} did not end: {now}; the server said {self.lines[-20:]}")


def encoded_form(fields: Mapping[str, Any]) -> bytes:
    """A form with the boundary ``between``."""
    parts = []
    for name, value in fields.items():
        head = f'Content-Disposition: form-data; name="{name}"'
        if isinstance(value, Path):
            head += f'; filename="{value.name}"\r\nContent-Type: application/octet-stream'
            content = value.read_bytes()
        else:
            content = str(value).encode()
        parts.append(f"--between\r\n{head}\r\n\r\n".encode() + content + b"\r\n")
    return b"".join(parts) + b"--between--\r\n"


@contextmanager
def serving(bundles: Path, state: Path, *options: str, token: str | None = None) -> Iterator[LiveServer]:
    """A server on a free port, killed at the end."""
    command = [sys.executable, "-m", "tav_sdk.cli", "serve", str(bundles), "--state", str(state), "--port", "0"]
    process = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert process.stdout is not None
    lines: list[str] = []
    address: list[str] = []
    ready = threading.Event()

    def read(pipe: Any) -> None:
        for line in pipe:
            lines.append(line.rstrip())
            if found := re.search(r"serving .* at (http://\S+);", line):
                address.append(found[1])
                ready.set()

    for pipe in (process.stderr, process.stdout):
        threading.Thread(target=read, args=(pipe,), daemon=True).start()
    try:
        while not ready.wait(0.1):
            assert process.poll() is None, f"the server ended: {lines}"
        server = LiveServer(address[0], process, state, bundles, lines, token)
        for _ in range(600):
            with contextlib.suppress(urllib.error.URLError):  # it says its address just before it listens
                if server.ask("GET", "/readyz").status == 200:
                    break
            time.sleep(0.1)
        yield server
    finally:
        process.kill()
        process.wait()
