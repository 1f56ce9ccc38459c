"""The house: the links, what a wheel holds, and what an import costs an app that embeds the package."""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DRAWINGS = ROOT / "training" / "pocket" / "drawings"
LINKS = ("engines", "export", "training")

FRAMEWORKS = {"accelerate", "diffusers", "onnx", "onnxscript", "torch", "transformers"}
BACKENDS = {"PIL", "av", "onnxruntime", "polygraphy", "tensorrt", "tensorrt_rtx", "tokenizers"}

Run = Callable[..., subprocess.CompletedProcess[str]]


def loaded_by(run: Run, statement: str, cwd: Path) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after ``statement``."""
    code = f"import sys\n{statement}\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    result = run(sys.executable, "-c", code, cwd=cwd)
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


@pytest.mark.parametrize("name", LINKS)
def test_each_folder_is_a_committed_relative_link(name: str) -> None:
    link = ROOT / "tav_sdk" / name
    assert link.is_symlink()
    assert os.readlink(link) == f"../{name}"
    assert link.resolve() == ROOT / name


def test_wheel_holds_every_file_of_the_tree(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {f"tav_sdk/{path.relative_to(ROOT / 'tav_sdk')}" for path in (ROOT / "tav_sdk").rglob("*.py")}
    for link in LINKS:
        sources |= {f"tav_sdk/{link}/{path.relative_to(ROOT / link)}" for path in (ROOT / link).rglob("*.py")}
    assert sources <= names, sorted(sources - names)


def test_wheel_holds_one_package_and_no_links(wheel: Path) -> None:
    entries = zipfile.ZipFile(wheel).infolist()
    assert {entry.filename.split("/")[0].partition("-")[0] for entry in entries} == {"tav_sdk"}
    assert [entry.filename for entry in entries if (entry.external_attr >> 16) & 0o170000 == 0o120000] == []


def test_wheel_holds_the_drawings_and_their_licence(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    drawings = {f"tav_sdk/training/pocket/drawings/{path.name}" for path in DRAWINGS.iterdir()}
    assert len(drawings) >= 12
    assert drawings <= names
    licences = {name.partition(".dist-info/licenses/")[2] for name in names if ".dist-info/licenses/" in name}
    assert licences == {"LICENSE", "tav_sdk/training/pocket/drawings/OFL.txt"}


def test_wheel_holds_the_typing_marker(wheel: Path) -> None:
    assert "tav_sdk/py.typed" in zipfile.ZipFile(wheel).namelist()


def test_base_requirements_name_no_framework() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    names = {line.split(">")[0].strip() for line in setup["options"]["install_requires"].split("\n")}
    assert names & FRAMEWORKS == set()


def test_import_of_the_package_loads_no_backend(run: Run, tmp_path: Path) -> None:
    assert loaded_by(run, "import tav_sdk", tmp_path) & (FRAMEWORKS | BACKENDS) == set()


def test_import_of_the_command_line_loads_no_framework(run: Run, tmp_path: Path) -> None:
    assert loaded_by(run, "import tav_sdk.cli", tmp_path) & (FRAMEWORKS | BACKENDS) == set()


def test_installed_wheel_is_used_without_torch(run: Run, torch_free_env: Path, tmp_path: Path) -> None:
    code = (
        "import importlib.util as u, tav_sdk, tav_sdk.engines;"
        "print(u.find_spec('torch'), u.find_spec('diffusers'), u.find_spec('engines'), tav_sdk.__file__)"
    )
    result = run(torch_free_env, "-c", code, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("None None None ")
    assert str(ROOT) not in result.stdout


def test_an_edit_runs_from_the_wheel_without_torch(
    run: Run, torch_free_env: Path, tiny_bundle: Path, clip_path: Path, tmp_path: Path
) -> None:
    command = [torch_free_env.parent / "tav", "edit", tiny_bundle, "--video", clip_path, "--prompt", "a blue circle"]
    options = ["--num-inversion-steps", "2", "--num-inference-steps", "2", "--out", tmp_path / "out"]
    result = run(*command, *options, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["00.mp4", "edits.json", "sheet.png", "source.mp4"]


def test_tuning_from_the_wheel_without_torch_names_the_extra(
    run: Run, torch_free_env: Path, clip_path: Path, tmp_path: Path
) -> None:
    command = [
        torch_free_env.parent / "tav",
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
    result = run(*command, cwd=tmp_path)
    assert result.returncode == 2
    assert 'is not installed. Install it with: pip install "tav-sdk[training]"' in result.stderr


def test_importing_training_loads_no_torch(run: Run, tmp_path: Path) -> None:
    assert "torch" not in loaded_by(run, "from tav_sdk.training import TuneConfig", tmp_path)


def test_the_linter_bans_the_bare_roots() -> None:
    tomllib = pytest.importorskip("tomllib", reason="tomllib is in Python 3.11 and later")
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]["lint"]
    assert set(LINKS) <= set(lint["flake8-tidy-imports"]["banned-api"])
