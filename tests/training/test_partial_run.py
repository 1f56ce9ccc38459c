"""Kills of a tune at each of its writes, and partial folders that are not this user's own."""

import contextlib
import os
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file

from tav_sdk.errors import InputError, OutputError
from tav_sdk.training import load_run, tune
from tav_sdk.training.run_folder import partial_folder
from tav_sdk.training.tune_step import Tuner

MADE = ["log.jsonl", "run.json", "snapshots", "tuned.safetensors"]
SNAPSHOTS = ["step-000002.safetensors", "step-000004.safetensors"]
WRITES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "shutil.rmtree")


class Killed(BaseException):
    """No more writing, not even to clear up."""


class Disk:
    """Counts the writes below a folder, and refuses all from one on, as if the process were killed there."""

    def __init__(self):
        self.folder: str | None = None
        self.last: int | None = None
        self.writes = 0

    def hook(self, event, args):
        if self.folder is None or not (event in WRITES or event == "open"):
            return
        if event == "open" and not (args[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        if str(args[0]).startswith(self.folder):
            self.writes += 1
            if self.last is not None and self.writes > self.last:
                raise Killed(event)


_disk = Disk()
sys.addaudithook(_disk.hook)


@pytest.fixture
def disk(tmp_path):
    _disk.folder, _disk.last, _disk.writes = str(tmp_path), None, 0
    yield _disk
    _disk.folder = None


@pytest.fixture
def config(config):
    return config.replace(num_frames=2, height=16, width=16)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def stop_after(step):
    def callback(progress):
        if progress.step == step:
            raise KeyboardInterrupt

    return callback


def interrupt(config, step=3):
    with pytest.raises(KeyboardInterrupt):
        tune(config, callback=stop_after(step))


@pytest.fixture
def prepared(monkeypatch):
    """What is made of clip and base is made once, so that many runs take seconds."""
    from tav_sdk.training import tuning

    prepare, made = tuning.prepare, []

    def once(*args):
        if not made:
            made.append(prepare(*args))
        return made[0]

    monkeypatch.setattr(tuning, "prepare", once)


@pytest.mark.usefixtures("prepared")
def test_a_kill_at_any_write_loses_neither_snapshot_nor_run(config, tmp_path, disk):
    whole = tune(config)
    writes = disk.writes
    expected = {path.relative_to(whole.folder): path.read_bytes() for path in whole.folder.rglob("*.safetensors")}
    log = (whole.folder / "log.jsonl").read_text()
    assert sorted(path.name for path in expected) == [*SNAPSHOTS, "tuned.safetensors"]
    assert writes > 40
    for last in range(0, writes, 1 if os.environ.get("TAV_SLOW") else 5):
        shutil.rmtree(config.out)
        disk.last, disk.writes = last, 0
        with contextlib.suppress(Killed):  # at the very end it is swallowed, as an error of clearing up
            tune(config)
        disk.last = None
        run = tune(config, resume=True)
        assert names(run.folder) == MADE, last
        assert names(run.folder / "snapshots") == SNAPSHOTS, last
        assert {path: (run.folder / path).read_bytes() for path in expected} == expected, last
        assert (run.folder / "log.jsonl").read_text() == log, last
        assert names(tmp_path) == ["run"], last


def test_an_interrupt_while_a_snapshot_is_written_loses_none(config, monkeypatch):
    from tav_sdk.training import tuning

    save, calls = tuning.save_tuned_weights, []

    def interrupted(model, path, metadata=None):
        calls.append(path.name)
        if len(calls) == 1:
            raise KeyboardInterrupt
        save(model, path, metadata)

    monkeypatch.setattr(tuning, "save_tuned_weights", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tune(config)
    run = tune(config, resume=True)
    assert names(run.folder / "snapshots") == SNAPSHOTS


def test_an_interrupt_within_an_update_is_not_taken_for_a_step(config, tmp_path, monkeypatch):
    whole = load_file(tune(config).tuned_path)
    step, calls = torch.optim.AdamW.step, []

    def interrupted(self, *args, **options):
        step(self, *args, **options)
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt

    other = config.replace(out=tmp_path / "other")
    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tune(other)
    resumed = load_file(tune(other, resume=True).tuned_path)
    assert all(torch.equal(tensor, whole[name]) for name, tensor in resumed.items())


def test_more_steps_than_before_get_the_snapshot_of_the_former_last_one(config):
    interrupt(config.replace(num_train_steps=4), step=4)
    run = tune(config.replace(num_train_steps=6), resume=True)
    assert names(run.folder / "snapshots") == SNAPSHOTS


def test_fewer_steps_than_are_done_are_refused(config):
    interrupt(config, step=3)
    with pytest.raises(InputError, match="num_train_steps must be at least 3, the steps that the unfinished run has"):
        tune(config.replace(num_train_steps=2), resume=True)


def test_what_others_leave_in_the_partial_folder_is_not_carried_along(config):
    interrupt(config)
    for name in (".hidden", "notes.txt", "snapshots/.half.safetensors"):
        (partial_folder(config.out) / name).write_text("x")
    run = tune(config, resume=True)
    assert names(run.folder) == MADE
    assert names(run.folder / "snapshots") == SNAPSHOTS


def test_files_that_reach_the_run_in_the_meantime_stay(config, tmp_path):
    def put(progress):
        if progress.step == 5:
            (tmp_path / "run").mkdir()
            (tmp_path / "run" / "mine").write_text("x")

    with pytest.raises(OutputError, match=r"The finished work is kept in .*run-finished-1; move it to where"):
        tune(config, callback=put)
    assert names(tmp_path) == ["run", "run-finished-1"]
    assert names(tmp_path / "run") == ["mine"]
    assert load_run(tmp_path / "run-finished-1").config.num_train_steps == 5


def test_a_run_is_tuned_by_one_command_at_a_time(config):
    raised = []

    def another(progress):
        if progress.step == 3 and not raised:
            with pytest.raises(OutputError, match=r"another command tunes .*run; wait until it is done"):
                tune(config, overwrite=True)
            raised.append(True)

    tune(config, callback=another)
    assert raised


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}], ids=["new", "resume", "overwrite"])
@pytest.mark.parametrize("inner", [False, True])
def test_a_planted_link_is_refused(config, tmp_path, monkeypatch, options, inner):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "log.jsonl").write_text("mine")
    if inner:
        partial_folder(config.out).mkdir()
        (partial_folder(config.out) / "log.jsonl").symlink_to(elsewhere / "log.jsonl")
    else:
        partial_folder(config.out).symlink_to(elsewhere)
    monkeypatch.setattr(Tuner, "__init__", None)  # nothing begins
    said = r"run.partial is not used, since it (is a link|has a link in it, log.jsonl)\. An unfinished run has to be"
    with pytest.raises(OutputError, match=said):
        tune(config, **options)
    assert names(elsewhere) == ["log.jsonl"]
    assert (elsewhere / "log.jsonl").read_text() == "mine"


def test_a_partial_folder_of_another_user_is_refused(config, monkeypatch):
    interrupt(config)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(OutputError, match="it belongs to another user"):
        tune(config, resume=True)


def test_a_partial_folder_that_all_may_write_is_refused(config):
    interrupt(config)
    partial_folder(config.out).chmod(0o777)
    with pytest.raises(OutputError, match="it can be written by every user"):
        tune(config, resume=True)
