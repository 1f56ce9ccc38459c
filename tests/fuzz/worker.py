"""A process that reads files until it dies: one line of JSON in, one line of JSON out.

Run by its path, on the package that its import path gives, so that an older checkout can be tried with it. Every reader
calls what users call; names that moved are found under either.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

MEMORY = 4 << 30
"""Bytes of addresses that one case may take beside what the process has."""


def _get(name: str, *modules: str) -> Any:
    """A name from the first module that has it."""
    for module in modules:
        try:
            return getattr(importlib.import_module(f"tav_sdk.{module}" if module else "tav_sdk"), name)
        except (ImportError, AttributeError):
            continue
    raise SystemExit(f"there is no {name} in {', '.join(modules)}")


def _info(folder: Path) -> None:
    """``tav info``: refused or told, nothing else."""
    from typer.testing import CliRunner

    result = CliRunner().invoke(_get("app", "cli.app", "cli"), ["info", str(folder)])
    if result.exit_code not in (0, 2):
        if isinstance(result.exception, Exception) and not isinstance(result.exception, SystemExit):
            raise result.exception
        raise RuntimeError(f"tav info ended with {result.exit_code}: {result.output[-200:]}")


def _bundle(folder: Path) -> Any:
    return _get("Bundle", "bundle")(folder)


def _manifest(path: Path) -> None:
    bundle = _bundle(path.parent)
    _ = bundle.schedule, bundle.weights(), bundle.weights(0.5), bundle.residuals
    for name in bundle.manifest.graphs:
        bundle.graph(name)
    _info(path.parent)


def _scheduler(path: Path) -> None:
    schedule = _bundle(path.parents[1]).schedule
    schedule.timesteps(5)


def _tokenizer(path: Path) -> None:
    _bundle(path.parents[1])
    tokenizer = _get("Tokenizer", "bundle.tokenizer", "text").from_folder(path.parent)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tokenizer(["a red square is moving over the meadow", "", "x" * 3000])


def _onnx(path: Path) -> None:
    import numpy as np

    bundle = _bundle(path.parents[1])
    graph = bundle.graph(path.parent.name)
    with _get("open_engine", "engines.select")(graph, engine="onnxruntime-cpu") as engine:
        engine.run(
            {
                spec.name: np.zeros([d if isinstance(d, int) else 1 for d in spec.shape], spec.dtype)
                for spec in graph.inputs
            }
        )


def _reference(path: Path) -> None:
    _get("_read_reference", "pipeline.verify", "verify")(_bundle(path.parents[1]), path.stem)


def _run(path: Path) -> None:
    run = _get("load_run", "training.run_folder")(path.parent)
    _ = run.config, run.inflation, run.tuned_path if hasattr(run, "tuned_path") else None
    _info(path.parent)


def _config(path: Path) -> None:
    values, _ = _get("read_config", "training.config_file")(path)
    _get("TuneConfig", "training.config").from_dict({"base": "b", "video": "v", "prompt": "p", "out": "o", **values})


def _edits(path: Path) -> None:
    read = _get("read_record", "edits.record") if (Path(_root()) / "edits" / "record.py").is_file() else None
    if read is not None:
        read(path.parent)
    _info(path.parent)


def _root() -> str:
    return importlib.import_module("tav_sdk").__path__[0]


def _inversion(path: Path) -> None:
    _get("Inversion", "pipeline.pipeline", "pipeline", "inversion", "").load(path)


def _video(path: Path) -> None:
    _get("probe", "video.clip", "video")(path)
    _get("read_video", "video.clip", "video")(path, num_frames=2, size=(32, 32))
    clip = _get("VideoFile", "video.file", "video_file")(path)
    for _ in clip.chunks(4):
        pass


def _base_class() -> Any:
    module = importlib.import_module("tav_sdk.training.base")
    if hasattr(module, "BaseModel"):
        return module.BaseModel
    return importlib.import_module("tav_sdk.training.base.model").PretrainedBase


def _base(path: Path) -> None:
    base = _base_class()(path.parents[1])
    base.load_unet()


def _vocabulary(path: Path) -> None:
    base = _base_class()(path.parents[1])
    tokenizer = base.load_tokenizer()
    tokenizer("a red square is moving over the meadow")


def _lora(path: Path) -> None:
    base = _base_class()(path.parent, loras=[str(path)])
    base.load_unet()


_MODELS: dict[str, Any] = {}


def _tuned(path: Path) -> None:
    run = _get("load_run", "training.run_folder")(path.parent)
    if "unet" not in _MODELS:
        inflate = _get("inflate", "training.unet.inflation", "training.inflation")
        base = _base_class()(run.config.base)
        _MODELS["unet"] = inflate(base.load_unet(), run.inflation, run.config.num_frames)
    load = "load_tuned_weights" if "load_tuned_weights" in dir(_checkpoint()) else "load_delta"
    getattr(_checkpoint(), load)(_MODELS["unet"], path)


def _checkpoint() -> Any:
    return importlib.import_module("tav_sdk.training.checkpoint")


READERS: dict[str, Callable[[Path], None]] = {
    "manifest": _manifest,
    "scheduler": _scheduler,
    "tokenizer": _tokenizer,
    "tokenizer-config": _tokenizer,
    "onnx": _onnx,
    "reference": _reference,
    "run": _run,
    "config": _config,
    "edits": _edits,
    "inversion": _inversion,
    "mp4": _video,
    "gif": _video,
    "png": _video,
    "base": _base,
    "vocab": _vocabulary,
    "merges": _vocabulary,
    "lora": _lora,
    "tuned": _tuned,
}


def _status(field: str) -> int:
    """Bytes that ``/proc/self/status`` gives for a field; 0 where there is no such file."""
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            return next(int(line.split()[1]) << 10 for line in file if line.startswith(field))
    except (OSError, StopIteration):
        return 0


def _forget_peak() -> None:
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
    except OSError:
        return


def _place(error: BaseException) -> str:
    """Where an error came from: the innermost line of the package."""
    frames = traceback.extract_tb(error.__traceback__)
    inner = [
        frame for frame in frames if "tav_sdk" in frame.filename or Path(frame.filename).parts[-3:-2] == ("tav_sdk",)
    ]
    last = (inner or frames or [None])[-1]
    return "" if last is None else f"{'/'.join(Path(last.filename).parts[-2:])}:{last.name}"


def attempt(name: str, path: Path) -> dict[str, Any]:
    """One case: ``loaded``, ``refused`` or ``wrong``, why, where, and how many bytes it took at its peak."""
    error_type = _get("TavError", "errors")
    before = _status("VmRSS:")
    if before:
        resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize:") + MEMORY, resource.RLIM_INFINITY))
    _forget_peak()
    told: dict[str, Any] = {"outcome": "loaded", "what": "", "where": ""}
    try:
        READERS[name](path)
    except error_type as error:
        told = {"outcome": "refused", "what": type(error).__name__, "where": ""}
    except BaseException as error:  # noqa: BLE001  whatever it is, it is what is looked for
        told = {
            "outcome": "wrong",
            "what": f"{type(error).__name__}: {ascii(str(error))[:200]}",
            "where": _place(error),
        }
    if before:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return {**told, "bytes": max(0, _status("VmHWM:") - before)}


def main() -> None:
    """Answer until the input ends. What libraries print goes nowhere."""
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    for line in sys.stdin:
        asked = json.loads(line)
        answers.write(json.dumps(attempt(asked["format"], Path(asked["path"]))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
