"""Forms of strangers (``multipart/form-data``): their fields, and one file that goes to disk as it comes."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from tav_sdk.server.problems import ProblemError

MAX_FIELDS = 64
MAX_FIELD_BYTES = 64 << 10
MAX_NAME = 256
"""Longest name of a field, in bytes."""


@dataclass(frozen=True, kw_only=True)
class Upload:
    """A file that was sent, under a name of the server's own.

    Attributes:
        field: the name of its field; the file's own name and type are not used.
        path: where it lies.
        size: in bytes.
        sha256: of its bytes, in hexadecimal.
    """

    field: str
    path: Path
    size: int
    sha256: str

    def remove(self) -> None:
        """Remove the file, if it still lies there."""
        with contextlib.suppress(OSError):
            self.path.unlink()


class Form:
    """Reads one form, chunk by chunk. Any thread may, one at a time.

    Args:
        boundary: what stands between the parts.
        folder: where the file goes, under a name that nobody can guess.

    Attributes:
        fields: the text fields that came, by name.
    """

    def __init__(self, boundary: bytes, folder: Path) -> None:
        self.fields: dict[str, str] = {}
        self._folder = folder
        self._lock = threading.Lock()
        self._over = self._at_end = False
        self._disposition: bytes = b""
        self._header_name: bytes = b""
        self._header_value: bytes = b""
        self._name = ""
        self._text: bytearray | None = None  # of the field that is read now
        self._file: BinaryIO | None = None
        self._path: Path | None = None
        self._file_field = ""
        self._digest, self._size = hashlib.sha256(), 0
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._part_begins,
                    "on_header_field": self._header_field,
                    "on_header_value": self._header_goes_on,
                    "on_header_end": self._header_ends,
                    "on_headers_finished": self._headers_end,
                    "on_part_data": self._data,
                    "on_part_end": self._part_ends,
                    "on_end": self._end,
                },
            )
        except FormParserError:
            raise invalid_body("its boundary is too long") from None

    def feed(self, chunk: bytes) -> None:
        """Take some more bytes. It hashes and writes them: call it beside the event loop.

        Raises:
            ProblemError: 400 ``invalid_body``, 507 ``storage_full``.
        """
        with self._lock:
            if self._over:
                return
            try:
                self._parser.write(chunk)
            except FormParserError:
                raise invalid_body("its parts cannot be told apart") from None
            except OSError as error:
                raise storage_problem(error) from error

    def finish(self) -> Upload | None:
        """Take no more bytes.

        Returns:
            The file, which is on disk and the caller's from now on; ``None``: there was none.

        Raises:
            ProblemError: 400 ``invalid_body``: the form breaks off; 507 ``storage_full``.
        """
        with self._lock:
            if not self._at_end:
                raise invalid_body("it breaks off before its last boundary")
            self._over = True
            if self._file is None or self._path is None:
                return None
            try:
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()
            except OSError as error:
                raise storage_problem(error) from error
            path, self._path = self._path, None
            return Upload(field=self._file_field, path=path, size=self._size, sha256=self._digest.hexdigest())

    def discard(self) -> None:
        """Take no more bytes, and remove the file; after :meth:`finish` the file stays, for it has another owner."""
        with self._lock:
            self._over = True
            if self._path is not None and self._file is not None:
                with contextlib.suppress(OSError):
                    self._file.close()
                with contextlib.suppress(OSError):
                    self._path.unlink()
                self._path = None

    # --- called by the parser -------------------------------------------------------------------------------------

    def _part_begins(self) -> None:
        self._disposition, self._header_name, self._header_value = b"", b"", b""
        self._name, self._text = "", None

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _header_goes_on(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _header_ends(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = self._header_value
        self._header_name, self._header_value = b"", b""

    def _headers_end(self) -> None:
        kind, options = parse_options_header(self._disposition)
        name = options.get(b"name", b"")
        if kind != b"form-data" or not name or len(name) > MAX_NAME:
            raise invalid_body(f"each part needs a name of 1 to {MAX_NAME} bytes")
        try:
            self._name = name.decode()
        except UnicodeDecodeError:
            raise invalid_body("the name of a field is not text in UTF-8") from None
        if not self._name.isprintable():
            raise invalid_body("the name of a field has a control character")
        if self._name in self.fields or (self._path is not None and self._name == self._file_field):
            raise invalid_body(f"the field {self._name} is there twice; send it once", param=self._name)
        if b"filename" in options:
            self._begin_file()
            return
        if len(self.fields) >= MAX_FIELDS:
            raise invalid_body(f"it has more than {MAX_FIELDS} fields")
        self._text = bytearray()

    def _begin_file(self) -> None:
        if self._path is not None:
            raise invalid_body(f"it has more than 1 file, {self._file_field} and {self._name}", param=self._name)
        descriptor, path = tempfile.mkstemp(prefix="upload-", dir=self._folder)
        self._file, self._path, self._file_field = os.fdopen(descriptor, "wb"), Path(path), self._name

    def _data(self, data: bytes, start: int, end: int) -> None:
        part = data[start:end]
        if self._text is None:
            if self._file is not None:
                self._file.write(part)
                self._digest.update(part)
                self._size += len(part)
            return
        if len(self._text) + len(part) > MAX_FIELD_BYTES:
            raise invalid_body(f"the field {self._name} has more than {MAX_FIELD_BYTES} bytes", param=self._name)
        self._text += part

    def _part_ends(self) -> None:
        if self._text is None:
            return
        try:
            # Browsers send the ends of lines as CRLF, whatever was typed.
            self.fields[self._name] = self._text.decode().replace("\r\n", "\n")
        except UnicodeDecodeError:
            raise invalid_body(f"the field {self._name} is not text in UTF-8", param=self._name) from None

    def _end(self) -> None:
        self._at_end = True


def invalid_body(reason: str, *, param: str | None = None) -> ProblemError:
    """What is said of a form that cannot be taken."""
    return ProblemError(400, "invalid_body", f"the form cannot be read: {reason}", param=param)


def storage_problem(error: OSError) -> ProblemError:
    """What is said when a file cannot be kept: 507 if there is no room, else 500."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return ProblemError(507, "storage_full", "the server's disk is full; try again later")
    return ProblemError(500, "internal_error", "the server cannot keep the file; its log says why")
