"""The models: which folders are some, what is said of the others, and whose they are."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import threading
from pathlib import Path

import pytest

from tav_sdk.bundle.bundle import Bundle
from tav_sdk.bundle.layout import GRAPHS, SCHEDULER
from tav_sdk.errors import BundleError
from tav_sdk.server import catalog as module
from tav_sdk.server.catalog import RESCAN_S, Catalog
from tav_sdk.server.problems import ProblemError
from tav_sdk.server.settings import ServerSettings
from tests.tav_sdk.server.empty_bundle import make_bundle


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "bundles"
    folder.mkdir()
    return folder


@pytest.fixture
def catalog(tmp_path, folder, clock) -> Catalog:
    return Catalog(ServerSettings(bundles=folder, state=tmp_path / "state"), clock=clock)


def ids(catalog: Catalog) -> list[str]:
    return [model.id for model in asyncio.run(catalog.models())]


def problem(call) -> tuple[int, str, str | None, str]:
    with pytest.raises(ProblemError) as caught:
        asyncio.run(call)
    error = caught.value.body["error"]
    return caught.value.status, error["code"], error["param"], error["message"]


def test_a_model_is_described_by_its_manifest(catalog, folder):
    bundle = make_bundle(folder / "skiing")
    os.utime(bundle / "manifest.json", (1700000000.5, 1700000000.5))
    model = asyncio.run(catalog.get("skiing"))
    assert model.to_dict() == {
        "id": "skiing",
        "object": "model",
        "created": 1700000000,
        "owned_by": "tav-sdk",
        "base": "pocket",
        "prompt": "a man is skiing",
        "size": "96x64",
        "num_frames": 8,
        "fps": 12.0,
        "num_inference_steps": 20,
        "guidance_scale": 7.5,
        "precision": "fp32",
        "source": False,
        "deletable": False,
    }
    assert model.folder == bundle
    assert model.schedule == Bundle(bundle).schedule


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm", ".avi", ".gif"])
def test_a_clip_lies_beside_its_bundle(catalog, folder, suffix):
    make_bundle(folder / "a.b")
    clip = folder / f"a.b{suffix}"
    clip.write_bytes(b"")
    (folder / "a.b.txt").write_bytes(b"")
    model = asyncio.run(catalog.get("a.b"))
    assert model.clip == clip
    assert model.to_dict()["source"] is True


def test_new_bundles_appear_within_five_seconds(catalog, folder, clock, monkeypatch):
    reads = []
    real = module.Bundle
    monkeypatch.setattr(module, "Bundle", lambda path, **more: reads.append(path.name) or real(path, **more))
    make_bundle(folder / "a")
    assert ids(catalog) == ["a"]
    make_bundle(folder / "b")
    assert ids(catalog) == ["a"]
    clock.now = RESCAN_S
    assert RESCAN_S < 5
    assert sorted(ids(catalog)) == ["a", "b"]
    shutil.rmtree(folder / "a")
    clock.now = 2 * RESCAN_S
    assert ids(catalog) == ["b"]
    make_bundle(folder / "b", prompt="another one")
    clock.now = 3 * RESCAN_S
    assert asyncio.run(catalog.get("b")).manifest.prompt == "another one"
    assert reads == ["a", "b", "b"]


def test_folders_are_read_beside_the_event_loop_and_once_at_a_time(catalog, folder, monkeypatch):
    make_bundle(folder / "a")
    threads = []
    real = Catalog._scan
    monkeypatch.setattr(Catalog, "_scan", lambda self: threads.append(threading.current_thread()) or real(self))

    async def many():
        await asyncio.gather(*(catalog.models() for _ in range(20)))

    asyncio.run(many())
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()


def test_other_folders_are_left_out_with_a_line_each(catalog, folder, clock, caplog):
    make_bundle(folder / "good")
    for name in ("Upper", "-first", "a" * 65, "spa ce"):
        make_bundle(folder / name)
    (folder / "run").mkdir()
    make_bundle(folder / ".hidden")
    (folder / "file").write_text("")
    (make_bundle(folder / "no-file") / GRAPHS[0] / "model.onnx").unlink()
    (make_bundle(folder / "no-schedule") / SCHEDULER).write_text("[]" + " " * 1000)
    (make_bundle(folder / "no-json") / "manifest.json").write_text("{")
    make_bundle(folder / "newer", format_version=99)
    make_bundle(folder / "odd", frames=1)
    make_bundle(folder / "climbs", files={"../a": {"size": 0, "sha256": ""}})
    with caplog.at_level(logging.WARNING):
        assert ids(catalog) == ["good"]
        first = len(caplog.records)
        clock.now = 100
        assert ids(catalog) == ["good"]
    lines = [record.getMessage() for record in caplog.records]
    assert first == len(lines) == 10
    for name in ("Upper", "-first", "spa ce", "no-file", "no-schedule", "no-json", "newer", "odd", "climbs"):
        assert sum(f"/{name} is left out" in line for line in lines) == 1


def test_a_bundle_that_was_still_being_copied_is_taken_later(catalog, folder, clock):
    graph = make_bundle(folder / "a") / GRAPHS[0] / "model.onnx"
    graph.unlink()
    assert ids(catalog) == []
    graph.write_bytes(b"")
    clock.now = RESCAN_S
    assert ids(catalog) == ["a"]


def test_no_folder_is_no_model(tmp_path):
    settings = ServerSettings(bundles=tmp_path / "none", state=tmp_path / "state")
    assert ids(Catalog(settings)) == []


def test_unknown_models_are_not_found(catalog, folder):
    make_bundle(folder / "a")
    for name in ("b", "../bundles/a", "A", "\ud800", "x" * 5000, ""):
        status, code, param, message = problem(catalog.get(name))
        assert (status, code, param) == (404, "model_not_found", "model")
        assert "GET /v1/models lists" in message
        assert len(message.encode()) < 200


def test_a_request_may_leave_the_model_to_the_server(catalog, folder, tmp_path, clock):
    status, code, param, message = problem(catalog.choose(None))
    assert (status, code, param) == (400, "model_required", "model")
    assert "there is none yet" in message
    make_bundle(folder / "a")
    clock.now = 10
    assert asyncio.run(catalog.choose(None)).id == "a"
    make_bundle(folder / "b")
    clock.now = 20
    status, code, param, message = problem(catalog.choose(None))
    assert (status, code, param) == (400, "model_required", "model")
    assert "name one: a, b" in message or "name one: b, a" in message
    assert asyncio.run(catalog.choose("b")).id == "b"
    default = Catalog(ServerSettings(bundles=folder, state=tmp_path, default_model="b"))
    assert asyncio.run(default.choose(None)).id == "b"
    assert asyncio.run(default.choose("a")).id == "a"
    wrong = Catalog(ServerSettings(bundles=folder, state=tmp_path, default_model="c"))
    assert problem(wrong.choose(None))[1] == "model_not_found"


def test_a_tuning_makes_a_model_at_once_and_its_owner_may_delete_it(catalog, folder, tmp_path):
    make_bundle(folder / "a")
    assert ids(catalog) == ["a"]
    work = make_bundle(tmp_path / "state" / "videos" / "tun_1")
    sha256 = "5" * 64
    (tmp_path / "state" / "clips").mkdir()
    (tmp_path / "state" / "clips" / sha256).write_bytes(b"clip")
    made = asyncio.run(catalog.add("mine", work, owner="ann", clip=sha256))
    assert not work.exists()
    assert (made.owner, made.clip_sha256, made.clip) == ("ann", sha256, tmp_path / "state" / "clips" / sha256)
    assert made.to_dict()["deletable"] is True
    assert made.to_dict()["source"] is True
    assert ids(catalog) == ["a", "mine"] or set(ids(catalog)) == {"a", "mine"}
    again = Catalog(ServerSettings(bundles=folder, state=tmp_path / "state"))
    assert asyncio.run(again.get("mine")) == made
    for model, owner, said in (("mine", "bob", "another token's"), ("a", "ann", "not made by a tuning")):
        with pytest.raises(ProblemError) as caught:
            asyncio.run(catalog.remove(model, owner=owner))
        error = caught.value.body["error"]
        assert (caught.value.status, error["code"], error["type"]) == (403, "model_protected", "permission_error")
        assert said in error["message"]
    assert problem(catalog.remove("none", owner="ann"))[1] == "model_not_found"
    asyncio.run(catalog.remove("mine", owner="ann"))
    assert ids(catalog) == ["a"]
    assert list((tmp_path / "state" / "models").iterdir()) == []


def test_names_of_models_are_taken_once(catalog, folder, tmp_path):
    make_bundle(folder / "a")
    status, code, param, message = problem(catalog.new_model_id("a"))
    assert (status, code, param) == (400, "model_exists", "model")
    assert "choose another name" in message
    assert asyncio.run(catalog.new_model_id("b")) == "b"
    made_up = asyncio.run(catalog.new_model_id(None))
    assert made_up.startswith("tuned-")
    work = make_bundle(tmp_path / "work")
    for name in ("a", "../b", "B"):
        with pytest.raises(FileExistsError):
            asyncio.run(catalog.add(name, work, owner="ann", clip="0" * 64))
    assert work.exists()
    (work / "manifest.json").write_text("{")
    with pytest.raises(BundleError):
        asyncio.run(catalog.add("b", work, owner="ann", clip="0" * 64))


def test_a_made_model_without_a_record_is_nobodys(catalog, tmp_path, caplog):
    models = tmp_path / "state" / "models"
    make_bundle(models / "a")
    make_bundle(models / "b")
    (models / "b.model.json").write_text('{"owner": "ann", "created": 1, "clip": "../../etc/passwd"}')
    assert ids(catalog) == []
    assert len(caplog.records) == 2
