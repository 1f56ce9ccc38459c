"""The models that can be edited with: bundles in the server's folder, and those that tunings made here."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from tav_sdk.bundle.bundle import Bundle
from tav_sdk.bundle.layout import MANIFEST
from tav_sdk.bundle.manifest import Manifest
from tav_sdk.diffusion.schedule import DDIMSchedule
from tav_sdk.errors import BundleError, TavError
from tav_sdk.files import write_text
from tav_sdk.reading import read_json, validated
from tav_sdk.server.fields import MODEL_ID, shown
from tav_sdk.server.jobs import new_id
from tav_sdk.server.problems import ProblemError
from tav_sdk.server.settings import ServerSettings
from tav_sdk.words import logger

_log = logger(__name__)

RESCAN_S = 4.0
"""Shortest time between two looks at the folders, so that a new bundle is there within 5 s."""
CLIP_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".gif")
RECORD = ".model.json"
"""After the id: the file beside a tuned model's bundle that says whose it is."""


class ModelRecord(BaseModel):
    """Whose a tuned model is.

    Attributes:
        owner: name of the token that tuned it.
        created: seconds since 1970.
        clip: SHA-256 of the clip that was tuned on.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    owner: str
    created: float
    clip: str = Field(pattern="^[0-9a-f]{64}$")


@dataclass(frozen=True, kw_only=True)
class Model:
    """A tuned clip that can be edited with.

    Attributes:
        id: its folder's name.
        folder: the bundle.
        manifest: of the bundle, whose files were there when it was read; no file was hashed.
        schedule: of the bundle.
        created: seconds since 1970.
        clip: the clip's file, if the model has one.
        clip_sha256: of the clip that a tuning was made on; of other clips it is not known.
        owner: whose tuning made it; ``None``: it lies in the server's folder and cannot be deleted.
    """

    id: str
    folder: Path
    manifest: Manifest
    schedule: DDIMSchedule
    created: float
    clip: Path | None
    clip_sha256: str | None = None
    owner: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The model as clients see it."""
        manifest = self.manifest
        return {
            "id": self.id,
            "object": "model",
            "created": int(self.created),
            "owned_by": "tav-sdk",
            "base": manifest.base.name,
            "prompt": manifest.prompt,
            "size": f"{manifest.width}x{manifest.height}",
            "num_frames": manifest.num_frames,
            "fps": manifest.clip.fps,
            "num_inference_steps": manifest.num_inference_steps,
            "guidance_scale": manifest.guidance_scale,
            "precision": manifest.precision,
            "source": self.clip is not None,
            "deletable": self.owner is not None,
        }


@dataclass(frozen=True, kw_only=True)
class _Read:
    """What was read of a folder, and what its manifest was then; ``bundle`` is ``None`` if it is damaged."""

    seen: tuple[int, int, int]
    bundle: tuple[Manifest, DDIMSchedule] | None


class Catalog:
    """The models of a server. Folders are looked at beside the event loop, and no more often than needed.

    Args:
        settings: ``bundles``, ``state`` and ``default_model`` count.
        clock: seconds that never fall.
    """

    def __init__(self, settings: ServerSettings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._bundles, self._made = settings.bundles, settings.state / "models"
        self._clips = settings.state / "clips"
        self._default = settings.default_model
        self._clock = clock
        self._models: dict[str, Model] = {}
        self._read: dict[Path, _Read] = {}
        self._told: set[str] = set()
        self._looked: float | None = None
        self._lock = asyncio.Lock()

    @property
    def known(self) -> dict[str, Model]:
        """The models as of the last look, by id."""
        return self._models

    async def models(self) -> list[Model]:
        """All models, the oldest first."""
        async with self._lock:
            if self._looked is None or self._clock() - self._looked >= RESCAN_S:
                self._models = await asyncio.to_thread(self._scan)
                self._looked = self._clock()
        return sorted(self._models.values(), key=lambda model: (model.created, model.id))

    async def get(self, model_id: str) -> Model:
        """One model.

        Raises:
            ProblemError: 404 ``model_not_found``.
        """
        await self.models()
        if model_id not in self._models:
            raise ProblemError(
                404,
                "model_not_found",
                f"there is no model {shown(model_id)}; GET /v1/models lists those that there are",
                param="model",
            )
        return self._models[model_id]

    async def choose(self, model_id: str | None) -> Model:
        """The model of a request, which may name none.

        Raises:
            ProblemError: 404 ``model_not_found``; 400 ``model_required``: none was named, and there is no default and
                not exactly one model.
        """
        if model_id is not None:
            return await self.get(model_id)
        models = await self.models()
        if self._default is not None:
            return await self.get(self._default)
        if len(models) == 1:
            return models[0]
        some = ", ".join(model.id for model in models[:5]) + ", ..." * (len(models) > 5)
        hint = f"name one: {some}" if models else "there is none yet; tune one"
        raise ProblemError(400, "model_required", f"model is missing; {hint}", param="model")

    async def new_model_id(self, asked: str | None) -> str:
        """The id of a model that a tuning is to make; made up if none is asked for.

        Jobs that wait or run may want the same one: whoever queues them has to look there.

        Raises:
            ProblemError: 400 ``model_exists``.
        """
        if asked is None:
            return f"tuned-{new_id('tuning')[-12:]}"
        if await asyncio.to_thread(self._is_taken, asked):
            raise model_exists(asked)
        return asked

    async def add(self, model_id: str, bundle: Path, *, owner: str, clip: str) -> Model:
        """Take a bundle that a tuning made: its folder is moved, and can be used at once.

        Args:
            model_id: of the new model.
            bundle: the folder, on the same disk as the state.
            owner: whose it is.
            clip: SHA-256 of the clip, which lies among the state's clips.

        Raises:
            OSError: it cannot be moved, or there is another one meanwhile.
            BundleError: it is no bundle.
        """
        record = ModelRecord(owner=owner, created=time.time(), clip=clip)
        await asyncio.to_thread(self._keep, model_id, bundle, record)
        self._looked = None
        await self.models()
        if model_id not in self._models:
            raise BundleError(f"the bundle of the model {model_id} is damaged")
        return self._models[model_id]

    def put(self, model_id: str, bundle: Path, *, owner: str, clip: str) -> None:
        """As :meth:`add`, at once and unread; the next look finds it. For files on the state's own disk it is quick."""
        self._keep(model_id, bundle, ModelRecord(owner=owner, created=time.time(), clip=clip))
        self._looked = None

    async def remove(self, model_id: str, *, owner: str) -> Model:
        """Remove a model that one of the owner's tunings made.

        Raises:
            ProblemError: 404 ``model_not_found``; 403 ``model_protected``: it is another's, or the server's own.
        """
        model = await self.get(model_id)
        if model.owner is None or model.owner != owner:
            why = "it was not made by a tuning here" if model.owner is None else "another token's tuning made it"
            raise ProblemError(403, "model_protected", f"the model {model_id} cannot be deleted: {why}", param="model")
        await asyncio.to_thread(self._drop, model_id)
        self._looked = None
        return model

    # --- beside the event loop ------------------------------------------------------------------------------------

    def _scan(self) -> dict[str, Model]:
        models: dict[str, Model] = {}
        read: dict[Path, _Read] = {}
        for folder, tuned in [*_folders(self._bundles, False), *_folders(self._made, True)]:
            if not MODEL_ID.fullmatch(folder.name):
                self._tell(f"{folder} is left out: a model's name is 1 to 64 of a-z, 0-9, dot, underscore and hyphen")
                continue
            if folder.name in models:
                self._tell(f"{folder} is left out: there is another model of that name")
                continue
            found = self._look(folder)
            if found is None:
                continue
            read[folder] = found
            if found.bundle is not None and (model := self._model(folder, found, tuned=tuned)) is not None:
                models[folder.name] = model
        self._read = read
        return models

    def _look(self, folder: Path) -> _Read | None:
        """The folder's bundle, read again only if its manifest is another one; ``None``: it is gone meanwhile."""
        try:
            status = (folder / MANIFEST).stat()
        except OSError:
            return None
        seen = (status.st_mtime_ns, status.st_ino, status.st_size)
        former = self._read.get(folder)
        # A damaged one may be one that is still being copied.
        if former is not None and former.seen == seen and former.bundle is not None:
            return former
        try:
            bundle = Bundle(folder, verify=False)
            return _Read(seen=seen, bundle=(bundle.manifest, bundle.schedule))
        except (TavError, OSError, ValueError, KeyError, TypeError) as error:
            self._tell(f"{folder} is left out: {error}")
            return _Read(seen=seen, bundle=None)

    def _model(self, folder: Path, found: _Read, *, tuned: bool) -> Model | None:
        if found.bundle is None:
            return None
        manifest, schedule = found.bundle
        if not tuned:
            beside = (folder.parent / f"{folder.name}{suffix}" for suffix in CLIP_SUFFIXES)
            clip = next((path for path in beside if path.is_file()), None)
            created = found.seen[0] / 1e9
            return Model(
                id=folder.name, folder=folder, manifest=manifest, schedule=schedule, created=created, clip=clip
            )
        path = self._record(folder.name)
        try:
            values = read_json(path, max_bytes=1 << 16, error=TavError, advice="tune the model again")
            record = validated(ModelRecord, values, what=str(path), error=TavError, advice="tune the model again")
        except TavError as error:
            self._tell(f"{folder} is left out: {error}")
            return None
        clip = self._clips / record.clip
        return Model(
            id=folder.name,
            folder=folder,
            manifest=manifest,
            schedule=schedule,
            created=record.created,
            clip=clip if clip.is_file() else None,
            clip_sha256=record.clip,
            owner=record.owner,
        )

    def _record(self, model_id: str) -> Path:
        return self._made / f"{model_id}{RECORD}"

    def _is_taken(self, model_id: str) -> bool:
        return (self._bundles / model_id).exists() or (self._made / model_id).exists()

    def _keep(self, model_id: str, bundle: Path, record: ModelRecord) -> None:
        self._made.mkdir(parents=True, exist_ok=True)
        if not MODEL_ID.fullmatch(model_id) or self._is_taken(model_id):
            raise FileExistsError(f"there is a model {model_id} already")
        write_text(self._record(model_id), record.model_dump_json() + "\n")
        os.rename(bundle, self._made / model_id)  # the record is there first: a folder without one is nobody's
        if os.name == "posix":
            descriptor = os.open(self._made, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def _drop(self, model_id: str) -> None:
        gone = self._made / f".{model_id}.{new_id('tuning')}"  # a name that is no model's
        with contextlib.suppress(FileNotFoundError):
            os.rename(self._made / model_id, gone)
        self._record(model_id).unlink(missing_ok=True)
        shutil.rmtree(gone, ignore_errors=True)

    def _tell(self, line: str) -> None:
        if line not in self._told:
            self._told.add(line)
            _log.warning("%s", re.sub(r"[\x00-\x1f\x7f]", "?", line))


def model_exists(model_id: str) -> ProblemError:
    """What is said when a tuning is to make a model of a name that is taken."""
    return ProblemError(
        400, "model_exists", f"there is a model {shown(model_id)} already; choose another name", param="model"
    )


def _folders(parent: Path, tuned: bool) -> Iterator[tuple[Path, bool]]:
    """The folders with a manifest, by name."""
    with contextlib.suppress(OSError):
        for path in sorted(parent.iterdir()):
            if not path.name.startswith(".") and (path / MANIFEST).is_file():
                yield path, tuned
