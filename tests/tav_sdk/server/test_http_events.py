"""Events: as streams, from wherever a listener was, and as lists."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.tav_sdk.server.played_server import Exchange, PlayedServer, playing, scene

STREAM = {"Accept": "text/event-stream"}


def events_of(received: bytes) -> list[tuple[int, str, dict]]:
    """Id, event and data of each event; a stream may break off within the last one."""
    found = []
    for block in received.decode().split("\n\n")[:-1]:
        lines = dict(line.split(": ", 1) for line in block.split("\n"))
        if "event" in lines:
            assert list(lines) == ["id", "event", "data"]
            found.append((int(lines["id"]), lines["event"], json.loads(lines["data"])))
    return found


def listen(server: PlayedServer, path: str, last: int | None = None) -> Exchange:
    headers = {**STREAM, **({} if last is None else {"Last-Event-ID": str(last)})}
    return server.begin("GET", path, headers=headers)


def has(event: str):
    return lambda received: f"event: {event}\n".encode() in received


@scene()
async def test_a_jobs_events_from_the_first_to_the_last(server):
    job = await server.post()
    exchange = listen(server, f"/v1/videos/{job['id']}/events")
    await exchange.until(has("video.in_progress"))
    assert (exchange.status, exchange.headers["Content-Type"]) == (200, "text/event-stream; charset=utf-8")
    assert exchange.headers["Cache-Control"] in ("no-store", "no-cache")
    assert exchange.received.startswith(b"retry: 2000\n\n")
    server.worker.progress(12, step=6, total=50)
    await exchange.until(has("video.progress"))
    server.worker.complete()
    await exchange.answer()  # it ends with the job
    events = events_of(exchange.received)
    assert [(number, event) for number, event, _ in events] == [
        (1, "video.queued"),
        (2, "video.in_progress"),
        (3, "video.progress"),
        (4, "video.completed"),
    ]
    data = events[2][2]
    assert (data["stage"], data["step"], data["total_steps"], data["progress"]) == ("sampling", 6, 50, 12)
    assert events[-1][2] == await server.get(job)
    assert server.service.hub.num_listeners == 0


@scene()
async def test_nothing_comes_twice_and_nothing_is_left_out(server):
    job = await server.post()
    path = f"/v1/videos/{job['id']}/events"
    seen, last = [], None
    for percent in (10, 20, 30):
        server.worker.progress(percent)
        await asyncio.sleep(0.11)
    for step in range(6):
        exchange = listen(server, path, last)
        if step == 4:
            server.worker.complete()
        await exchange.until(lambda received: len(events_of(received)) > 0)
        exchange.leave()
        await exchange.answer()
        number, event, _ = events_of(exchange.received)[0]  # the rest was lost on the way
        seen.append((number, event))
        last = number
    assert seen == [
        (1, "video.queued"),
        (2, "video.in_progress"),
        *[(number, "video.progress") for number in (3, 4, 5)],
        (6, "video.completed"),
    ]
    after = await listen(server, path, 6).answer()  # a job that has ended, all was seen
    assert events_of(after.content) == []


def test_events_go_on_after_a_restart(tmp_path):
    async def run():
        async with playing(tmp_path) as server:
            job = await server.post()
            path = f"/v1/videos/{job['id']}/events"
            exchange = listen(server, path)
            await exchange.until(has("video.in_progress"))
            everything = listen(server, "/v1/events", 0)
            await everything.until(has("video.in_progress"))
            last = events_of(everything.received)[-1][0]
            server.service.end_streams()
            await exchange.answer()
            await everything.answer()
        async with playing(tmp_path) as server:
            exchange, everything = listen(server, path, 2), listen(server, "/v1/events", last)
            await exchange.until(has("video.in_progress"))
            server.worker.complete()
            await exchange.answer()
            found = events_of(exchange.received)
            assert [(number, event, data.get("reason")) for number, event, data in found] == [
                (3, "video.queued", "server_restarted"),
                (4, "video.in_progress", None),
                (5, "video.completed", None),
            ]
            await everything.until(has("video.completed"))
            assert [event for _, event, _ in events_of(everything.received)] == [event for _, event, _ in found]
            numbers = [number for number, _, _ in events_of(everything.received)]
            assert numbers == sorted(set(numbers))
            assert numbers[0] > last
            everything.leave()
            await everything.answer()

    asyncio.run(run())


@scene()
async def test_all_jobs_in_one_stream_from_now_on(server):
    before = await server.finished()
    exchange = listen(server, "/v1/events")
    await exchange.until(lambda received: b"retry" in received)
    jobs = [await server.post(), await server.post()]
    server.worker.complete()
    await exchange.until(has("video.completed"))
    events = events_of(exchange.received)
    assert {data["id"] for _, _, data in events} == {job["id"] for job in jobs}
    assert before["id"] not in exchange.received.decode()
    numbers = [number for number, _, _ in events]
    assert numbers == sorted(set(numbers))
    exchange.leave()
    await exchange.answer()
    again = listen(server, "/v1/events", numbers[0])
    await again.until(has("video.completed"))
    assert events_of(again.received) == events[1:]
    again.leave()
    await again.answer()
    assert server.service.hub.num_listeners == 0


@scene()
async def test_listeners_that_leave_or_do_not_read_stop_nothing(server):
    job = await server.post()
    path = f"/v1/videos/{job['id']}/events"
    left, deaf = listen(server, path), listen(server, path)
    await left.until(has("video.in_progress"))
    stuck = asyncio.Event()

    async def never(message: object) -> None:
        await stuck.wait()

    deaf._send = never
    left.leave()
    await left.answer()
    hears = listen(server, path)
    server.worker.progress(50)
    server.worker.complete()
    await hears.answer()
    assert events_of(hears.received)[-1][1] == "video.completed"
    stuck.set()
    deaf.leave()
    await deaf.answer()
    assert server.service.hub.num_listeners == 0


@scene(quiet_s=0.02)
async def test_quiet_streams_have_comments(server):
    job = await server.post()
    for path in ("/v1/events", f"/v1/videos/{job['id']}/events"):
        exchange = listen(server, path)
        await exchange.until(lambda received: received.count(b": still here\n\n") > 1)
        exchange.leave()
        await exchange.answer()


@scene()
async def test_a_deleted_jobs_stream_ends(server):
    job = await server.post()
    exchange = listen(server, f"/v1/videos/{job['id']}/events")
    await exchange.until(has("video.in_progress"))
    await server.ask("DELETE", f"/v1/videos/{job['id']}")
    await exchange.answer()


@scene()
async def test_streams_stay_while_running_jobs_are_drained(server):
    job = await server.post()
    exchange = listen(server, f"/v1/videos/{job['id']}/events")
    await exchange.until(has("video.in_progress"))
    server.service.stopping = True
    server.worker.progress(50)
    await exchange.until(has("video.progress"))
    server.worker.complete()
    await exchange.answer()
    assert events_of(exchange.received)[-1][1] == "video.completed"


@scene()
async def test_events_as_a_list(server):
    job = await server.finished()
    path = f"/v1/videos/{job['id']}/events"
    listed = (await server.ask("GET", path)).json
    assert set(listed) == {"object", "data", "has_more"}
    assert [event["type"] for event in listed["data"]] == ["video.queued", "video.in_progress", "video.completed"]
    for number, event in enumerate(listed["data"], 1):
        assert set(event) == {"object", "id", "type", "created_at", "data"}
        assert (event["object"], event["id"], event["data"]["id"]) == ("video.event", number, job["id"])
    assert listed["data"][-1]["data"] == job
    first = (await server.ask("GET", f"{path}?limit=1")).json
    assert (len(first["data"]), first["has_more"]) == (1, True)
    rest = (await server.ask("GET", f"{path}?after=1")).json
    assert (rest["data"], rest["has_more"]) == (listed["data"][1:], False)


@pytest.mark.parametrize("end", ["fail", "cancel"])
def test_a_stream_ends_with_a_failure(tmp_path, end):
    @scene()
    async def run(server):
        job = await server.post()
        exchange = listen(server, f"/v1/videos/{job['id']}/events")
        if end == "cancel":
            await server.ask("POST", f"/v1/videos/{job['id']}/cancel")
        server.worker.fail("cancelled" if end == "cancel" else "non_finite_output")
        await exchange.answer()
        _, event, data = events_of(exchange.received)[-1]
        assert (event, data["status"]) == ("video.failed", "failed")
        assert data["error"]["code"] == ("cancelled" if end == "cancel" else "non_finite_output")

    run(tmp_path)
