"""Tiny models and clips, made once for a whole test run, over all workers of pytest-xdist."""

from __future__ import annotations

import os

# Before anything imports torch: waiting threads sleep, and workers that run side by side take one thread each.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:
    for _name in ("OMP_NUM_THREADS", "TAV_NUM_THREADS"):
        os.environ.setdefault(_name, "1")

import configparser
import json
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from packaging.requirements import Requirement
from typer.testing import CliRunner, Result

ROOT = Path(__file__).parents[1]
BUILT_FROM = ("setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md")
TINY = {"block_out_channels": (8, 16), "vae_channels": (4, 4, 8, 8), "cross_attention_dim": 16}
"""Two U-Net levels, which export in half the time; heights and widths are multiples of 16."""
SIZE, NUM_FRAMES, CLIP_FRAMES = 64, 4, 10
CAPTION = "a red square is moving over the meadow"
OTHER_CAPTION = "a red square is leaving the meadow"


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_run(tmp_path_factory) -> Iterator[None]:
    """Nothing is taken from the user's cache or left there, by fixtures either."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAV_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch) -> None:
    """Nothing comes from another test."""
    monkeypatch.setenv("TAV_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory) -> Path:
    """One folder for all workers; removed by pytest some runs later."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def made_once(shared_folder) -> Callable[[str, Callable[[Path], object]], Path]:
    """``made_once(name, make)``: the path that one worker's ``make(path)`` wrote, for all of them."""

    def get(name: str, make: Callable[[Path], object]) -> Path:
        path = shared_folder / name
        with FileLock(f"{path}.lock"):
            if not path.exists():
                try:
                    make(path)
                except BaseException:
                    shutil.rmtree(path, ignore_errors=True)  # or the next test would take it for whole
                    raise
        return path

    return get


@pytest.fixture(scope="session")
def traced_once(made_once) -> Iterator[None]:
    """From here on, exports in this process trace equal modules once; see ``traced_graphs.py``, and ``traced_anew``."""
    from tav_sdk.export import graph_exporter
    from tests.traced_graphs import traced_once

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph_exporter, "export_graph", traced_once(made_once))
        yield


@pytest.fixture
def traced_anew(monkeypatch) -> None:
    """Exports trace everything, whatever was traced before."""
    from tav_sdk.export import graph_exporter, to_onnx

    monkeypatch.setattr(graph_exporter, "export_graph", to_onnx.export_graph)


@pytest.fixture(scope="session")
def tiny_base(made_once) -> Path:
    """A random base model in the diffusers layout; do not write into it."""

    def make(path: Path) -> None:
        from tav_sdk.training import make_tiny_base

        make_tiny_base(path, **TINY)

    return made_once("base", make)


@pytest.fixture(scope="session")
def clip_path(made_once) -> Path:
    """An mp4 of 10 frames, 64x64, 8 a second."""

    def make(path: Path) -> None:
        from benchmarks.demo_clip import render_clip

        render_clip(num_frames=CLIP_FRAMES, height=SIZE, width=SIZE).save(path)

    return made_once("clip.mp4", make)


@pytest.fixture(scope="session")
def tiny_run(made_once, tiny_base, clip_path) -> Path:
    """``tiny_base`` tuned for 2 steps on 4 frames of ``clip_path``; do not write into it."""

    def make(path: Path) -> None:
        from tav_sdk.training import TuneConfig, tune

        tune(
            TuneConfig(
                base=str(tiny_base),
                video=str(clip_path),
                prompt=CAPTION,
                out=str(path),
                num_frames=NUM_FRAMES,
                height=SIZE,
                width=SIZE,
                num_train_steps=2,
            )
        )

    return made_once("run", make)


@pytest.fixture(scope="session")
def other_run(made_once, tiny_base, clip_path) -> Path:
    """Another clip on ``tiny_base``: other frames of ``clip_path``, another caption; do not write into it."""

    def make(path: Path) -> None:
        from tav_sdk.training import TuneConfig, tune

        tune(
            TuneConfig(
                base=str(tiny_base),
                video=str(clip_path),
                prompt=OTHER_CAPTION,
                out=str(path),
                num_frames=NUM_FRAMES,
                start=4,
                height=SIZE,
                width=SIZE,
                num_train_steps=2,
                learning_rate=1e-2,
            )
        )

    return made_once("other_run", make)


@pytest.fixture(scope="session")
def tiny_bundle(made_once, tiny_run, traced_once) -> Path:
    """``tiny_run`` exported; do not write into it."""

    def make(path: Path) -> None:
        from tav_sdk.export import export_bundle

        export_bundle(tiny_run, path)

    return made_once("bundle", make)


@pytest.fixture(scope="session")
def other_bundle(made_once, other_run, tiny_bundle) -> Path:
    """``other_run`` on the graphs of ``tiny_bundle``; do not write into it."""

    def make(path: Path) -> None:
        from tav_sdk.export import export_clip

        export_clip(other_run, path, bundle=tiny_bundle)

    return made_once("other_bundle", make)


@pytest.fixture
def base_copy(tiny_base, tmp_path) -> Path:
    """A copy of ``tiny_base`` that a test may damage."""
    return shutil.copytree(tiny_base, tmp_path / "base")


@pytest.fixture
def bundle_copy(tiny_bundle, tmp_path) -> Path:
    """A copy of ``tiny_bundle`` that a test may damage."""
    return shutil.copytree(tiny_bundle, tmp_path / "bundle")


@pytest.fixture
def edit_manifest(bundle_copy) -> Callable[[Callable[[dict], object]], None]:
    """``edit_manifest(change)``: ``change`` gets the parsed manifest of ``bundle_copy``, which is then rewritten."""

    def apply(change: Callable[[dict], object]) -> None:
        path = bundle_copy / "manifest.json"
        manifest = json.loads(path.read_text(encoding="utf-8"))
        change(manifest)
        path.write_text(json.dumps(manifest), encoding="utf-8")

    return apply


@pytest.fixture
def tav() -> Callable[..., Result]:
    """``tav("edit", bundle, ...)``: the command line in this process; the result has exit code, stdout and stderr."""
    from tav_sdk.cli.app import app

    return lambda *args: CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.fixture
def work(tmp_path) -> Path:
    """An empty folder to write into, so that a test can list everything that a command left behind."""
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.fixture(scope="session")
def wheel(made_once) -> Path:
    """The wheel, built by way of the source archive as a release is, from a copy that keeps links as links."""

    def make(path: Path) -> None:
        source = path.parent / "source"
        source.mkdir()
        for name in BUILT_FROM:
            shutil.copy2(ROOT / name, source / name)
        for name in ("tav_sdk", "engines", "export", "training"):
            shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        result = run_outside(sys.executable, "-m", "build", "--no-isolation", "--outdir", path, source, cwd=path.parent)
        assert result.returncode == 0, result.stdout + result.stderr

    (built,) = made_once("wheel", make).glob("*.whl")
    return built


@pytest.fixture(scope="session")
def torch_free_env(made_once, wheel) -> Path:
    """The Python of a new environment that has the wheel with its base dependencies, and neither torch nor checkout."""

    def make(path: Path) -> None:
        venv.create(path, with_pip=True)
        install = ("-m", "pip", "install", "--quiet", "--prefer-binary", "-c", ROOT / "constraints.txt", wheel)
        result = run_outside(path / "bin" / "python", *install, cwd=path)
        assert result.returncode == 0, result.stdout + result.stderr

    return made_once("torch_free", make) / "bin" / "python"


def run_outside(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run outside the checkout, with nothing of this process's import path."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def run() -> Callable[..., subprocess.CompletedProcess[str]]:
    """``run(command, ..., cwd=folder)``: outside the checkout, with nothing of this process's import path."""
    return run_outside


@pytest.fixture(scope="session")
def tensorrt_rtx() -> None:
    """Skips where setup.cfg says that TensorRT for RTX has no wheels. Elsewhere it is installed, or the test fails."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = setup["options.extras_require"]["tensorrt"].strip().splitlines()
    marker = Requirement(next(line for line in lines if line.startswith("tensorrt-rtx"))).marker
    if marker is not None and not marker.evaluate():
        pytest.skip("tensorrt-rtx has no wheels for this machine")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out slow tests unless they are asked for."""
    if os.environ.get("TAV_SLOW") or "slow" in (config.option.markexpr or ""):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="slow; run with TAV_SLOW=1"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Each worker of ``-n`` starts with a part of its own, so that folders stay together and few wait for the other."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log) if config.getoption("dist") == "load" else None


# --- skips: those that expected_skips.txt does not cover fail the run -------------------------------------------------

EXPECTED_SKIPS = Path(__file__).with_name("expected_skips.txt")


def _pattern(text: str) -> re.Pattern[str]:
    """``*`` stands for any text; brackets, which ids of tests have, for themselves."""
    return re.compile(".*".join(map(re.escape, text.split("*"))), re.DOTALL)


def _unexpected_skips(config: pytest.Config) -> list[str]:
    """``id: reason`` of each skip of this run that no line covers; only the process that has all reports knows them."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or hasattr(config, "workerinput"):
        return []
    lines = [line.strip() for line in EXPECTED_SKIPS.read_text(encoding="utf-8").splitlines()]
    known = [
        [_pattern(part) for part in re.split(r"\s{2,}", line, maxsplit=1)]
        for line in lines
        if line and not line.startswith("#")
    ]
    found = []
    for report in reporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reason = reason.removeprefix("Skipped: ")
        if not any(test.fullmatch(report.nodeid) and why.fullmatch(reason) for test, why in known):
            found.append(f"{report.nodeid}: {reason}")
    return found


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail a run that skipped what is expected to run."""
    if exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED) and _unexpected_skips(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Name those skips."""
    if found := _unexpected_skips(config):
        terminalreporter.section("unexpected skips", red=True, bold=True)
        for line in found:
            terminalreporter.line(line, red=True)
        terminalreporter.line(
            f"{EXPECTED_SKIPS.name} has no line for them, so the run failed. Install what is missing (make setup), or "
            "add a line if they have to be skipped."
        )
