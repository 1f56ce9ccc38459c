"""Where ONNX Runtime placed a graph's nodes, and a warning of those that compute on the CPU beside a GPU."""

from __future__ import annotations

from collections import Counter
from typing import Any

from tav_sdk.words import logger

RECORD = "session.record_ep_graph_assignment_info"
"""Session option: ``"1"`` keeps what :func:`nodes_on_cpu` reads. A version that does not know it ignores it."""
CPU_PROVIDER = "CPUExecutionProvider"

_NOT_ALL_ON_GPU = "all compute graph nodes have not been partitioned"
_log = logger(__name__)


def has_compute_on_cpu(error: Exception) -> bool:
    """Whether ONNX Runtime refused to record a CUDA graph because compute nodes are not on the GPU.

    That is its own judgement. Nodes that only compute shapes are meant to be on the CPU, and it does not count them.
    """
    return _NOT_ALL_ON_GPU in str(error)


def nodes_on_cpu(session: Any) -> tuple[Counter[str], int]:
    """The nodes that the CPU's provider got.

    Args:
        session: an ``onnxruntime.InferenceSession`` that was made with :data:`RECORD`.

    Returns:
        How many of each operator, and of how many nodes in all; nothing and 0 if ONNX Runtime does not say, which it
        does from version 1.24.1 on.
    """
    try:
        parts = session.get_provider_graph_assignment_info()
    except Exception:  # noqa: BLE001  an older version has no such method, another session did not record it
        return Counter(), 0
    nodes = [(part.ep_name, node.op_type) for part in parts for node in part.get_nodes()]
    return Counter(operator for provider, operator in nodes if provider == CPU_PROVIDER), len(nodes)


def warn_of_cpu(graph: str, session: Any) -> None:
    """Log which nodes of a graph run on the CPU though the GPU was asked for, and what to do."""
    operators, total = nodes_on_cpu(session)
    listed = ", ".join(f"{operator} ({count})" for operator, count in operators.most_common(5))
    _log.warning(
        "the %s graph was to run on the GPU, but ONNX Runtime has no CUDA kernel for some of its nodes and runs them "
        "on the CPU, which is slow%s; install a newer onnxruntime-gpu, or choose another engine (tav doctor lists "
        "them)",
        graph,
        f": {operators.total()} of {total} nodes, {listed}" if operators else "",
    )
