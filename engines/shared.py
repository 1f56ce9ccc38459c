"""One engine for all pipelines of a process that run the same graph, so that they share its memory."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from tav_sdk.engines.base import Engine, Graph
from tav_sdk.engines.select import open_engine


@dataclass
class _Held:
    lock: threading.Lock
    engine: Engine | None = None
    users: int = 0


_held: dict[tuple[str, str], _Held] = {}
_lock = threading.Lock()


class SharedEngine:
    """A pipeline's hold on an engine, by the graph's key; the last one that lets go closes it.

    Args:
        graph: what to run; without a key the engine is this hold's alone.
        engine: the engine's name, resolved.

    Raises:
        EngineError: the engine does not work here, or the graph cannot be loaded.

    Attributes:
        engine: the engine itself.
    """

    def __init__(self, graph: Graph, engine: str) -> None:
        self._key = None if graph.key is None else (graph.key, engine)
        if self._key is None:
            self.engine = open_engine(graph, engine=engine)
            return
        with _lock:
            held = _held.setdefault(self._key, _Held(threading.Lock()))
            held.users += 1
        try:
            with held.lock:  # opening takes seconds: it does not hold up other graphs
                if held.engine is None:
                    held.engine = open_engine(graph, engine=engine)
                self.engine = held.engine
        except BaseException:
            self._release(held)
            raise

    def close(self) -> None:
        """Let go of the engine; closing twice is an error of the caller."""
        if self._key is None:
            self.engine.close()
        else:
            self._release(_held[self._key])

    def _release(self, held: _Held) -> None:
        with _lock:
            held.users -= 1
            if held.users:
                return
            _held.pop(self._key or ("", ""), None)
        if held.engine is not None:
            held.engine.close()
