"""Which device each worker has."""

from __future__ import annotations

from tav_sdk.server.devices import THREADS, VISIBLE, worker_environment


def of(index, *, environ=None, workers=2, engine="auto", num_gpus=0):
    return worker_environment(index, workers=workers, engine=engine, environ=environ or {}, num_gpus=num_gpus, cores=5)


def test_one_worker_has_everything():
    assert of(0, workers=1, num_gpus=4) == {}


def test_workers_take_the_gpus_in_turn():
    assert [of(index, workers=3, num_gpus=2)[VISIBLE] for index in range(3)] == ["0", "1", "0"]


def test_the_servers_own_choice_of_gpus_is_kept():
    names = {VISIBLE: "3, GPU-ab"}
    assert [of(index, num_gpus=8, environ=names)[VISIBLE] for index in range(2)] == ["3", "GPU-ab"]


def test_on_the_cpu_workers_share_the_cores():
    assert (
        of(1)
        == of(1, engine="openvino-cpu", num_gpus=2)
        == of(1, num_gpus=2, environ={VISIBLE: "-1"})
        == {THREADS: "2"}
    )


def test_threads_that_were_asked_for_stay():
    assert of(0, environ={THREADS: "4"}) == {}
