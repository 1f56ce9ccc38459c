"""A U-Net that goes on window by window gives what it gives for the whole video."""

import pytest
import torch

from tav_sdk.errors import InputError
from tav_sdk.training.base.model import PretrainedBase
from tav_sdk.training.config import InflationOptions
from tav_sdk.training.unet.inflation import inflate, trainable_parameters
from tav_sdk.training.unet.windowed import WindowedUNet, can_continue, past_shapes

WINDOW, SIZE = 4, 8
OPTIONS = [
    {},
    {"attention": "first"},
    {"attention": "spatial"},
    {"temporal": False},
    {"attention": "spatial", "temporal": False},
]


def unet_of(tiny_base, **options):
    unet = inflate(PretrainedBase(str(tiny_base)).load_unet(), InflationOptions(**options), WINDOW).eval()
    torch.manual_seed(0)
    with torch.no_grad():  # temporal attention starts at zero
        for parameter in trainable_parameters(unet).values():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return unet


@torch.no_grad()
def by_windows(model, sample, timestep, states):
    shapes = past_shapes(model._model[0], SIZE, SIZE).values()
    past, parts = [torch.full((len(sample), *shape), 7.0) for shape in shapes], []  # not looked at by the first window
    for position in range(0, sample.shape[2], WINDOW):
        window = sample[:, :, position : position + WINDOW]
        missing = WINDOW - window.shape[2]
        window = torch.cat([window, torch.zeros_like(window[:, :, :1]).expand(-1, -1, missing, -1, -1)], dim=2)
        part, *past = model(window, timestep, states, torch.tensor(position), *past)
        parts.append(part[:, :, : WINDOW - missing])
    return torch.cat(parts, dim=2)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("num_frames", [WINDOW, WINDOW + 1, 2 * WINDOW + 3, 5 * WINDOW])
def test_windows_equal_one_pass(tiny_base, options, num_frames):
    unet = unet_of(tiny_base, **options)
    sample, states = torch.randn(2, 4, num_frames, SIZE, SIZE), torch.randn(2, 77, 16)
    windowed = by_windows(WindowedUNet(unet, SIZE, SIZE), sample, torch.tensor(500), states)
    with torch.no_grad():
        whole = unet(sample, torch.tensor(500), states)
    torch.testing.assert_close(windowed, whole, atol=1e-5, rtol=1e-5)


def test_temporal_attention_reaches_over_a_window(tiny_base):
    """A frame a window back still counts, one before it does not, but for frame 0, which all frames see."""
    unet = unet_of(tiny_base)
    sample, states = torch.randn(1, 4, 10, SIZE, SIZE), torch.randn(1, 77, 16)

    @torch.no_grad()
    def last_frame(changed):
        other = sample.clone()
        other[:, :, changed] += 1
        return (unet(other, torch.tensor(500), states) - unet(sample, torch.tensor(500), states))[:, :, -1].abs().max()

    assert last_frame(9 - (WINDOW - 1)) > 1e-4
    assert last_frame(0) > 1e-4


def test_up_to_a_window_attention_is_plainly_causal(tiny_base):
    """What tuning sees: with as many frames as a window the reach is all of them."""
    unet = unet_of(tiny_base)
    sample, states = torch.randn(1, 4, WINDOW, SIZE, SIZE), torch.randn(1, 77, 16)
    with torch.no_grad():
        expected = unet(sample, torch.tensor(500), states)
        unet.frames.span = 100
        torch.testing.assert_close(unet(sample, torch.tensor(500), states), expected)


def test_it_shares_the_parameters_and_their_names(tiny_base):
    unet = unet_of(tiny_base)
    windowed = WindowedUNet(unet, SIZE, SIZE)
    mine, theirs = dict(windowed.named_parameters()), dict(unet.named_parameters())
    assert mine.keys() == theirs.keys()
    assert all(mine[name] is theirs[name] for name in mine)


def test_the_model_is_as_before_after_a_window(tiny_base):
    unet = unet_of(tiny_base)
    windowed = WindowedUNet(unet, SIZE, SIZE)
    with pytest.raises(ValueError, match="zip"):
        windowed(torch.randn(1, 4, WINDOW, SIZE, SIZE), torch.tensor(1), torch.randn(1, 77, 16), torch.tensor(0))
    with pytest.raises(RuntimeError):
        by_windows(windowed, torch.randn(1, 4, WINDOW, SIZE, SIZE), torch.tensor(1), torch.randn(1, 77, 15))
    assert unet.frames.window is None


@pytest.mark.parametrize(
    "options",
    [{"preset": "original"}, {"temporal_mask": "none"}, {"group_norm": "video"}, {"attention": "full"}],
    ids=str,
)
def test_frames_that_depend_on_later_ones_cannot_go_on(tiny_base, options):
    unet = unet_of(tiny_base, **options)
    assert not can_continue(unet.options, WINDOW)
    with pytest.raises(InputError, match="frames depend on later frames, or on all former ones"):
        WindowedUNet(unet, SIZE, SIZE)


def test_one_frame_is_no_window():
    assert can_continue(InflationOptions(), 2)
    assert not can_continue(InflationOptions(), 1)
