"""Bodies: what is refused before and while they are read, and what is left of them."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import threading
from pathlib import Path

import pytest

from tav_sdk.server import forms
from tav_sdk.server.bodies import MAX_JSON_BYTES, Body, ClientGoneError, read_body
from tav_sdk.server.problems import ProblemError

JSON = [(b"content-type", b"application/json")]
FORM = [(b"content-type", b'multipart/form-data; boundary="xyz"')]


def part(name: str, content: bytes | str, filename: str | None = None) -> bytes:
    content = content.encode() if isinstance(content, str) else content
    file = f'; filename="{filename}"'.encode() if filename is not None else b""
    return (
        b'--xyz\r\nContent-Disposition: form-data; name="'
        + name.encode()
        + b'"'
        + file
        + b"\r\n\r\n"
        + content
        + b"\r\n"
    )


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--xyz--\r\n"


class Sender:
    """A client: gives its chunks, and counts how often it was asked."""

    def __init__(self, *chunks: bytes, then: str = "end") -> None:
        self.messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
        if then == "end":
            self.messages.append({"type": "http.request"})
        elif then == "disconnect":
            self.messages.append({"type": "http.disconnect"})
        self.asked = 0

    async def __call__(self):
        self.asked += 1
        if not self.messages:
            await asyncio.sleep(60)
        return self.messages.pop(0)


def read(tmp_path: Path, headers, *chunks: bytes, then: str = "end", max_bytes: int = 1 << 20, pause_s=5.0) -> Body:
    sender = Sender(*chunks, then=then)
    return asyncio.run(read_body(headers, sender, folder=tmp_path, max_bytes=max_bytes, pause_s=pause_s))


def refused(tmp_path: Path, headers, *chunks: bytes, **more) -> tuple[int, dict]:
    with pytest.raises(ProblemError) as caught:
        read(tmp_path, headers, *chunks, **more)
    assert list(tmp_path.iterdir()) == []
    error = caught.value.body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert str(tmp_path) not in error["message"]
    error["headers"] = caught.value.headers
    return caught.value.status, error


# --- JSON ---------------------------------------------------------------------------------------------------------


def test_a_json_body_comes_in_chunks(tmp_path):
    body = read(tmp_path, JSON, b'{"prompt": "a \xe2', b'\x82\xac", "n": 1,', b' "extra_params": {"fast": true}}')
    assert body.fields == {"prompt": "a €", "n": 1, "extra_params": {"fast": True}}
    assert not body.form
    assert body.file is None
    utf8 = [(b"Content-Type", b"Application/JSON; charset=UTF-8")]
    assert read(tmp_path, utf8, b'{"n":1,"extra_params":{"fast":true},"prompt":"a \\u20ac"}').sha256 == body.sha256
    assert read(tmp_path, utf8, b'{"n":1,"extra_params":{"fast":false},"prompt":"a \\u20ac"}').sha256 != body.sha256


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "cannot be read at character 0"),
        (b"{", "cannot be read at character 1"),
        (b'{"a": 1}x', "cannot be read at character 8"),
        (b"[]", "got a list"),
        (b"null", "got null"),
        (b'"a"', "got a string"),
        (b"1", "got a whole number"),
        (b'{"a": NaN}', "NaN in it is no JSON"),
        (b'{"a": -Infinity}', "-Infinity in it is no JSON"),
        (b'{"a": 1e400}', "a number in it is too large"),
        (b'{"a": ' + b"9" * 5000 + b"}", "a number in it is too large"),
        (b'{"a": "\xff"}', "not text in UTF-8 (byte 7)"),
        (b"\xef\xbb\xbf{}", "cannot be read at character 0"),
        ('{"a": 1}'.encode("utf-16"), "not text in UTF-8"),
        (b'{"a": "\x00"}', "cannot be read at character 7"),
        (b'{"a": 1, "a": 2}', "the name 'a' is in it twice"),
        (b'{"b": {"a": 1, "a": 1}}', "the name 'a' is in it twice"),
        (b'{"\\ud800": 1}', "a name in it has half a surrogate pair"),
        (b'{"a":' * 64 + b"1" + b"}" * 64 + b"", None),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "nested more than 64 deep"),
        (b'{"a":' + b"[" * 30000 + b"]" * 30000 + b"}", "nested more than 64 deep"),
        (b"[" * 60000, "nested more than 64 deep"),
    ],
)
def test_json_is_strict(tmp_path, text, said):
    if said is None:
        read(tmp_path, JSON, text)
        return
    status, error = refused(tmp_path, JSON, text)
    assert (status, error["code"], error["type"], error["param"]) == (
        400,
        "invalid_json",
        "invalid_request_error",
        None,
    )
    assert said in error["message"]


# --- limits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "most"), [(JSON, MAX_JSON_BYTES), (FORM, 1 << 20)], ids=["json", "form"])
def test_a_length_that_is_too_large_is_refused_before_anything_is_read(tmp_path, kind, most):
    for length in (most + 1, 10**30):
        sender = Sender(b"{}")
        with pytest.raises(ProblemError) as caught:
            asyncio.run(
                read_body(
                    [*kind, (b"content-length", str(length).encode())],
                    sender,
                    folder=tmp_path,
                    max_bytes=1 << 20,
                    pause_s=1,
                )
            )
        error = caught.value.body["error"]
        assert (caught.value.status, error["code"], error["param"]) == (413, "body_too_large", None)
        assert f"at most {most} bytes" in error["message"]
        assert caught.value.headers["Connection"] == "close"
        assert sender.asked == 0
    status, error = refused(tmp_path, [*kind, (b"content-length", b"-1")])
    assert (status, error["code"]) == (400, "invalid_body")


def test_a_chunked_body_is_cut_at_the_limit(tmp_path):
    status, error = refused(tmp_path, JSON, b'{"a": "', b"a" * MAX_JSON_BYTES, b'"}')
    assert (status, error["code"]) == (413, "body_too_large")
    whole = form(part("video", b"v" * 5000, "v.mp4"))
    assert read(tmp_path, FORM, whole, max_bytes=len(whole)).file is not None
    for path in tmp_path.iterdir():
        path.unlink()
    status, error = refused(tmp_path, FORM, whole[:2000], whole[2000:], max_bytes=len(whole) - 1)
    assert (status, error["code"]) == (413, "body_too_large")


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"content-type", b"text/plain")],
        [(b"content-type", b"application/x-www-form-urlencoded")],
        [(b"content-type", b"application/json; charset=latin-1")],
        [(b"content-type", b"\xff")],
        JSON + FORM,
    ],
)
def test_other_media_types_are_refused(tmp_path, headers):
    status, error = refused(tmp_path, headers, b"{}")
    assert (status, error["code"], error["param"]) == (415, "unsupported_media_type", None)
    assert "application/json in UTF-8 or multipart/form-data" in error["message"]


def test_no_zip_bombs(tmp_path):
    for encoding in (b"gzip", b"deflate", b"br", b"identity, gzip"):
        status, error = refused(tmp_path, [*JSON, (b"content-encoding", encoding)], b"{}")
        assert (status, error["code"]) == (415, "unsupported_content_encoding")
        assert "must be identity" in error["message"]
    read(tmp_path, [*JSON, (b"content-encoding", b"Identity")], b"{}")
    status, error = refused(tmp_path, [*JSON, (b"content-encoding", b"gzip"), (b"content-length", b"99999999")])
    assert error["code"] == "body_too_large"  # the first rule is the first


def test_a_pause_that_is_too_long_ends_the_request(tmp_path):
    for headers, begun in ((JSON, b"{"), (FORM, part("video", b"v" * 100, "v.mp4"))):
        status, error = refused(tmp_path, headers, begun, then="pause", pause_s=0.05)
        assert (status, error["code"], error["param"]) == (408, "request_timeout", None)
        assert "within 0.05 s" in error["message"]
        assert error["headers"]["Connection"] == "close"


def test_a_client_that_leaves_leaves_no_file(tmp_path):
    for headers, begun in ((JSON, b"{"), (FORM, part("video", b"v" * 100, "v.mp4"))):
        with pytest.raises(ClientGoneError):
            read(tmp_path, headers, begun, then="disconnect")
    assert list(tmp_path.iterdir()) == []


# --- forms --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 7, 1000, 10**6])
def test_a_form_comes_in_any_chunks(tmp_path, length):
    video = bytes(range(256)) * 8 + b"\r\n--xy\r\n--" + b"\r" * 50
    text = form(
        part("prompt", "a päñda\r\nis skiing"),
        part("input_reference", video, "../../etc/passwd"),
        part("extra_params[fast]", "true"),
        part("user", ""),
    )
    body = read(tmp_path, FORM, *(text[at : at + length] for at in range(0, len(text), length)))
    assert body.form
    assert body.fields == {"prompt": "a päñda\nis skiing", "extra_params[fast]": "true", "user": ""}
    assert body.file is not None
    assert body.file.path.parent == tmp_path
    assert body.file.path.read_bytes() == video
    assert (body.file.field, body.file.size) == ("input_reference", len(video))
    assert body.file.sha256 == hashlib.sha256(video).hexdigest()
    body.discard()
    body.discard()
    assert list(tmp_path.iterdir()) == []


def test_the_hash_of_a_form_is_that_of_what_it_means(tmp_path):
    parts = [part("prompt", "a"), part("seed", "1"), part("video", b"v", "v.mp4")]
    first = read(tmp_path, FORM, form(*parts)).sha256
    other = [(b"content-type", b"multipart/form-data; boundary=abc")]
    again = form(parts[2].replace(b"v.mp4", b"w.mov"), *parts[:2]).replace(b"--xyz", b"--abc")
    assert read(tmp_path, other, again).sha256 == first
    for different in (
        form(part("prompt", "a"), part("seed", "2"), parts[2]),
        form(*parts[:2], part("video", b"w", "v.mp4")),
        form(*parts[:2], part("input_reference", b"v", "v.mp4")),
        form(*parts[:2]),
    ):
        assert read(tmp_path, FORM, different).sha256 != first
    assert read(tmp_path, JSON, b'{"prompt": "a", "seed": "1"}').sha256 != read(tmp_path, FORM, form(*parts[:2])).sha256


@pytest.mark.parametrize(
    ("text", "said", "param"),
    [
        (form(part("a", "1"), part("a", "2")), "the field a is there twice", "a"),
        (form(part("v", b"1", "v"), part("v", "2")), "the field v is there twice", "v"),
        (form(part("v", b"1", "v"), part("w", b"2", "v")), "more than 1 file", "w"),
        (form(*(part(f"f{number}", "") for number in range(65))), "more than 64 fields", None),
        (form(part("a", "1" * (64 * 1024 + 1))), "the field a has more than 65536 bytes", "a"),
        (form(part("a", b"\xff")), "the field a is not text in UTF-8", "a"),
        (form(part("", "1")), "needs a name", None),
        (form(part("n" * 300, "1")), "needs a name", None),
        (form(part("a\x01b", "1")), "a control character", None),
        (form(part("a", "1")).replace(b"form-data", b"attachment"), "needs a name", None),
        (form(part("a", "1")).replace(b'"a"', b'"\xff"'), "not text in UTF-8", None),
        (form(part("a", "1")).replace(b"Content-Disposition", b"Content-Type"), "needs a name", None),
        (part("a", "1"), "breaks off before its last boundary", None),
        (part("a", "1")[:-5], "breaks off before its last boundary", None),
        (part("v", b"1", "v"), "breaks off before its last boundary", None),
        (b"", "breaks off before its last boundary", None),
        (b"hello", "cannot be told apart", None),
        (form(part("a", "1")).replace(b"name=", b"X" * 5000), "cannot be told apart", None),
    ],
)
def test_damaged_forms_are_refused(tmp_path, text, said, param):
    status, error = refused(tmp_path, FORM, text)
    assert (status, error["code"], error["param"]) == (400, "invalid_body", param)
    assert said in error["message"]


def test_fields_up_to_the_limits_are_taken(tmp_path):
    text = form(*(part(f"f{number}", "1" * 100) for number in range(63)), part("a", "1" * (64 * 1024)))
    assert len(read(tmp_path, FORM, text).fields) == 64


def test_forms_need_a_boundary(tmp_path):
    for kind in (
        b"multipart/form-data",
        b"multipart/form-data; boundary=",
        b"multipart/form-data; boundary=" + b"x" * 300,
    ):
        status, error = refused(tmp_path, [(b"content-type", kind)], b"")
        assert (status, error["code"]) == (400, "invalid_body")
        assert "boundary" in error["message"]


def test_a_full_disk_is_said(tmp_path, monkeypatch):
    real = os.fdopen

    class Full:
        def __init__(self, descriptor: int, mode: str) -> None:
            self._file = real(descriptor, mode)

        def write(self, data: bytes) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self) -> None:
            self._file.close()

    monkeypatch.setattr(forms.os, "fdopen", Full)
    status, error = refused(tmp_path, FORM, form(part("video", b"v", "v.mp4")))
    assert (status, error["code"], error["type"]) == (507, "storage_full", "server_error")
    assert error["headers"]["x-should-retry"] == "false"
    assert "disk is full" in error["message"]


def test_a_file_is_never_whole_in_memory_and_never_on_the_loop(tmp_path, monkeypatch):
    threads = set()
    real = forms.Form._data

    def data(self, *more):
        threads.add(threading.current_thread() is threading.main_thread())
        real(self, *more)

    monkeypatch.setattr(forms.Form, "_data", data)
    begin = part("video", b"", "v.mp4")[:-2]

    async def endless():
        sent = 0
        held = 0

        async def receive():
            nonlocal sent, held
            sent += 1
            if sent == 1:
                return {"type": "http.request", "body": begin, "more_body": True}
            held = max(held, (1 << 16) * sent - sum(path.stat().st_size for path in tmp_path.iterdir()))
            if sent > 200:
                return {"type": "http.request", "body": b"\r\n--xyz--\r\n"}
            return {"type": "http.request", "body": b"v" * (1 << 16), "more_body": True}

        body = await read_body(FORM, receive, folder=tmp_path, max_bytes=1 << 30, pause_s=5)
        return body, held

    body, held = asyncio.run(endless())
    assert body.file is not None
    assert body.file.size == 199 * (1 << 16)
    assert held < 1 << 20
    assert threads == {False}


def test_a_cancelled_request_leaves_no_file(tmp_path):
    async def cancelled():
        sender = Sender(part("video", b"v" * 1000, "v.mp4"), then="pause")
        task = asyncio.create_task(read_body(FORM, sender, folder=tmp_path, max_bytes=1 << 20, pause_s=60))
        while sender.asked < 2:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert list(tmp_path.iterdir()) == []


def test_the_body_can_be_hashed_and_read_as_json_again(tmp_path):
    body = read(tmp_path, JSON, b'{"prompt": "\\ud800"}')
    assert len(body.sha256) == 64
    assert json.loads(json.dumps(body.fields)) == {"prompt": "\ud800"}
