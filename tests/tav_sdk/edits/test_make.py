"""What others do to ``--out`` while an edit runs."""

import shutil
import threading

import pytest

import tav_sdk
from tav_sdk.edits import make
from tav_sdk.errors import OutputError
from tav_sdk.request import EditRequest, InvertOptions, SampleOptions

MADE = ["00.mp4", "edits.json", "sheet.png", "source.mp4"]


def edit(**options):
    return EditRequest(
        prompts=("a red car",),
        invert=InvertOptions(num_inversion_steps=1),
        sample=SampleOptions(num_inference_steps=1),
        **options,
    )


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def pipeline(tiny_bundle):
    with tav_sdk.load(tiny_bundle, cache=False) as pipeline:
        yield pipeline


def at_the_last_step(act):
    """A callback that does something when sampling begins its last step."""

    def callback(step):
        if step.stage == "sampling" and step.step == step.total:
            act()

    return callback


def test_files_that_reach_out_during_an_edit_stay(pipeline, clip_path, work):
    def put():
        (work / "out").mkdir()
        (work / "out" / "mine").write_text("x")

    with pytest.raises(OutputError, match=r"The finished work is kept in .*out-finished-1; move it to where"):
        make(edit(), pipeline, work / "out", video=clip_path, callback=at_the_last_step(put))
    assert names(work / "out") == ["mine"]
    assert names(work / "out-finished-1") == MADE


@pytest.mark.parametrize("options", [{}, {"file_format": "gif"}, {"stream": True}], ids=["mp4", "gif", "stream"])
def test_a_parent_that_is_removed_during_an_edit_is_an_error(pipeline, clip_path, work, options):
    parent = work / "parent"
    parent.mkdir()
    removed = at_the_last_step(lambda: shutil.rmtree(parent))
    with pytest.raises(OutputError, match=r"cannot (be written|write)"):
        make(edit(**options), pipeline, parent / "out", video=clip_path, callback=removed)
    assert not parent.exists()


def test_a_parent_that_is_removed_at_the_end_of_an_edit_is_an_error(pipeline, clip_path, work, monkeypatch):
    from tav_sdk.edits.output import EditOutput

    parent = work / "parent"
    parent.mkdir()
    finish = EditOutput.finish

    def finish_and_remove(self, rows=()):
        finish(self, rows)
        shutil.rmtree(parent)

    monkeypatch.setattr(EditOutput, "finish", finish_and_remove)
    with pytest.raises(OutputError, match=r"edits.json cannot be written"):
        make(edit(), pipeline, parent / "out", video=clip_path)
    assert not parent.exists()


def test_of_four_edits_into_one_folder_one_is_written(tiny_bundle, clip_path, work):
    ready, said = threading.Barrier(4), []

    def run():
        try:
            with tav_sdk.load(tiny_bundle, cache=False) as own:
                waiting = at_the_last_step(lambda: ready.wait(timeout=120))
                said.append(make(edit(), own, work / "out", video=clip_path, callback=waiting).folder)
        except OutputError as error:
            said.append(error.kept)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(path.name for path in said) == ["out", "out-finished-1", "out-finished-2", "out-finished-3"]
    assert names(work) == sorted(path.name for path in said)
    assert all(names(path) == MADE for path in said)
