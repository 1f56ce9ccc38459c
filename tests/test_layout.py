"""The package is one import root of committed links, its wheel holds real files, and importing it is light."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINKS = ("engines", "export", "training")
HEAVY = ("torch", "diffusers", "transformers", "onnx", "onnxruntime", "av", "PIL", "rich", "typer", "pydantic")


@pytest.mark.parametrize("name", LINKS)
def test_each_room_is_a_relative_link_to_the_top_level_folder(name):
    link = ROOT / "tav_sdk" / name
    assert link.is_symlink()
    assert link.readlink().as_posix() == f"../{name}"
    assert link.resolve() == ROOT / name


def test_the_wheel_holds_real_files_under_one_root(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"tav_sdk"}
    for name in LINKS:
        assert f"tav_sdk/{name}/__init__.py" in names
    assert {"tav_sdk/py.typed", "tav_sdk/cli/app.py"} <= set(names)


def test_the_wheel_holds_every_module_of_the_checkout(wheel):
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")}
    tracked = subprocess.run(
        ["git", "ls-files", "tav_sdk", *LINKS], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    expected = {path if path.startswith("tav_sdk/") else f"tav_sdk/{path}" for path in tracked if path.endswith(".py")}
    assert expected <= packed


def test_importing_the_package_loads_no_backend():
    code = f"import sys, tav_sdk; print([m for m in {HEAVY!r} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_importing_training_loads_no_torch():
    code = "import sys; from tav_sdk.training import TuneConfig; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def test_the_linter_bans_the_bare_roots():
    tomllib = pytest.importorskip("tomllib", reason="tomllib is in Python 3.11 and later")
    banned = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]["flake8-tidy-imports"]
    assert set(LINKS) <= set(banned["banned-api"])


def test_an_edit_runs_from_the_wheel_without_torch(torch_free_python, tiny_bundle, clip_path, tmp_path):
    """In a fresh environment, outside the checkout."""
    where = subprocess.run(
        [torch_free_python, "-c", "import importlib.util as u, tav_sdk; print(tav_sdk.__file__, u.find_spec('torch'))"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert str(ROOT) not in where
    assert where.strip().endswith("None")
    command = [torch_free_python.parent / "tav", "edit", tiny_bundle, "--video", clip_path, "--prompt", "a blue circle"]
    steps = ["--num-inversion-steps", "2", "--num-inference-steps", "2", "--out", tmp_path / "out"]
    result = subprocess.run([*command, *steps], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "00.mp4",
        "edits.json",
        "sheet.png",
        "source.mp4",
    ]


def test_tuning_without_torch_names_the_extra(torch_free_python, tmp_path, clip_path):
    command = [
        torch_free_python.parent / "tav",
        "tune",
        "--base",
        "b",
        "--video",
        clip_path,
        "--prompt",
        "p",
        "--out",
        "o",
    ]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert 'is not installed. Install it with: pip install "tav-sdk[training]"' in result.stderr
