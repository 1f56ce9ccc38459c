"""What becomes of jobs when workers and servers are killed, on real processes (the contract's section 8)."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.tav_sdk.server.live_server import LiveServer, serving

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are killed by their ids")

ENGINE = ("--engine", "onnxruntime-cpu", "--no-tunings")
LONG = {"prompt": "p", "model": "skiing", "num_inference_steps": 200, "extra_params": {"num_inversion_steps": 200}}
SHORT = {"prompt": "p", "model": "skiing", "num_inference_steps": 1, "extra_params": {"num_inversion_steps": 1}}


def until(is_so: Callable[[], Any], seconds: float = 60) -> Any:
    """What a question gives as soon as it is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := is_so():
            return found
        time.sleep(0.02)
    raise AssertionError("it did not become true")


def worker_pid(server: LiveServer) -> int:
    return until(lambda: server.ask("GET", "/readyz").json["workers"][0]["pid"])


def get(server: LiveServer, job: dict[str, Any]) -> dict[str, Any]:
    return server.ask("GET", f"/v1/videos/{job['id']}").json


def post(server: LiveServer, **fields: Any) -> dict[str, Any]:
    answer = server.ask("POST", "/v1/videos", json_body=fields)
    assert answer.status == 200, answer.content
    return answer.json


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_killed_worker_is_noticed_and_its_job_is_done_again(server_bundles, tmp_path):
    with serving(server_bundles, tmp_path / "state", *ENGINE) as server:
        whole = server.wait(post(server, **SHORT, seed=1))
        expected = server.ask("GET", f"/v1/videos/{whole['id']}/content").content
        job, later = post(server, **LONG), post(server, **SHORT, seed=1)
        until(lambda: get(server, job)["progress"] > 0)
        pid = worker_pid(server)
        os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        events = f"/v1/videos/{job['id']}/events?limit=100"
        until(lambda: "worker_died" in server.ask("GET", events).content.decode(), 5)
        assert time.monotonic() - killed < 2  # one second, on a machine that does other things as well
        running = until(lambda: (now := get(server, job))["attempts"] == 2 and now)
        assert (running["status"], get(server, later)["status"]) == ("in_progress", "queued")
        assert worker_pid(server) != pid
        server.ask("POST", f"/v1/videos/{job['id']}/cancel")
        stopped = time.monotonic()
        done = server.wait(later)
        assert server.wait(job)["error"]["code"] == "cancelled"
        assert done["started_at"] - int(time.time() - (time.monotonic() - stopped)) <= 10
        assert server.ask("GET", f"/v1/videos/{later['id']}/content").content == expected


def test_a_killed_server_forgets_nothing(server_bundles, tmp_path):
    state, key = tmp_path / "state", {"Idempotency-Key": "k"}
    with serving(server_bundles, state, *ENGINE) as server:
        done = server.wait(post(server, **SHORT))
        content = server.ask("GET", f"/v1/videos/{done['id']}/content").content
        running = post(server, **LONG)
        waiting = [post(server, **SHORT), server.ask("POST", "/v1/videos", json_body=SHORT, headers=key).json]
        until(lambda: get(server, running)["progress"] > 0)
        before = server.ask("GET", f"/v1/videos/{running['id']}/events?limit=100").json["data"]
        pid = worker_pid(server)
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait()
        until(lambda: not is_alive(pid), 10)
    with serving(server_bundles, state, *ENGINE) as server:
        listed = server.ask("GET", "/v1/videos?order=asc").json["data"]
        assert [job["id"] for job in listed] == [job["id"] for job in (done, running, *waiting)]
        assert server.ask("GET", f"/v1/videos/{done['id']}/content").content == content
        again = server.ask("POST", "/v1/videos", json_body=SHORT, headers=key)
        assert (again.json["id"], again.headers["Idempotent-Replay"]) == (waiting[1]["id"], "true")
        until(lambda: get(server, running)["status"] == "in_progress")
        after = server.ask("GET", f"/v1/videos/{running['id']}/events?limit=100&after={before[-1]['id']}").json["data"]
        reasons = [event["data"].get("reason") for event in after]
        assert "server_restarted" in reasons
        assert [event["id"] for event in after] == list(range(before[-1]["id"] + 1, after[-1]["id"] + 1))
        server.ask("DELETE", f"/v1/videos/{running['id']}")
        for job in waiting:
            assert server.wait(job)["status"] == "completed"
            assert server.ask("GET", f"/v1/videos/{job['id']}/content").content == content


def test_a_stopped_server_puts_back_what_runs_and_ends_well(server_bundles, tmp_path):
    state = tmp_path / "state"
    with serving(server_bundles, state, *ENGINE, "--drain", "1") as server:
        job = post(server, **LONG)
        until(lambda: get(server, job)["progress"] > 0)
        pid = worker_pid(server)
        server.process.send_signal(signal.SIGTERM)
        refused = []
        with contextlib.suppress(OSError):  # refused altogether later
            while server.process.poll() is None:
                answer = server.ask("POST", "/v1/videos", json_body=SHORT)
                if answer.status != 200:
                    refused.append((answer.status, answer.error["code"]))
                    assert answer.headers["Retry-After"]
                time.sleep(0.05)
        assert server.process.wait(30) == 0
        assert set(refused) == {(503, "shutting_down")}
        until(lambda: not is_alive(pid), 10)
        assert "Traceback" not in "\n".join(server.lines)
    with serving(server_bundles, state, *ENGINE) as server:
        running = until(lambda: (now := get(server, job))["status"] == "in_progress" and now)
        assert running["attempts"] == 1
        events = server.ask("GET", f"/v1/videos/{job['id']}/events?limit=100").json["data"]
        reasons = [event["data"]["reason"] for event in events if event["data"].get("reason")]
        assert reasons == ["server_stopped"]
        server.process.send_signal(signal.SIGTERM)
        server.process.send_signal(signal.SIGINT)  # a second signal ends at once
        began = time.monotonic()
        server.process.wait(30)
        assert time.monotonic() - began < 10


def test_a_second_server_is_kept_off_the_state(live, server_bundles):
    with pytest.raises(AssertionError, match="is in use by another server"), serving(server_bundles, live.state):
        pass
    assert live.ask("GET", "/healthz").status == 200


def test_the_server_answers_while_a_job_runs(live):
    job = post(live, **LONG)
    until(lambda: get(live, job)["progress"] > 0)
    times = []
    for _ in range(20):
        began = time.monotonic()
        assert live.ask("GET", "/healthz").status == 200
        times.append(time.monotonic() - began)
    assert sorted(times)[len(times) // 2] < 0.25
    live.ask("DELETE", f"/v1/videos/{job['id']}")
