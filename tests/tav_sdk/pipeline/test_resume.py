"""What was kept of an interrupted loop, when somebody changed it."""

import numpy as np
import pytest

from tav_sdk.errors import OutputError
from tav_sdk.pipeline import resume
from tav_sdk.pipeline.resume import Unfinished, resumed
from tav_sdk.pipeline.windows import PastStore
from tav_sdk.progress import StepProgress

FACTS = {"stage": "sampling", "prompt": "a"}
START = np.zeros((1, 4, 2, 8, 8), np.float32)


def keep(done, latents, monkeypatch):
    monkeypatch.setattr(resume, "SECONDS", 0.0)
    Unfinished(FACTS).keeping(None)(StepProgress("sampling", done, done + 1, 1, latents))


def test_a_loop_goes_on(monkeypatch):
    keep(3, START + 1, monkeypatch)
    with resumed(FACTS, START, None, "sampling", 5) as (done, latents, _):
        assert done == 3
        np.testing.assert_array_equal(latents, START + 1)


@pytest.mark.parametrize(("done", "latents"), [(9, START), (-3, START), (3, START[..., :4]), (3, START[0])])
def test_what_does_not_belong_to_a_loop_is_left(monkeypatch, caplog, done, latents):
    keep(done, latents, monkeypatch)
    with resumed(FACTS, START, None, "sampling", 5) as (first, start, _):
        assert first == 0
        assert start is START
    assert "the interrupted edit cannot be resumed, so it starts over: " in caplog.text


def test_what_is_no_array_is_left(monkeypatch, caplog):
    keep(3, START.astype(np.float64), monkeypatch)
    with resumed(FACTS, START, None, "sampling", 5) as (done, _, _):
        assert done == 0
    assert "latents.npy cannot be read: expected float32, got float64" in caplog.text


def test_a_changed_temporary_file_of_a_stream_is_told(tmp_path):
    with PastStore(max_bytes=0, folder=tmp_path) as store:
        store.put(0, {"past.k": np.ones((1, 3), np.float32)})
        kept = store.get(0)
        assert kept is not None
        np.testing.assert_array_equal(kept["past.k"], np.ones((1, 3), np.float32))
        (path,) = tmp_path.rglob("*.npy")
        np.save(path, np.ones((1, 1000), np.float32))
        with pytest.raises(OutputError, match=r"a temporary file of the stream was changed: .*at most 12 are read"):
            store.get(0)
