import numpy as np
import pytest

from tav_sdk.engines import Engine, TensorSpec
from tav_sdk.errors import EngineError, InputError, NonFiniteOutputError

VIDEO = TensorSpec("sample", "float32", ("batch", 4, 8))
STATES = TensorSpec("states", "float32", ("batch", 3))
TIME = TensorSpec("timestep", "int64", ())


class Doubling(Engine):
    """Returns twice its first input; remembers what it was fed."""

    backend = "doubling"
    factor = np.float32(2)
    closings = 0

    def _run(self, feeds, weights):
        self.feeds = feeds
        return {"out": self.factor * feeds["sample"]}

    def _close(self):
        self.closings += 1


def feeds(batch=2):
    return {
        "sample": np.ones((batch, 4, 8), np.float32),
        "states": np.ones((batch, 3), np.float32),
        "timestep": np.asarray(5),
    }


@pytest.fixture
def engine():
    return Doubling("unet", [VIDEO, STATES, TIME], [TensorSpec("out", "float32", VIDEO.shape)])


def test_a_run_gives_every_output(engine):
    np.testing.assert_array_equal(engine.run(feeds())["out"], 2 * feeds()["sample"])


def test_a_scalar_stays_a_scalar(engine):
    engine.run(feeds())
    assert engine.feeds["timestep"].shape == ()


@pytest.mark.parametrize(
    ("shape", "dtype"), [(("batch", 4), "float32"), (("batch", 4, 9), "float32"), (VIDEO.shape, "float16")]
)
def test_an_output_that_is_not_as_the_manifest_says_is_an_error(shape, dtype):
    engine = Doubling("unet", [VIDEO, STATES, TIME], [TensorSpec("out", dtype, shape)])
    text = r"the unet graph gave its output 'out' as float32\[2, 4, 8\], expected .*; its manifest belongs to another"
    with pytest.raises(EngineError, match=text):
        engine.run(feeds())


def test_an_output_that_is_missing_is_an_error():
    engine = Doubling("unet", [VIDEO, STATES, TIME], [TensorSpec("y", "float32", VIDEO.shape)])
    with pytest.raises(EngineError, match="the unet graph gave its output 'y' as none, expected float32"):
        engine.run(feeds())


def test_a_missing_input_is_named(engine):
    given = feeds()
    del given["states"]
    with pytest.raises(InputError, match=r"the unet graph needs the input 'states' \(float32\[batch, 3\]\)"):
        engine.run(given)


def test_an_unknown_input_is_named(engine):
    with pytest.raises(
        InputError, match="the unet graph has no input 'extra'; its inputs are sample, states, timestep"
    ):
        engine.run({**feeds(), "extra": np.zeros(1)})


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        (
            "sample",
            np.ones((2, 4, 9), np.float32),
            r"'sample': expected float32\[batch, 4, 8\].*got float32\[2, 4, 9\]",
        ),
        ("sample", np.ones((4, 8), np.float32), r"'sample': expected float32\[batch, 4, 8\].*got float32\[4, 8\]"),
        ("sample", np.ones((2, 4, 8)), r"'sample': expected float32\[batch, 4, 8\].*got float64\[2, 4, 8\]"),
        ("states", np.ones((3, 3), np.float32), r"'states': .*with batch = 2, got float32\[3, 3\]"),
        ("timestep", 5, "'timestep' must be a numpy array, got int"),
    ],
)
def test_an_input_that_does_not_fit_says_expected_and_got(engine, name, array, message):
    with pytest.raises(InputError, match=message):
        engine.run({**feeds(), name: array})


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_nan_and_infinity_are_refused(engine, poison):
    engine.factor = np.float32(poison)
    with pytest.raises(
        NonFiniteOutputError,
        match=r"the unet engine \(doubling, fp32\) returned NaN or infinity in 'out' at timestep 5; check",
    ):
        engine.run(feeds())


def test_a_closed_engine_does_not_run(engine):
    with engine:
        pass
    engine.close()
    assert engine.closings == 1
    with pytest.raises(EngineError, match="the unet engine is closed; load the bundle again"):
        engine.run(feeds())


@pytest.mark.parametrize(
    ("precision", "remedy"),
    [("fp16", "export the bundle again in precision bf16 or fp32"), ("int8", "again in precision fp32")],
)
def test_what_is_not_finite_names_a_precision_to_try(precision, remedy):
    engine = Doubling("unet", [VIDEO, STATES, TIME], [TensorSpec("out", "float32", VIDEO.shape)], precision=precision)
    given = feeds()
    given["sample"][0, 0, 0] = np.inf
    with pytest.raises(
        NonFiniteOutputError, match=rf"doubling, {precision}\) returned NaN .* at timestep 5; .*{remedy}"
    ):
        engine.run(given)


def test_what_is_not_finite_is_returned_on_request(engine):
    engine.factor = np.float32(np.nan)
    assert np.isnan(engine.run(feeds(), check_finite=False)["out"]).all()
    with pytest.raises(NonFiniteOutputError):
        engine.run(feeds())
