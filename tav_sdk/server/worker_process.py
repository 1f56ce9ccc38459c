"""The server's end of one worker: its process, and the pipes to it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable

from tav_sdk.server.protocol import Command, Word, line_of, word_of
from tav_sdk.words import logger

_log = logger(__name__)


class WorkerProcess:
    """A process that runs :mod:`tav_sdk.server.worker`.

    Args:
        index: which worker it is, from 0.
        engine: what runs the bundles.
        max_bases: how many bases it keeps open.
        heard: called in the event loop with every word.
        ended: called in the event loop once, with the exit status, negative if a signal ended it.
        log_format: of what it logs.
        environment: more variables of its environment, such as the device that it sees.
    """

    def __init__(
        self,
        index: int,
        *,
        engine: str,
        max_bases: int,
        heard: Callable[[WorkerProcess, Word], None],
        ended: Callable[[WorkerProcess, int], None],
        log_format: str = "text",
        environment: dict[str, str] | None = None,
    ) -> None:
        self.index = index
        self._loop = asyncio.get_running_loop()
        self._heard, self._ended = heard, ended
        commands_read, commands_write = os.pipe()
        words_read, words_write = os.pipe()
        arguments = [str(commands_read), str(words_write), engine, str(max_bases), log_format]
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tav_sdk.server.worker", *arguments],
                pass_fds=(commands_read, words_write),
                stdin=subprocess.DEVNULL,
                env={**os.environ, **(environment or {})},
                start_new_session=True,  # a Ctrl-C in the terminal is the server's alone
            )
        finally:
            os.close(commands_read)
            os.close(words_write)
        self._commands: int | None = commands_write
        self._closing = threading.Lock()  # a number that is closed soon names another file
        threading.Thread(target=self._listen, args=(words_read,), daemon=True).start()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def send(self, command: Command) -> None:
        """Tell it something; nothing happens if it has ended, which ``ended`` says."""
        with self._closing, contextlib.suppress(OSError):
            if self._commands is not None:
                os.write(self._commands, line_of(command))

    def kill(self) -> None:
        """End it at once."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def _listen(self, words: int) -> None:
        """Pass its words on; in a thread of its own, since a pipe cannot be waited for on every system."""
        with open(words, "rb") as pipe:
            for line in pipe:
                try:
                    word = word_of(line)
                except ValueError:
                    _log.error("worker %d said what cannot be understood; it is ended", self.index)
                    self.kill()
                    break
                self._call(self._heard, word)
        status = self._process.wait()
        with self._closing:
            commands, self._commands = self._commands, None
        if commands is not None:
            os.close(commands)
        self._call(self._ended, status)

    def _call(self, called: Callable[..., None], value: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the server has ended
            self._loop.call_soon_threadsafe(called, self, value)
