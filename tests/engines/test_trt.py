import ctypes
import importlib
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from tav_sdk.cache.store import Cache
from tav_sdk.engines import Graph, TensorSpec, Weights
from tav_sdk.engines.backend import NOT_BUILT
from tav_sdk.engines.trt import api, backend, cuda, plan_cache
from tav_sdk.engines.trt import build as trt_build
from tav_sdk.engines.trt import engine as trt
from tav_sdk.engines.trt.api import MODULES, Flavour, load
from tav_sdk.engines.trt.backend import BACKEND
from tav_sdk.engines.trt.engine import TrtEngine
from tav_sdk.engines.trt.plan import explain_refusal
from tav_sdk.engines.trt.profiles import choose_profile
from tav_sdk.errors import EngineError, InputError, MissingExtraError, TavError

WIDTH = 3


def weights(key, scale):
    return Weights(key, {"w": np.full(WIDTH, scale, np.float32)})


A, B = weights("a", 2), weights("b", 5)


def feeds(batch=1, step=1):
    return {"x": np.arange(batch * WIDTH, dtype=np.float32).reshape(batch, WIDTH), "step": np.asarray(step)}


def expected(clip, batch=1, step=1):
    return feeds(batch)["x"] * clip.tensors["w"] + step


@pytest.fixture
def graph(tmp_path):
    """y = x * w + step, w tuned; its plan lies beside it."""
    (tmp_path / "model.plan").write_bytes(b"plan")
    video = ("batch", WIDTH)
    return Graph(
        name="unet",
        path=tmp_path / "model.onnx",
        inputs=(TensorSpec("x", "float32", video), TensorSpec("step", "int64", ())),
        outputs=(TensorSpec("y", "float32", video),),
        axes={"batch": (1, 2)},
        tuned=(TensorSpec("w", "float32", (WIDTH,)),),
    )


class FakeCuda:
    """The CUDA runtime with the host's memory for the GPU's; what is recorded runs when it is launched."""

    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice="to", cudaMemcpyDeviceToHost="from")  # noqa: N815
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)  # noqa: N815
    cudaStreamNonBlocking = 1  # noqa: N815

    def __init__(self):
        self.live = {}
        self.recording = None
        self.copies = self.launches = 0
        self.failing = ""
        self.recordable = True
        self.names = ["x", "step", "w", "y"]
        self.contexts = []

    def make(self, what, value):
        handle = id(value) if what != "memory" else ctypes.addressof(value)
        self.live[handle] = value
        return (0, handle)

    def free(self, handle):
        del self.live[handle]
        return (0,)

    def cudaMalloc(self, size):
        return (2, None) if self.failing == "malloc" else self.make("memory", (ctypes.c_byte * size)())

    def cudaHostAlloc(self, size, flags):
        return self.make("memory", (ctypes.c_byte * size)())

    def cudaStreamCreateWithFlags(self, flags):
        return self.make("stream", object())

    def cudaStreamSynchronize(self, stream):
        return (719,) if self.failing == "synchronize" else (0,)

    def cudaMemcpy(self, target, source, size, kind):
        self.copies += 1
        if self.failing == "copy":
            return (700,)
        ctypes.memmove(target, source, size)
        return (0,)

    def cudaDeviceSynchronize(self):
        return (0,)

    def cudaMemcpyAsync(self, target, source, size, kind, stream):
        assert self.recording is None
        ctypes.memmove(target, source, size)
        return (0,)

    def cudaStreamBeginCapture(self, stream, mode):
        self.recording = []
        return (0,)

    def cudaStreamEndCapture(self, stream):
        recorded, self.recording = self.recording, None
        return self.make("graph", recorded) if self.recordable else (901, None)

    def cudaGraphInstantiate(self, graph, flags):
        return self.make("executable", list(self.live[graph]))

    def cudaGraphLaunch(self, executable, stream):
        self.launches += 1
        for call in self.live[executable]:
            call()
        return (0,)

    def cudaGetLastError(self):
        return (0,)

    def cudaGetErrorName(self, code):
        return (0, b"cudaErrorOfTheTest")

    def cudaGetErrorString(self, code):
        return (0, b"as the test wants it")


for _name in ("cudaFree", "cudaFreeHost", "cudaStreamDestroy", "cudaGraphDestroy", "cudaGraphExecDestroy"):
    setattr(FakeCuda, _name, FakeCuda.free)


class FakeContext:
    """Computes on the addresses that it was given, when the stream is not recorded."""

    def __init__(self, gpu):
        self.gpu, self.shapes, self.addresses, self.profile = gpu, {}, {}, None

    def set_optimization_profile_async(self, profile, stream):
        self.profile = profile
        return True

    def set_input_shape(self, name, shape):
        self.shapes[name] = shape
        return self.gpu.failing != "shape"

    def get_tensor_shape(self, name):
        if name == "step":
            return []
        return list(self.shapes["x"]) if name == "y" else [-1, WIDTH]

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def array(self, name, dtype, shape):
        kind = ctypes.c_float if dtype == "float32" else ctypes.c_int64
        count = int(np.prod(shape))
        return np.ctypeslib.as_array((kind * count).from_address(self.addresses[name])).reshape(shape)

    def compute(self):
        shape = self.shapes["x"]
        x, w = self.array("x", "float32", shape), self.array("w", "float32", (WIDTH,))
        self.array("y", "float32", shape)[...] = x * w + self.array("step", "int64", ())

    def execute_async_v3(self, stream):
        assert (self.profile, self.shapes["x"][0]) in ((0, 1), (1, 2))
        if self.gpu.recording is None:
            self.compute()
        else:
            self.gpu.recording.append(self.compute)
        return self.gpu.failing != "run"


@pytest.fixture
def gpu(monkeypatch):
    """A GPU of the test's own, and TensorRT to go with it."""
    gpu = FakeCuda()
    plan = SimpleNamespace(num_optimization_profiles=2)
    plan.get_tensor_name = lambda index: gpu.names[index]
    plan.num_io_tensors = len(gpu.names)
    runtime = SimpleNamespace(deserialize_cuda_engine=lambda data: plan if data[:] == b"plan" else None)

    class Log(api.Log):
        def __str__(self):
            return "so says TensorRT"

    class Logger:
        Severity = SimpleNamespace(ERROR=1, INTERNAL_ERROR=2)

    module = SimpleNamespace(__version__="11.4", Runtime=lambda logger: runtime, ILogger=Logger)

    class FakeFlavour(Flavour):
        def create_context(self, engine):
            gpu.contexts.append(FakeContext(gpu))
            return None if gpu.failing == "context" else gpu.contexts[-1]

    monkeypatch.setattr(cuda, "runtime", lambda: gpu)
    monkeypatch.setattr(cuda, "device", lambda: cuda.Device("GPU", "8.9"))
    monkeypatch.setattr(trt, "load", lambda engine: FakeFlavour(engine, module, Log(module)))
    return gpu


@pytest.fixture
def engine(graph, gpu):
    with TrtEngine(graph, graph.path.with_suffix(".plan"), engine="tensorrt") as engine:
        yield engine


# --- running ----------------------------------------------------------------------------------------------------------


def test_every_length_has_its_context(engine, gpu):
    for batch in (1, 2, 1, 2):
        np.testing.assert_array_equal(engine.run(feeds(batch), A)["y"], expected(A, batch))
    assert [context.profile for context in gpu.contexts] == [0, 1]


def test_results_stay_when_the_engine_runs_again(engine):
    first = engine.run(feeds(step=1), A)["y"]
    engine.run(feeds(step=7), A)
    np.testing.assert_array_equal(first, expected(A, step=1))


def test_clips_change_and_come_back(engine, gpu):
    for clip, copies in ((A, 1), (A, 1), (B, 2), (A, 3)):
        np.testing.assert_array_equal(engine.run(feeds(), clip)["y"], expected(clip))
        assert gpu.copies == copies


def test_a_clip_reaches_contexts_that_exist(engine):
    for clip in (A, B):
        for batch in (1, 2):
            np.testing.assert_array_equal(engine.run(feeds(batch), clip)["y"], expected(clip, batch))


def test_weights_that_came_half_are_copied_again(engine, gpu):
    engine.run(feeds(), A)
    gpu.failing = "copy"
    with pytest.raises(EngineError, match=r"CUDA cannot copy to the GPU: cudaErrorOfTheTest \(700\)"):
        engine.run(feeds(), B)
    gpu.failing = ""
    np.testing.assert_array_equal(engine.run(feeds(), A)["y"], expected(A))
    assert gpu.copies == 3


def test_a_plan_does_not_run_without_a_clips_weights(engine):
    with pytest.raises(InputError, match="the unet plan holds no clip's weights: expected 1 tuned weights, got none"):
        engine.run(feeds())


def test_threads_with_two_clips_get_each_its_own(engine):
    def run(number):
        clip, batch = (A, B)[number % 2], 1 + number % 3 // 2
        return (engine.run(feeds(batch, number), clip)["y"] == expected(clip, batch, number)).all()

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(run, range(60)))


def test_the_second_run_is_recorded_and_launched_from_then_on(engine, gpu):
    for number in range(4):
        np.testing.assert_array_equal(engine.run(feeds(step=number), A)["y"], expected(A, step=number))
        assert gpu.launches == number


def test_a_recording_runs_with_another_clip(engine, gpu):
    for clip in (A, A, B):
        np.testing.assert_array_equal(engine.run(feeds(), clip)["y"], expected(clip))
    assert gpu.launches == 2


def test_what_cannot_be_recorded_runs_as_it_is(engine, gpu):
    gpu.recordable = False
    for number in range(3):
        np.testing.assert_array_equal(engine.run(feeds(step=number), A)["y"], expected(A, step=number))
    assert gpu.launches == 0


def test_rtx_records_by_itself(graph, gpu):
    with TrtEngine(graph, graph.path.with_suffix(".plan"), engine="tensorrt-rtx") as engine:
        for _ in range(3):
            np.testing.assert_array_equal(engine.run(feeds(), A)["y"], expected(A))
    assert gpu.launches == 0


@pytest.mark.parametrize(
    ("failing", "message"),
    [
        ("context", "TensorRT 11.4 cannot make an execution context for the unet graph: so says TensorRT"),
        ("shape", r"TensorRT 11.4 cannot take x of shape \[1, 3\] for the unet graph: so says TensorRT"),
        ("run", "TensorRT 11.4 cannot run for the unet graph: so says TensorRT"),
        ("malloc", r"CUDA cannot allocate 12 bytes: .* \(2\): as the test wants it. The GPU's memory is full: close"),
        ("synchronize", r"CUDA cannot finish its work: cudaErrorOfTheTest \(719\): as the test wants it\.$"),
    ],
)
def test_a_failure_is_told_and_leaves_nothing_behind(engine, gpu, failing, message):
    gpu.failing = failing
    with pytest.raises(EngineError, match=message):
        engine.run(feeds(), A)
    gpu.failing = ""
    np.testing.assert_array_equal(engine.run(feeds(), A)["y"], expected(A))
    engine.close()
    assert gpu.live == {}


def test_closing_frees_everything(engine, gpu):
    for batch in (1, 2, 1, 2):
        engine.run(feeds(batch), A)
    assert gpu.live
    engine.close()
    assert gpu.live == {}
    with pytest.raises(EngineError, match="the unet engine is closed"):
        engine.run(feeds(), A)


def test_an_engine_that_is_closed_while_it_runs_finishes_first(engine, gpu):
    running, go_on = threading.Event(), threading.Event()

    def wait(stream):
        running.set()
        go_on.wait(5)
        return (0,)

    engine.run(feeds(), A)
    gpu.cudaStreamSynchronize = wait
    with ThreadPoolExecutor(2) as pool:
        result = pool.submit(engine.run, feeds(), A)
        running.wait(5)
        closing = pool.submit(engine.close)
        go_on.set()
        np.testing.assert_array_equal(result.result()["y"], expected(A))
        closing.result()
    assert gpu.live == {}


# --- loading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"no plan"])
def test_a_damaged_plan_is_refused(graph, gpu, content):
    path = graph.path.with_suffix(".plan")
    path.write_bytes(content)
    with pytest.raises(
        EngineError,
        match=r"TensorRT 11.4 cannot load the plan .*model.plan of the unet graph: .*; build it again with: ",
    ):
        TrtEngine(graph, path, engine="tensorrt")


def test_a_missing_plan_is_named(graph, gpu):
    with pytest.raises(EngineError, match=r"the plan .*other.plan cannot be read: No such file"):
        TrtEngine(graph, graph.path.with_name("other.plan"), engine="tensorrt")


@pytest.mark.parametrize("change", [{"tuned": ()}, {"axes": {"batch": (1,)}}])
def test_a_plan_of_another_graph_is_refused(graph, gpu, change):
    with pytest.raises(
        EngineError, match=r"was built from another unet graph: .*; build it again with: tav build BUNDLE"
    ):
        TrtEngine(replace(graph, **change), graph.path.with_suffix(".plan"), engine="tensorrt")
    assert gpu.live == {}


def test_a_gpu_that_is_full_keeps_nothing(graph, gpu):
    gpu.failing = "malloc"
    with pytest.raises(EngineError, match="The GPU's memory is full"):
        TrtEngine(graph, graph.path.with_suffix(".plan"), engine="tensorrt")
    assert gpu.live == {}


NO_DRIVER = "Cuda Runtime (cudaError 35: CUDA driver version is insufficient for CUDA runtime version)"
MAGIC = "Serialization (Serialization assertion header.magicTag == kEXPECTED_MAGIC_TAG failed.)"


@pytest.mark.parametrize(
    ("wrong", "said", "reason"),
    [
        (["VERSION_MISMATCH"], ["The engine header"], "it was built with another version (The engine header)"),
        (["UNSUPPORTED_CC"], [], "it was built for a GPU of another architecture (TensorRT does not say why)"),
        (["MALFORMED_ENGINE"], [NO_DRIVER], "it is damaged, or no plan of this engine"),
        ([], [MAGIC, NO_DRIVER], "it is damaged, or no plan of this engine (Serialization"),
        ([], ["The engine plan file is not compatible with this version of TensorRT"], "it was built with another ver"),
        ([], ["Serialization assertion failed. Version tag does not match."], "it was built with another version"),
        (
            [],
            ["generated on an incompatible device, expecting compute 8.9 got compute 8.6"],
            "it was built for a GPU of",
        ),
        ([], ["Requested amount of GPU memory: Out of memory"], "the GPU's memory is too small for it"),
        ([], ["Something\n else"], "Something else"),
        ([], [], "TensorRT does not say why"),
    ],
)
def test_a_refusal_is_explained(wrong, said, reason):
    assert explain_refusal(wrong, said).startswith(reason)


@pytest.mark.parametrize("content", [b"", b"no plan" * 100])
def test_what_tensorrt_really_says_of_no_plan_is_understood(rtx, content):
    rtx.log.clear()
    runtime = rtx.trt.Runtime(rtx.log.logger)
    assert runtime.deserialize_cuda_engine(content) is None
    assert rtx.what_is_wrong(runtime, content) == ["MALFORMED_ENGINE"]
    for wrong in (["MALFORMED_ENGINE"], []):
        assert explain_refusal(wrong, list(rtx.log)).startswith("it is damaged, or no plan of this engine (")


# --- profiles ---------------------------------------------------------------------------------------------------------


def test_another_length_says_which_there_are():
    profiles = [{"x": (batch, 3), "step": ()} for batch in (1, 2)]
    assert choose_profile("unet", profiles, {"x": np.zeros((2, 3)), "step": np.asarray(0)}) == 1
    with pytest.raises(
        InputError, match=r"the unet plan was built for 'x' of shape \[1, 3\] or \[2, 3\], got \[4, 3\]"
    ):
        choose_profile("unet", profiles, {"x": np.zeros((4, 3)), "step": np.asarray(0)})


# --- opening ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def built(monkeypatch, tmp_path, gpu):
    """Where plans were built to; a build takes no time."""
    paths = []

    def build(graph, path, **options):
        paths.append(path)
        path.write_bytes(b"plan")

    monkeypatch.setenv("TAV_CACHE", str(tmp_path / "cache"))
    for module in (backend, plan_cache):
        monkeypatch.setattr(module, "build_plan", build)
        monkeypatch.setattr(module, "load", trt.load)
    return paths


def test_a_graph_is_built_into_the_cache_and_found_there(graph, built):
    keyed = replace(graph, key="d" * 64)
    assert BACKEND.obstacle(keyed, "tensorrt") == NOT_BUILT
    for _ in range(2):
        with BACKEND.open(keyed, "tensorrt") as engine:
            np.testing.assert_array_equal(engine.run(feeds(), A)["y"], expected(A))
        assert BACKEND.obstacle(keyed, "tensorrt") is None
    assert len(built) == 1
    assert [entry.facts["gpus"] for entry in Cache("engines").entries()] == [["GPU (8.9)"]]


def test_a_graph_without_a_key_leaves_no_plan(graph, built):
    for _ in range(2):
        with BACKEND.open(graph, "tensorrt") as engine:
            np.testing.assert_array_equal(engine.run(feeds(), A)["y"], expected(A))
        assert BACKEND.obstacle(graph, "tensorrt") == NOT_BUILT
    assert len(built) == 2
    assert not any(path.exists() for path in built)


def test_building_ahead_serves_opening(graph, built):
    keyed = replace(graph, key="d" * 64)
    path = BACKEND.build(keyed, "tensorrt", optimization_level=5)
    assert path is not None
    assert path.read_bytes() == b"plan"
    assert BACKEND.obstacle(keyed, "tensorrt") is None
    BACKEND.open(keyed, "tensorrt").close()
    assert len(built) == 1


def test_an_unknown_build_option_is_named(graph, built):
    with pytest.raises(InputError, match="tensorrt has no build option 'strip'; it has compute_capabilities, optimi"):
        BACKEND.build(graph, "tensorrt", strip=True)


def test_nothing_is_built_that_cannot_run(graph, built, monkeypatch):
    monkeypatch.setattr(cuda, "device", no_gpu)
    with pytest.raises(EngineError, match="CUDA cannot find a GPU"):
        BACKEND.open(graph, "tensorrt")
    assert built == []


# --- status -----------------------------------------------------------------------------------------------------------


def no_gpu():
    raise EngineError("CUDA cannot find a GPU: cudaErrorInsufficientDriver (35): no driver.")


def no_bindings():
    raise MissingExtraError("running on an NVIDIA GPU", "tensorrt", "cuda.bindings")


def test_rtx_builds_where_there_is_no_gpu(rtx, monkeypatch):
    monkeypatch.setattr(cuda, "device", no_gpu)
    found = BACKEND.status("tensorrt-rtx")
    assert (found.runs, found.builds) == (False, True)
    assert found.detail == (
        f"TensorRT for RTX {rtx.version} builds engines here; running needs an NVIDIA GPU: CUDA cannot find a GPU: "
        "cudaErrorInsufficientDriver (35): no driver"
    )
    assert found.fix == "Run it on a machine with an RTX GPU and its driver."


def test_rtx_runs_where_there_is_one(rtx, monkeypatch):
    monkeypatch.setattr(cuda, "device", lambda: cuda.Device("NVIDIA GeForce RTX 4090", "8.9"))
    found = BACKEND.status("tensorrt-rtx")
    assert (found.runs, found.builds, found.fix) == (True, True, "")
    assert found.detail == f"TensorRT for RTX {rtx.version} on NVIDIA GeForce RTX 4090 (8.9)"


def test_the_bindings_of_cuda_may_be_missing(rtx, monkeypatch):
    monkeypatch.setattr(cuda, "device", no_bindings)
    found = BACKEND.status("tensorrt-rtx")
    assert (found.runs, found.builds, found.fix) == (False, True, 'pip install "tav-sdk[tensorrt]"')
    assert "'cuda.bindings', which is not installed" in found.detail


@pytest.mark.parametrize(
    ("engine", "fix"),
    [("tensorrt", "pip install tensorrt polygraphy cuda-python"), ("tensorrt-rtx", 'pip install "tav-sdk[tensorrt]"')],
)
def test_a_missing_module_has_its_pip_line(engine, fix, monkeypatch):
    monkeypatch.setitem(MODULES, engine, "no_such_module")
    monkeypatch.setattr(backend, "loaded_other", lambda _: "")
    found = BACKEND.status(engine)
    assert (found.runs, found.builds, found.detail, found.fix) == (False, False, "no_such_module is not installed", fix)


def test_libraries_that_do_not_load_are_told(tmp_path, monkeypatch):
    (tmp_path / "broken_trt.py").write_text("raise OSError('libnvinfer.so.11: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(MODULES, "tensorrt", "broken_trt")
    for module in (backend, api):
        monkeypatch.setattr(module, "loaded_other", lambda _: "")
    found = BACKEND.status("tensorrt")
    assert (found.runs, found.builds) == (False, False)
    assert found.detail == (
        "broken_trt is installed, but cannot be loaded: libnvinfer.so.11: cannot open shared object file"
    )
    assert found.fix == "Repair it with: pip install tensorrt polygraphy cuda-python --force-reinstall"


def test_the_other_flavour_is_not_loaded_beside(rtx):
    found = BACKEND.status("tensorrt")
    assert (found.runs, found.builds) == (False, False)
    assert "tensorrt is not installed" in found.detail or "this process has loaded TensorRT for RTX" in found.detail


def test_the_cuda_of_this_machine_gives_a_device_or_a_reason(tensorrt_rtx):
    count = cuda.runtime().cudaGetDeviceCount()
    if int(count[0]) == 0:
        assert cuda.device().name
    else:
        with pytest.raises(EngineError, match=rf"CUDA cannot find a GPU: cudaError\w+ \({int(count[0])}\): "):
            cuda.device()


CALLS = {
    "ICudaEngine": (
        "create_execution_context create_runtime_config get_tensor_name num_io_tensors num_optimization_profiles"
    ),
    "IExecutionContext": (
        "execute_async_v3 get_tensor_shape set_input_shape set_optimization_profile_async set_tensor_address"
    ),
    "IRuntimeConfig": (
        "cuda_graph_strategy dynamic_shapes_kernel_specialization_strategy set_execution_context_allocation_strategy"
    ),
    "CudaGraphStrategy": "WHOLE_GRAPH_CAPTURE",
    "DynamicShapesKernelSpecializationStrategy": "EAGER",
    "ExecutionContextAllocationStrategy": "ON_PROFILE_CHANGE",
}
"""What only runs on a GPU."""


@pytest.mark.parametrize("name", CALLS)
def test_tensorrt_has_what_is_called_on_a_gpu(rtx, name):
    assert [call for call in CALLS[name].split() if not hasattr(getattr(rtx.trt, name), call)] == []


def test_cuda_has_what_is_called_on_a_gpu(tensorrt_rtx):
    real = importlib.import_module("cuda.bindings.runtime")
    assert [name for name in dir(FakeCuda) if name.startswith("cuda") and not hasattr(real, name)] == []
    assert real.cudaMemcpyKind.cudaMemcpyHostToDevice != real.cudaMemcpyKind.cudaMemcpyDeviceToHost
    assert hasattr(real.cudaStreamCaptureMode, "cudaStreamCaptureModeThreadLocal")


# --- on a GPU ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session", params=MODULES)
def on_gpu(request):
    """The name of an engine that runs here."""
    try:
        load(request.param)
        cuda.device()
    except TavError as error:
        pytest.skip(f"needs a GPU: {request.param} does not run here: {error}")
    return request.param


@pytest.mark.gpu
def test_a_gpu_computes_what_onnx_runtime_does(on_gpu, request, tmp_path, monkeypatch):
    from tav_sdk.engines.ort import OrtEngine

    monkeypatch.setenv("TAV_CACHE", str(tmp_path))
    graph, (a, b), _ = request.getfixturevalue("attention")
    rng = np.random.default_rng(1)
    given = {n: {"x": rng.standard_normal((n, 5, 64), np.float32), "step": np.asarray(3)} for n in (1, 2)}
    with OrtEngine(graph) as reference, BACKEND.open(replace(graph, key="e" * 64), on_gpu) as tensorrt:
        first = {}
        for clip in (a, b, a, a, b, a):  # clips come back, and from the second run on it is a CUDA graph
            for batch, values in given.items():
                got = tensorrt.run(values, clip)["y"]
                wanted = reference.run(values, clip)["y"]
                np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())
                np.testing.assert_array_equal(got, first.setdefault((clip.key, batch), got))


@pytest.mark.gpu
def test_threads_share_a_gpu(on_gpu, request):
    graph, clips, _ = request.getfixturevalue("attention")
    values = {"x": np.ones((1, 5, 64), np.float32), "step": np.asarray(3)}
    with BACKEND.open(graph, on_gpu) as tensorrt:
        alone = [tensorrt.run(values, clip)["y"] for clip in clips]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lambda number: tensorrt.run(values, clips[number % 2])["y"], range(40)))
    for number, got in enumerate(together):
        np.testing.assert_array_equal(got, alone[number % 2])


@pytest.mark.gpu
def test_a_gpu_refuses_a_damaged_plan(on_gpu, request, tmp_path):
    graph, path = request.getfixturevalue("attention")[0], tmp_path / "model.plan"
    trt_build.build_plan(graph, path, engine=on_gpu)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(EngineError, match=r"cannot load the plan .*it is damaged, or no plan of this engine"):
        TrtEngine(graph, path, engine=on_gpu)
