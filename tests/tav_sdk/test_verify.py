"""A bundle's graphs against what the model gave at export."""

import numpy as np
import pytest

from tav_sdk import verify as module
from tav_sdk.bundle import GRAPHS, Bundle
from tav_sdk.engines import Engine
from tav_sdk.errors import BundleError, EngineError
from tav_sdk.verify import CPU, MODEL, NOTHING, SAME_GRAPH, verify


def damage(bundle, name, change):
    """Change a reference; the bundle is then to be opened without hashes."""
    path = bundle / "reference" / f"{name}.npz"
    with np.load(path) as arrays:
        arrays = dict(arrays)
    change(arrays)
    np.savez(path, **arrays)


class Other(Engine):
    """Another engine than the CPU's, with what it gives changed."""

    backend = "other"

    def __init__(self, inner, change):
        super().__init__(inner.name, inner.inputs, inner.outputs, tuned=inner.tuned, precision=inner.precision)
        self.inner, self.change = inner, change

    def _run(self, feeds, weights):
        return {name: self.change(array) for name, array in self.inner.run(feeds, weights).items()}

    def _close(self):
        self.inner.close()


@pytest.fixture
def other_engine(monkeypatch):
    """``other_engine(change)``: there is an engine ``other``, the CPU's with ``change`` of its arrays."""

    def make(change, opened=None):
        original = module.open_engine

        def open_engine(graph, *, engine):
            if engine == "other" and opened is not None:
                opened.append(graph.name)
            inner = original(graph, engine=CPU)
            return Other(inner, change) if engine == "other" else inner

        monkeypatch.setattr(module, "open_engine", open_engine)
        monkeypatch.setattr(module, "choose_engine", lambda engine, graphs: (engine, "as asked"))

    return make


def without(reference):
    """A manifest without a reference, as of a clip that was exported onto another's graphs."""
    return lambda manifest: manifest["files"].pop(f"reference/{reference}.npz")


def test_a_whole_bundle_passes(tiny_bundle):
    checks = verify(tiny_bundle, CPU)
    assert [check.graph for check in checks] == list(GRAPHS)
    for check in checks:
        assert check.passed
        assert (check.against, check.engine, check.precision, check.non_finite) == (MODEL, CPU, "fp32", 0)
        assert 0 <= check.relative < check.tolerance == 1e-4
        assert check.psnr > 80


def test_an_output_that_is_off_fails(bundle_copy):
    def change(arrays):
        arrays["sample"] = arrays["sample"] + np.float32(0.5)

    damage(bundle_copy, "vae_decoder", change)
    checks = {check.graph: check for check in verify(Bundle(bundle_copy, verify=False), CPU)}
    assert [name for name, check in checks.items() if not check.passed] == ["vae_decoder"]
    assert checks["vae_decoder"].max_abs == pytest.approx(0.5, abs=1e-3)
    assert checks["vae_decoder"].relative > 1e-2


def test_the_numbers_are_what_they_say():
    expected = np.array([0.0, 1.0, -3.0, 2.0], np.float32)  # range 5, largest magnitude 3
    largest, relative, psnr = module._differences(expected + np.float32([0, 0, 0, 0.5]), expected)
    assert (largest, relative) == (0.5, pytest.approx(0.5 / 3))
    assert psnr == pytest.approx(20 * np.log10(5 / 0.25))


def test_not_a_number_is_counted_and_fails(tiny_bundle, other_engine):
    def change(array):
        array = array.copy()
        array.flat[:3] = np.nan, np.inf, -np.inf
        return array

    other_engine(change)
    for check in verify(tiny_bundle, "other"):
        assert (check.non_finite, check.passed) == (3, False)


def test_a_float32_graph_on_another_engine_has_the_tolerance_of_tf32(tiny_bundle, other_engine):
    other_engine(lambda array: array * np.float32(1 + 2e-3))
    checks = verify(tiny_bundle, "other")
    assert all(check.passed and 1e-3 < check.relative < check.tolerance == 1e-2 for check in checks)


def test_a_clip_on_anothers_graphs_is_compared_with_the_cpu(bundle_copy, edit_manifest, other_engine):
    edit_manifest(without("unet"))
    other_engine(lambda array: array * np.float32(1.5))
    unet = verify(bundle_copy, "other")[-1]
    assert (unet.graph, unet.against, unet.passed) == ("unet", SAME_GRAPH, False)
    assert unet.relative == pytest.approx(0.5)


def test_the_cpu_has_nothing_to_compare_that_clip_with(bundle_copy, edit_manifest):
    edit_manifest(without("unet"))
    unet = verify(bundle_copy, CPU)[-1]
    assert (unet.against, unet.passed, unet.non_finite) == (NOTHING, True, 0)
    assert unet.max_abs is unet.relative is unet.psnr is unet.tolerance is None


def test_a_precision_that_the_cpu_does_not_run_is_only_finite(bundle_copy, edit_manifest, other_engine, monkeypatch):
    edit_manifest(without("unet"))
    other_engine(lambda array: array)
    opens = module.open_engine

    def open_engine(graph, *, engine):
        if engine == CPU:
            raise EngineError("no kernel")
        return opens(graph, engine=engine)

    monkeypatch.setattr(module, "open_engine", open_engine)
    unet = verify(bundle_copy, "other")[-1]
    assert (unet.against, unet.passed) == (NOTHING, True)


def test_one_frame_is_repeated_for_an_engine_that_takes_chunks(tiny_bundle, other_engine):
    shapes = []

    def change(array):
        shapes.append(array.shape)
        return array

    other_engine(change)
    assert all(check.passed for check in verify(tiny_bundle, "other"))
    assert [shape[0] for shape in shapes] == [1, 4, 4, 1]  # the VAE's graphs are used with 4 frames


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


def test_it_needs_no_torch(run, tiny_bundle, tmp_path):
    import sys

    code = (
        f"import sys; sys.path.insert(0, {str(sys.path[0])!r}); from tav_sdk.verify import verify; "
        f"checks = verify({str(tiny_bundle)!r}, 'onnxruntime-cpu'); "
        "sys.exit('torch' in sys.modules or not all(check.passed for check in checks))"
    )
    result = run(sys.executable, "-c", code, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
