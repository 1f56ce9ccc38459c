"""``tav bench``: what it measures is there and is compared; never how long it took."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tav_sdk.export.bench import compare
from tav_sdk.export.bench.compare import changes
from tav_sdk.export.bench.edit import STAGES, peak_bytes
from tav_sdk.export.bench.report import report_steps


@pytest.fixture(autouse=True)
def small_machine(monkeypatch):
    """The machine's speed is measured with small matrices."""
    monkeypatch.setattr("tav_sdk.export.bench.peaks.SIZES", (64,))
    monkeypatch.setattr("tav_sdk.export.bench.peaks._COPIED", 2**20)


def test_engines_are_compared(tav, tiny_bundle, tmp_path):
    file = tmp_path / "bench.json"
    result = tav("bench", tiny_bundle, "--rounds", 2, "--json", file)
    assert result.exit_code == 0, result.stderr
    made = json.loads(file.read_text())
    step = made["step"]
    assert "onnxruntime-cpu" in step["candidates"]
    for entry in step["candidates"].values():
        assert len(entry["seconds"]) == 2
        assert entry["difference"] < 1e-4
    assert step["flops"] > 1e6
    assert step["floors"]["fp32"] > 0
    assert made["machine"]["cores"] >= 1
    for word in ("U-Net step", "'s speed", "of the floor", "GFLOP/s in fp32"):
        assert word in result.stdout

    again = tav("bench", tiny_bundle, "--rounds", 1, "--against", file, "--slower", 1e9)
    assert again.exit_code == 0, again.stderr
    assert "a U-Net step on onnxruntime-cpu takes" in again.stderr
    assert "no step has become 1e+09 times slower" in again.stderr
    assert "is there already" in tav("bench", tiny_bundle, "--json", file).stderr


def test_edits_are_measured_stage_by_stage_in_processes_of_their_own(tav, tiny_bundle, clip_path, tmp_path):
    file = tmp_path / "bench.json"
    how = ("--engine", "onnxruntime-cpu", "--rounds", 1, "--steps", 2, "--json", file)
    result = tav("bench", tiny_bundle, "--video", clip_path, *how)
    assert result.exit_code == 0, result.stderr
    (entry,) = json.loads(file.read_text())["edit"]["candidates"]["onnxruntime-cpu"]
    assert tuple(entry["stages"]) == STAGES
    assert all(seconds > 0 for seconds in entry["stages"].values())
    assert entry["first_step"] > 0
    assert entry["peak_bytes"] > 2**20
    assert "edit, 2 + 2 steps" in result.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--engine", "jax"), "there is no engine 'jax'"),
        (("--video", "gone.mp4"), "gone.mp4: there is no such file"),
        (("--video", __file__), "is not a video"),
        (("--steps", 3), "--steps counts the steps of whole edits, which need a clip"),
        (("--against", "gone.json"), "gone.json cannot be read: No such file"),
    ],
)
def test_bad_input_is_refused(tav, tiny_bundle, options, message):
    result = tav("bench", tiny_bundle, *options)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_file_of_something_else_is_refused(tav, tiny_bundle, tmp_path):
    (tmp_path / "other.json").write_text("{}")
    result = tav("bench", tiny_bundle, "--against", tmp_path / "other.json")
    assert result.exit_code == 2
    assert "was not written by tav bench --json" in result.stderr


def test_another_run_is_refused(tav, tiny_bundle, tiny_run, bundle_copy, edit_manifest):
    edit_manifest(lambda manifest: manifest.update(tuned_sha256="0" * 64))
    result = tav("bench", bundle_copy, "--run", tiny_run)
    assert result.exit_code == 2
    assert "was not exported from the run" in result.stderr


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux")
def test_the_peak_is_the_process_own_whatever_its_parent_held():
    held = np.ones(40_000_000)  # 320 MB
    command = "from tav_sdk.export.bench.edit import peak_bytes; print(peak_bytes())"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert 2**20 < int(done.stdout) < held.nbytes < peak_bytes()


def test_a_measurement_of_another_bundle_is_refused(tav, tiny_bundle, tmp_path):
    file = tmp_path / "bench.json"
    assert tav("bench", tiny_bundle, "--rounds", 1, "--json", file).exit_code == 0
    made = json.loads(file.read_text())
    file.write_text(json.dumps({**made, "bundle": {**made["bundle"], "height": 512}}))
    result = tav("bench", tiny_bundle, "--against", file)
    assert result.exit_code == 2
    assert "the former measurement was made on another bundle: its height is 512, this one's 64" in result.stderr
    file.write_text(json.dumps(made))
    result = tav("bench", tiny_bundle, "--engine", "onnxruntime-cpu", "--against", file)
    assert result.exit_code == 2
    assert "two candidates have to be in both measurements; in common are onnxruntime-cpu" in result.stderr


def measured(**medians):
    return {"step": {"candidates": {name: {"median": median} for name, median in medians.items()}}}


def test_a_change_is_what_the_others_do_not_share():
    former = measured(torch=2.0, mine=1.0, other=3.0)
    assert changes(measured(torch=8.0, mine=4.0, other=12.0), former) == dict.fromkeys(("torch", "mine", "other"), 1.0)
    slower = changes(measured(torch=2.0, mine=5.0, other=3.0), former)  # whichever place it has
    assert slower["mine"] == 5.0
    assert max(slower["torch"], slower["other"]) < 1
    assert changes(measured(torch=10.0, mine=1.0, other=3.0), former)["torch"] == 5.0
    assert changes(measured(mine=1.3, new=1.0, torch=2.0), former) == {"mine": 1.3, "torch": pytest.approx(1 / 1.3)}


def test_a_regression_leaves_with_1(tav, tiny_bundle, tmp_path, monkeypatch):
    file = tmp_path / "bench.json"
    assert tav("bench", tiny_bundle, "--rounds", 1, "--json", file).exit_code == 0
    monkeypatch.setattr(compare, "changes", lambda *_: {"mine": 1.5, "other": 1.0})
    result = tav("bench", tiny_bundle, "--rounds", 1, "--against", file)
    assert result.exit_code == 1
    assert "slower: a U-Net step on mine takes 1.50 times as long as it did" in result.stderr
    assert "slower: a U-Net step on other" not in result.stderr


def test_a_run_adds_the_peers_in_pytorch(tav, tiny_bundle, tiny_run, tmp_path, monkeypatch):
    from tav_sdk.export.bench.peers import SDPA

    monkeypatch.setattr("tav_sdk.export.bench.peers.PEERS", (SDPA,))  # compiling takes long
    file = tmp_path / "bench.json"
    how = ("--engine", "onnxruntime-cpu", "--rounds", 1, "--json", file)
    assert tav("bench", tiny_bundle, "--run", tiny_run, *how).exit_code == 0
    candidates = json.loads(file.read_text())["step"]["candidates"]
    assert list(candidates) == [SDPA, "onnxruntime-cpu"]
    assert candidates[SDPA]["difference"] == 0
    assert 0 < candidates["onnxruntime-cpu"]["difference"] < 1e-3


def test_every_candidate_is_held_against_the_floor_of_its_own_precision():
    step = {
        "batch": 2,
        "flops": 10**9,
        "bytes": 10**9,
        "peaks": {"fp32": 1e9, "bf16": 4e9, "fp16": 2e9},
        "bandwidth": 1e12,
        "floors": {"fp32": 1.0, "bf16": 0.25, "fp16": 0.5},
        "candidates": {
            name: {"median": 2.0, "min": 2.0, "max": 2.0, "difference": 0, "precision": precision}
            for name, precision in (("torch", "fp32"), ("mine", "bf16"), ("other", "int8"))
        },
    }
    facts = {"name": "b", "base": "c", "num_frames": 8, "height": 64, "width": 64, "precision": "bf16"}
    _, rows, floor = report_steps({"bundle": facts, "step": step, "machine": {"cpu": "x", "cores": 2}})
    shares = {row.split("|")[1].strip(): row.split("|")[6].strip() for row in rows.splitlines()[2:]}
    assert shares == {"torch": "50 %", "mine": "12 %", "other": "-"}
    assert floor.endswith("the floor is 0.250 s in bf16, 1.000 s in fp32.")


def test_without_the_extra_there_is_no_floor():
    entry = {"median": 1, "min": 1, "max": 1, "difference": 0, "precision": "fp32"}
    step = {"batch": 2, "floors": None, "candidates": {"a": entry}}
    facts = {"name": "b", "base": "c", "num_frames": 8, "height": 64, "width": 64, "precision": "fp32"}
    lines = list(report_steps({"bundle": facts, "step": step, "machine": {"cpu": "x", "cores": 2}}))
    assert len(lines) == 2
    assert "| - " in lines[1].replace("|            - ", "| - ")
