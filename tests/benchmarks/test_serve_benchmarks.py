"""The server's benchmarks, so small that their numbers mean nothing."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys

import pytest

from benchmarks import serve_chaos, serve_load, served


def test_percentiles_are_in_ms():
    found = served.summary([index / 1000 for index in range(1, 102)])
    assert (found["count"], found["max_ms"]) == (101, 101.0)
    assert found["p50_ms"] == pytest.approx(51, abs=1)
    assert found["p99_ms"] == pytest.approx(100, abs=1.1)
    assert served.summary([0.002])["p95_ms"] == 2.0


def test_the_client_reads_lengths_and_streams():
    async def talk() -> None:
        async def answer(reader, writer):
            for _ in range(2):
                head = await reader.readuntil(b"\r\n\r\n")
                if b"text/event-stream" in head:
                    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                    for part in (b"retry: 1\n\nid: 1\nev", b"ent: video.queued\ndata: {}\n\n: still\n\n"):
                        writer.write(b"%x\r\n%s\r\n" % (len(part), part))
                    writer.write(b"0\r\n\r\n")
                else:
                    writer.write(b"HTTP/1.1 404 No\r\ncontent-length: 2\r\n\r\n{}")
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        connection = served.Connection(server.sockets[0].getsockname()[1])
        first = await connection.ask("POST", "/v1/videos", {"a": 1})
        assert (first.status, first.json) == (404, {})
        assert [one async for one in connection.events("/")] == [(1, "video.queued")]
        connection.close()
        server.close()

    asyncio.run(talk())


def test_processes_that_stay_are_told():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        with pytest.raises(RuntimeError, match=f"workers \\[{child.pid}\\] still run"):
            serve_chaos.gone([child.pid], within_s=0.1)
    finally:
        child.kill()
        child.wait()
    assert serve_chaos.gone([child.pid], within_s=1) < 1
    assert serve_chaos.is_running(os.getpid())


@pytest.mark.parametrize(
    ("wrong", "is_whole"),
    [({}, True), ({"different_bytes": 1}, False), ({"left_behind": ["x"]}, False), ({"failed": [None]}, False)],
)
def test_a_round_is_whole_only_if_nothing_is_wrong(wrong, is_whole):
    right = {"attempts": 9, "not_one_end": 0, "gaps": 0, "different_bytes": 0, "left_behind": []}
    assert serve_chaos.is_whole({**right, **wrong}) == is_whole


@pytest.mark.slow
def test_load_measures_every_stage(tmp_path):
    path = tmp_path / "result.json"
    assert serve_load.main(["--work", str(tmp_path / "w"), "--size", "tiny", "--quick", "--json", str(path)]) == 0
    result = json.loads(path.read_text())
    assert set(serve_load.STAGES) <= set(result)
    assert result["listeners"]["saw_the_end"] == result["listeners"]["listeners"]
    assert result["affinity"]["affinity"]["swaps"] <= result["affinity"]["in order"]["swaps"]


@pytest.mark.slow
def test_chaos_loses_nothing(tmp_path):
    path = tmp_path / "result.json"
    options = ["--size", "tiny", "--kills", "3", "--jobs", "4", "--pause", "2", "--json", str(path)]
    assert serve_chaos.main(["--work", str(tmp_path / "w"), *options]) == 0
    assert json.loads(path.read_text())["ok"]
