"""The life of a job over HTTP: order, cancelling, deleting, keys, waiting for it, starting the server again."""

from __future__ import annotations

import asyncio
import time

from tests.tav_sdk.server.played_server import PROMPT, check_problem, clip_file, playing, scene


def test_the_answer_says_queued_and_the_job_is_on_disk(tmp_path):
    async def run():
        async with playing(tmp_path) as server:
            answer = await server.begin("POST", "/v1/videos", json_body=PROMPT).answer()
            assert (answer.status, answer.json["status"], answer.json["queue_position"]) == (200, "queued", 0)
        async with playing(tmp_path, ready=False) as server:
            assert (await server.get(answer.json))["status"] == "queued"

    asyncio.run(run())


@scene()
async def test_jobs_run_in_their_order(server):
    jobs = [await server.post(seed=seed) for seed in range(3)]
    assert [(await server.get(job))["queue_position"] for job in jobs] == [None, 0, 1]
    for job in jobs:
        assert server.worker.run.job == job["id"]
        server.worker.complete()


@scene()
async def test_progress_never_falls(server):
    job = await server.post()
    server.worker.progress(50)
    assert (await server.get(job))["progress"] == 50
    server.worker.die()
    await asyncio.sleep(0.01)
    waiting = await server.get(job)
    assert (waiting["status"], waiting["progress"], waiting["attempts"]) == ("queued", 50, 1)
    server.worker.ready()
    server.worker.progress(10)
    running = await server.get(job)
    assert (running["status"], running["progress"], running["attempts"]) == ("in_progress", 50, 2)
    await asyncio.sleep(0.11)
    server.worker.progress(100)
    assert (await server.get(job))["progress"] == 99
    server.worker.complete()
    assert (await server.get(job))["progress"] == 100


@scene()
async def test_active_jobs_say_when_to_ask_again(server):
    job = await server.post()
    answer = await server.ask("GET", f"/v1/videos/{job['id']}")
    assert 250 <= int(answer.headers["openai-poll-after-ms"]) <= 5000
    server.worker.progress(1, step_s=1000.0)
    answer = await server.ask("GET", f"/v1/videos/{job['id']}")
    assert answer.headers["openai-poll-after-ms"] == "5000"
    server.worker.complete()
    answer = await server.ask("GET", f"/v1/videos/{job['id']}")
    assert "openai-poll-after-ms" not in answer.headers


@scene()
async def test_a_waiting_job_is_cancelled_at_once(server):
    running, waiting = await server.post(), await server.post()
    for _ in range(2):
        answer = await server.ask("POST", f"/v1/videos/{waiting['id']}/cancel")
        assert (answer.status, answer.json["status"], answer.json["error"]["code"]) == (200, "failed", "cancelled")
    assert (await server.get(running))["status"] == "in_progress"
    server.worker.complete()
    assert server.worker.run.job == running["id"]


@scene()
async def test_a_running_job_is_told_to_stop_and_its_record_stays(server):
    job, later = await server.post(), await server.post()
    for _ in range(2):
        answer = await server.ask("POST", f"/v1/videos/{job['id']}/cancel")
        assert (answer.status, answer.json["status"]) == (200, "in_progress")
    assert server.worker.cancels == [job["id"]]
    server.worker.fail("cancelled")
    assert (await server.get(job))["error"]["code"] == "cancelled"
    assert server.worker.run.job == later["id"]
    check_problem(await server.ask("GET", f"/v1/videos/{job['id']}/content"), 422, "video_failed")
    answer = await server.ask("POST", f"/v1/videos/{job['id']}/cancel")
    assert answer.status == 200


@scene()
async def test_a_deleted_job_is_gone_at_once_and_does_not_come_back(server):
    job, done = await server.post(), None
    answer = await server.ask("DELETE", f"/v1/videos/{job['id']}")
    assert answer.json == {"id": job["id"], "object": "video.deleted", "deleted": True}
    assert server.worker.cancels == [job["id"]]
    for method, path in (("GET", ""), ("GET", "/events"), ("GET", "/content"), ("POST", "/cancel"), ("DELETE", "")):
        check_problem(await server.ask(method, f"/v1/videos/{job['id']}{path}"), 404, "video_not_found")
    server.worker.complete()  # it was just done
    check_problem(await server.ask("GET", f"/v1/videos/{job['id']}"), 404, "video_not_found")
    assert not any(server.state.videos.iterdir())
    assert not any(server.state.work.iterdir())
    done = await server.finished()
    assert (await server.ask("DELETE", f"/v1/videos/{done['id']}")).status == 200
    assert not any(server.state.videos.iterdir())
    assert (await server.ask("GET", "/v1/videos")).json["data"] == []


@scene()
async def test_one_key_is_one_job(server):
    key = {"Idempotency-Key": "k-1"}
    first = await server.ask("POST", "/v1/videos", json_body=PROMPT, headers=key)
    assert "Idempotent-Replay" not in first.headers
    spaced = b'{"model":"skiing",  "prompt": "a panda is skiing"}'
    again = await server.ask("POST", "/v1/videos", body=spaced, headers={**key, "Content-Type": "application/json"})
    assert (again.status, again.json["id"]) == (200, first.json["id"])
    assert again.headers["Idempotent-Replay"] == "true"
    other = await server.ask("POST", "/v1/videos", json_body=PROMPT, headers={"Idempotency-Key": "k-2"})
    assert other.json["id"] != first.json["id"]
    check_problem(
        await server.ask("POST", "/v1/videos/edits", json_body=PROMPT, headers=key),
        422,
        "idempotency_conflict",
        "Idempotency-Key",
    )
    await server.ask("DELETE", f"/v1/videos/{first.json['id']}")
    made = await server.ask("POST", "/v1/videos", json_body=PROMPT, headers=key)
    assert made.json["id"] not in (first.json["id"], other.json["id"])


@scene()
async def test_one_key_is_one_job_also_at_the_same_time(server):
    clip = clip_file(server.state.folder / "clip.avi")
    form, key = {**PROMPT, "input_reference": clip}, {"Idempotency-Key": "k"}
    exchanges = [server.begin("POST", "/v1/videos", form=form, headers=key) for _ in range(4)]
    answers = [await exchange.answer() for exchange in exchanges]
    assert len({answer.json["id"] for answer in answers}) == 1
    assert sorted(answer.headers.get("Idempotent-Replay", "") for answer in answers) == ["", "true", "true", "true"]
    assert len(server.store.jobs("video", owner="", limit=10)) == 1
    assert not any(server.service.uploads.incoming.iterdir())
    assert not server.service._key_locks


@scene(max_queue=1)
async def test_a_refused_clip_is_not_kept(server):
    clip = clip_file(server.state.folder / "clip.avi")
    await server.post()
    await server.post()
    form = {**PROMPT, "input_reference": clip}
    check_problem(await server.ask("POST", "/v1/videos", form=form), 429, "queue_full")
    assert not [path for path in server.state.clips.iterdir() if path.is_file()]


@scene()
async def test_slow_clips_of_others_do_not_hold_a_request_up(server):
    looked = asyncio.Event()

    async def slow(*_: object, **__: object) -> None:
        await looked.wait()

    server.service.uploads.probe = slow
    clip = clip_file(server.state.folder / "clip.avi")
    uploading = server.begin("POST", "/v1/videos", form={**PROMPT, "input_reference": clip})
    began = time.monotonic()
    assert (await server.ask("POST", "/v1/videos", json_body=PROMPT)).status == 200
    assert time.monotonic() - began < 1
    uploading.task.cancel()


def test_a_server_that_is_started_again_knows_everything(tmp_path):
    async def run():
        key = {"Idempotency-Key": "k"}
        async with playing(tmp_path) as server:
            done = await server.finished()
            first = (await server.ask("POST", "/v1/videos", json_body=PROMPT, headers=key)).json
            jobs = [first, *[await server.post(seed=seed) for seed in range(3)]]
            server.worker.progress(30)
        async with playing(tmp_path) as server:  # the last one ended without a word
            listed = (await server.ask("GET", "/v1/videos?order=asc")).json["data"]
            assert [job["id"] for job in listed] == [done["id"], *[job["id"] for job in jobs]]
            assert [job["status"] for job in listed] == ["completed", "in_progress", "queued", "queued", "queued"]
            assert (listed[1]["progress"], listed[1]["attempts"]) == (30, 2)
            assert (await server.ask("GET", f"/v1/videos/{done['id']}/content")).content == b"video"
            again = await server.ask("POST", "/v1/videos", json_body=PROMPT, headers=key)
            assert (again.json["id"], again.headers["Idempotent-Replay"]) == (first["id"], "true")
            check_problem(
                await server.ask("POST", "/v1/videos", json_body={**PROMPT, "seed": 7}, headers=key),
                422,
                "idempotency_conflict",
                "Idempotency-Key",
            )
            for job in jobs:
                assert server.worker.run.job == job["id"]
                server.worker.complete()

    asyncio.run(run())


@scene()
async def test_a_job_that_ends_every_worker_fails(server):
    job, later = await server.post(), await server.post()
    for _ in range(3):
        server.worker.die()
        await asyncio.sleep(0.01)
        server.worker.ready()
    failed = await server.get(job)
    assert (failed["status"], failed["error"]["code"], failed["attempts"]) == ("failed", "worker_crashed", 3)
    assert server.worker.run.job == later["id"]


@scene(drain_s=0.05)
async def test_a_stop_puts_back_what_runs_without_an_attempt(server):
    job = await server.post()
    stopping = asyncio.create_task(server.service.dispatcher.stop(0.05))
    await asyncio.sleep(0.1)
    assert server.worker.cancels == [job["id"]]
    server.worker.fail("cancelled")
    await stopping
    waiting = await server.get(job)
    assert (waiting["status"], waiting["attempts"], waiting["error"]) == ("queued", 0, None)


@scene()
async def test_a_video_at_once(server):
    exchange = server.begin("POST", "/v1/videos/sync", json_body=PROMPT, headers={"X-Request-Id": "mine"})
    while not server.worker.told:
        await asyncio.sleep(0.01)
    server.worker.complete()
    answer = await exchange.answer()
    (job,) = (await server.ask("GET", "/v1/videos")).json["data"]
    assert (answer.status, answer.content, answer.headers["Content-Type"]) == (200, b"video", "video/mp4")
    assert answer.headers.get_all("X-Request-Id") == [job["id"]]
    assert (answer.headers["X-Model"], answer.headers["X-Inference-Time-S"]) == ("skiing", "1.5")


@scene()
async def test_a_video_at_once_that_fails(server):
    exchange = server.begin("POST", "/v1/videos/sync", json_body=PROMPT)
    while not server.worker.told:
        await asyncio.sleep(0.01)
    server.worker.fail("engine_error")
    check_problem(await exchange.answer(), 422, "video_failed")


@scene()
async def test_who_waits_and_leaves_cancels(server):
    exchange = server.begin("POST", "/v1/videos/sync", json_body=PROMPT)
    while not server.worker.told:
        await asyncio.sleep(0.01)
    exchange.leave()
    while not server.worker.cancels:
        await asyncio.sleep(0.01)
    await exchange.answer()
    server.worker.fail("cancelled")
    (job,) = (await server.ask("GET", "/v1/videos")).json["data"]
    assert job["error"]["code"] == "cancelled"
