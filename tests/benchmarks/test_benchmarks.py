"""The benchmarks run and say what they promise, at sizes whose numbers mean nothing."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import full_size, interleave, opset, plot_speed, speed, table, tune_step
from tav_sdk.errors import OutputError


def test_interleave_runs_the_candidates_in_turn_and_drops_the_warm_up():
    calls: list[str] = []
    seconds = interleave({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2, warmup=1)
    assert calls == ["a", "b"] * 3
    assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2}


def test_table_is_markdown():
    assert table(("loop", "s"), [("sdk", "1.50")]).splitlines() == [
        "| loop |    s |",
        "| ---- | ---: |",
        "| sdk  | 1.50 |",
    ]


RESULTS = sorted((Path(__file__).parents[2] / "benchmarks" / "results").glob("*.json"))


@pytest.mark.skipif(not RESULTS, reason="without a checkout there are no measurements")
def test_measurements_are_drawn(tmp_path):
    assert any("edit" in json.loads(path.read_text()) for path in RESULTS)
    picture = tmp_path / "speed.png"
    plot_speed.main([*map(str, RESULTS), "--out", str(picture)])
    with Image.open(picture) as image:
        assert image.size[0] > 1000
        assert len(image.convert("RGB").getcolors(1 << 24) or ()) > 10  # more than an empty page
    with pytest.raises(OutputError, match="is there already"):
        plot_speed.main([str(RESULTS[0]), "--out", str(picture)])


@pytest.mark.parametrize("preset", ["default", "original"])
def test_tune_step_compares_equal_losses(tmp_path, capsys, preset):
    path = tmp_path / "result.json"
    tune_step.main(["--size", "tiny", "--steps", "1", "--preset", preset, "--json", str(path)])
    result = json.loads(path.read_text())
    assert result["first_loss"]["released"] == pytest.approx(result["first_loss"]["sdk"], rel=1e-3)
    assert set(result["ratio"]) == {"released", "frozen"}
    assert result["machine"]["versions"]["torch"]
    assert "| released" in capsys.readouterr().out


def test_tune_step_refuses_loops_that_do_different_work(monkeypatch):
    monkeypatch.setattr("tav_sdk.export.bench.peers.explicit_attention", lambda query, key, value, **_: query)
    with pytest.raises(RuntimeError, match="different losses"):
        tune_step.run(tune_step.SIZES["tiny"], steps=1, tolerance=1e-6)


@pytest.mark.slow
def test_opset_measures_three_candidates(tmp_path):
    path = tmp_path / "result.json"
    opset.main(["--size", "tiny", "--rounds", "1", "--batch", "1", "--json", str(path)])
    result = json.loads(path.read_text())
    assert set(result["summary"]) == {"torch", "opset 18", "opset 23"}
    assert math.isfinite(result["ratio"])


@pytest.mark.slow
def test_precision_measures_every_graph(tmp_path):
    from benchmarks import precision

    path = tmp_path / "result.json"
    precision.main(["--base", "tiny", "--json", str(path)])
    errors = {(row["graph"], row["precision"], row["case"]): row["rms"] for row in json.loads(path.read_text())["rows"]}
    assert len({graph for graph, *_ in errors}) == 4
    assert 4 < errors["unet", "bf16", "nothing kept"] / errors["unet", "fp16", "nothing kept"] < 16
    assert errors["unet", "bf16", "both ends kept"] < errors["unet", "bf16", "nothing kept"]


@pytest.mark.slow
def test_full_size_goes_the_whole_way(tmp_path, capsys):
    path = tmp_path / "result.json"
    work = tmp_path / "work"
    assert full_size.main(["--work", str(work), "--size", "tiny", "--clean", "--json", str(path)]) == 0
    result = json.loads(path.read_text())
    assert list(result["stages"]) == list(full_size.STAGES)
    assert all(stage["peak_gb"] > 0 for stage in result["stages"].values())
    assert not list(work.iterdir())


def test_full_size_says_which_stage_failed(tmp_path):
    with pytest.raises(RuntimeError, match="the stage invert ended with 1"):
        full_size.run_stage("invert", tmp_path, "tiny")


@pytest.mark.slow
def test_speed_makes_what_it_measures_once(tmp_path):
    bundle, run = speed.prepare("tiny", tmp_path)
    made = {path: path.stat().st_mtime_ns for path in (*bundle.iterdir(), *run.iterdir())}
    assert speed.prepare("tiny", tmp_path) == (bundle, run)
    assert {path: path.stat().st_mtime_ns for path in made} == made
    command = [sys.executable, "-m", "benchmarks.speed", "--size", "tiny", "--work", str(tmp_path), "--rounds", "1"]
    done = subprocess.run(
        [*command, "--json", str(tmp_path / "speed.json")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    candidates = json.loads((tmp_path / "speed.json").read_text())["step"]["candidates"]
    assert {"torch SDPA", "torch.compile", "onnxruntime-cpu"} <= candidates.keys()
    assert all(entry["difference"] < 1e-4 for entry in candidates.values())
