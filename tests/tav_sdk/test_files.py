import errno
import hashlib
import os
import shutil
import stat
import subprocess
import sys
import threading

import pytest

from tav_sdk import files
from tav_sdk.errors import InputError, OutputError
from tav_sdk.files import new_file, new_folder, sha256_of, write_text, written
from tav_sdk.output_paths import check_apart, check_new, check_new_file


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
    real = os.rename

    def replace(source, target):
        if source.name == "new":
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "rename", replace)
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


# --- others at the same place -------------------------------------------------------------------------------------


def fill_while(out, act):
    with new_folder(out) as folder:
        act(folder)
        (folder / "file.txt").write_text("new")


def test_files_that_reach_the_place_in_the_meantime_stay(tmp_path):
    out = tmp_path / "out"

    def put(_):
        out.mkdir()
        (out / "mine").write_text("x")

    said = r"out is not empty any more\. The finished work is kept in .*out-finished-1; move it"
    with pytest.raises(OutputError, match=said) as raised:
        fill_while(out, put)
    assert names(tmp_path) == ["out", "out-finished-1"]
    assert names(out) == ["mine"]
    assert names(tmp_path / "out-finished-1") == ["file.txt"]
    assert raised.value.kept == tmp_path / "out-finished-1"


def test_finished_work_gets_a_free_name(tmp_path):
    (tmp_path / "out-finished-1").mkdir()
    (tmp_path / "out-finished-2").write_text("a file")
    with pytest.raises(OutputError, match=r"kept in .*out-finished-3"), new_folder(tmp_path / "out"):
        (tmp_path / "out").write_text("a file")
    assert names(tmp_path) == ["out", "out-finished-1", "out-finished-2", "out-finished-3"]


def test_an_empty_folder_that_comes_in_the_meantime_is_no_obstacle(tmp_path):
    with new_folder(tmp_path / "out") as folder:
        (folder / "file.txt").write_text("new")
        (tmp_path / "out").mkdir()
    assert names(tmp_path / "out") == ["file.txt"]


def test_overwriting_replaces_what_is_there_at_the_end(tmp_path):
    with new_folder(tmp_path / "out", overwrite=True) as folder:
        (folder / "file.txt").write_text("new")
        fill(tmp_path / "out", "another's")
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out" / "file.txt").read_text() == "new"


def test_overwriting_does_not_replace_a_file(tmp_path):
    with pytest.raises(OutputError, match=r"kept in .*out-finished-1"), new_folder(tmp_path / "out", overwrite=True):
        (tmp_path / "out").write_text("mine")
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize("overwrite", [False, True])
def test_of_four_at_a_time_one_says_that_it_is_written(tmp_path, overwrite):
    out, ready, said = tmp_path / "out", threading.Barrier(4), []

    def work(number):
        try:
            with new_folder(out, overwrite=overwrite) as folder:
                (folder / "file.txt").write_text(str(number))
                ready.wait(timeout=60)
            said.append((out, number))
        except OutputError as error:
            said.append((error.kept, number))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if overwrite:
        assert [path for path, _ in said] == [out] * 4
        assert names(tmp_path) == ["out"]
        return
    assert sorted(path.name for path, _ in said) == ["out", "out-finished-1", "out-finished-2", "out-finished-3"]
    assert names(tmp_path) == sorted(path.name for path, _ in said)
    assert all((path / "file.txt").read_text() == str(number) for path, number in said)


def test_a_result_that_another_command_replaces_at_once_leaves_no_former_one(tmp_path, monkeypatch):
    out, move, moves = tmp_path / "out", files.move, []
    out.mkdir()
    (out / "file.txt").write_text("old")

    def write(text):
        with new_folder(out, overwrite=True) as folder:
            (folder / "file.txt").write_text(text)

    def replaced_at_once(path, target):
        move(path, target)
        moves.append(target)
        if len(moves) == 1:
            write("later")

    monkeypatch.setattr(files, "move", replaced_at_once)
    write("first")
    assert names(tmp_path) == ["out"]
    assert (out / "file.txt").read_text() == "later"


def test_a_link_to_files_that_came_meanwhile_is_not_replaced(tmp_path):
    out, mine = tmp_path / "out", tmp_path / "mine"

    def write():
        with new_folder(out) as folder:
            (folder / "file.txt").write_text("new")
            mine.mkdir()
            (mine / "x").write_text("x")
            out.symlink_to(mine)

    with pytest.raises(OutputError, match=r"is not empty any more. The finished work is kept in .*out-finished-1"):
        write()
    assert out.is_symlink()
    assert names(tmp_path) == ["mine", "out", "out-finished-1"]


def test_a_parent_that_is_removed_is_not_made_again(tmp_path):
    out = tmp_path / "parent" / "out"
    out.parent.mkdir()

    def remove(folder):
        shutil.rmtree(out.parent)
        folder.mkdir(parents=True)  # as a writer may

    with pytest.raises(OutputError, match=r"was removed in the meantime\. Choose a folder that stays"):
        fill_while(out, remove)
    assert not out.exists()


def test_a_file_without_its_folder_is_an_output_error(tmp_path):
    with pytest.raises(OutputError, match=r"file.txt cannot be written: No such file or directory"):
        write_text(tmp_path / "a" / "file.txt", "x", parents=False)
    assert names(tmp_path) == []


def test_a_rename_that_fails_keeps_the_work(tmp_path, monkeypatch):
    real = os.rename

    def rename(source, target):
        if os.path.basename(target) == "out":
            raise OSError(errno.EIO, "Input/output error", str(source))
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(OutputError, match=r"out cannot be written: Input/output error\. The finished work is kept in"):
        fill(tmp_path / "out")
    assert names(tmp_path / "out-finished-1") == ["file.txt"]


def test_work_that_cannot_get_a_visible_name_stays_where_it_is(tmp_path, monkeypatch):
    def rename(source, target):
        raise OSError(errno.EIO, "Input/output error", str(source))

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", rename)
        with pytest.raises(OutputError, match="The finished work is kept in") as raised:
            fill(tmp_path / "out")
    check_new(tmp_path / "out", overwrite=False)  # sweeps
    assert names(raised.value.kept) == ["file.txt"]


def test_a_link_to_an_empty_folder_is_replaced_and_what_it_names_is_not(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "out").symlink_to("there")
    fill(tmp_path / "out")
    assert names(tmp_path) == ["out", "there"]
    assert not (tmp_path / "out").is_symlink()
    assert names(tmp_path / "there") == []


def test_overwriting_replaces_a_link_and_not_what_it_names(tmp_path):
    fill(tmp_path / "there", "mine")
    (tmp_path / "out").symlink_to("there")
    fill(tmp_path / "out", overwrite=True)
    assert not (tmp_path / "out").is_symlink()
    assert (tmp_path / "there" / "file.txt").read_text() == "mine"


# --- commands that died -------------------------------------------------------------------------------------------

DIE = """
import os, sys
from pathlib import Path
from tav_sdk.files import new_file, new_folder
out, when = Path(sys.argv[1]), sys.argv[2]
real = os.rename
def rename(source, target):
    if when == "between" and os.path.basename(source) == "new":
        os._exit(9)
    real(source, target)
    if when == "after" and os.path.basename(source) == "new":
        os._exit(9)
os.rename = rename
with new_file(out) if when == "file" else new_folder(out, overwrite=True) as path:
    if when in ("within", "file"):
        os._exit(9)
    (path / "file.txt").write_text("new")
"""


def die(out, when):
    assert subprocess.run([sys.executable, "-c", DIE, str(out), when], check=False).returncode == 9


@pytest.mark.parametrize("when", ["within", "file"])
def test_what_a_dead_command_left_is_swept_by_the_next_one(tmp_path, when):
    out = tmp_path / "out"
    die(out, when)
    assert len(names(tmp_path)) == 1  # hidden
    with new_file(out) if when == "file" else new_folder(out) as path:
        assert len([name for name in names(tmp_path) if name.startswith(".out-")]) == 1  # its own
        if when == "file":
            path.write_text("x")
    assert names(tmp_path) == ["out"]


def test_what_a_dead_command_was_replacing_comes_back(tmp_path):
    fill(tmp_path / "out", "old")
    die(tmp_path / "out", "between")
    assert not (tmp_path / "out").exists()
    with pytest.raises(OutputError, match="is not empty; choose another folder"):
        check_new(tmp_path / "out", overwrite=False)
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out" / "file.txt").read_text() == "old"


def test_what_a_dead_command_was_replacing_is_kept_where_its_place_is_taken(tmp_path):
    fill(tmp_path / "out", "old")
    die(tmp_path / "out", "between")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    check_new(tmp_path / "out", overwrite=True)
    assert names(tmp_path) == ["out", "out-former-1"]
    assert (tmp_path / "out-former-1" / "file.txt").read_text() == "old"


def test_a_command_that_died_after_the_rename_has_written(tmp_path):
    fill(tmp_path / "out", "old")
    die(tmp_path / "out", "after")
    check_new(tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "file.txt").read_text() == "new"


def test_a_living_command_is_not_swept(tmp_path):
    with new_folder(tmp_path / "out") as folder:
        (folder / "file.txt").write_text("x")
        code = "import sys; from tav_sdk.files import check_new; check_new(sys.argv[1], overwrite=True)"
        subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], check=True)
        check_new(tmp_path / "out", overwrite=False)
    assert names(tmp_path / "out") == ["file.txt"]


def test_folders_of_others_are_not_swept(tmp_path):
    for name in (".out-12345678", ".out-backup", ".out-", ".outer-12345678"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").write_text("x")
    (tmp_path / "away").mkdir()
    (tmp_path / "away" / "lock").write_text("")
    (tmp_path / ".out-abcdefgh").symlink_to("away")
    before = names(tmp_path)
    check_new(tmp_path / "out", overwrite=False)
    assert names(tmp_path) == before
    assert names(tmp_path / "away") == ["lock"]


def test_a_name_too_long_for_more_letters_is_written_and_swept(tmp_path):
    out = tmp_path / ("x" * 250)
    die(out, "within")
    fill(out)
    assert names(tmp_path) == [out.name]


# --- what is said after an interrupt ------------------------------------------------------------------------------


def test_what_is_written_is_known_even_if_the_rename_is_interrupted(tmp_path, monkeypatch):
    def interrupted(rename):
        def call(source, target):
            rename(source, target)
            if os.path.basename(target) in ("out", "file.txt"):
                raise KeyboardInterrupt

        return call

    monkeypatch.setattr(os, "rename", interrupted(os.rename))
    monkeypatch.setattr(os, "replace", interrupted(os.replace))
    (tmp_path / "out").mkdir()
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "out", overwrite=True):
        pass
    with pytest.raises(KeyboardInterrupt):
        write_text(tmp_path / "file.txt", "x")
    assert [path for path in written() if path.parent == tmp_path] == [tmp_path / "out", tmp_path / "file.txt"]
    assert names(tmp_path) == ["file.txt", "out"]


def test_what_is_not_written_is_not_said_to_be(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path / "out", failure=KeyboardInterrupt)
    with new_folder(tmp_path / "hushed", told=False) as folder:
        write_text(folder / "inner.txt", "x")
    fill(tmp_path / "removed")
    shutil.rmtree(tmp_path / "removed")
    assert [path for path in written() if tmp_path in path.parents] == []


# --- names that cannot be -----------------------------------------------------------------------------------------

BAD_NAMES = {
    "long": ("x" * 256, "File name too long"),
    "zero": ("a\0b", r"expected a path in UTF-8 without zero bytes, got '.*a\\x00b'"),
    "surrogate": ("a\udce4", r"expected a path in UTF-8 without zero bytes, got '.*a\\udce4'"),
    "lone": ("a\ud800", r"expected a path in UTF-8 without zero bytes, got '.*a\\ud800'"),
    "circle": ("circle", "[Ss]ymbolic links|Symlink loop"),
    "within": ("circle/out", "[Ss]ymbolic links|Symlink loop"),
}


@pytest.mark.parametrize("case", BAD_NAMES)
@pytest.mark.parametrize(
    "check",
    [
        lambda path, good: check_new(path, overwrite=False),
        lambda path, good: check_new_file(path, overwrite=True),
        lambda path, good: check_apart(path, good),
        lambda path, good: fill(path),
        lambda path, good: write_text(path, "x"),
    ],
    ids=["check_new", "check_new_file", "check_apart", "new_folder", "new_file"],
)
def test_an_output_whose_name_cannot_be_is_an_output_error(tmp_path, case, check):
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "good").write_text("x")
    name, said = BAD_NAMES[case]
    with pytest.raises(OutputError, match=said):
        check(tmp_path / name, tmp_path / "good")
    assert names(tmp_path) == ["circle", "good"]


@pytest.mark.parametrize("case", BAD_NAMES)
def test_an_input_whose_name_cannot_be_is_an_input_error(tmp_path, case):
    (tmp_path / "circle").symlink_to("circle")
    name, said = BAD_NAMES[case]
    with pytest.raises(InputError, match=said):
        check_apart(tmp_path / "out", tmp_path / name)


def test_a_mount_point_is_refused_before_the_work():
    with pytest.raises(OutputError, match="/ is a mount point, which cannot be replaced; give the path of a folder in"):
        check_new("/", overwrite=True)


def test_a_full_disk_is_an_output_error_whatever_file_it_names(tmp_path):
    with pytest.raises(OutputError, match=r"cannot write .*out: No space left on device"), new_folder(tmp_path / "out"):
        raise OSError(errno.ENOSPC, "No space left on device", "/elsewhere/source", None, "/elsewhere/target")
    assert names(tmp_path) == []
