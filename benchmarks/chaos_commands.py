"""The commands that :mod:`benchmarks.chaos` kills, on a tiny random base, and when one of their outputs is whole."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tav_sdk.bundle.bundle import Bundle
from tav_sdk.cache.store import Cache
from tav_sdk.engines.select import engine_status
from tav_sdk.training.run_folder import load_run
from tav_sdk.video.clip import read_video

ROOT = Path(__file__).resolve().parents[1]
TAV = ("-m", "tav_sdk.cli")
BUILT_FOR = "tensorrt-rtx"
"""The engine whose plans are built without a GPU."""
PROMPT = ("--prompt", "a bus is moving on the road")
TIMES = {"run.json": "seconds", "entry.json": "created"}
"""Files that hold a time, and the key that is left out when they are compared."""
UNLIKE = frozenset({"model.plan"})
"""Files whose bytes TensorRT chooses anew in each build; the cache's own check is asked about them."""

KEEPS_OFTEN = """
import sys, types
import tav_sdk.cli
def app():  # in the place of the module's, so that signals are handled while it is imported
    del sys.modules["tav_sdk.cli.app"]
    import tav_sdk.pipeline.resume
    tav_sdk.pipeline.resume.SECONDS = 0.1
    from tav_sdk.cli.app import app
    app()
late = types.ModuleType("tav_sdk.cli.app")
late.app = app
sys.modules["tav_sdk.cli.app"] = late
tav_sdk.cli.main()
"""
"""The command line, keeping latents ten times a second where it keeps them every ten seconds."""


@dataclass(frozen=True, kw_only=True)
class Materials:
    """What the commands read.

    Attributes:
        clip: a video of more frames than the bundle's.
        base: a base model.
        run: a run that was tuned on it.
        bundle: that run's.
    """

    clip: Path
    base: Path
    run: Path
    bundle: Path

    def files(self) -> dict[str, tuple[int, int]]:
        """Size and time of the last change of every file."""
        found = {}
        for root in (self.clip, self.base, self.run, self.bundle):
            for path in (root, *root.rglob("*")):
                status = path.lstat()
                found[str(path)] = (status.st_size, status.st_mtime_ns)
        return found


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command to kill; its output is ``out`` in the folder in which it runs.

    Attributes:
        words: after ``tav``.
        opens: reads the output as its user would; raises if it cannot.
        again: more words for the command after a kill.
        every: of how many rounds it is killed in one; costly commands are killed less often.
        launcher: Python's arguments that start the command line.
        in_cache: whether the output is the cache of engines.
    """

    words: tuple[str, ...]
    opens: Callable[[Path], object]
    again: tuple[str, ...] = ()
    every: int = 1
    launcher: tuple[str, ...] = TAV
    in_cache: bool = False


def commands(of: Materials) -> dict[str, Command]:
    """The commands by name; a build only where an engine can be built."""
    edit = ("edit", str(of.bundle), "--video", str(of.clip), *PROMPT, "--out", "out")
    some = ("--num-inference-steps", "6", "--num-inversion-steps", "6")
    many = ("--num-inference-steps", "16", "--num-inversion-steps", "16")
    tune = ("tune", "--base", str(of.base), "--video", str(of.clip), "--prompt", "a car is moving on the road")
    tune = (*tune, "--frames", "4", "--num-train-steps", "24", "--checkpointing-steps", "2", "--device", "cpu")
    found = {
        "tune": Command(words=(*tune, "--out", "out"), opens=load_run, again=("--resume",), every=3),
        "export": Command(
            words=("export", str(of.run), "--no-windows", "--no-parity", "--out", "out"), opens=Bundle, every=10
        ),
        "export --bundle": Command(
            words=("export", str(of.run), "--bundle", str(of.bundle), "--out", "out"), opens=Bundle
        ),
        "build": Command(
            words=("build", str(of.bundle), "--engine", BUILT_FOR, "--compute-capability", "8.6"),
            opens=verified_cache,
            every=6,
            in_cache=True,
        ),
        "edit": Command(words=(*edit, *some), opens=open_edit),
        "long edit": Command(words=(*edit, *many, "--frames", "all"), opens=open_edit, launcher=("-c", KEEPS_OFTEN)),
        "stream": Command(words=(*edit, *some, "--frames", "all", "--stream"), opens=open_edit),
    }
    if not engine_status(BUILT_FOR).builds:
        del found["build"]
    return found


def open_edit(folder: Path) -> None:
    """Decode every video of an edit."""
    record = json.loads((folder / "edits.json").read_text(encoding="utf-8"))
    for file in ("source.mp4", *(edit["file"] for edit in record["edits"])):
        read_video(folder / file)


def verified_cache(folder: Path) -> None:
    """Check every entry of a cache, whose folder is named by its kind."""
    problems = Cache(folder.name, root=folder.parent).verify()
    if problems:
        raise ValueError(f"the cache has {problems[0]}")


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 by path in the folder; times are left out, and locks."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir():
            found[name] = "folder"
        elif path.name in UNLIKE:
            found[name] = "file"
        elif not (path.name.startswith(".") and path.suffix == ".lock"):
            found[name] = hashlib.sha256(_without_times(path)).hexdigest()
    return found


def _without_times(path: Path) -> bytes:
    content = path.read_bytes()
    if path.name not in TIMES:
        return content
    read = json.loads(content)
    for plan in read.get("files", {}):
        if Path(plan).name in UNLIKE:
            read["files"][plan] = None  # its hash
    read.pop(TIMES[path.name], None)
    return json.dumps(read, sort_keys=True).encode()


def prepare(work: Path) -> Materials:
    """Make what the commands read below a folder, unless it is there; about a minute."""
    from benchmarks.demo_clip import render_clip
    from tav_sdk.training import make_tiny_base

    made = Materials(clip=work / "clip.mp4", base=work / "base", run=work / "run", bundle=work / "bundle")
    if not made.base.exists():
        channels = {"block_out_channels": (8, 16), "vae_channels": (4, 4, 8, 8), "cross_attention_dim": 16}
        make_tiny_base(made.base, **channels)
    if not made.clip.exists():
        render_clip(num_frames=10, height=64, width=64).save(made.clip)
    if not made.run.exists():
        tune = commands(made)["tune"].words
        tav([*tune[:-1], str(made.run)], work)
    if not made.bundle.exists():
        tav(["export", str(made.run), "--out", str(made.bundle)], work)
    return made


def tav(words: list[str], folder: Path) -> None:
    """Run a command that has to succeed, in a folder."""
    subprocess.run([sys.executable, *TAV, *words], check=True, cwd=folder, env=environment(folder))


def environment(folder: Path) -> dict[str, str]:
    """A command's environment: caches and temporary files below a folder, one thread, no network."""
    (folder / "tmp").mkdir(exist_ok=True)
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
        "TAV_CACHE": str(folder / "cache"),
        "TMPDIR": str(folder / "tmp"),
        "OMP_NUM_THREADS": "1",
        "TAV_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
