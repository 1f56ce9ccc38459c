"""``tav build``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tav_sdk.cli.console import say, stages
from tav_sdk.engines.select import CHOICES
from tav_sdk.progress import Item, StepProgress


def build(
    bundle: Annotated[Path, typer.Argument(help="A bundle folder written by tav export.")],
    engine: Annotated[str, typer.Option(help=f"{', '.join(CHOICES[1:])}; tav doctor says which build here.")],
    compute_capability: Annotated[
        list[str] | None,
        typer.Option(
            help="A GPU to build for, such as 8.9; repeat it for several. tensorrt-rtx only.",
            show_default="8.0, 8.6, 8.9, 12.0 and later",
        ),
    ] = None,
    optimization_level: Annotated[
        int | None, typer.Option(help="0 to 5: how long to search for fast kernels.", show_default="TensorRT's")
    ] = None,
    workspace: Annotated[
        str | None, typer.Option(help="Largest scratch memory of one layer, such as 4GB.", show_default="all there is")
    ] = None,
    timing_cache: Annotated[
        Path | None, typer.Option(help="File of timings, read and added to. tensorrt only.")
    ] = None,
) -> None:
    """Build a bundle's graphs for an engine, ahead of its first use. TensorRT for RTX needs no GPU for this.

    What was built goes to the cache of engines (tav cache list) and serves every bundle on the same base, options and
    size, since clips' weights are not part of it.

    [bold]Examples[/]

      tav build bundles/skiing --engine tensorrt-rtx

      tav build bundles/skiing --engine tensorrt-rtx --compute-capability 8.9 --compute-capability 12.0
    """
    from tav_sdk.bundle.bundle import Bundle
    from tav_sdk.cache.limits import cache_root, parse_size
    from tav_sdk.engines.select import build_engine, engine_status

    options: dict[str, Any] = {
        "compute_capabilities": tuple(compute_capability or ()),
        "optimization_level": optimization_level,
        "workspace": None if workspace is None else parse_size(workspace, "--workspace"),
        "timing_cache": timing_cache,
    }
    options = {name: value for name, value in options.items() if value not in (None, ())}
    opened = Bundle(bundle)
    built = []
    try:
        with stages() as show:
            for index, name in enumerate(opened.manifest.graphs):
                built.append(build_engine(opened.graph(name), engine=engine, **options))
                if built[-1]:
                    show(
                        StepProgress(
                            "build",
                            index + 1,
                            len(opened.manifest.graphs),
                            item=Item(kind="graph", index=index + 1, count=len(opened.manifest.graphs), name=name),
                        )
                    )
    except KeyboardInterrupt:
        if any(built):
            raise KeyboardInterrupt("what was built is kept; the same command builds the other graphs") from None
        raise
    if not any(built):
        say(f"{engine} starts from the graphs themselves: there is nothing to build")
    elif engine_status(engine).runs:
        say(
            f"for {engine}; next: tav edit {bundle} --engine {engine} --video CLIP --prompt PROMPT --out OUT",
            mark="built",
        )
    else:
        say(
            f"for {engine}, which does not run here; copy {cache_root() / 'engines'} to the cache of a "
            "machine with such a GPU (tav doctor there says where that is)",
            mark="built",
        )
