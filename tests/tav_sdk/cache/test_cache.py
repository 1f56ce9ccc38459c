from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import filelock
import pytest

import tav_sdk.cache.record
from tav_sdk.cache.entry import cache_key
from tav_sdk.cache.limits import LIMITS, cache_root, size_limit
from tav_sdk.cache.record import ENTRY
from tav_sdk.cache.store import Cache
from tav_sdk.errors import ConfigError, EngineError, InputError, OutputError

A, B, C = (cache_key({"name": name}) for name in "abc")
posix = pytest.mark.skipif(os.name != "posix", reason="Windows has neither modes nor SIGKILL")


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache("engines", root=tmp_path / "root")


def write(folder: Path, size: int = 1000) -> None:
    (folder / "plan").write_bytes(bytes(size))
    (folder / "deep").mkdir()
    (folder / "deep" / "names").write_text("x")


def put(cache: Cache, key: str, size: int = 1000, *, age: float | None = None) -> Path:
    """An entry that is in nobody's use."""
    path = cache.get_or_make(key, lambda folder: write(folder, size), facts={"name": "x"})
    cache.release(key)
    if age is not None:
        then = time.time() - age
        os.utime(path / ENTRY, (then, then))
    return path


def never(folder: Path) -> None:
    raise RuntimeError("made although it is there")


def names(cache: Cache) -> list[str]:
    """What is in the folder; a lock's file counts where there is no entry of its key."""
    found = {path.name for path in cache.folder.iterdir()}
    return sorted(found - {f".{name}.lock" for name in found})


def kept(cache: Cache) -> set[str]:
    return {entry.key for entry in cache.entries()}


# --- keys, places and limits --------------------------------------------------------------------------------------


def test_a_key_is_the_hash_of_the_facts_in_any_order():
    assert cache_key({"a": 1, "b": {"c": (1, 2), "d": None}}) == cache_key({"b": {"d": None, "c": [1, 2]}, "a": 1})
    assert len({cache_key(facts) for facts in ({"a": 1}, {"a": "1"}, {"a": 2}, {"b": 1}, {"a": None}, {})}) == 6


@pytest.mark.parametrize("value", [float("nan"), Path("x"), b"x", {1, 2}])
def test_facts_that_json_does_not_know_are_refused(value):
    with pytest.raises(InputError, match="the facts of a cache entry must be plain JSON values: "):
        cache_key({"a": value})


def test_facts_are_checked_before_anything_is_made(cache):
    with pytest.raises(InputError, match="plain JSON values"):
        cache.get_or_make(A, never, facts={"a": Path("x")})


@pytest.mark.parametrize("key", ["", "unet", "../" + A[3:], A.upper(), A + "\n"])
def test_another_key_is_refused(cache, key):
    with pytest.raises(InputError, match="a cache key must be 64 hexadecimal digits, as cache_key gives them, got "):
        cache.get(key)


def test_an_unknown_kind_is_refused(tmp_path):
    with pytest.raises(InputError, match="there is no cache 'engine'; the caches are engines, inversions, controlnets"):
        Cache("engine", root=tmp_path, max_bytes=1)


def test_the_environment_names_the_root(monkeypatch, tmp_path):
    monkeypatch.setenv("TAV_CACHE", str(tmp_path / "x"))
    assert Cache("engines").folder == tmp_path / "x" / "engines"


@pytest.mark.skipif(sys.platform != "linux", reason="the default is the platform's")
def test_the_default_is_in_the_users_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("TAV_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root() == tmp_path / "tav-sdk"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache" / "tav-sdk"


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2GB", 2 * 10**9),
        ("1.5 gb", 1.5 * 10**9),
        ("512MiB", 512 * 2**20),
        ("3k", 3000),
        ("1T", 10**12),
        ("17", 17),
        ("0", 0),
        ("", LIMITS["inversions"]),
    ],
)
def test_the_environment_sets_a_limit(monkeypatch, text, size):
    monkeypatch.setenv("TAV_CACHE_SIZE_INVERSIONS", text)
    assert size_limit("inversions") == size
    assert size_limit("engines") == LIMITS["engines"]


@pytest.mark.parametrize("text", ["-1GB", "much", "2 GBit", "1e9", "i", "2iB"])
def test_a_limit_that_is_no_size_is_refused(monkeypatch, text):
    monkeypatch.setenv("TAV_CACHE_SIZE_ENGINES", text)
    with pytest.raises(ConfigError, match="TAV_CACHE_SIZE_ENGINES: expected a size such as 20GB, 512MB or 0, got '"):
        Cache("engines")


def test_a_negative_limit_is_refused(tmp_path):
    with pytest.raises(InputError, match="max_bytes must be at least 0, got -1"):
        Cache("engines", root=tmp_path, max_bytes=-1)


def test_importing_it_loads_no_library():
    code = "import sys, tav_sdk.cache; sys.exit(any(m in sys.modules for m in ('filelock', 'platformdirs', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- entries ------------------------------------------------------------------------------------------------------


def test_an_entry_is_made_once(cache):
    path = cache.get_or_make(A, write, facts={"name": "a"})
    assert path == cache.folder / A
    assert cache.get_or_make(A, never, facts={"name": "a"}) == path
    assert (path / "plan").read_bytes() == bytes(1000)
    assert (path / "deep" / "names").read_text() == "x"
    assert names(cache) == [A]


def test_what_is_not_there_is_not_found(cache):
    assert cache.get(A) is None
    put(cache, B)
    assert cache.get(A) is None


def test_an_entry_says_what_it_is(cache):
    path = put(cache, A, age=3600)
    (entry,) = cache.entries()
    assert (entry.kind, entry.key, entry.path, entry.facts, entry.problem) == ("engines", A, path, {"name": "x"}, "")
    assert entry.size == 1001 + (path / ENTRY).stat().st_size
    assert entry.created is not None
    assert entry.last_used < entry.created


def test_entries_come_last_used_first(cache):
    for key, age in ((A, 100), (B, 1), (C, 10)):
        put(cache, key, age=age)
    assert [entry.key for entry in cache.entries()] == [B, C, A]


def test_finding_an_entry_is_a_use(cache):
    put(cache, A, age=3600)
    cache.get(A)
    (entry,) = cache.entries()
    assert entry.created is not None
    assert entry.last_used >= entry.created


def test_a_cache_that_nobody_wrote_is_empty(cache):
    assert cache.entries() == []
    assert cache.verify() == []
    assert cache.clear() == cache.remove(A) == 0
    assert not cache.root.exists()


def test_other_files_in_the_folder_stay(cache):
    put(cache, A)
    (cache.folder / "notes.txt").write_text("x")
    cache.clear()
    assert names(cache) == ["notes.txt"]


def test_an_error_while_making_passes_and_leaves_nothing(cache):
    def fail(folder: Path) -> None:
        write(folder)
        raise EngineError("no GPU")

    with pytest.raises(EngineError, match="no GPU"):
        cache.get_or_make(A, fail, facts={})
    assert names(cache) == []


def test_the_name_of_the_record_is_taken(cache):
    with pytest.raises(InputError, match=r"could not be used: it has a file entry.json, which is the cache's own"):
        cache.get_or_make(A, lambda folder: (folder / ENTRY).write_text("{}"), facts={})
    assert names(cache) == []


def test_a_link_among_what_is_made_is_refused(cache, tmp_path):
    (tmp_path / "plan").write_text("x")
    (tmp_path / "plan").chmod(0o644)
    with pytest.raises(InputError, match="could not be used: plan is a link"):
        cache.get_or_make(A, lambda folder: (folder / "plan").symlink_to(tmp_path / "plan"), facts={})
    assert (tmp_path / "plan").stat().st_mode & 0o777 == 0o644


def test_removing(cache):
    put(cache, A)
    put(cache, B)
    (size,) = {entry.size for entry in cache.entries()}
    assert cache.remove(A) == size
    assert names(cache) == [B]


def test_clearing_says_how_much_it_freed(cache):
    put(cache, A)
    cache.get_or_make(B, write, facts={"name": "b"})  # in use
    size = sum(entry.size for entry in cache.entries())
    assert cache.clear() == size
    assert names(cache) == []


def test_clearing_what_was_not_used_for_long(cache):
    put(cache, A, age=3 * 86400)
    put(cache, B, age=1 * 86400)
    cache.clear(unused_for=timedelta(days=2))
    assert kept(cache) == {B}


# --- limits -------------------------------------------------------------------------------------------------------


@pytest.fixture
def two(tmp_path: Path) -> Cache:
    """A cache for two entries."""
    return Cache("engines", root=tmp_path / "root", max_bytes=3500)


def test_the_least_recently_used_goes_first(two):
    put(two, A, age=20)
    put(two, B, age=10)
    two.get(A)
    two.release(A)
    put(two, C)
    assert kept(two) == {A, C}
    assert names(two) == sorted([A, C])


@pytest.mark.parametrize("use", ["get", "get_or_make"])
def test_what_is_in_use_stays(two, use):
    put(two, A)
    if use == "get":
        two.get(A)
    else:
        two.get_or_make(A, never, facts={})
    os.utime(two.folder / A / ENTRY, (0, 0))
    put(two, B, age=10)
    put(two, C)
    assert kept(two) == {A, C}


def test_what_is_used_twice_has_to_be_released_twice(two):
    put(two, A)
    two.get(A)
    two.get(A)
    two.release(A)
    os.utime(two.folder / A / ENTRY, (0, 0))
    put(two, B, age=10)
    put(two, C)
    assert kept(two) == {A, C}
    two.release(A)
    put(two, B)
    assert kept(two) == {B, C}


def test_an_entry_above_the_limit_is_kept_with_a_warning(two, caplog):
    put(two, A, age=10)
    path = put(two, B, 5000)
    assert path.is_dir()
    assert kept(two) == {A, B} - {A}
    assert (
        "takes 0.0 MB, more than the limit of 0.0 MB for engines; raise it with TAV_CACHE_SIZE_ENGINES" in caplog.text
    )
    put(two, A)
    assert kept(two) == {A}


def test_damaged_entries_count(two):
    put(two, A, age=10)
    (two.folder / A / ENTRY).write_text("")
    os.utime(two.folder / A, (0, 0))
    put(two, B)
    put(two, C, 1500)
    assert kept(two) == {B, C}


# --- damage -------------------------------------------------------------------------------------------------------


def change(path: Path) -> None:
    (path / "plan").write_bytes(bytes(999) + b"x")


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "changed": (change, "plan was changed: expected sha256 "),
    "cut": (lambda path: (path / "plan").write_bytes(b""), "plan was changed: expected 1000 bytes, got 0"),
    "lost": (lambda path: (path / "plan").unlink(), "plan is missing"),
    "added": (lambda path: (path / "deep" / "more").write_text("x"), "deep/more is not listed"),
    "no record": (lambda path: (path / ENTRY).unlink(), "it has no entry.json"),
    "empty record": (lambda path: (path / ENTRY).write_text(""), "its entry.json is damaged: "),
    "other record": (lambda path: (path / ENTRY).write_text('{"files": 1}'), "its entry.json is damaged: "),
}


@pytest.mark.parametrize(("damage", "text"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_entry_is_removed_with_a_warning(cache, caplog, damage, text):
    damage(put(cache, A))
    assert cache.get(A) is None
    assert f"the cache entry {cache.folder / A} is not used: {text}" in caplog.text
    assert names(cache) == []


@pytest.mark.parametrize(("damage", "text"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_entry_is_made_again(cache, damage, text):
    damage(put(cache, A))
    assert (put(cache, A) / "plan").read_bytes() == bytes(1000)
    assert cache.verify() == []


@pytest.mark.parametrize(("damage", "text"), DAMAGES.values(), ids=DAMAGES)
def test_verifying_names_what_is_damaged_and_keeps_it(cache, damage, text):
    put(cache, B)
    damage(put(cache, A))
    (problem,) = cache.verify()
    assert problem.path == cache.folder / A
    assert problem.message.startswith(text)
    assert kept(cache) == {A, B}


def test_an_entry_under_another_key_is_not_used(cache, caplog):
    put(cache, A).rename(cache.folder / B)
    assert cache.get(B) is None
    assert f"it was made for the key {A[:12]}..." in caplog.text


def test_the_list_says_what_is_damaged(cache):
    (put(cache, A) / ENTRY).write_text("")
    (entry,) = cache.entries()
    assert entry.problem.startswith("its entry.json is damaged")
    assert (entry.facts, entry.created, entry.size) == ({}, None, 1001)


def test_an_entry_that_is_removed_while_it_is_read_is_no_damage(cache, caplog, monkeypatch):
    put(cache, A)
    other = Cache("engines", root=cache.root)
    real = tav_sdk.cache.record.sha256_of

    def hash_late(path: Path) -> str:
        other.remove(A)
        return real(path)

    monkeypatch.setattr(tav_sdk.cache.record, "sha256_of", hash_late)
    assert cache.get(A) is None
    assert caplog.text == ""
    monkeypatch.setattr(tav_sdk.cache.record, "sha256_of", real)
    put(cache, A)
    monkeypatch.setattr(tav_sdk.cache.record, "sha256_of", hash_late)
    assert cache.verify() == []


# --- trust --------------------------------------------------------------------------------------------------------


@posix
def test_only_this_user_may_read_and_write(cache):
    umask = os.umask(0)
    try:
        path = put(cache, A)
    finally:
        os.umask(umask)
    folders = (cache.root, cache.folder, path, path / "deep")
    files = (path / "plan", path / ENTRY, path / "deep" / "names")
    assert [oct(folder.stat().st_mode & 0o777) for folder in folders] == ["0o700"] * 4
    assert [oct(file.stat().st_mode & 0o777) for file in files] == ["0o600"] * 3


@posix
@pytest.mark.parametrize("bit", [0o020, 0o002])
@pytest.mark.parametrize("inner", [".", "plan", ENTRY, "deep", "deep/names"])
def test_what_others_may_write_is_not_used(cache, caplog, inner, bit):
    target = put(cache, A) / inner
    target.chmod(target.stat().st_mode | bit)
    assert cache.get(A) is None
    assert "may be written by its group or others (mode " in caplog.text
    assert names(cache) == []


@posix
def test_what_belongs_to_another_user_is_not_used(cache, caplog, monkeypatch):
    path = put(cache, A)
    user, real = os.geteuid(), os.lstat

    def lstat(asked):
        status = real(asked)
        if Path(asked) == path / "plan":
            status = os.stat_result((*status[:4], user + 1, *status[5:]))
        return status

    monkeypatch.setattr(os, "lstat", lstat)
    assert cache.get(A) is None
    assert f"plan belongs to user {user + 1}, not to this one ({user})" in caplog.text


@posix
def test_a_cache_folder_that_others_may_write_is_neither_used_nor_written(cache, caplog):
    path = put(cache, A)
    cache.folder.chmod(0o770)
    assert cache.get(A) is None
    text = r"engines is not used: it may be written by its group or others \(mode 770\)"
    assert f"the cache {cache.folder} is not used: it may be written by its group or others (mode 770)" in caplog.text
    with pytest.raises(OutputError, match=text + ".*name another folder for the caches in TAV_CACHE"):
        cache.get_or_make(B, never, facts={})
    with pytest.raises(OutputError, match=text):
        cache.clear()
    with pytest.raises(OutputError, match=text):
        cache.remove(A)
    assert [problem.path for problem in cache.verify()] == [cache.folder]
    assert path.is_dir()


@posix
def test_a_cache_folder_of_another_user_is_refused(cache, monkeypatch):
    put(cache, A)
    monkeypatch.setattr(os, "geteuid", lambda: cache.folder.stat().st_uid + 1)
    with pytest.raises(OutputError, match=r"it belongs to user \d+, not to this one \(\d+\)"):
        cache.get_or_make(A, never, facts={})


def test_a_link_to_an_entry_is_not_followed(cache, caplog, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    put(cache, A).rename(elsewhere)
    (cache.folder / A).symlink_to(elsewhere)
    assert cache.get(A) is None
    assert "is not used: it is a link; removing it" in caplog.text
    assert names(cache) == []
    assert (elsewhere / "plan").is_file()


@pytest.mark.parametrize("inner", ["plan", "deep"])
def test_a_link_in_an_entry_is_not_followed(cache, caplog, tmp_path, inner):
    path = put(cache, A)
    (path / inner).rename(tmp_path / "elsewhere")
    (path / inner).symlink_to(tmp_path / "elsewhere")
    assert cache.get(A) is None
    assert f"is not used: {inner} is a link" in caplog.text
    assert (tmp_path / "elsewhere").exists()


def test_a_link_in_the_place_of_the_cache_is_not_followed(cache, tmp_path):
    put(cache, A)
    cache.folder.rename(tmp_path / "elsewhere")
    cache.folder.symlink_to(tmp_path / "elsewhere")
    assert cache.get(A) is None
    with pytest.raises(OutputError, match="is not used: it is a link or a file, not a folder"):
        cache.get_or_make(A, never, facts={})


def test_a_file_in_the_place_of_an_entry_is_replaced(cache):
    put(cache, B)
    (cache.folder / A).write_text("x")
    (cache.folder / A).chmod(0o600)
    assert [problem.message for problem in cache.verify()] == ["it is not a folder"]
    assert (put(cache, A) / "plan").is_file()


# --- a disk that cannot be written --------------------------------------------------------------------------------


def test_a_root_that_cannot_be_made_says_how_to_choose_another(tmp_path):
    (tmp_path / "file").write_text("x")
    cache = Cache("engines", root=tmp_path / "file" / "root")
    assert cache.get(A) is None
    with pytest.raises(OutputError, match=r"engines cannot be written: .*name another folder for the caches in TAV_C"):
        cache.get_or_make(A, never, facts={})


@pytest.fixture
def read_only(monkeypatch) -> Callable[[], None]:
    def refuse(*_args, **_options):
        raise OSError(errno.EROFS, "Read-only file system")

    def apply() -> None:
        monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
        monkeypatch.setattr(os, "utime", refuse)
        monkeypatch.setattr(os, "replace", refuse)

    return apply


def test_a_cache_that_may_only_be_read_is_used(cache, read_only):
    path = put(cache, A)
    read_only()
    assert cache.get(A) == path
    assert cache.get_or_make(A, never, facts={}) == path


def test_a_cache_that_may_only_be_read_takes_nothing(cache, read_only):
    put(cache, A)
    read_only()
    with pytest.raises(OutputError, match=r"root.engines cannot be written: Read-only file system\. Check its perm"):
        cache.get_or_make(B, never, facts={})
    with pytest.raises(OutputError, match="Read-only file system"):
        cache.remove(A)


def test_damage_in_a_cache_that_may_only_be_read_is_not_used(cache, read_only, caplog):
    change(put(cache, A))
    read_only()
    assert cache.get(A) is None
    assert "cannot be removed: Read-only file system" in caplog.text


def full() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_while_making_leaves_nothing(cache):
    def fail(folder: Path) -> None:
        write(folder)
        raise full()

    with pytest.raises(OutputError, match=r"cannot be written: No space left on device\. .*\(tav cache clear empties"):
        cache.get_or_make(A, fail, facts={})
    assert names(cache) == []


def test_a_full_disk_while_writing_the_record_leaves_nothing(cache, monkeypatch):
    def fail(path: Path, text: str) -> None:
        path.write_text(text[:5])
        raise full()

    monkeypatch.setattr(tav_sdk.cache.record, "write_text", fail)
    with pytest.raises(OutputError, match=r"cannot be written: No space left on device"):
        cache.get_or_make(A, write, facts={})
    assert names(cache) == []


def test_an_error_about_another_file_passes(cache, tmp_path):
    with pytest.raises(FileNotFoundError, match="missing"):
        cache.get_or_make(A, lambda folder: (tmp_path / "missing").read_text(), facts={})
    assert names(cache) == []


# --- others at the same time --------------------------------------------------------------------------------------

MAKER = """
import logging, pathlib, sys, time
from tav_sdk.cache import Cache

root, key, name, wait = sys.argv[1:]
logging.basicConfig(stream=sys.stdout, level="INFO", format="%(message)s")

def make(folder):
    (folder / "plan").write_text(name)
    print("making", flush=True)
    while wait and not pathlib.Path(wait).exists():
        time.sleep(0.01)

print(Cache("engines", root=pathlib.Path(root)).get_or_make(key, make, facts={}), flush=True)
"""

Start = Callable[[str, str, "Path | str"], "subprocess.Popen[str]"]


@pytest.fixture
def start(cache: Cache) -> Iterator[Start]:
    """``start(key, name, wait)``: a process that makes an entry with ``name`` in it, as soon as ``wait`` exists."""
    started = []

    def run(key: str, name: str, wait: Path | str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", MAKER, str(cache.root), key, name, str(wait)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


def test_of_two_processes_one_makes_and_the_other_takes(cache, start, tmp_path):
    first = start(A, "first", tmp_path / "go")
    assert line(first) == "making"
    second = start(A, "second", "")
    assert line(second) == f"waiting for another process or thread, which has the cache entry {cache.folder / A}"
    (tmp_path / "go").touch()
    assert line(first) == line(second) == str(cache.folder / A)
    assert (cache.folder / A / "plan").read_text() == "first"


def test_when_one_process_fails_the_other_makes(cache, start, tmp_path):
    first = start(A, "first", tmp_path / "never")
    assert line(first) == "making"
    second = start(A, "second", "")
    assert line(second).startswith("waiting for another process")
    first.kill()
    assert line(second) == "making"
    assert line(second) == str(cache.folder / A)
    assert (cache.folder / A / "plan").read_text() == "second"


def test_of_two_threads_one_makes_and_the_other_takes(cache, caplog):
    caplog.set_level(logging.INFO)
    making, made = threading.Event(), []

    def make(folder: Path) -> None:
        made.append(1)
        making.set()
        while "waiting for another process or thread" not in caplog.text:
            time.sleep(0.01)
        write(folder)

    def run() -> None:
        cache.get_or_make(A, make, facts={})

    first = threading.Thread(target=run, daemon=True)
    first.start()
    making.wait()
    assert cache.get_or_make(A, never, facts={}).is_dir()
    first.join()
    assert made == [1]


def test_other_keys_are_not_blocked(cache, start, tmp_path):
    first = start(A, "first", tmp_path / "go")
    assert line(first) == "making"
    put(cache, B)
    assert cache.get(A) is None
    (tmp_path / "go").touch()
    assert line(first) == str(cache.folder / A)
    assert kept(cache) == {A, B}


@posix
def test_what_a_killed_process_left_is_swept_away(cache, start, tmp_path):
    process = start(A, "first", tmp_path / "never")
    assert line(process) == "making"
    process.send_signal(signal.SIGKILL)
    process.wait()
    (left,) = (path for path in cache.folder.iterdir() if path.is_dir())
    assert (left / "new" / "plan").read_text() == "first"
    assert cache.get(A) is None
    put(cache, B)
    assert names(cache) == [B]
    put(cache, A)
    assert kept(cache) == {A, B}


@posix
def test_clearing_sweeps_away_what_a_killed_process_left(cache, start, tmp_path):
    process = start(A, "first", tmp_path / "never")
    assert line(process) == "making"
    process.kill()
    process.wait()
    assert len(names(cache)) == 2
    cache.clear()
    assert names(cache) == []


def test_what_a_living_process_makes_is_left_alone(cache, start, tmp_path):
    process = start(A, "first", tmp_path / "go")
    assert line(process) == "making"
    put(cache, B)
    cache.clear()
    (tmp_path / "go").touch()
    assert line(process) == str(cache.folder / A)
    assert (cache.folder / A / "plan").read_text() == "first"


def test_a_root_that_is_a_file_is_a_problem(tmp_path):
    (tmp_path / "file").touch()
    (problem,) = Cache("engines", root=tmp_path / "file").verify()
    assert problem.message == "it is a file, not a folder"
