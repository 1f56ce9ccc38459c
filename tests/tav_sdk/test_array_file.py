"""Arrays that anyone may have written."""

import io
import os
import zipfile

import numpy as np
import pytest

from tav_sdk.array_file import read_array, read_arrays

SPECS = {"a": ("float32", (-1, 3)), "b": ("int64", ())}


def npy(shape, dtype="<f4", content=b""):
    """A file whose header says what it likes."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue() + content


def zipped(path, how=zipfile.ZIP_STORED, **members):
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_come_back(tmp_path, order):
    array = np.asarray(np.arange(6, dtype=np.float32).reshape(2, 3), order=order)
    np.save(tmp_path / "a.npy", array)
    np.testing.assert_array_equal(read_array(tmp_path / "a.npy", dtype="float32", axes=2, max_bytes=24), array)
    np.savez(tmp_path / "a.npz", a=array, b=np.asarray(7))
    found = read_arrays(tmp_path / "a.npz", SPECS)
    np.testing.assert_array_equal(found["a"], array)
    assert found["b"] == 7


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "cannot be read: "),
        (b"\x93NUMPY", "cannot be read: "),
        (npy((1 << 40, 3)), r"float32\[1099511627776, 3\] takes 13194139533312 bytes, 0 are left"),
        (npy((1, 3), content=bytes(400)), "it has 400 bytes, at most 100 are read"),
        (npy((1, 3), content=bytes(13)), "takes 12 bytes, 13 are left"),
        (npy((3,), content=bytes(12)), r"expected 2 axes, got \[3\]"),
        (npy((1, 3), "<f8"), "expected float32, got float64"),
        (npy((1, 3), ">f4"), "expected float32, got >f4"),
        (npy((1, 3), "|O"), "Object arrays cannot be loaded"),
        (b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535, "cannot be read: "),
    ],
)
def test_an_array_that_is_not_as_it_should_be_is_refused(tmp_path, content, text):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(ValueError, match=text):
        read_array(tmp_path / "a.npy", dtype="float32", axes=2, max_bytes=100)


def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "a.npy")
    with pytest.raises(ValueError, match="it is not a regular file"):
        read_array(tmp_path / "a.npy", dtype="float32", axes=2, max_bytes=100)


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({"c": b""}, "it holds 'c', which does not belong into it"),
        ({"a": b"", "b": b"", "c": b""}, "it holds 3 arrays, at most 2 belong into it"),
        ({"a": npy((1 << 40, 3))}, "takes 13194139533312 bytes, 0 are left"),
        ({"a": npy((2, 4), content=bytes(32))}, r"a.npy has the shape \[2, 4\], expected \[-1, 3\]"),
        ({"b": npy((1,), "<i8", bytes(8))}, r"b.npy has the shape \[1\], expected \[\]"),
    ],
)
def test_arrays_that_do_not_belong_into_a_file_are_refused(tmp_path, members, text):
    with pytest.raises(ValueError, match=text):
        read_arrays(zipped(tmp_path / "a.npz", **members), SPECS)


def test_what_unpacks_to_too_much_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr("tav_sdk.array_file.MAX_BYTES", 1 << 20)
    path = zipped(tmp_path / "a.npz", zipfile.ZIP_DEFLATED, a=bytes(1 << 22))
    assert path.stat().st_size < 10_000
    with pytest.raises(ValueError, match="its arrays have 4194304 bytes, at most 1048576 are read"):
        read_arrays(path, SPECS)


def test_a_file_that_is_no_archive_is_refused(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK\x05\x06")
    with pytest.raises(ValueError, match="cannot be read: "):
        read_arrays(tmp_path / "a.npz", SPECS)


def test_a_header_that_is_no_python_is_refused(tmp_path):
    header = b"{'descr': (\n" + b" " * 52  # numpy takes it for one of Python 2, and reads it word by word
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    with pytest.raises(ValueError, match="cannot be read: "):
        read_arrays(zipped(tmp_path / "a.npz", a=content), SPECS)
