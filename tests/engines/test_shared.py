"""One engine for all who run the same graph."""

import threading
from pathlib import Path

import pytest

from tav_sdk.engines import shared
from tav_sdk.engines.base import Engine, Graph
from tav_sdk.engines.shared import SharedEngine
from tav_sdk.errors import EngineError


class Nothing(Engine):
    """Counts how often it is opened and closed."""

    opened = closed = 0

    def __init__(self):
        super().__init__("unet", (), ())
        type(self).opened += 1

    def _run(self, feeds, weights):
        return {}

    def _close(self):
        type(self).closed += 1


@pytest.fixture
def counts(monkeypatch):
    monkeypatch.setattr(shared, "open_engine", lambda graph, engine: Nothing())
    Nothing.opened = Nothing.closed = 0
    return lambda: (Nothing.opened, Nothing.closed)


def graph(key: str | None = "a"):
    return Graph(name="unet", path=Path("model.onnx"), inputs=(), outputs=(), key=key)


def test_one_key_is_opened_once_and_closed_by_the_last(counts):
    one, two = SharedEngine(graph(), "cpu"), SharedEngine(graph(), "cpu")
    assert one.engine is two.engine
    one.close()
    assert counts() == (1, 0)
    two.engine.run({})
    two.close()
    assert counts() == (1, 1)
    SharedEngine(graph(), "cpu").close()
    assert counts() == (2, 2)


@pytest.mark.parametrize("other", [(graph("b"), "cpu"), (graph(), "gpu")])
def test_another_key_or_engine_is_another(counts, other):
    one, two = SharedEngine(graph(), "cpu"), SharedEngine(*other)
    assert one.engine is not two.engine
    one.close()
    two.close()
    assert counts() == (2, 2)


def test_without_a_key_nothing_is_shared(counts):
    one, two = SharedEngine(graph(None), "cpu"), SharedEngine(graph(None), "cpu")
    assert one.engine is not two.engine
    one.close()
    assert counts() == (2, 1)
    two.close()


def test_threads_that_open_at_once_get_one(counts, monkeypatch):
    barrier, release = threading.Barrier(4), threading.Event()

    def slow(graph, engine):
        release.wait(5)
        return Nothing()

    monkeypatch.setattr(shared, "open_engine", slow)
    got = []

    def take():
        barrier.wait(5)
        if len(got) == 0:
            release.set()
        got.append(SharedEngine(graph(), "cpu"))

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len({id(one.engine) for one in got}) == 1
    for one in got:
        one.close()
    assert counts() == (1, 1)


def test_one_that_cannot_be_opened_is_tried_anew(counts, monkeypatch):
    def broken(graph, engine):
        raise EngineError("no")

    with monkeypatch.context() as patch:
        patch.setattr(shared, "open_engine", broken)
        with pytest.raises(EngineError, match="no"):
            SharedEngine(graph(), "cpu")
    SharedEngine(graph(), "cpu").close()
    assert counts() == (1, 1)
    assert not shared._held
