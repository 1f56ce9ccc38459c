"""Measured numbers: what libraries and sessions take beside a model's own tensors.

Peak resident memory of a process on Linux, glibc, one thread: see benchmarks/memory.py.
"""

from __future__ import annotations

MB = 1_000_000
TRAINING_IMPORTS = 440 * MB
"""Python with torch, diffusers and transformers, their libraries' pages in use, and the clip's reader."""
EXPORT_IMPORTS = 580 * MB
"""The same with onnxscript, onnx and ONNX Runtime, and what one trace leaves behind."""
SDK_IMPORTS, SDK_TENSORRT = 105 * MB, 130 * MB
"""What an edit imports: Python with numpy, PyAV, ONNX Runtime and the tokenizer; and TensorRT for RTX where it is
installed, whose libraries are loaded to see whether it works."""
TORCH_HEAP, TORCH_HEAP_CHECKPOINTED = 1.2, 2.3
"""Factors on torch's tensors on the CPU, for scratch of oneDNN and for what glibc's heap keeps of freed blocks under
32 MB, which is more where blocks come and go as they do with gradient checkpointing. With
``MALLOC_MMAP_THRESHOLD_=1000000`` it was 1.04."""
SESSION_WEIGHTS = 1.06
"""Factor on a graph's weights in a session of ONNX Runtime: a few are there twice, packed and as they were."""
SESSION_HEAP = 90 * MB
"""Heap that graphs went through while they were optimised: all sessions together, but no more than their weights."""
ORT_UNET = 1.03
"""Factor on the U-Net's counted tensors, in ONNX Runtime's arena."""
ORT_SCORES = 2
"""Matrices of all attention scores that ONNX Runtime's ``Attention`` has on the CPU at a time: products and softmax."""
ORT_ROUNDED = 1.5
"""Factor on that in the parity check of half precision: every tensor is rounded, so it is there in both types."""
ORT_VAE = {"encoder": (1.05, 1.0), "decoder": (1.71, 1.39)}
"""Factors on the VAE's counted tensors: in the arena at the first chunk, and in one block that is added when the same
shape comes again (memory pattern). Convolutions reorder their inputs and outputs to blocks of channels, so it is more
than torch has."""
TRT_IMPORTS, TRT_LAYER, TRT_WEIGHTS = 220 * MB, 185_000, 3.0
"""A build with TensorRT for RTX: its libraries, bytes of each layer of the network, copies of the weights."""
TRT_LAYERS, TRT_TEXT_LAYERS = 1.7, 77
"""Layers of the network for each operator of the U-Net that torch dispatches, and for a layer of the text encoder."""


def session_memory(weights: int) -> float:
    """Bytes of sessions of ONNX Runtime on the CPU before they run; ``weights`` of all of them together, in float32."""
    return SESSION_WEIGHTS * weights + min(SESSION_HEAP, weights)
