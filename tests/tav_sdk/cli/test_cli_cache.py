from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tav_sdk.cache.entry import cache_key
from tav_sdk.cache.record import ENTRY
from tav_sdk.cache.store import Cache


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TAV_CACHE", str(tmp_path / "root"))
    for kind in ("ENGINES", "INVERSIONS", "CONTROLNETS", "UNFINISHED"):
        monkeypatch.delenv(f"TAV_CACHE_SIZE_{kind}", raising=False)
    return tmp_path / "root"


@pytest.fixture
def filled(root):
    """An engine that was used 3 days ago and an inversion."""
    put("engines", {"name": "unet", "engine": "tensorrt", "precision": "fp16", "flags": ["x"]}, days=3)
    put("inversions", {"prompt": "a [bold] man", "engine": "onnxruntime-cpu", "seed": None, "num_inversion_steps": 25})
    return root


def put(kind, facts, days=0.0):
    def make(folder: Path) -> None:
        (folder / "plan").write_bytes(bytes(2_000_000))

    cache, key = Cache(kind), cache_key(facts)
    path = cache.get_or_make(key, make, facts=facts)
    cache.release(key)
    if days:
        then = time.time() - days * 86400 - 60
        os.utime(path / ENTRY, (then, then))
    return path


def kept(kind):
    return [entry.path for entry in Cache(kind).entries()]


@pytest.mark.parametrize("command", ["list", "clear", "verify"])
def test_each_command_shows_an_example(tav, command):
    assert f"tav cache {command}" in tav("cache", command, "--help").stdout.partition("Examples")[2]


def test_the_help_says_how_to_choose_folder_and_limits(tav):
    text = " ".join(tav("cache").stdout.split())
    assert "TAV_CACHE names another folder; TAV_CACHE_SIZE_ENGINES, TAV_CACHE_SIZE_INVERSIONS" in text
    assert "TAV_CACHE_SIZE_CONTROLNETS and TAV_CACHE_SIZE_UNFINISHED set the limits" in text


# --- list -----------------------------------------------------------------------------------------------------------


def test_the_list_says_what_there_is(tav, filled):
    result = tav("cache", "list")
    assert result.exit_code == 0, result.stderr
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    (engine,), (inversion,) = kept("engines"), kept("inversions")
    assert lines == [
        "kind what size last used key",
        f"engines unet, tensorrt, fp16 2.0 MB 3 days ago {engine.name[:12]}",
        f"inversions onnxruntime-cpu, a [bold] man, 25 steps 2.0 MB just now {inversion.name[:12]}",
        "",
        str(filled),
        "engines: 1 entry, 2.0 MB of 20.0 GB",
        "inversions: 1 entry, 2.0 MB of 1.0 GB",
        "controlnets: 0 entries, 0.0 kB of 10.0 GB",
        "unfinished: 0 entries, 0.0 kB of 5.0 GB",
    ]


def test_the_list_of_one_kind(tav, filled, monkeypatch):
    monkeypatch.setenv("TAV_CACHE_SIZE_ENGINES", "5MB")
    lines = tav("cache", "list", "--kind", "engines").stdout.splitlines()
    assert len(lines) == 5
    assert lines[-1] == "engines: 1 entry, 2.0 MB of 5.0 MB"


def test_the_list_of_unfinished_edits(tav, filled):
    put("unfinished", {"stage": "sampling", "turn": 0})
    lines = tav("cache", "list", "--kind", "unfinished").stdout.splitlines()
    assert lines[1].split()[0] == "unfinished"
    assert lines[-1] == "unfinished: 1 entry, 2.0 MB of 5.0 GB"


def test_the_list_of_nothing(tav, root):
    lines = tav("cache", "list").stdout.splitlines()
    assert lines == [
        str(root),
        "engines: 0 entries, 0.0 kB of 20.0 GB",
        "inversions: 0 entries, 0.0 kB of 1.0 GB",
        "controlnets: 0 entries, 0.0 kB of 10.0 GB",
        "unfinished: 0 entries, 0.0 kB of 5.0 GB",
    ]


def test_the_list_names_what_is_damaged(tav, filled):
    (kept("engines")[0] / "plan").unlink()
    assert "damaged: plan is missing" in tav("cache", "list").stdout


def test_an_unknown_kind_is_refused(tav, root):
    result = tav("cache", "list", "--kind", "models")
    assert result.exit_code == 2
    assert "Invalid value for '--kind'" in result.stderr


def test_a_limit_that_is_no_size_is_an_error(tav, root, monkeypatch):
    monkeypatch.setenv("TAV_CACHE_SIZE_ENGINES", "much")
    result = tav("cache", "list")
    assert result.exit_code == 2
    assert result.stderr == "error: TAV_CACHE_SIZE_ENGINES: expected a size such as 20GB, 512MB or 0, got 'much'\n"


# --- clear ----------------------------------------------------------------------------------------------------------


def test_clearing_all(tav, filled):
    result = tav("cache", "clear", "--yes")
    assert result.exit_code == 0
    assert result.stderr == "removed 4.0 MB\n"
    assert kept("engines") == kept("inversions") == []


def test_clearing_one_kind(tav, filled):
    tav("cache", "clear", "--kind", "inversions", "--yes")
    assert len(kept("engines")) == 1
    assert kept("inversions") == []


def test_clearing_what_is_old(tav, filled):
    tav("cache", "clear", "--older-than", 3, "--yes")
    assert kept("engines") == []
    assert len(kept("inversions")) == 1


def test_clearing_asks_first(tav, filled):
    result = tav("cache", "clear", "--older-than", 2)  # without an answer
    assert result.exit_code == 2
    assert "error: there was no answer, so nothing was removed; give --yes" in result.stderr
    which = "the engines, inversions, controlnets and unfinished edits that were not used for 2 days"
    assert f"Remove {which} from {filled}? [y/N]" in result.stdout
    assert len(kept("engines")) == 1


def test_a_cache_that_others_may_write_is_not_cleared(tav, filled):
    (filled / "engines").chmod(0o777)
    result = tav("cache", "clear", "--yes")
    assert result.exit_code == 2
    assert "error: the cache " in result.stderr
    assert "may be written by its group or others (mode 777)" in result.stderr


# --- verify ---------------------------------------------------------------------------------------------------------


def test_verifying_what_is_whole(tav, filled):
    result = tav("cache", "verify")
    assert result.exit_code == 0
    assert result.stdout == ""
    assert result.stderr == "everything is as it was made\n"


def test_verifying_names_what_is_damaged(tav, filled):
    (path,) = kept("engines")
    (path / "plan").write_bytes(bytes(1_999_999) + b"x")
    result = tav("cache", "verify")
    assert result.exit_code == 1
    assert result.stdout.startswith(f"{path}: plan was changed: expected sha256 ")
    assert result.stderr == "the entries listed are not used; each is made again when it is needed\n"
    assert tav("cache", "verify", "--kind", "inversions").exit_code == 0
