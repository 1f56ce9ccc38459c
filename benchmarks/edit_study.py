"""The frame of the studies that edit Pocket's sample clips: tune once, go on where it stopped, judge, table, sheet.

A study says what it makes of one clip, and what it sums up. All else is here, its command line too.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import progress, table, write_json
from benchmarks.pocket_editing import Edit, edits_of, tuned_run
from benchmarks.pocket_judge import Judge
from benchmarks.result_table import Column, table_rows
from tav_sdk.export import ExportOptions, export_bundle
from tav_sdk.files import new_file, write_text
from tav_sdk.pocket import SampleClip, sample_clips
from tav_sdk.training import load_run
from tav_sdk.video.contact_sheet import contact_sheet

Rows = dict[str, np.ndarray]
"""A contact sheet's rows by label, frames ``(f, h, w, 3)`` uint8 each."""


@dataclass(frozen=True, kw_only=True)
class StudyClip:
    """A sample clip in a study.

    Attributes:
        sample: the clip.
        edits: those of its edits that the study makes.
        options: the command line's.
        settings: what decides the result, where a study compares that with an earlier call's; else none.
        judge: scores an edit's frames.
    """

    sample: SampleClip
    edits: Sequence[Edit]
    options: argparse.Namespace
    settings: Mapping[str, Any] | None
    judge: Judge = field(repr=False)

    def bundle(self, name: str, **how: Any) -> Path:
        """The clip's bundle of that name, tuned and exported if it is not there; ``how`` goes to the export."""
        bundle = self.options.out / "bundles" / name
        if not bundle.exists():
            run = tuned_run(self.sample, self.options.out, self.options.num_train_steps)
            export_bundle(load_run(run), bundle, ExportOptions(windows=False, **how))
        return bundle

    def entry(self, edit: Edit, frames: np.ndarray, **more: Any) -> dict[str, Any]:
        """What is kept of an edit: kind, prompt, scores, and what else is given."""
        return {
            "kind": edit.kind,
            "prompt": edit.prompt,
            "scores": self.judge(frames, edit, self.sample.centers),
            **more,
        }

    def say(self, what: str, entries: Iterable[Mapping[str, Any]], score: str = "all") -> None:
        """A line for whoever waits: a score's mean over some edits."""
        progress(f"{self.sample.name}, {what}: {score} {mean_of(entries, score) or 0:.2f}")


@dataclass(frozen=True, kw_only=True)
class EditStudy:
    """A question that is put to the sample clips.

    Attributes:
        name: the benchmark's name.
        about: what ``--help`` says.
        edit_clip: makes and judges one clip's edits: what is written as JSON, and the contact sheet.
        summary: of all clips' results, by the name of each row of the table.
        first: head of the table's first column.
        columns: its others.
        clips: how many clips by default.
        kinds: kinds of edits; by default all.
        suffix: ends the names of a clip's files, so that studies can share a folder with their runs.
        folder: where a clip's files go, below ``--out``.
        file: name of the result's file; by default the benchmark's.
        add_options: adds the study's own options.
        settings: what decides a clip's result, if that is to be compared with an earlier call's.
    """

    name: str
    about: str | None
    edit_clip: Callable[[StudyClip], tuple[Any, Rows]]
    summary: Callable[[Sequence[Any]], Mapping[str, Mapping[str, Any]]]
    first: str
    columns: Sequence[Column]
    clips: int
    kinds: Sequence[str] | None = None
    suffix: str = ""
    folder: str = ""
    file: str | None = None
    add_options: Callable[[argparse.ArgumentParser], object] | None = None
    settings: Callable[[argparse.Namespace, SampleClip], Mapping[str, Any]] | None = None

    def main(self, arguments: Sequence[str] | None = None, **more: Callable[..., Any]) -> None:
        """The command line: all clips that are not finished, then the summary of all.

        Args:
            arguments: by default the process's.
            more: further parts of the result by name, each called with the options and all clips' results.
        """
        options = self._options(arguments)
        judge = functools.cache(Judge)
        clips = [self._result(sample, options, judge) for sample in list(sample_clips().values())[: options.clips]]
        summary = self.summary(clips)
        result = {"benchmark": self.name, "summary": summary}
        result |= {name: part(options, clips) for name, part in more.items()}
        write_json(str(options.out / f"{self.file or self.name}.json"), result, options)
        print(table((self.first, *(column.head for column in self.columns)), table_rows(summary, self.columns)))

    def _result(self, sample: SampleClip, options: argparse.Namespace, judge: Callable[[], Judge]) -> Any:
        edits = [edit for edit in edits_of(sample.name) if self.kinds is None or edit.kind in self.kinds]
        edits = edits[: options.edits]
        settings = None if self.settings is None else dict(self.settings(options, sample))
        path = options.out / self.folder / f"{sample.name}{self.suffix}.json"
        if (result := finished(path, settings, len(edits))) is not None:
            progress(f"{sample.name}: finished before")
            return result
        clip = StudyClip(sample=sample, edits=edits, options=options, settings=settings, judge=judge())
        result, rows = self.edit_clip(clip)
        with new_file(path.with_suffix(".png")) as temporary:
            Image.fromarray(contact_sheet(rows, scale=2)).save(temporary, "PNG")
        write_text(path, json.dumps(result, indent=2) + "\n")
        return json.loads(path.read_text(encoding="utf-8"))

    def _options(self, arguments: Sequence[str] | None) -> argparse.Namespace:
        parser = argparse.ArgumentParser(description=self.about, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--out", type=Path, required=True)
        parser.add_argument(
            "--clips",
            type=int,
            default=self.clips,
            metavar="N",
            choices=range(1, 9),
            help=f"the first N sample clips (default: {self.clips})",
        )
        parser.add_argument("--edits", type=int, metavar="N", help="the first N of a clip's edits")
        parser.add_argument("--num-train-steps", type=int, help="default: what the base recommends")
        if self.add_options is not None:
            self.add_options(parser)
        return parser.parse_args(arguments)


def finished(path: Path, settings: Mapping[str, Any] | None, num_edits: int) -> Any:
    """What an earlier call wrote, unless it had other settings or another number of edits; else ``None``.

    Without settings to compare, whatever is there counts.
    """
    if not path.is_file():
        return None
    result = json.loads(path.read_text(encoding="utf-8"))
    if settings is None:
        return result
    return result if result["settings"] == settings and len(result["edits"]) == num_edits else None


def mean_of(entries: Iterable[Mapping[str, Any]], score: str) -> float | None:
    """Mean of a score over the edits that have it; ``None`` where none has."""
    values = [entry["scores"][score] for entry in entries if entry["scores"].get(score) is not None]
    return statistics.fmean(values) if values else None


def means_of(entries: Iterable[Mapping[str, Any]], scores: Sequence[str]) -> dict[str, float | None]:
    """Mean of every score."""
    entries = list(entries)
    return {score: mean_of(entries, score) for score in scores}


def score_columns(scores: Sequence[str], form: str = "{:.3g}") -> list[Column]:
    """A column for each score, by its name."""
    return [Column(score, score, form) for score in scores]
