"""A bundle on disk: the folder that a machine without PyTorch runs."""

from tav_sdk.bundle.bundle import Bundle as Bundle
from tav_sdk.bundle.manifest import Manifest as Manifest
from tav_sdk.bundle.tokenizer import Tokenizer as Tokenizer
