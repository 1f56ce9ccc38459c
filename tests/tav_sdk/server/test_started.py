"""What a server says when it has started, tried as it stands there."""

from __future__ import annotations

import shlex
import shutil
import subprocess

import pytest


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_command_that_is_named_makes_a_video(live, tmp_path):
    line = next(line for line in live.lines if line.startswith("try it: "))
    command = shlex.split(line.partition(": ")[2])
    assert "model=skiing" in command  # the one with a clip
    subprocess.run([*command, "-F", "num_inference_steps=2", "--fail", "-s"], cwd=tmp_path, check=True, timeout=120)
    assert (tmp_path / "edit.mp4").read_bytes()[4:8] == b"ftyp"
