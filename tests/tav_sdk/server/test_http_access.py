"""Who may call, what answers say, and the limits of connections, on the application and on a real socket."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from contextlib import asynccontextmanager

import pytest
import uvicorn

from tav_sdk.server.serve import uvicorn_config
from tests.tav_sdk.server.played_server import PROMPT, PlayedServer, check_problem, playing, scene, tokens_file


def with_tokens(played):
    """A test with the tokens ``a`` of ann and ``b`` of bob."""

    def test(tmp_path):
        async def run():
            async with playing(tmp_path, tokens=tokens_file(tmp_path, ann="a", bob="b")) as server:
                await played(server)

        asyncio.run(run())

    test.__name__ = played.__name__
    return test


@with_tokens
async def test_without_a_token_only_the_open_paths_answer(server):
    for path in ("/v1/videos", "/v1/models", "/v1/events", "/metrics", "/openapi.json", "/nothing"):
        answer = await server.ask("GET", path)
        check_problem(answer, 401, "invalid_token")
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    check_problem(await server.ask("POST", "/v1/videos", json_body=PROMPT), 401, "invalid_token")
    check_problem(await server.ask("GET", "/v1/videos", token="c"), 401, "invalid_token")
    check_problem(await server.ask("GET", "/v1/videos?token=a"), 401, "invalid_token")
    basic = await server.ask("GET", "/v1/videos", headers={"Authorization": "Basic YTph"})
    check_problem(basic, 401, "invalid_token")
    assert (await server.ask("GET", "/healthz")).json == {"status": "ok"}
    assert (await server.ask("GET", "/readyz")).json == {"status": "ready"}
    ready = (await server.ask("GET", "/readyz", token="a")).json
    assert ready["workers"] == [{"worker": 0, "device": "cpu", "state": "idle", "pid": 1, "model": None}]
    for path in ("/v1/videos", "/metrics", "/openapi.json"):
        assert (await server.ask("GET", path, token="a")).status == 200


@with_tokens
async def test_jobs_of_others_do_not_exist(server):
    job = (await server.ask("POST", "/v1/videos", json_body=PROMPT, token="a")).json
    path = f"/v1/videos/{job['id']}"
    for method, target in (
        ("GET", path),
        ("GET", f"{path}/content"),
        ("GET", f"{path}/preview"),
        ("GET", f"{path}/events"),
        ("POST", f"{path}/cancel"),
        ("POST", f"{path}/remix"),
        ("DELETE", path),
    ):
        check_problem(await server.ask(method, target, token="b"), 404, "video_not_found")
    named = {**PROMPT, "video": {"id": job["id"]}}
    answer = await server.ask("POST", "/v1/videos/edits", json_body=named, token="b")
    check_problem(answer, 404, "video_not_found")
    assert (await server.ask("GET", "/v1/videos", token="b")).json["data"] == []
    assert (await server.ask("GET", f"/v1/videos?after={job['id']}", token="b")).json["data"] == []
    key = {"Idempotency-Key": "k"}
    mine = await server.ask("POST", "/v1/videos", json_body=PROMPT, headers=key, token="a")
    other = await server.ask("POST", "/v1/videos", json_body=PROMPT, headers=key, token="b")
    assert other.json["id"] != mine.json["id"]
    stream = {"Accept": "text/event-stream", "Last-Event-ID": "0"}
    exchange = server.begin("GET", "/v1/events", headers=stream, token="b")
    received = await exchange.until(lambda received: b"video.queued" in received)
    exchange.leave()
    await exchange.answer()
    assert job["id"].encode() not in received
    assert (await server.ask("GET", path, token="a")).status == 200


def test_each_token_has_a_part_of_the_queue(tmp_path):
    async def run():
        tokens = tokens_file(tmp_path, ann="a", bob="b")
        async with playing(tmp_path, ready=False, tokens=tokens, max_queue_per_token=1) as server:
            assert (await server.ask("POST", "/v1/videos", json_body=PROMPT, token="a")).status == 200
            answer = await server.ask("POST", "/v1/videos", json_body=PROMPT, token="a")
            check_problem(answer, 429, "queue_full")
            assert (await server.ask("POST", "/v1/videos", json_body=PROMPT, token="b")).status == 200

    asyncio.run(run())


@scene()
async def test_other_names_and_other_pages_are_refused(server):
    answer = await server.ask("GET", "/healthz", headers={"Host": "evil.example:8000"})
    check_problem(answer, 403, "host_not_allowed")
    for name in ("localhost", "localhost:8000", "[::1]:8000", "127.0.0.1"):
        assert (await server.ask("GET", "/healthz", headers={"Host": name})).status == 200
    for method in ("GET", "POST", "OPTIONS"):
        answer = await server.ask(method, "/v1/videos", headers={"Origin": "http://evil.example"})
        check_problem(answer, 403, "origin_not_allowed")
    answer = await server.ask("GET", "/v1/videos", headers={"Origin": "null"})
    check_problem(answer, 403, "origin_not_allowed")
    own = await server.ask("GET", "/v1/videos", headers={"Origin": "http://127.0.0.1:8000"})
    assert own.status == 200
    assert not [name for name in own.headers if name.lower().startswith("access-control")]


@scene(allow_origins=("https://page.example",))
async def test_a_page_that_was_allowed(server):
    origin = {"Origin": "https://page.example"}
    answer = await server.ask("GET", "/v1/videos", headers=origin)
    assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (200, "https://page.example")
    assert "Access-Control-Allow-Credentials" not in answer.headers
    before = await server.ask("OPTIONS", "/v1/videos", headers={**origin, "Access-Control-Request-Method": "POST"})
    assert (before.status, "POST" in before.headers["Access-Control-Allow-Methods"]) == (204, True)
    check_problem(await server.ask("GET", "/v1/none", headers=origin), 404, "not_found")


@scene()
async def test_headers_of_every_answer(server):
    job = await server.finished()
    for method, path in (
        ("GET", "/v1/videos"),
        ("GET", "/healthz"),
        ("GET", "/metrics"),
        ("GET", "/nothing"),
        ("PUT", "/v1/videos"),
        ("POST", "/v1/videos"),
        ("GET", f"/v1/videos/{job['id']}/content"),
    ):
        answer = await server.ask(method, path, headers={"X-Request-Id": "my.id_1-a"})
        assert answer.headers.get_all("X-Request-Id") == ["my.id_1-a"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-store"
        assert "Server" not in answer.headers
    for given in ("a b", "x" * 65, "<script>", ""):
        answer = await server.ask("GET", "/healthz", headers={"X-Request-Id": given})
        (made,) = answer.headers.get_all("X-Request-Id")
        assert made != given
        assert len(made) == 32


# --- on a socket ------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def listening(server: PlayedServer):
    """The application on a port."""
    listener = socket.create_server(("127.0.0.1", 0))
    running = uvicorn.Server(uvicorn_config(server.app, server.settings))
    running.config.lifespan = "off"
    task = asyncio.create_task(running._serve(sockets=[listener]))
    while not running.started:
        await asyncio.sleep(0.01)
    try:
        yield listener.getsockname()[1]
    finally:
        running.should_exit = True
        await asyncio.wait_for(task, 10)


async def said(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """One answer that ends with the connection."""
    content = await asyncio.wait_for(reader.read(), 10)
    head, _, body = content.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return int(first.split()[1]), dict(line.lower().split(": ", 1) for line in lines), body


POST = b"POST /v1/videos HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
HEAD = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n"


def on_a_socket(**settings):
    def made(played):
        def test(tmp_path):
            async def run():
                async with playing(tmp_path, **settings) as server, listening(server) as port:
                    await played(server, lambda: asyncio.open_connection("127.0.0.1", port))

            asyncio.run(run())

        test.__name__ = played.__name__
        return test

    return made


@on_a_socket()
async def test_the_socket_says_nothing_of_itself(server, connect):
    reader, writer = await connect()
    writer.write(HEAD + b"Connection: close\r\n\r\n")
    status, headers, body = await said(reader)
    assert (status, json.loads(body)) == (200, {"status": "ok"})
    assert "server" not in headers
    writer.close()


@on_a_socket(head_timeout_s=0.2)
async def test_slow_heads_are_closed(server, connect):
    for sent in (b"", b"GET /healthz HT", HEAD):
        reader, writer = await connect()
        began = time.monotonic()
        for byte in sent:
            writer.write(bytes([byte]))
            if time.monotonic() - began < 0.1:
                await asyncio.sleep(0.005)
        assert await asyncio.wait_for(reader.read(), 10) == b""
        assert time.monotonic() - began < 5
        writer.close()
    reader, writer = await connect()  # a second head on a connection that was used
    writer.write(HEAD + b"\r\n")
    await reader.readuntil(b'"ok"}')
    writer.write(b"GET /heal")
    assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()


@on_a_socket()
async def test_large_heads_are_refused(server, connect):
    reader, writer = await connect()
    writer.write(HEAD + b"X-Large: " + b"x" * (66 << 10) + b"\r\n\r\n")
    status, headers, body = await said(reader)
    assert (status, headers["content-type"], headers["connection"]) == (431, "application/json", "close")
    assert json.loads(body)["error"]["code"] == "head_too_large"
    assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}
    writer.close()
    reader, writer = await connect()
    writer.write(HEAD + b"X-Large: " + b"x" * (60 << 10) + b"\r\nConnection: close\r\n\r\n")
    assert (await said(reader))[0] == 200
    writer.close()


@on_a_socket()
async def test_what_is_no_http_is_refused_in_our_shape(server, connect):
    for sent in (b"hello\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x00", HEAD + b"a b: c\r\n\r\n"):
        reader, writer = await connect()
        writer.write(sent + b"\r\n\r\n")
        status, _, body = await said(reader)
        assert (status, json.loads(body)["error"]["type"]) == (400, "invalid_request_error")
        writer.close()


@on_a_socket()
async def test_a_body_whose_chunks_are_broken_is_refused_and_leaves_no_job(server, connect):
    reader, writer = await connect()
    kind = b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    writer.write(HEAD.replace(b"GET /healthz", b"POST /v1/videos") + kind + b"ZZ\r\n")
    status, _, body = await said(reader)
    assert (status, json.loads(body)["error"]["code"]) == (400, "invalid_request")
    writer.close()
    assert (await server.ask("GET", "/v1/videos")).json["data"] == []


@on_a_socket(max_connections=2)
async def test_too_many_connections_are_refused(server, connect):
    held = [await connect() for _ in range(2)]
    await asyncio.sleep(0.05)
    reader, writer = await connect()
    writer.write(HEAD + b"\r\n")
    status, headers, body = await said(reader)
    assert (status, headers["retry-after"], json.loads(body)["error"]["code"]) == (503, "1", "too_many_connections")
    assert json.loads(body)["error"]["type"] == "server_error"
    writer.close()
    for reader, writer in held:
        writer.write(HEAD + b"Connection: close\r\n\r\n")
        assert (await said(reader))[0] == 200
        writer.close()
    await asyncio.sleep(0.05)
    reader, writer = await connect()
    writer.write(HEAD + b"Connection: close\r\n\r\n")
    assert (await said(reader))[0] == 200
    writer.close()


@on_a_socket(body_timeout_s=0.1)
async def test_a_body_that_does_not_go_on_is_answered_and_closed(server, connect):
    reader, writer = await connect()
    head = (
        b"POST /v1/videos HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n"
    )
    writer.write(head + b"{")
    status, _, body = await said(reader)
    assert (status, json.loads(body)["error"]["code"]) == (408, "request_timeout")
    writer.close()


@on_a_socket()
async def test_a_large_body_is_refused_before_it_comes(server, connect):
    reader, writer = await connect()
    writer.write(POST + b"Content-Length: 999999\r\n\r\n")
    status, _, body = await said(reader)
    assert (status, json.loads(body)["error"]["code"]) == (413, "body_too_large")
    writer.close()
    reader, writer = await connect()
    writer.write(POST + b"Transfer-Encoding: chunked\r\n\r\n")
    writer.write(b"10000\r\n" + b" " * 65536 + b"\r\n" + b"10\r\n" + b" " * 16 + b"\r\n")
    status, _, body = await said(reader)
    assert (status, json.loads(body)["error"]["code"]) == (413, "body_too_large")
    writer.close()


@on_a_socket()
async def test_no_websocket(server, connect):
    reader, writer = await connect()
    writer.write(
        b"GET /v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    line = await asyncio.wait_for(reader.readline(), 10)
    assert line.startswith(b"HTTP/1.1 400 ")
    writer.close()


@on_a_socket()
async def test_a_listener_that_goes_is_noticed(server, connect):
    reader, writer = await connect()
    writer.write(b"GET /v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n")
    await asyncio.wait_for(reader.readuntil(b"retry: 2000"), 10)
    assert server.service.hub.num_listeners == 1
    writer.close()
    for _ in range(200):
        if not server.service.hub.num_listeners:
            break
        await asyncio.sleep(0.01)
    assert server.service.hub.num_listeners == 0


@pytest.mark.parametrize("options", [{}, {"insecure": True}])
def test_other_machines_need_tokens_or_a_word(tmp_path, options):
    from tav_sdk.errors import ConfigError

    async def run():
        async with playing(tmp_path, host="0.0.0.0", **options) as server:
            assert (await server.ask("GET", "/healthz", headers={"Host": "other.example"})).status == 200

    if options:
        asyncio.run(run())
        return
    with pytest.raises(ConfigError, match="tokens"):
        asyncio.run(run())
