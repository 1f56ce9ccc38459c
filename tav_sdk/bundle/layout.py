"""The names of a bundle's files, graphs and tensors, declared here and only here."""

from __future__ import annotations

FORMAT_VERSION = 3
"""The format that is written. Formats 1 and 2 are read as well; weights of a bundle of format 1 cannot be swapped."""
MANIFEST = "manifest.json"


TOKENIZER = "tokenizer"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
SCHEDULER = "scheduler/scheduler_config.json"


TEXT_ENCODER, VAE_ENCODER, VAE_DECODER, UNET = "text_encoder", "vae_encoder", "vae_decoder", "unet"
GRAPHS = (TEXT_ENCODER, VAE_ENCODER, VAE_DECODER, UNET)


WINDOWED_UNET = "windowed_unet"
"""The U-Net for a window of a longer video; not in every bundle. It stands beside the U-Net and shares its weights."""
PAST, PRESENT = "past", "present"
"""Before a point and a name: its inputs for what was kept of former windows, its outputs for the next window."""
CONTROLNET = "controlnet"
"""A graph that no bundle has: it is exported by itself, see :mod:`tav_sdk.pipeline.controlnet`."""
DOWN_RESIDUAL, MID_RESIDUAL = "down_block_additional_residual", "mid_block_additional_residual"
"""Inputs of a U-Net that takes a ControlNet's residuals; those of the down blocks are numbered."""
GRAPH_FILE = "model.onnx"


WINDOWED_FILE = "windowed.onnx"
GRAPH_FILES = (GRAPH_FILE, WINDOWED_FILE)


WEIGHTS_FILE = "model.onnx_data"
"""Weights of a graph; of the U-Net, those that tuning leaves alone."""
TUNED_FILE = "tuned.onnx_data"
"""The U-Net's tuned weights, so that clips on one base differ in this file alone."""
UNTUNED_FILE = "untuned.safetensors"
"""The base's values of the tuned weights that it has, beside :data:`TUNED_FILE`; equal for all clips on one base."""
REFERENCES = "reference"
"""Folder with one ``GRAPH.npz`` per graph: an input, and what the float32 model gave for it; see
:mod:`tav_sdk.pipeline.verify`."""
