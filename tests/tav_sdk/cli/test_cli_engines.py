"""``tav build`` and ``tav doctor``."""

import importlib.metadata
import json
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest

from tav_sdk.engines import EngineStatus, build_engine, choose_engine, ort, select
from tav_sdk.engines.backend import NOT_BUILT
from tav_sdk.engines.select import MODULES
from tav_sdk.errors import EngineError


def test_doctor_says_what_each_engine_can_do(tav):
    result = tav("doctor")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    for engine in MODULES:
        assert any(line.startswith(engine) for line in lines)
    assert next(line for line in lines if line.startswith("onnxruntime-cpu")).split()[1:3] == ["yes", "yes"]


def test_doctor_as_json_has_a_fix_for_all_that_does_not_run(tav):
    facts = json.loads(tav("doctor", "--json").stdout)
    assert {engine["engine"] for engine in facts["engines"]} == set(MODULES)
    assert all(engine["fix"] for engine in facts["engines"] if not engine["runs"])
    assert facts["auto"] in {engine["engine"] for engine in facts["engines"] if engine["runs"]}
    assert facts["versions"]["numpy"]


def test_doctor_ends_sentences_and_tells_of_no_gpu_once(tav, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    text = tav("doctor").stdout
    assert ".." not in text.replace("...", "")
    assert text.count("CUDA cannot find a GPU") <= 2  # one for each flavour of TensorRT that is installed


def test_nothing_is_built_for_an_engine_that_starts_from_the_graph(tav, tiny_bundle):
    result = tav("build", tiny_bundle, "--engine", "onnxruntime-cpu")
    assert result.exit_code == 0, result.output
    assert "there is nothing to build" in result.stderr
    assert "━" not in result.stderr


@pytest.mark.parametrize("engine", ["openvino", "auto"])
def test_an_unknown_engine_is_refused(tav, tiny_bundle, engine):
    result = tav("build", tiny_bundle, "--engine", engine)
    assert result.exit_code == 2
    assert f"there is no engine '{engine}' to build for; those that build here: " in result.stderr
    assert "onnxruntime-cpu" in result.stderr


def test_options_of_another_engine_are_refused(tav, tiny_bundle):
    result = tav("build", tiny_bundle, "--engine", "onnxruntime-cpu", "--compute-capability", "8.9")
    assert result.exit_code == 2
    assert "onnxruntime-cpu has no build options, got compute_capabilities; leave them out" in result.stderr


def test_a_size_that_is_none_is_refused(tav, tiny_bundle):
    result = tav("build", tiny_bundle, "--engine", "tensorrt-rtx", "--workspace", "much")
    assert result.exit_code == 2
    assert "--workspace: expected a size such as 20GB, 512MB or 0, got 'much'" in result.stderr


@pytest.fixture
def statuses(monkeypatch):
    """``statuses({"tensorrt": (runs, ready), ...})``: pretend that these engines are all there is."""

    def pretend(engines):
        class Backend:
            def status(self, engine):
                runs = engines[engine][0]
                return EngineStatus(engine=engine, runs=runs, builds=False, detail="no GPU", fix="Buy one.")

            def obstacle(self, graph, engine):
                return None if engines[engine][1] else NOT_BUILT

        monkeypatch.setattr(select, "MODULES", dict.fromkeys(engines, "backend"))
        monkeypatch.setattr(select, "backend_of", lambda engine: Backend())

    return pretend


@pytest.fixture
def graph(tiny_bundle):
    from tav_sdk.bundle.bundle import Bundle

    return Bundle(tiny_bundle).graph("unet")


def test_auto_takes_the_best_that_is_ready_and_says_what_it_passed_over(statuses, graph):
    statuses({"tensorrt": (False, True), "tensorrt-rtx": (True, False), "onnxruntime-cuda": (True, True)})
    why = "the best engine that works here; tensorrt-rtx has to be built first"
    assert choose_engine("auto", [graph]) == ("onnxruntime-cuda", why)


def test_auto_takes_an_engine_that_was_built(statuses, graph):
    statuses({"tensorrt-rtx": (True, True), "onnxruntime-cuda": (True, True)})
    assert choose_engine("auto", [graph]) == ("tensorrt-rtx", "the best engine that works here")


def test_auto_says_why_nothing_can_start(statuses, graph):
    statuses({"tensorrt-rtx": (True, False)})
    text = "no engine that works here can start at once: tensorrt-rtx has to be built first"
    with pytest.raises(EngineError, match=text):
        choose_engine("auto", [graph])


def test_an_engine_that_does_not_run_says_why_and_what_to_do(statuses, graph):
    statuses({"tensorrt": (False, False), "onnxruntime-cpu": (True, True)})
    text = r"the engine tensorrt does not work on this machine: no GPU. Buy one. Engines that work here: auto, onn"
    with pytest.raises(EngineError, match=text):
        choose_engine("tensorrt", [graph])


def test_an_engine_that_does_not_build_says_why_and_what_to_do(statuses, graph):
    statuses({"tensorrt": (False, False)})
    with pytest.raises(EngineError, match=r"the engine tensorrt does not build on this machine: no GPU\. Buy one\."):
        build_engine(graph, engine="tensorrt")


# --- two packages of ONNX Runtime in one folder ---------------------------------------------------------------------


@pytest.fixture
def installed(monkeypatch):
    """``installed({package: version}, providers)``: pretend that these packages of ONNX Runtime are there."""

    def pretend(packages, providers):
        real = importlib.metadata.version

        def version(name):
            if not name.startswith("onnxruntime"):
                return real(name)
            if name not in packages:
                raise importlib.metadata.PackageNotFoundError(name)
            return packages[name]

        monkeypatch.setattr(importlib.metadata, "version", version)
        monkeypatch.setattr("onnxruntime.get_available_providers", lambda: providers)

    return pretend


AGAIN = "pip install --force-reinstall --no-deps onnxruntime-gpu"
CPU, CUDA = ["CPUExecutionProvider"], ["CUDAExecutionProvider", "CPUExecutionProvider"]


@pytest.mark.parametrize(
    ("packages", "providers", "words"),
    [
        (
            {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.1"},
            CPU,
            "onnxruntime 1.32.0 and onnxruntime-gpu 1.31.1 are both installed and fill the same folder; its files are "
            f"not those of onnxruntime-gpu, so there is no CUDA. Put its files back: {AGAIN}",
        ),
        (
            {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.1"},
            CUDA,
            "onnxruntime 1.32.0 and onnxruntime-gpu 1.31.1 are both installed and fill the same folder; now it holds "
            f"the files of onnxruntime-gpu, which works. An update of onnxruntime overwrites them; after one: {AGAIN}",
        ),
        (
            {"onnxruntime-gpu": "1.31.1"},
            CPU,
            f"onnxruntime-gpu 1.31.1 is damaged, so there is no CUDA. Put its files back: {AGAIN}",
        ),
        (
            {"onnxruntime-gpu": "1.24.4"},
            CUDA,
            "onnxruntime-gpu 1.24.4 runs every attention on the CPU: its CUDA kernel came with 1.25. "
            'Update it: pip install --force-reinstall --no-deps "onnxruntime-gpu>=1.25"',
        ),
        (
            {"onnxruntime": "1.32.0"},
            [],
            "onnxruntime 1.32.0 is listed as installed, but cannot be used: an uninstallation of onnxruntime-gpu may "
            "have removed its files. Put them back: pip install --force-reinstall --no-deps onnxruntime",
        ),
    ],
)
def test_doctor_notices_two_packages_of_onnx_runtime(tav, installed, packages, providers, words):
    installed(packages, providers)
    assert json.loads(tav("doctor", "--json").stdout)["notes"] == [words]
    assert f"note {words}" in " ".join(tav("doctor").stdout.split())


@pytest.mark.parametrize(
    ("packages", "providers"), [({"onnxruntime": "1.32.0"}, CPU), ({"onnxruntime-gpu": "1.31.1"}, CUDA)]
)
def test_doctor_has_no_note_on_one_package(tav, installed, packages, providers):
    installed(packages, providers)
    assert json.loads(tav("doctor", "--json").stdout)["notes"] == []


def test_doctor_works_where_onnx_runtime_is_half_removed(tav, monkeypatch):
    """What is left when pip uninstalls one of the two packages: a folder without its ``__init__.py``."""
    left = ModuleType("onnxruntime")
    left.__spec__ = ModuleSpec("onnxruntime", None)
    monkeypatch.setitem(sys.modules, "onnxruntime", left)
    result = tav("doctor", "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    cpu = next(engine for engine in facts["engines"] if engine["engine"] == "onnxruntime-cpu")
    assert (cpu["runs"], cpu["builds"]) == (False, False)
    assert cpu["detail"].startswith(
        "onnxruntime is installed, but cannot be used: module 'onnxruntime' has no attribute"
    )
    assert "pip install --force-reinstall --no-deps onnxruntime" in cpu["fix"]
    assert facts["notes"][0].endswith("Put them back: pip install --force-reinstall --no-deps onnxruntime")


def test_cuda_is_loaded_from_packages_where_they_are(monkeypatch):
    calls = []
    runtime = SimpleNamespace(preload_dlls=lambda: calls.append("loaded"))
    monkeypatch.setattr(ort.importlib.util, "find_spec", lambda name: None)
    ort._load_cuda_libraries(runtime)
    assert calls == []
    monkeypatch.setattr(ort.importlib.util, "find_spec", lambda name: name)
    ort._load_cuda_libraries(runtime)
    assert calls == ["loaded"]
