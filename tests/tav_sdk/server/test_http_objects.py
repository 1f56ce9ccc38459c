"""The objects of the contract's section 3, key by key, and lists."""

from __future__ import annotations

import asyncio
import re

from tav_sdk.server.dispatcher import PROGRESS_S
from tav_sdk.server.retention import Retention
from tests.tav_sdk.server.played_server import PROMPT, clip_file, scene, words

VIDEO = words("""
id object status progress created_at completed_at expires_at model prompt seconds size remixed_from_video_id error
mode num_frames fps num_inference_steps guidance_scale seed negative_prompt extra_params user width height
queue_position stage step total_steps eta_s attempts started_at inference_time_s stage_durations peak_memory_mb
media_type warnings
""")
TUNING = words("""
id object status progress created_at started_at completed_at model prompt base num_train_steps step total_steps
stage loss snapshots result_model attempts queue_position eta_s error user
""")
MODEL = words("""
id object created owned_by base prompt size num_frames fps num_inference_steps guidance_scale precision source
deletable
""")


@scene()
async def test_a_video(server):
    job = await server.post(user="u", extra_params={"start": 1})
    assert set(job) == VIDEO
    assert re.fullmatch("video_[0-9a-f]{32}", job["id"])
    expected = {
        "object": "video",
        "status": "queued",
        "progress": 0,
        "completed_at": None,
        "expires_at": None,
        "model": "skiing",
        "prompt": "a panda is skiing",
        "seconds": "0.666667",
        "size": "96x64",
        "remixed_from_video_id": None,
        "error": None,
        "mode": "edit",
        "num_frames": 8,
        "fps": 12.0,
        "num_inference_steps": 20,
        "guidance_scale": 7.5,
        "seed": None,
        "negative_prompt": "",
        "user": "u",
        "queue_position": 0,
        "stage": None,
        "attempts": 0,
        "started_at": None,
        "inference_time_s": None,
        "stage_durations": None,
        "peak_memory_mb": None,
        "media_type": "video/mp4",
        "warnings": [],
    }
    assert {name: job[name] for name in expected} == expected
    assert job["extra_params"] == {
        "num_inversion_steps": 20,
        "inversion_prompt": "",
        "correction": "none",
        "fast": False,
        "adapter_scale": 1.0,
        "start": 1,
        "stride": 1,
        "preview": False,
    }
    server.worker.progress(40, step=8, total=20)
    running = await server.get(job)
    assert (running["status"], running["progress"], running["queue_position"]) == ("in_progress", 40, None)
    assert (running["stage"], running["step"], running["total_steps"], running["attempts"]) == ("sampling", 8, 20, 1)
    assert running["eta_s"] > 0
    server.worker.complete()
    done = await server.get(job)
    assert set(done) == VIDEO
    assert (done["status"], done["progress"], done["eta_s"], done["inference_time_s"]) == ("completed", 100, None, 1.5)
    assert (done["stage_durations"], done["peak_memory_mb"]) == ({"sampling": 1.0}, 100)
    assert done["created_at"] <= done["started_at"] <= done["completed_at"]
    assert str(server.state.folder) not in str(done)


@scene()
async def test_a_generation_and_a_long_prompt(server):
    job = await server.post(model="bare", prompt="word " * 90)
    assert (job["mode"], job["seed"]) == ("generate", 0)
    (warning,) = job["warnings"]
    assert "77 tokens" in warning


@scene(keep_days=2)
async def test_a_video_says_when_it_expires(server):
    done = await server.finished()
    assert done["expires_at"] - done["completed_at"] == 2 * 86400
    now = done["expires_at"] + 1
    retention = Retention(server.state, server.store, server.service.catalog, keep_days=2, clock=lambda: now)
    assert server.state.video(done["id"]) in await retention.sweep()
    assert (await server.ask("GET", f"/v1/videos/{done['id']}/content")).error["code"] == "video_expired"


@scene()
async def test_a_tuning_and_its_model(server):
    clip = clip_file(server.state.folder / "clip.avi")
    fields = {"prompt": "a man is skiing", "model": "new", "video": clip, "num_train_steps": 10}
    made = await server.ask("POST", "/v1/tunings", form=fields)
    job = made.json
    assert (made.status, set(job)) == (200, TUNING)
    assert re.fullmatch("tun_[0-9a-f]{32}", job["id"])
    assert (job["object"], job["status"], job["base"], job["num_train_steps"]) == ("tuning", "queued", "pocket", 10)
    server.worker.progress(20, stage="tune", loss=0.5, step=2, total=10, snapshot=True)
    await asyncio.sleep(PROGRESS_S)
    server.worker.progress(50, stage="tune", loss=0.25, step=5, total=10)
    path = f"/v1/tunings/{job['id']}"
    running = (await server.ask("GET", path)).json
    assert (running["stage"], running["step"], running["loss"], running["result_model"]) == ("tune", 5, 0.25, None)
    assert running["snapshots"] == [{"step": 2, "loss": 0.5}]
    taken = await server.ask("POST", "/v1/tunings", form=fields)
    assert taken.error["code"] == "model_exists"
    server.worker.complete()
    done = (await server.ask("GET", path)).json
    assert (done["status"], done["result_model"], set(done)) == ("completed", "new", TUNING)
    assert [event["type"] for event in (await server.ask("GET", f"{path}/events")).json["data"]] == [
        "tuning.queued",
        "tuning.in_progress",
        "tuning.progress",
        "tuning.progress",
        "tuning.completed",
    ]
    model = (await server.ask("GET", "/v1/models/new")).json
    assert set(model) == MODEL
    assert (model["source"], model["deletable"]) == (True, True)
    edit = await server.post(model="new")
    assert edit["mode"] == "edit"
    gone = await server.ask("DELETE", "/v1/models/new")
    assert gone.json == {"id": "new", "object": "model", "deleted": True}
    assert (await server.ask("GET", "/v1/models/new")).status == 404
    assert (await server.ask("DELETE", path)).json == {"id": job["id"], "object": "tuning.deleted", "deleted": True}
    assert (await server.ask("GET", path)).status == 404
    assert (await server.ask("GET", "/v1/tunings")).json["data"] == []


@scene()
async def test_a_tuning_can_be_cancelled(server):
    clip = clip_file(server.state.folder / "clip.avi")
    job = (await server.ask("POST", "/v1/tunings", form={"prompt": "p", "video": clip})).json
    path = f"/v1/tunings/{job['id']}/cancel"
    assert (await server.ask("POST", path)).json["status"] == "in_progress"
    server.worker.fail("cancelled")
    again = await server.ask("POST", path)
    assert (again.status, again.json["error"]["code"]) == (200, "cancelled")
    assert (await server.ask("GET", f"/v1/videos/{job['id']}")).error["code"] == "video_not_found"


@scene()
async def test_models(server):
    listed = (await server.ask("GET", "/v1/models")).json
    assert set(listed) == {"object", "data", "first_id", "last_id", "has_more"}
    assert {model["id"]: model["source"] for model in listed["data"]} == {"skiing": True, "bare": False}
    for model in listed["data"]:
        assert set(model) == MODEL
        assert (model["object"], model["owned_by"], model["deletable"]) == ("model", "tav-sdk", False)


@scene()
async def test_lists_go_page_by_page(server):
    empty = (await server.ask("GET", "/v1/videos")).json
    assert empty == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
    ids = [(await server.post(seed=seed))["id"] for seed in range(5)]
    for order, expected in (("desc", ids[::-1]), ("asc", ids)):
        seen, after = [], ""
        for count in (2, 2, 1):
            page = (await server.ask("GET", f"/v1/videos?limit=2&order={order}{after}")).json
            found = [job["id"] for job in page["data"]]
            assert (len(found), page["has_more"]) == (count, count == 2)
            assert (page["first_id"], page["last_id"]) == (found[0], found[-1])
            seen += found
            after = f"&after={page['last_id']}"
        assert seen == expected
    assert [job["id"] for job in (await server.ask("GET", "/v1/videos")).json["data"]] == ids[::-1]
    unknown = (await server.ask("GET", "/v1/videos?after=video_none")).json
    assert (unknown["data"], unknown["has_more"]) == ([], False)


@scene()
async def test_a_remix_is_as_the_first_but_for_what_it_says(server):
    first = await server.finished(guidance_scale=3.0, extra_params={"correction": "negative-prompt"})
    answer = await server.ask("POST", f"/v1/videos/{first['id']}/remix", json_body={"prompt": "a fox is skiing"})
    remix = answer.json
    assert (answer.status, remix["remixed_from_video_id"], remix["prompt"]) == (200, first["id"], "a fox is skiing")
    same = ("model", "guidance_scale", "extra_params", "num_frames", "fps", "seed", "mode", "size")
    assert {name: remix[name] for name in same} == {name: first[name] for name in same}
    refused = await server.ask("POST", f"/v1/videos/{first['id']}/remix", json_body=PROMPT)
    assert (refused.status, refused.error["param"]) == (400, "model")


@scene()
async def test_a_finished_video_can_be_edited(server):
    first = await server.finished()
    body = {"prompt": "a fox is skiing", "video": {"id": first["id"]}}
    made = await server.ask("POST", "/v1/videos/edits", json_body=body)
    assert (made.status, made.json["model"]) == (200, "skiing")
    with open(server.worker.run.source, "rb") as clip:
        assert clip.read() == b"video"
    await server.ask("DELETE", f"/v1/videos/{first['id']}")
    again = await server.ask("POST", "/v1/videos/edits", form={"prompt": "p", "video[id]": first["id"]})
    assert again.error["code"] == "video_not_found"
    with open(server.worker.run.source, "rb") as clip:  # the edit's own clip stays
        assert clip.read() == b"video"


@scene()
async def test_a_clip_that_was_sent_is_kept_until_its_last_job_is_deleted(server):
    clip = clip_file(server.state.folder / "clip.avi")
    jobs = [
        (await server.ask("POST", path, form={**PROMPT, field: clip})).json
        for path, field in (("/v1/videos", "input_reference"), ("/v1/videos/edits", "video"))
    ]
    kept = [path for path in server.state.clips.iterdir() if path.is_file()]
    assert [path.read_bytes() for path in kept] == [clip.read_bytes()]
    assert server.worker.run.source == str(kept[0])
    await server.ask("DELETE", f"/v1/videos/{jobs[0]['id']}")
    assert kept[0].exists()
    server.worker.fail("cancelled")
    await server.ask("DELETE", f"/v1/videos/{jobs[1]['id']}")
    assert not kept[0].exists()
