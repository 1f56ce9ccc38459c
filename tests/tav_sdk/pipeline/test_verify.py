"""A bundle's graphs against what the model gave at export."""

import numpy as np
import pytest

from tav_sdk.bundle.bundle import Bundle
from tav_sdk.bundle.layout import GRAPHS, PRESENT, WINDOWED_UNET
from tav_sdk.engines import Engine
from tav_sdk.errors import BundleError, EngineError
from tav_sdk.pipeline import verify as module
from tav_sdk.pipeline.verify import CPU, MODEL, NOTHING, SAME_GRAPH, verify


def damage(bundle, name, change):
    """Change a reference; the bundle is then to be opened without hashes."""
    path = bundle / "reference" / f"{name}.npz"
    with np.load(path) as arrays:
        arrays = dict(arrays)
    change(arrays)
    np.savez(path, **arrays)


class Other(Engine):
    """Another engine than the CPU's, with some of what it gives changed."""

    backend = "other"

    def __init__(self, inner, change, of):
        super().__init__(inner.name, inner.inputs, inner.outputs, tuned=inner.tuned, precision=inner.precision)
        self.inner, self.change, self.of = inner, change, of

    def _run(self, feeds, weights):
        results = self.inner._run(feeds, weights)  # which, as any engine's, checks nothing
        return {name: self.change(array) if self.of(name) else array for name, array in results.items()}

    def _close(self):
        self.inner.close()


def kept(name):
    """Whether an output is what a window leaves to the next one."""
    return name.startswith(f"{PRESENT}.")


def result(name):
    return not kept(name)


def everything(name):
    return True


@pytest.fixture
def other_engine(monkeypatch):
    """``other_engine(change)``: there is an engine ``other``, the CPU's with ``change`` of its arrays."""

    def make(change, opened=None, of=result):
        original = module.open_engine

        def open_engine(graph, *, engine):
            if engine == "other" and opened is not None:
                opened.append(graph.name)
            inner = original(graph, engine=CPU)
            return Other(inner, change, of) if engine == "other" else inner

        monkeypatch.setattr(module, "open_engine", open_engine)
        monkeypatch.setattr(module, "choose_engine", lambda engine, graphs: (engine, "as asked"))

    return make


def without(*references):
    """A manifest without references, as of a clip that was exported onto another's graphs."""
    return lambda manifest: [manifest["files"].pop(f"reference/{reference}.npz") for reference in references]


WITHOUT = pytest.mark.parametrize(
    "references",
    [("unet", "windowed_unet"), ("unet",)],
    ids=["as exported", "without what the windowed one starts from"],
)


def unets(checks):
    *others, unet, windowed = checks
    assert [check.graph for check in (unet, windowed)] == ["unet", WINDOWED_UNET]
    assert all((check.against, check.passed) == (MODEL, True) for check in others if check.engine == CPU)
    return unet, windowed


def test_a_whole_bundle_passes(tiny_bundle):
    checks = verify(tiny_bundle, CPU)
    assert [check.graph for check in checks] == [*GRAPHS, WINDOWED_UNET]
    for check in checks:
        assert check.passed
        assert (check.against, check.engine, check.precision, check.non_finite) == (MODEL, CPU, "fp32", 0)
        assert check.relative is not None
        assert check.tolerance is not None
        assert check.psnr is not None
        assert 0 <= check.relative < check.tolerance == 1e-4
        assert check.psnr > 80


def test_an_output_that_is_off_fails(bundle_copy):
    def change(arrays):
        arrays["sample"] = arrays["sample"] + np.float32(0.5)

    damage(bundle_copy, "vae_decoder", change)
    checks = {check.graph: check for check in verify(Bundle(bundle_copy, verify=False), CPU)}
    assert [name for name, check in checks.items() if not check.passed] == ["vae_decoder"]
    assert checks["vae_decoder"].max_abs == pytest.approx(0.5, abs=1e-3)
    relative = checks["vae_decoder"].relative
    assert relative is not None
    assert relative > 1e-2


def test_the_numbers_are_what_they_say():
    expected = np.array([0.0, 1.0, -3.0, 2.0], np.float32)  # range 5, largest magnitude 3
    largest, relative, psnr = module._differences(expected + np.array([0, 0, 0, 0.5], np.float32), expected)
    assert (largest, relative) == (0.5, pytest.approx(0.5 / 3))
    assert psnr == pytest.approx(20 * np.log10(5 / 0.25))


def not_finite(array):
    array = array.copy()
    array.flat[:3] = np.nan, np.inf, -np.inf
    return array


def test_not_a_number_is_counted_and_fails(tiny_bundle, other_engine):
    other_engine(not_finite)
    checks = verify(tiny_bundle, "other")
    assert [check.graph for check in checks] == [*GRAPHS, WINDOWED_UNET]
    for check in checks:
        assert (check.non_finite, check.passed) == (3, False)


def test_not_a_number_that_a_window_leaves_to_the_next_is_counted(tiny_bundle, other_engine):
    other_engine(not_finite, of=everything)
    *others, windowed = verify(tiny_bundle, "other")
    assert {check.non_finite for check in others} == {3}
    assert (windowed.graph, windowed.passed) == (WINDOWED_UNET, False)
    assert windowed.non_finite > 3  # it spreads


def test_what_a_window_leaves_to_the_next_is_compared(tiny_bundle, other_engine):
    other_engine(lambda array: array * np.float32(-5), of=kept)
    *others, windowed = verify(tiny_bundle, "other")
    assert all(check.passed for check in others)
    assert (windowed.graph, windowed.passed) == (WINDOWED_UNET, False)
    assert (windowed.against, windowed.non_finite) == (MODEL, 0)


@pytest.mark.parametrize("of", [result, everything])
def test_a_float32_graph_on_another_engine_has_the_tolerance_of_tf32(tiny_bundle, other_engine, of):
    other_engine(lambda array: array * np.float32(1 + 2e-3), of=of)
    checks = verify(tiny_bundle, "other")
    assert [check.graph for check in checks] == [*GRAPHS, WINDOWED_UNET]
    for check in checks:
        assert check.passed
        assert check.relative is not None
        assert check.tolerance is not None
        assert 1e-3 < check.relative < check.tolerance == 1e-2


@WITHOUT
def test_a_clip_on_anothers_graphs_is_compared_with_the_cpu(bundle_copy, edit_manifest, other_engine, references):
    edit_manifest(without(*references))
    other_engine(lambda array: array * np.float32(1.5))
    for check in unets(verify(bundle_copy, "other")):
        assert (check.against, check.passed) == (SAME_GRAPH, False)
        assert check.relative == pytest.approx(0.5)


@WITHOUT
def test_the_cpu_has_nothing_to_compare_that_clip_with(bundle_copy, edit_manifest, references):
    edit_manifest(without(*references))
    for check in unets(verify(bundle_copy, CPU)):
        assert (check.against, check.passed, check.non_finite) == (NOTHING, True, 0)
        assert check.max_abs is check.relative is check.psnr is check.tolerance is None


def test_a_real_clip_on_anothers_graphs_has_nothing_to_compare_with_either(other_bundle):
    assert {(check.against, check.passed) for check in unets(verify(other_bundle, CPU))} == {(NOTHING, True)}


def test_the_windowed_graph_is_made_an_input_without_a_past(tiny_bundle):
    bundle = Bundle(tiny_bundle)
    feeds = module._made_feeds(bundle, bundle.graph(WINDOWED_UNET))
    assert list(feeds) == ["sample", "timestep", "encoder_hidden_states"]


def test_a_precision_that_the_cpu_does_not_run_is_only_finite(bundle_copy, edit_manifest, other_engine, monkeypatch):
    edit_manifest(without("unet", "windowed_unet"))
    other_engine(lambda array: array)
    opens = module.open_engine

    def open_engine(graph, *, engine):
        if engine == CPU:
            raise EngineError("no kernel")
        return opens(graph, engine=engine)

    monkeypatch.setattr(module, "open_engine", open_engine)
    for check in unets(verify(bundle_copy, "other")):
        assert (check.against, check.passed) == (NOTHING, True)


def test_one_frame_is_repeated_for_an_engine_that_takes_chunks(tiny_bundle, other_engine):
    shapes = []

    def change(array):
        shapes.append(array.shape)
        return array

    other_engine(change)
    assert all(check.passed for check in verify(tiny_bundle, "other"))
    # The VAE's graphs are used with 4 frames; of the windowed U-Net two windows are run.
    assert [shape[0] for shape in shapes] == [1, 4, 4, 1, 1, 1]


def test_a_bundle_of_format_1_has_no_references(bundle_copy, edit_manifest):
    def age(manifest):
        manifest["format_version"] = 1
        manifest["files"] = {name: entry for name, entry in manifest["files"].items() if "reference" not in name}
        for graph in manifest["graphs"].values():
            for key in ("precision", "kept", "axes", "tuned"):
                del graph[key]

    edit_manifest(age)
    with pytest.raises(BundleError, match=r"\(format 1\) has no references to compare its graphs with; .* Export it"):
        verify(bundle_copy, CPU)


def test_a_changed_file_is_an_error(bundle_copy):
    damage(bundle_copy, "unet", lambda arrays: arrays.update(timestep=np.asarray(7)))
    with pytest.raises(BundleError, match=r"reference/unet\.npz in the bundle .* was changed: expected sha256"):
        verify(bundle_copy, CPU)


def test_a_reference_that_lacks_an_array_is_an_error(bundle_copy, edit_manifest):
    damage(bundle_copy, "unet", lambda arrays: arrays.pop("timestep"))
    size = (bundle_copy / "reference/unet.npz").stat().st_size
    edit_manifest(lambda manifest: manifest["files"]["reference/unet.npz"].update(size=size))
    with pytest.raises(BundleError, match=r"reference/unet\.npz in the bundle .* lacks 'timestep'; export it again"):
        verify(Bundle(bundle_copy, verify=False), CPU)


def test_a_reference_is_never_unpickled(bundle_copy, edit_manifest):
    with open(bundle_copy / "reference/unet.npz", "wb") as file:
        np.savez(file, sample=np.array([{}], dtype=object), allow_pickle=True)
    size = (bundle_copy / "reference/unet.npz").stat().st_size
    edit_manifest(lambda manifest: manifest["files"]["reference/unet.npz"].update(size=size))
    with pytest.raises(BundleError, match="cannot be read: Object arrays cannot be loaded"):
        verify(Bundle(bundle_copy, verify=False), CPU)


def test_a_reference_of_another_size_is_not_read(bundle_copy, edit_manifest):
    damage(bundle_copy, "unet", lambda arrays: arrays.update(sample=np.zeros((1, 4, 4, 8, 4096), np.float32)))
    size = (bundle_copy / "reference/unet.npz").stat().st_size
    edit_manifest(lambda manifest: manifest["files"]["reference/unet.npz"].update(size=size))
    text = r"unet.npz cannot be read: sample.npy has the shape .*, expected \[-1, 4, 4, 8, 8\]; export it again"
    with pytest.raises(BundleError, match=text):
        verify(Bundle(bundle_copy, verify=False), CPU)


def test_it_needs_no_torch(run, tiny_bundle, tmp_path):
    import sys

    code = (
        f"import sys; sys.path.insert(0, {str(sys.path[0])!r}); from tav_sdk.pipeline.verify import verify; "
        f"checks = verify({str(tiny_bundle)!r}, 'onnxruntime-cpu'); "
        "sys.exit('torch' in sys.modules or not all(check.passed for check in checks))"
    )
    result = run(sys.executable, "-c", code, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
