"""Whether jobs fit in memory."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest

from tav_sdk.bundle.manifest import FileEntry
from tav_sdk.server import memory as module
from tav_sdk.server.memory import TuningPlanner, check_edit_memory, machine_memory
from tav_sdk.server.problems import ProblemError


class Files:
    """What counts of a manifest."""

    def __init__(self, **sizes: int) -> None:
        self.files = {path: FileEntry(size=size, sha256="0" * 64) for path, size in sizes.items()}


def problem(call, *args, **more) -> dict[str, Any]:
    with pytest.raises(ProblemError) as caught:
        call(*args, **more)
    assert caught.value.status == 400
    return caught.value.body["error"]


def test_this_machine_has_memory():
    memory = machine_memory()
    assert memory is None or memory > 1 << 28


def test_a_models_weights_have_to_fit():
    sizes = {"unet/model.onnx_data": 3 * 10**9, "vae_decoder/model.onnx": 10**9, "reference/unet.npz": 10**12}
    manifest: Any = Files(**sizes, tokenizer=10**12)
    check_edit_memory(manifest, memory=4 * 10**9)
    check_edit_memory(manifest, memory=None)
    error = problem(check_edit_memory, manifest, memory=4 * 10**9 - 1)
    assert (error["code"], error["param"], error["type"]) == ("memory_exceeded", "model", "invalid_request_error")
    assert error["message"].startswith("an edit with this model needs 4.00 GB of memory, and 4.00 GB are there")


@pytest.fixture
def planned(monkeypatch):
    """Answers in place of the process's; and what was asked."""
    answers: list[dict[str, Any] | None] = []
    asked: list[str] = []

    async def plan(request: str):
        asked.append(request)
        return answers.pop(0)

    monkeypatch.setattr(module, "_planned", plan)
    return answers, asked


def check(planner: TuningPlanner, **params: Any) -> None:
    asyncio.run(planner.check({"base": "pocket", "prompt": "a man", **params}))


@pytest.mark.parametrize(
    ("peaks", "said"),
    [
        ({"tune": 9, "export": 10}, None),
        ({"tune": 11, "export": 1}, "this tuning needs 11.00 GB of memory, and 10.00 GB are there"),
        ({"tune": 1, "export": 11}, "the export of this tuning needs 11.00 GB"),
        ({"export": 10}, None),
    ],
)
def test_a_tuning_has_to_fit(planned, peaks, said):
    gb = 10**9
    planned[0].append({"peaks": {stage: peak * gb for stage, peak in peaks.items()}})
    planner = TuningPlanner(memory=10 * gb)
    if said is None:
        check(planner, num_frames=8)
        return
    error = problem(check, planner, num_frames=8)
    assert (error["code"], error["param"], error["type"]) == ("memory_exceeded", "num_frames", "invalid_request_error")
    assert said in error["message"]
    assert "fewer frames or a smaller size" in error["message"]


def test_each_plan_is_made_once(planned):
    answers, asked = planned
    answers += [{"peaks": {"tune": 1}}] * 2
    planner = TuningPlanner(memory=10)
    for prompt in ("a", "b"):
        check(planner, prompt=prompt, num_frames=8)
    check(planner, num_frames=9)
    assert len(asked) == 2


def test_a_size_that_the_base_cannot_take_is_refused(planned):
    planned[0].append({"size": "height must be a multiple of 16, got 17"})
    error = problem(check, TuningPlanner(memory=10), width=17, height=17)
    assert (error["code"], error["param"]) == ("size_not_supported", "size")
    assert "multiple of 16" in error["message"]


def test_what_cannot_be_planned_is_not_refused(monkeypatch, caplog):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    check(TuningPlanner(memory=10))
    assert "could not be planned (status 1)" in caplog.text
    monkeypatch.undo()
    monkeypatch.setattr(module, "PLAN_S", 0.01)
    check(TuningPlanner(memory=10))


@pytest.mark.slow
def test_plans_are_those_of_tav_plan():
    pytest.importorskip("torch")
    planner = TuningPlanner(memory=10**9)
    check(planner, num_frames=8, width=64, height=64)
    error = problem(check, planner, num_frames=64, width=1024, height=1024)
    assert (error["code"], error["param"]) == ("memory_exceeded", "num_frames")
    error = problem(check, planner, width=65, height=64)
    assert (error["code"], error["param"]) == ("size_not_supported", "size")
    assert "65" in error["message"]
