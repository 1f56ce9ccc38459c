import hashlib
import os
import stat

import pytest

from tav_sdk.errors import InputError, OutputError
from tav_sdk.files import check_apart, check_new, check_new_file, new_file, new_folder, sha256_of, write_text


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def fill(out, text="new", failure=None, **options):
    with new_folder(out, **options) as folder:
        (folder / "file.txt").write_text(text)
        if failure:
            raise failure


def fill_file(out, failure):
    with new_file(out) as path:
        path.write_text("new")
        raise failure


def test_a_file_that_is_there_is_written_only_when_asked(tmp_path):
    path = tmp_path / "a.png"
    assert check_new_file(path, overwrite=False) == path
    path.write_bytes(b"")
    with pytest.raises(
        OutputError, match=r"a.png is there already; choose another file, or set overwrite to replace it"
    ):
        check_new_file(path, overwrite=False)
    assert check_new_file(path, overwrite=True) == path
    with pytest.raises(OutputError, match=r"is a folder; expected the name of a file to write"):
        check_new_file(tmp_path, overwrite=True)


def test_the_hash_is_that_of_the_bytes(tmp_path):
    data = os.urandom(5_000_000)
    (tmp_path / "data").write_bytes(data)
    assert sha256_of(tmp_path / "data") == hashlib.sha256(data).hexdigest()


def test_a_folder_appears_when_the_block_ends(tmp_path):
    out = tmp_path / "a" / "out"
    with new_folder(out) as folder:
        (folder / "file.txt").write_text("x")
        assert not out.exists()
    assert names(tmp_path / "a") == ["out"]
    assert names(out) == ["file.txt"]


def test_a_folder_has_the_usual_permissions(tmp_path):
    fill(tmp_path / "out")
    (tmp_path / "usual").mkdir()
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_an_empty_folder_may_be_written(tmp_path):
    (tmp_path / "out").mkdir()
    fill(tmp_path / "out")
    assert names(tmp_path / "out") == ["file.txt"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, InputError, SystemExit])
def test_a_failure_leaves_no_folder_and_no_new_parent(tmp_path, error):
    with pytest.raises(error):
        fill(tmp_path / "a" / "b" / "out", failure=error)
    assert names(tmp_path) == []


def test_a_failure_keeps_what_was_to_be_replaced(tmp_path):
    fill(tmp_path / "out", "old")
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "out", overwrite=True):
        raise KeyboardInterrupt
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out" / "file.txt").read_text() == "old"


def test_a_failed_rename_puts_back_what_was_there(tmp_path, monkeypatch):
    fill(tmp_path / "out", "old")
    real = os.replace

    def replace(source, target):
        if source.name == "new":
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path / "out", overwrite=True)
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out" / "file.txt").read_text() == "old"


def test_overwriting_replaces_all_of_a_folder(tmp_path):
    fill(tmp_path / "out", "old")
    (tmp_path / "out" / "more.txt").write_text("old")
    fill(tmp_path / "out", overwrite=True)
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["file.txt"]


def test_a_folder_with_files_is_refused(tmp_path):
    fill(tmp_path / "out", "old")
    with pytest.raises(OutputError, match=r"out is not empty; choose another folder, or set overwrite to replace"):
        fill(tmp_path / "out")


def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path):
    (tmp_path / "out").write_text("x")
    with pytest.raises(OutputError, match="out is a file; give the path of a folder to write"):
        check_new(tmp_path / "out", overwrite=True)


def test_a_full_disk_is_an_output_error(tmp_path):
    with (
        pytest.raises(OutputError, match=r"cannot write .*out: No space left on device"),
        new_folder(tmp_path / "out"),
    ):
        raise OSError(28, "No space left on device")
    assert names(tmp_path) == []


def test_errors_about_other_files_pass(tmp_path):
    with pytest.raises(FileNotFoundError), new_folder(tmp_path / "out"):
        (tmp_path / "missing").read_text()
    assert names(tmp_path) == []


def test_a_parent_that_is_a_file_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match=r"cannot write into .*file: "):
        fill(tmp_path / "file" / "out")


@pytest.mark.parametrize("inner", [".", "clip.mp4", "deep/clip.mp4"])
def test_an_input_inside_the_output_is_refused(tmp_path, inner):
    (tmp_path / "out" / "deep").mkdir(parents=True)
    for name in ("clip.mp4", "deep/clip.mp4"):
        (tmp_path / "out" / name).write_text("x")
    with pytest.raises(OutputError, match=r"is read, and writing .*out would replace it; choose another folder"):
        check_apart(tmp_path / "out", tmp_path / "out" / inner)


def test_inputs_beside_the_output_are_fine(tmp_path):
    (tmp_path / "out-2").mkdir()
    check_apart(tmp_path / "out", tmp_path / "out-2", tmp_path / "out" / "missing")


def test_a_file_is_written_whole(tmp_path):
    write_text(tmp_path / "a" / "file.txt", "größer")
    assert names(tmp_path / "a") == ["file.txt"]
    assert (tmp_path / "a" / "file.txt").read_bytes() == "größer".encode()
    assert stat.S_ISREG((tmp_path / "a" / "file.txt").stat().st_mode)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_failure_keeps_the_former_file(tmp_path, error):
    write_text(tmp_path / "file.txt", "old")
    with pytest.raises(error):
        fill_file(tmp_path / "file.txt", error)
    assert names(tmp_path) == ["file.txt"]
    assert (tmp_path / "file.txt").read_text() == "old"


def test_a_failure_leaves_no_file_and_no_new_parent(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fill_file(tmp_path / "a" / "file.txt", KeyboardInterrupt)
    assert names(tmp_path) == []


def test_a_temporary_file_keeps_the_suffix(tmp_path):
    with new_file(tmp_path / "clip.mp4") as path:
        assert path.suffix == ".mp4"
        path.write_text("x")
    assert names(tmp_path) == ["clip.mp4"]


def test_a_folder_in_the_place_of_a_file_is_refused(tmp_path):
    with pytest.raises(OutputError, match=r"is a folder; expected the name of a file to write"):
        write_text(tmp_path, "x")
