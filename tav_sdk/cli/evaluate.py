"""``tav evaluate``"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from tav_sdk.cli.console import cell, say, screen, stages, write_json
from tav_sdk.errors import InputError, MissingExtraError, OutputError, PromptError
from tav_sdk.files import new_file
from tav_sdk.progress import StepProgress

ADVICE = "give a file as the documentation of tav evaluate shows it"

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tav_sdk.evaluation.evaluate import Scores
    from tav_sdk.training.clip_scorer import ClipScorer
    from tav_sdk.video.clip import Video

SCORES_FILE, SHEET_FILE = "scores.json", "scores.png"
SUFFIXES = (".mp4", ".gif", ".webp", ".mov", ".mkv", ".webm", ".avi")
KEYS = ("file", "prompt")
Edit = tuple[str, str]  # file, prompt


def evaluate(
    edits: Annotated[Path, typer.Argument(help="A folder of edits: one that tav edit wrote, or any with --prompts.")],
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="What each video shows: CSV with the header file,prompt, or JSON.", show_default="edits.json of EDITS"
        ),
    ] = None,
    source: Annotated[
        Path | None, typer.Option(help="The frames that were edited.", show_default="source.* of EDITS")
    ] = None,
    reconstruction: Annotated[
        Path | None,
        typer.Option(help="The source inverted and sampled again.", show_default="reconstruction.* of EDITS"),
    ] = None,
    positions: Annotated[
        Path | None,
        typer.Option(help="JSON list of the true x, y of the source's subject, fractions.", show_default="found"),
    ] = None,
    clip: Annotated[
        str, typer.Option(help="A CLIP: pocket, a folder in the transformers format, or a name on the hub.")
    ] = "pocket",
    out: Annotated[Path | None, typer.Option(help="The folder to write the scores to.", show_default="EDITS")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON, no table and no bar.")] = False,
) -> None:
    """Measure edits: CLIP scores, how well the source's motion is kept, and the reconstruction.

    Prints a table, and writes scores.json (the definitions in it) and scores.png (all videos with their scores), anew
    each time. The source is the frames that were edited, such as source.mp4 of tav edit.

    [bold]Examples[/]

      tav evaluate out

      tav evaluate out --clip openai/clip-vit-large-patch14 --json

      tav evaluate videos --prompts prompts.csv --source frames.mp4 --out scores
    """
    folder = edits if out is None else out
    if not edits.is_dir():
        raise InputError(f"there is no folder of edits {edits}; give one that tav edit wrote, or one with videos")
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file; give the path of a folder to write")
    entries = _entries(edits, prompts)
    source = source or _beside(edits, "source")
    reconstruction = reconstruction or _beside(edits, "reconstruction")
    if reconstruction is not None and source is None:
        raise InputError(f"{reconstruction} is compared with the source, and {edits} has none; give it with --source")
    truth = None if positions is None else _positions(positions)

    from tav_sdk.evaluation.evaluate import evaluate as measure
    from tav_sdk.evaluation.evaluate import reconstruction_psnr
    from tav_sdk.video.clip import read_video

    # All files before the CLIP, which takes its time to load.
    original = None if source is None else read_video(source)
    again = None if reconstruction is None else read_video(reconstruction)
    psnr, why = None, "there is no reconstruction of the source"
    if original is not None and again is not None:
        try:
            psnr = reconstruction_psnr(original.frames, again.frames)
        except InputError as error:
            why = str(error)
    videos = {file: read_video(edits / file) for file in dict.fromkeys(file for file, _ in entries)}
    scorer = _scorer(clip)

    scores: list[Scores] = []
    with stages(hidden=as_json) as show:
        for index, (file, prompt) in enumerate(entries):
            try:
                frames = None if original is None else original.frames
                scores.append(measure(videos[file].frames, prompt, frames, scorer, positions=truth))
            except InputError as error:
                raise InputError(f"{file}: {error}") from error
            show(StepProgress(stage="evaluate", step=index + 1, total=len(entries)))

    document = _document(entries, scores, scorer, source, reconstruction, psnr, why)
    text = json.dumps(document, indent=2, ensure_ascii=False)
    rows = {name: video for name, video in (("source", original), ("reconstruction", again)) if video is not None}
    rows |= {_label(*entry, one): videos[entry[0]] for entry, one in zip(entries, scores, strict=True)}
    _write(folder, text, rows)
    if as_json:
        write_json(document)
        return
    _print(entries, scores, document)
    say(f"to {folder / SCORES_FILE}; all at a glance: {folder / SHEET_FILE}", mark="written")


# --- what is given ------------------------------------------------------------------------------------------------


def _entries(edits: Path, prompts: Path | None) -> list[Edit]:
    """File and prompt of every edit, each checked."""
    from tav_sdk.edits.record import EDITS_FILE, read_record

    path = prompts or edits / EDITS_FILE
    if not path.is_file():
        raise InputError(
            f"there is no prompt file {prompts}"
            if prompts
            else f"{edits} has no {EDITS_FILE}; say what each video shows with --prompts FILE.csv (header file,prompt)"
        )
    if prompts is None:
        entries = list(read_record(edits).edits)
    else:
        entries = _csv(path) if path.suffix.lower() == ".csv" else _json(path)
    if not entries:
        raise PromptError(f"{path} names no video; give at least one file with its prompt")
    for file, prompt in entries:
        if not prompt.strip():
            raise PromptError(f"{path}: the prompt of {file} is empty; say what the video shows")
        if not file or not (edits / file).is_file():
            raise InputError(f"{path} names {file!r}, and {edits} has no such file")
    return entries


def _csv(path: Path) -> list[Edit]:
    reader = csv.DictReader(_text(path).splitlines())
    reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
    if sorted(reader.fieldnames) != sorted(KEYS):
        raise InputError(f"{path}: expected the header file,prompt, got {','.join(reader.fieldnames) or 'nothing'}")
    entries: list[Edit] = []
    for row in reader:
        if None in row or None in row.values():
            raise InputError(
                f"{path}, line {reader.line_num}: expected two values, file and prompt; "
                'put a prompt with a comma in quotes: 00.mp4,"a panda, cartoon style"'
            )
        entries.append((row["file"].strip(), row["prompt"].strip()))
    return entries


def _json(path: Path) -> list[Edit]:
    items = _parsed(path)
    if isinstance(items, dict) and isinstance(items.get("edits"), list):
        from tav_sdk.edits.record import read_record

        return list(read_record(path.parent, path.name).edits)
    if isinstance(items, dict):
        items = [{"file": file, "prompt": prompt} for file, prompt in items.items()]
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise InputError(f'{path}: expected {{"FILE": "PROMPT", ...}} or [{{"file": ..., "prompt": ...}}, ...]')
    for item in items:
        if unknown := [key for key in item if key not in KEYS]:
            raise InputError(f"{path}: unknown key {unknown[0]!r}; each video has the keys file and prompt")
        if not all(isinstance(item.get(key), str) for key in KEYS):
            raise InputError(f"{path}: expected texts for file and prompt, got {json.dumps(item)}")
    return [(item["file"], item["prompt"]) for item in items]


def _positions(path: Path) -> NDArray[np.float64]:
    from tav_sdk.evaluation.trajectory import check_trajectory

    if not path.is_file():
        raise InputError(f"there is no file of positions {path}")
    return check_trajectory(str(path), _parsed(path))


def _parsed(path: Path) -> Any:
    from tav_sdk.reading import read_json

    return read_json(path, error=InputError, advice=ADVICE)


def _text(path: Path) -> str:
    from tav_sdk.reading import read_text

    return read_text(path, error=InputError, advice=ADVICE)


def _beside(edits: Path, stem: str) -> Path | None:
    found = sorted(path for path in edits.glob(f"{stem}.*") if path.suffix.lower() in SUFFIXES)
    if len(found) > 1:
        raise InputError(f"{edits} has {', '.join(path.name for path in found)}; say which with --{stem}")
    return found[0] if found else None


def _scorer(clip: str) -> ClipScorer:
    from tav_sdk.pocket import CLIP, POCKET

    try:
        from tav_sdk.training.clip_scorer import ClipScorer
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("torch", "transformers", "huggingface_hub", "safetensors"):
            raise MissingExtraError("tav evaluate", "training", missing) from error
        raise
    if clip == POCKET and not Path(clip).is_dir():
        return ClipScorer(CLIP, name=POCKET)
    return ClipScorer(clip)


# --- what comes out -----------------------------------------------------------------------------------------------


def _document(
    entries: Sequence[Edit],
    scores: Sequence[Scores],
    scorer: ClipScorer,
    source: Path | None,
    reconstruction: Path | None,
    psnr: float | None,
    why: str,
) -> dict[str, Any]:
    from tav_sdk.evaluation.evaluate import DEFINITIONS, DEFINITIONS_VERSION, mean_scores

    notes = {}
    if psnr is None:
        notes["reconstruction_psnr"] = why
    elif math.isinf(psnr):  # JSON has no infinity
        notes["reconstruction_psnr"] = "infinite: the reconstruction equals the source"
    return {
        "definitions_version": DEFINITIONS_VERSION,
        "definitions": DEFINITIONS,
        "clip": {"name": scorer.name, "sha256": scorer.sha256},
        "source": source.name if source else None,
        "reconstruction": reconstruction.name if reconstruction else None,
        "reconstruction_psnr": None if psnr is None or math.isinf(psnr) else psnr,
        "notes": notes,
        "videos": [
            {"file": file, "prompt": prompt, **one.to_dict(), "notes": one.notes}
            for (file, prompt), one in zip(entries, scores, strict=True)
        ],
        "means": mean_scores(scores),
    }


def _label(file: str, prompt: str, one: Scores) -> str:
    return f"{file}: {prompt} (clip_text {_number('clip_text', one.clip_text)}, motion {_number('motion', one.motion)})"


def _number(name: str, value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" if name == "motion" else f"{value:.1f}"


def _write(folder: Path, text: str, rows: Mapping[str, Video]) -> None:
    from PIL import Image

    from tav_sdk.video.contact_sheet import contact_sheet

    # Both files are complete before either gets its name.
    with new_file(folder / SHEET_FILE) as sheet, new_file(folder / SCORES_FILE) as scores:
        Image.fromarray(contact_sheet(rows)).save(sheet)
        scores.write_text(text + "\n", encoding="utf-8")


def _print(entries: Sequence[Edit], scores: Sequence[Scores], document: Mapping[str, Any]) -> None:
    names = list(document["means"])
    table = Table(box=None, pad_edge=False, caption_justify="left")
    table.add_column("file", no_wrap=True)
    table.add_column("prompt", ratio=1)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for (file, prompt), one in zip(entries, scores, strict=True):
        table.add_row(cell(file), cell(prompt), *(_number(name, value) for name, value in one.to_dict().items()))
    table.add_section()
    means = (_number(name, value) for name, value in document["means"].items())
    table.add_row(cell("mean", "bold"), "", *(cell(value, "bold") for value in means))
    console = screen()
    console.print(table)
    if document["reconstruction_psnr"] is not None:
        console.print(f"reconstruction_psnr {document['reconstruction_psnr']:.1f} dB")
    elif document["reconstruction"]:
        console.print(cell(f"reconstruction_psnr - ({document['notes']['reconstruction_psnr']})"))
    reasons = dict.fromkeys(f"{name}: {why}" for one in scores for name, why in one.notes.items())
    for reason in reasons:
        console.print(cell(f"- {reason}"), soft_wrap=True)
