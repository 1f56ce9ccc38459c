"""What a bundle is exported with."""

import dataclasses

import pytest

from tav_sdk.errors import ConfigError
from tav_sdk.export import ExportOptions


def test_by_default_all_is_exported_and_checked_in_float32():
    given = dataclasses.asdict(ExportOptions())
    assert given == {"precision": "fp32", "control": False, "windows": True, "parity": True, "quality": True}


@pytest.mark.parametrize("name", ["control", "windows", "parity", "quality"])
def test_a_switch_is_true_or_false(name):
    with pytest.raises(ConfigError, match=f"{name} must be True or False, got 'no'"):
        ExportOptions(**{name: "no"})  # pyright: ignore[reportArgumentType]


def test_options_are_given_by_name_and_stay_as_they_are():
    with pytest.raises(TypeError):
        ExportOptions("fp16")  # pyright: ignore[reportCallIssue]
    with pytest.raises(dataclasses.FrozenInstanceError):
        ExportOptions().precision = "fp16"  # pyright: ignore[reportAttributeAccessIssue]


def test_they_need_no_torch():
    import subprocess
    import sys

    code = "import sys; from tav_sdk.export import ExportOptions; ExportOptions(); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
