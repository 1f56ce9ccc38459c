"""The files of finished videos: parts of them, their types and names."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from tests.tav_sdk.server.played_server import check_problem, playing, scene

CONTENT = bytes(range(256)) * 40


@asynccontextmanager
async def with_a_video(folder):
    async with playing(folder) as server:
        job = await server.post()
        server.worker.complete(video_mp4=CONTENT)
        yield server, f"/v1/videos/{job['id']}/content"


@scene()
async def test_the_whole_file(server):
    job = await server.post()
    server.worker.complete(video_mp4=CONTENT)
    answer = await server.ask("GET", f"/v1/videos/{job['id']}/content")
    assert (answer.status, answer.content) == (200, CONTENT)
    expected = {
        "Content-Type": "video/mp4",
        "Content-Length": str(len(CONTENT)),
        "Content-Disposition": f'attachment; filename="{job["id"]}.mp4"',
        "Accept-Ranges": "bytes",
    }
    assert {name: answer.headers[name] for name in expected} == expected
    assert answer.headers["ETag"].startswith('"')
    again = await server.ask("GET", f"/v1/videos/{job['id']}/content?variant=video")
    assert again.headers["ETag"] == answer.headers["ETag"]


@scene()
async def test_pictures(server):
    job = await server.finished()
    for variant, content in (("thumbnail", b"small"), ("spritesheet", b"all")):
        answer = await server.ask("GET", f"/v1/videos/{job['id']}/content?variant={variant}")
        assert (answer.status, answer.content, answer.headers["Content-Type"]) == (200, content, "image/webp")
        assert answer.headers["Content-Disposition"] == f'attachment; filename="{job["id"]}.webp"'


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=10-19", 10, 19),
        ("bytes=10200-", 10200, 10239),
        ("bytes=-5", 10235, 10239),
        ("bytes=-99999", 0, 10239),
        ("bytes=10239-999999", 10239, 10239),
    ],
)
def test_parts(tmp_path, asked, first, last):
    async def run():
        async with with_a_video(tmp_path) as (server, path):
            answer = await server.ask("GET", path, headers={"Range": asked})
            assert (answer.status, answer.content) == (206, CONTENT[first : last + 1])
            assert answer.headers["Content-Range"] == f"bytes {first}-{last}/{len(CONTENT)}"
            assert answer.headers["Content-Length"] == str(last + 1 - first)

    asyncio.run(run())


@pytest.mark.parametrize("asked", ["bytes=10240-", "bytes=999999-1000000", "bytes=-0"])
def test_parts_past_the_end(tmp_path, asked):
    async def run():
        async with with_a_video(tmp_path) as (server, path):
            answer = await server.ask("GET", path, headers={"Range": asked})
            check_problem(answer, 416, "invalid_value", "Range")
            assert answer.headers["Content-Range"] == f"bytes */{len(CONTENT)}"

    asyncio.run(run())


@pytest.mark.parametrize(
    "asked", ["bytes=5-1", "bytes=a-b", "lines=0-1", "bytes=", "bytes=--1", "bytes=1", "bytes=0x1-2"]
)
def test_ranges_that_cannot_be_read_do_not_count(tmp_path, asked):
    async def run():
        async with with_a_video(tmp_path) as (server, path):
            answer = await server.ask("GET", path, headers={"Range": asked})
            assert (answer.status, answer.content) == (200, CONTENT)

    asyncio.run(run())


def test_a_part_of_another_file_is_the_whole_file(tmp_path):
    async def run():
        async with with_a_video(tmp_path) as (server, path):
            tag = (await server.ask("GET", path)).headers["ETag"]
            part = {"Range": "bytes=0-9"}
            same = await server.ask("GET", path, headers={**part, "If-Range": tag})
            assert same.status == 206
            other = await server.ask("GET", path, headers={**part, "If-Range": '"other"'})
            assert (other.status, other.content) == (200, CONTENT)

    asyncio.run(run())


@scene()
async def test_a_preview_while_the_job_runs(server):
    job = await server.post(extra_params={"preview": True})
    path = f"/v1/videos/{job['id']}/preview"
    check_problem(await server.ask("GET", path), 404, "video_not_ready")
    picture = server.state.work / f"{job['id']}.preview.webp"
    picture.write_bytes(b"picture")
    answer = await server.ask("GET", path)
    assert (answer.status, answer.content, answer.headers["Content-Type"]) == (200, b"picture", "image/webp")
    server.worker.complete()
    check_problem(await server.ask("GET", path), 404, "video_not_ready")
    assert not picture.exists()


def test_real_files_of_a_real_edit(live):
    av = pytest.importorskip("av")
    image = pytest.importorskip("PIL.Image")
    made = live.ask("POST", "/v1/videos", json_body={"prompt": "p", "model": "bare", "num_inference_steps": 1})
    job = live.wait(made.json)
    path = f"/v1/videos/{job['id']}/content"
    video = live.state / "probe.mp4"
    video.write_bytes(live.ask("GET", path).content)
    with av.open(str(video)) as container:
        (stream,) = container.streams
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
    content = video.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")  # faststart
    part = live.ask("GET", path, headers={"Range": "bytes=4-7"})
    assert (part.status, part.content) == (206, b"ftyp")
    width, height = (int(number) for number in job["size"].split("x"))
    for variant, size in (("thumbnail", (width, height)), ("spritesheet", (2 * width, 2 * height))):
        picture = live.state / variant
        picture.write_bytes(live.ask("GET", f"{path}?variant={variant}").content)
        with image.open(picture) as opened:
            assert (opened.format, opened.size) == ("WEBP", size)
