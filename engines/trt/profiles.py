"""Optimisation profiles: the combinations of input shapes that a plan is built for, each of them static."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from tav_sdk.engines.base import Graph, TensorSpec
from tav_sdk.errors import EngineError, InputError

Shapes = dict[str, tuple[int, ...]]
"""The shape of every input, by its name."""


def profiles_of(graph: Graph) -> list[Shapes]:
    """The shapes that a graph runs with: one static optimisation profile for every combination of its axes' lengths.

    Profiles share one copy of a weight, unless their kernels want it laid out in two ways. Measured: they do where one
    profile multiplies a single row with it, as the U-Net's time embedding at batch 1, and nowhere else.

    Raises:
        EngineError: an axis of an input has no lengths in ``graph.axes``.
    """
    names = sorted({axis for spec in graph.inputs for axis in spec.shape if isinstance(axis, str)})
    for name in names:
        if not graph.axes.get(name):
            raise EngineError(
                f"the {graph.name} graph does not say which lengths its axis {name!r} has, and TensorRT builds for "
                "fixed ones; export the bundle again"
            )
    profiles = []
    for lengths in itertools.product(*(graph.axes[name] for name in names)):
        at = dict(zip(names, lengths, strict=True))
        profiles.append({spec.name: _static(spec, at) for spec in graph.inputs})
    return profiles


def choose_profile(graph: str, profiles: Sequence[Shapes], feeds: Mapping[str, np.ndarray]) -> int:
    """The number of the profile whose shapes the feeds have.

    Raises:
        InputError: none has; says which there are.
    """
    for number, shapes in enumerate(profiles):
        if all(feeds[name].shape == shape for name, shape in shapes.items()):
            return number
    strange = (name for name in profiles[0] if feeds[name].shape not in {shapes[name] for shapes in profiles})
    first = next(strange, next(iter(profiles[0])))  # or each fits some profile, but no profile fits them all
    built = " or ".join(str(list(shape)) for shape in dict.fromkeys(shapes[first] for shapes in profiles))
    raise InputError(
        f"the {graph} plan was built for {first!r} of shape {built}, got {list(feeds[first].shape)}; export the bundle "
        "for that length, or use another engine"
    )


def _static(spec: TensorSpec, lengths: dict[str, int]) -> tuple[int, ...]:
    return tuple(lengths[axis] if isinstance(axis, str) else axis for axis in spec.shape)
