"""A skip that is not expected fails the run of the tests."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
CONTENT = """
import pytest

def test_runs(): pass

@pytest.mark.skip(reason="needs a GPU: none is here")
@pytest.mark.parametrize("n", [1])
def test_on_a_gpu(n): pass
"""
MISSING = """
import pytest

pytest.importorskip("no_such_module")
"""


@pytest.fixture
def run_tests(run: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path):
    """``run_tests(lines, options)``: two small files, with this folder's conftest.py and these expected skips."""

    def begin(lines: str, *options: str) -> subprocess.CompletedProcess[str]:
        shutil.copy2(TESTS / "conftest.py", tmp_path)
        (tmp_path / "expected_skips.txt").write_text(lines, encoding="utf-8")
        (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --import-mode=importlib -p no:cacheprovider\n")
        (tmp_path / "test_some.py").write_text(CONTENT, encoding="utf-8")
        (tmp_path / "test_missing.py").write_text(MISSING, encoding="utf-8")
        return run(sys.executable, "-m", "pytest", *options, cwd=tmp_path)

    return begin


EXPECTED = "# a comment\n\ntest_some.py::test_on_a_gpu[*]   needs a GPU: *\n"


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_skip_without_a_line_fails_the_run_and_is_named(run_tests, workers: str) -> None:
    result = run_tests(EXPECTED, "-n", workers)
    assert result.returncode == 1, result.stdout
    assert "test_missing.py: could not import 'no_such_module'" in result.stdout
    assert "test_on_a_gpu[1]: needs a GPU" not in result.stdout
    assert "expected_skips.txt has no line for them, so the run failed. Install what is missing" in result.stdout


def test_a_part_of_the_tests_may_be_run(run_tests) -> None:
    result = run_tests(EXPECTED + "test_other.py::*  never skipped\n", "test_some.py")
    assert result.returncode == 0, result.stdout
    assert "unexpected skips" not in result.stdout


def test_the_reason_has_to_fit_as_well(run_tests) -> None:
    result = run_tests("test_some.py::test_on_a_gpu[*]  something else\n", "test_some.py")
    assert result.returncode == 1, result.stdout
    assert "test_some.py::test_on_a_gpu[1]: needs a GPU: none is here" in result.stdout
