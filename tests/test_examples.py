"""The numbered examples run as a reader would run them."""

from __future__ import annotations

import functools
import runpy
import subprocess
import sys
from pathlib import Path

import tav_sdk

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str, *args: object, cwd: Path) -> str:
    command = [sys.executable, EXAMPLES / name, *args]
    result = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_01_edits_a_video(tiny_bundle, clip_path, tmp_path):
    run("01_edit_a_video.py", "--bundle", tiny_bundle, "--video", clip_path, "--steps", 2, cwd=tmp_path)
    assert tav_sdk.probe(tmp_path / "edited.mp4").num_frames == 4


def test_02_tunes_and_exports(tiny_base, clip_path, tmp_path, monkeypatch, capsys, traced_once):
    """In this process, without the graph of longer videos, which takes half of the time and has tests of its own."""
    from tav_sdk import export

    options = ("--base", tiny_base, "--video", clip_path, "--frames", 4, "--size", 64, "--steps", 1)
    name = "02_tune_and_export.py"
    monkeypatch.setattr(
        export, "export_bundle", functools.partial(export.export_bundle, options=export.ExportOptions(windows=False))
    )
    monkeypatch.setattr(sys, "argv", [name, *map(str, options)])
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    assert "1/1 loss " in capsys.readouterr().out
    assert (tmp_path / "tuned" / "bundle" / "manifest.json").is_file()


def test_03_reports_progress(tiny_bundle, tmp_path):
    output = run("03_progress_and_cancel.py", "--bundle", tiny_bundle, "--steps", 2, "--seconds", 60, cwd=tmp_path)
    assert output.splitlines() == ["sampling 1/2", "sampling 2/2", "decode 1/1", "written: generated.gif"]


def test_03_stops_when_the_time_is_up(tiny_bundle, tmp_path):
    output = run("03_progress_and_cancel.py", "--bundle", tiny_bundle, "--steps", 9, "--seconds", 0, cwd=tmp_path)
    assert output.splitlines()[-1] == "stopped: sampling was cancelled after step 1 of 9"
    assert list(tmp_path.iterdir()) == []
