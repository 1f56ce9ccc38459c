"""The file formats that the package reads: which file of which folder is changed, and how it is built."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["json", "yaml", "safetensors", "npz", "mp4", "gif", "bytes"]


@dataclass(frozen=True, kw_only=True)
class Format:
    """One format.

    Attributes:
        name: as the worker knows it.
        folder: the folder of the seeds that holds it.
        file: the file in it that is changed.
        kind: how it is built, which decides how it is changed.
        relisted: the record that has its hash, which is brought up to date as whoever changes a file would do.
        slow: its reader imports PyTorch.
        loads: the valid file is taken; a PNG is no clip, but whoever gives one must hear it.
    """

    name: str
    folder: str
    file: str
    kind: Kind
    relisted: str = ""
    slow: bool = False
    loads: bool = True


FORMATS = {
    form.name: form
    for form in (
        Format(name="manifest", folder="bundle", file="manifest.json", kind="json"),
        Format(
            name="scheduler", folder="bundle", file="scheduler/scheduler_config.json", kind="json", relisted="manifest"
        ),
        Format(name="tokenizer", folder="bundle", file="tokenizer/tokenizer.json", kind="json", relisted="manifest"),
        Format(
            name="tokenizer-config",
            folder="bundle",
            file="tokenizer/tokenizer_config.json",
            kind="json",
            relisted="manifest",
        ),
        Format(name="onnx", folder="bundle", file="vae_decoder/model.onnx", kind="bytes", relisted="manifest"),
        Format(name="reference", folder="bundle", file="reference/unet.npz", kind="npz", relisted="manifest"),
        Format(name="run", folder="run", file="run.json", kind="json"),
        Format(name="config", folder="config", file="config.yaml", kind="yaml"),
        Format(name="edits", folder="edits", file="edits.json", kind="json"),
        Format(name="inversion", folder="inversion", file="inversion.safetensors", kind="safetensors"),
        Format(name="mp4", folder="video", file="clip.mp4", kind="mp4"),
        Format(name="gif", folder="video", file="clip.gif", kind="gif"),
        Format(name="png", folder="video", file="clip.png", kind="bytes", loads=False),
        Format(name="base", folder="base", file="unet/config.json", kind="json", slow=True),
        Format(name="vocab", folder="base", file="tokenizer/vocab.json", kind="json", slow=True),
        Format(name="merges", folder="base", file="tokenizer/merges.txt", kind="bytes", slow=True),
        Format(name="lora", folder="lora", file="base/lora.safetensors", kind="safetensors", slow=True),
        Format(name="tuned", folder="run", file="tuned.safetensors", kind="safetensors", relisted="run", slow=True),
    )
}


def place(form: Format, seeds: Path, folder: Path, content: bytes) -> Path:
    """Put a changed file into a copy of its folder, which is made if it is not there.

    Returns:
        The file.
    """
    if not folder.exists():
        shutil.copytree(seeds / form.folder, folder)
    path = folder / form.file
    path.write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    if form.relisted == "manifest":
        manifest = json.loads((seeds / form.folder / "manifest.json").read_text(encoding="utf-8"))
        manifest["files"][form.file] = {**manifest["files"][form.file], "size": len(content), "sha256": sha256}
        (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    elif form.relisted == "run":
        record = json.loads((seeds / form.folder / "run.json").read_text(encoding="utf-8"))
        key = "tuned_sha256" if "tuned_sha256" in record else "delta_sha256"
        (folder / "run.json").write_text(json.dumps({**record, key: sha256}), encoding="utf-8")
    return path


def seed_file(form: Format, seeds: Path) -> Path:
    """The valid file."""
    return seeds / form.folder / form.file
