"""How long a job will take, from steps that were measured and the jobs before it."""

from __future__ import annotations

import pytest

from tav_sdk.server.estimates import Estimates
from tav_sdk.server.jobs import TUNING_STEPS
from tav_sdk.server.protocol import Progressed
from tav_sdk.server.store import JobStore, QueueLimits

MANY = QueueLimits(total=100, per_owner=100)


@pytest.fixture
def store(tmp_path):
    made = JobStore(tmp_path / "jobs.sqlite3", view=lambda job, position: {})
    yield made
    made.close()


def video(store, model="skiing", *, inversion=10, sampling=20):
    params = {"num_inference_steps": sampling, "extra_params": {"num_inversion_steps": inversion}}
    return store.create("video", owner="", model=model, params=params, limits=MANY)


def stepped(estimates, job, stage, seconds):
    word = Progressed(job=job.id, fence=1, progress=1, stage=stage, step=1, total=9, step_s=seconds)
    estimates.stepped(job, word)


def test_without_a_measured_step_nothing_is_said(store):
    assert Estimates(1).seconds(video(store), store) is None


def test_steps_of_inversion_and_sampling_count_with_their_times(store):
    estimates, job = Estimates(1), video(store)
    stepped(estimates, job, "sampling", 2.0)
    assert estimates.seconds(job, store) == 10 * 1.0 + 20 * 2.0  # an inversion's step is half of one with guidance
    stepped(estimates, job, "inversion", 0.5)
    assert estimates.seconds(job, store) == 10 * 0.5 + 20 * 2.0


def test_jobs_before_it_count_over_all_workers(store):
    first, second = video(store), video(store, sampling=40)
    for num_workers in (1, 2):
        estimates = Estimates(num_workers)
        stepped(estimates, first, "sampling", 1.0)
        assert estimates.seconds(second, store) == (5 + 40) + (5 + 20) / num_workers


def test_what_a_running_job_has_done_does_not_count(store):
    job, later = video(store), video(store)
    estimates = Estimates(1)
    stepped(estimates, job, "sampling", 1.0)
    claimed = store.claim(0)
    store.report(job.id, claimed.fence, progress=40, stage="sampling", step=1, total=20)
    assert estimates.seconds(store.get(job.id), store) == pytest.approx(0.6 * 25)
    assert estimates.seconds(later, store) == pytest.approx(25 + 0.6 * 25)


def test_models_are_told_apart_and_those_that_never_ran_are_left_out(store):
    video(store, "never")
    job = video(store)
    estimates = Estimates(1)
    stepped(estimates, job, "sampling", 1.0)
    assert estimates.seconds(job, store) == 25


def test_a_tuning_that_does_not_say_its_steps_has_the_papers(store):
    first = store.create("tuning", owner="", model="a", params={}, limits=MANY)
    second = store.create("tuning", owner="", model="b", params={"num_train_steps": 10}, limits=MANY)
    estimates = Estimates(1)
    stepped(estimates, first, "tune", 0.5)
    assert estimates.seconds(first, store) == TUNING_STEPS * 0.5
    assert estimates.seconds(second, store) == (TUNING_STEPS + 10) * 0.5
