"""Do the graphs of a manifest take and give what its own figures say: frames, sizes, channels?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tav_sdk.bundle.layout import PAST, PRESENT, TEXT_ENCODER, UNET, VAE_DECODER, VAE_ENCODER, WINDOWED_UNET
from tav_sdk.bundle.manifest import GraphEntry, Manifest, TensorEntry
from tav_sdk.errors import BundleError

_Shape = tuple[int | None, ...]
"""Lengths of axes; ``None`` is any."""


def check_shapes(manifest: Manifest, what: str) -> None:
    """Compare the inputs and outputs of all graphs with the manifest's figures.

    Args:
        manifest: it has the four graphs.
        what: names the bundle in messages.

    Raises:
        BundleError: a tensor is missing, or of another dtype or shape.
    """
    for graph, kind, name, dtype, shape in _expected(manifest):
        entry = manifest.graphs[graph]
        found = {tensor.name: tensor for tensor in (entry.inputs if kind == "input" else entry.outputs)}.get(name)
        if found is None or found.dtype != dtype or not _fits(shape, found.shape):
            axes = ", ".join("?" if axis is None else str(axis) for axis in shape)
            got = "none" if found is None else str(found.spec)
            raise BundleError(
                f"the manifest of {what} does not fit itself: expected the {kind} {name!r} of the {graph} graph as "
                f"{dtype}[{axes}], got {got}; export it again"
            )


def _expected(manifest: Manifest) -> Iterator[tuple[str, str, str, str, _Shape]]:
    """Graph, ``input`` or ``output``, name, dtype and shape of each tensor that the SDK uses."""
    _, channels, frames, height, width = manifest.latents_shape
    pixels: _Shape = (None, 3, manifest.height, manifest.width)
    video: _Shape = (None, channels, frames, height, width)
    tokens = _fixed(manifest.graphs[TEXT_ENCODER].inputs, "input_ids")
    states: _Shape = (None, *_fixed(manifest.graphs[TEXT_ENCODER].outputs, "last_hidden_state"))
    states = states if len(states) == 3 else (None, None, None)
    yield TEXT_ENCODER, "input", "input_ids", "int64", (None, tokens[0] if tokens else None)
    yield TEXT_ENCODER, "output", "last_hidden_state", "float32", (None, tokens[0] if tokens else None, states[2])
    yield VAE_ENCODER, "input", "sample", "float32", pixels
    yield VAE_ENCODER, "output", "latent_parameters", "float32", (None, 2 * channels, height, width)
    yield VAE_DECODER, "input", "latent_sample", "float32", (None, channels, height, width)
    yield VAE_DECODER, "output", "sample", "float32", pixels
    for graph in (UNET, WINDOWED_UNET):
        if graph not in manifest.graphs:
            continue
        yield graph, "input", "sample", "float32", video
        yield graph, "input", "timestep", "int64", ()
        yield graph, "input", "encoder_hidden_states", "float32", states
        yield graph, "output", "out_sample", "float32", video
    for residual in manifest.residuals:
        yield UNET, "input", residual.name, "float32", (None, frames, None, None, None)
    if WINDOWED_UNET in manifest.graphs:
        yield from _past(manifest.graphs[WINDOWED_UNET])


def _past(entry: GraphEntry) -> Iterator[tuple[str, str, str, str, _Shape]]:
    """What the windowed graph is given of former windows has to come out for the next one, alike."""
    yield WINDOWED_UNET, "input", "position", "int64", ()
    for tensor in entry.inputs:
        if tensor.name.startswith(f"{PAST}."):
            shape = (None, *(axis if isinstance(axis, int) else -1 for axis in tensor.shape[1:]))
            yield WINDOWED_UNET, "input", tensor.name, "float32", shape
            yield WINDOWED_UNET, "output", PRESENT + tensor.name.removeprefix(PAST), "float32", shape


def _fixed(tensors: Sequence[TensorEntry], name: str) -> tuple[int | None, ...]:
    """The lengths of a tensor's axes but the first; none if there is no such tensor."""
    shapes = [tensor.shape for tensor in tensors if tensor.name == name]
    return tuple(axis if isinstance(axis, int) else None for axis in shapes[0][1:]) if shapes else ()


def _fits(expected: _Shape, shape: tuple[int | str, ...]) -> bool:
    return len(expected) == len(shape) and all(
        want is None or want == got for want, got in zip(expected, shape, strict=True)
    )
