import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kernels.cache import cache_folder
from unet import folder as folders
from unet.drive import Drive
from unet.frames import (
    Cached,
    cache_drive,
    cache_images,
    fingerprint_drive,
    printable,
    split_frames,
)

SIZE, COUNT = 16, 12


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("UNET_BENCH_CACHE", str(folder))
    return folder


def render(seed: int = 0, count: int = COUNT, calls: list[tuple[int, int]] | None = None) -> Path:
    def progress(done: int, total: int) -> None:
        if calls is not None:
            calls.append((done, total))

    return cache_drive(SIZE, count, seed, fingerprint_drive(seed), progress)


def assert_sound(path: Path, seed: int = 0) -> None:
    frames = np.load(path, mmap_mode="r")
    assert frames.dtype == np.uint8
    assert frames.shape == (COUNT, SIZE, SIZE, 3)
    drive = Drive(size=SIZE, seed=seed)
    for index in range(COUNT):
        np.testing.assert_array_equal(frames[index], drive.render(index))


def child(code: str, cache: Path, repository: Path) -> "subprocess.Popen[str]":
    environ = {**os.environ, "UNET_BENCH_CACHE": str(cache), "PYTHONPATH": str(repository)}
    return subprocess.Popen(
        [sys.executable, "-c", code], env=environ, stdout=subprocess.PIPE, text=True
    )


# The split.


@pytest.mark.parametrize("count", [10, 60, 61, 1200])
@pytest.mark.parametrize("gap", [0, 5])
@pytest.mark.parametrize("percent", [1, 15, 50])
def test_block_holds_back_the_end_after_a_gap(count: int, gap: int, percent: int) -> None:
    train, held = split_frames(count, "block", percent, gap, seed=0)
    assert len(held) == max(1, count * percent // 100)
    assert len(train) == max(0, count - len(held) - gap)
    assert list(held) == list(range(count - len(held), count))
    assert list(train) == list(range(len(train)))
    if len(train):
        assert held[0] - train[-1] == gap + 1


def test_a_gap_that_leaves_nothing_leaves_nothing() -> None:
    train, held = split_frames(10, "block", 10, 100, seed=0)
    assert len(train) == 0
    assert list(held) == [9]


@pytest.mark.parametrize("percent", [1, 15, 50])
def test_random_parts_have_no_frame_in_common_and_leave_none_out(percent: int) -> None:
    train, held = split_frames(200, "random", percent, 30, seed=0)
    assert len(held) == 200 * percent // 100
    assert sorted([*train, *held]) == list(range(200))
    assert list(train) == sorted(train)
    assert list(held) == sorted(held)


def test_random_is_drawn_by_the_seed() -> None:
    _, held = split_frames(200, "random", 15, 0, seed=1)
    _, again = split_frames(200, "random", 15, 0, seed=1)
    _, other = split_frames(200, "random", 15, 0, seed=2)
    assert list(held) == list(again)
    assert list(held) != list(other)
    assert list(held) != list(range(170, 200))


# The cache.


def test_the_cache_holds_what_the_renderer_draws(cache: Path) -> None:
    calls: list[tuple[int, int]] = []
    path = render(calls=calls)
    assert_sound(path)
    assert calls[-1] == (COUNT, COUNT)
    assert list(cache.iterdir()) == [path]


def test_what_is_in_the_cache_is_not_rendered_again(cache: Path) -> None:
    path = render()
    before = path.stat()
    calls: list[tuple[int, int]] = []
    assert render(calls=calls) == path
    assert calls == []
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


def test_another_seed_number_or_size_has_a_file_of_its_own(cache: Path) -> None:
    fingerprint = fingerprint_drive(0)
    paths = {
        render(),
        render(seed=1),
        render(count=COUNT + 1),
        cache_drive(SIZE + 1, COUNT, 0, fingerprint, lambda done, total: None),
    }
    assert len(paths) == len(list(cache.iterdir())) == 4


def test_another_renderer_has_another_fingerprint(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, fingerprint = render(), fingerprint_drive(0)
    draw = Drive.render

    def brighter(self: Drive, index: int) -> np.ndarray:
        frame = draw(self, index)
        frame[0, 0, 0] ^= 1  # the smallest change there is
        return frame

    monkeypatch.setattr(Drive, "render", brighter)
    assert fingerprint_drive(0) != fingerprint
    other = render()
    assert other != path
    assert_sound(other)


@pytest.mark.parametrize("source", ["drive.py", "scenery.py"])
def test_a_change_too_fine_for_the_probes_has_another_fingerprint(
    tmp_path: Path, repository: Path, source: str
) -> None:
    for room in ("kernels", "unet"):
        shutil.copytree(repository / room, tmp_path / room)
    code = "from unet.frames import fingerprint_drive; print(fingerprint_drive(0))"

    def fingerprint() -> str:
        command = [sys.executable, "-c", code]  # which imports from where it runs
        return subprocess.run(
            command, cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout.strip()

    assert fingerprint() == fingerprint_drive(0)
    with (tmp_path / "unet" / source).open("a") as file:
        file.write("# draws the probes as before\n")
    assert fingerprint() != fingerprint_drive(0)


def test_the_fingerprint_is_the_same_in_every_process(cache: Path, repository: Path) -> None:
    code = "from unet.frames import fingerprint_drive; print(fingerprint_drive(3))"
    with child(code, cache, repository) as process:
        assert process.communicate()[0].strip() == fingerprint_drive(3)


RACER = f"""
import sys
from unet.frames import cache_drive, fingerprint_drive
fingerprint = fingerprint_drive(0)
begun = False
def progress(done, total):
    global begun
    if not begun:  # both have begun to write before either goes on
        begun = True
        print("writing", flush=True)
        sys.stdin.readline()
print(cache_drive({SIZE}, {COUNT}, 0, fingerprint, progress), flush=True)
"""


def test_two_processes_at_once_make_one_sound_file(cache: Path, repository: Path) -> None:
    environ = {**os.environ, "UNET_BENCH_CACHE": str(cache), "PYTHONPATH": str(repository)}
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER],
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "writing\n"
    paths = {racer.communicate("go\n")[0].strip() for racer in racers}
    assert [racer.returncode for racer in racers] == [0, 0]
    (path,) = paths
    assert_sound(Path(path))
    assert list(cache.iterdir()) == [Path(path)]


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002])
def test_the_cache_file_is_open_to_whom_the_umask_says(cache: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        path = render()
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
        assert os.umask(umask) == umask  # looked at, and left as it was
    finally:
        os.umask(before)


def test_writers_of_one_pid_in_two_containers_do_not_meet(cache: Path) -> None:
    def progress(done: int, total: int) -> None:
        if done == 3 and len(partials) < 2:
            partials.extend(cache.glob("*.partial"))
            if len(partials) == 1:
                paths.append(cache_drive(SIZE, COUNT, 0, fingerprint_drive(0), progress))

    partials: list[Path] = []
    paths: list[Path] = []
    paths.append(cache_drive(SIZE, COUNT, 0, fingerprint_drive(0), progress))
    assert len(set(partials)) == 2
    assert paths[0] == paths[1]
    assert_sound(paths[0])
    assert list(cache.iterdir()) == [paths[0]]


KILLED = f"""
import os, signal
from unet.frames import cache_drive, fingerprint_drive
def progress(done, total):
    if done == 3:
        os.kill(os.getpid(), signal.SIGKILL)
cache_drive({SIZE}, {COUNT}, 0, fingerprint_drive(0), progress)
"""


def test_what_the_disk_has_no_room_for_is_told_before_it_is_filled(cache: Path) -> None:
    with pytest.raises(ValueError, match=r"^frame cache .*: needs 750000.0 GiB for frames, and "):
        cache_drive(16384, 10**6, 0, "fingerprint", lambda done, total: None)
    assert list(cache.iterdir()) == []


def test_what_a_killed_writer_leaves_does_no_harm(cache: Path, repository: Path) -> None:
    with child(KILLED, cache, repository) as process:
        assert process.wait() == -signal.SIGKILL
    (partial,) = cache.iterdir()
    path = render()
    assert path != partial
    assert_sound(path)


def test_what_a_killed_writer_left_days_ago_is_removed_and_nothing_else(cache: Path) -> None:
    cache.mkdir()
    old, young, other = (cache / name for name in ("a.partial", "b.partial", "c.npy"))
    for path, hours in ((old, 25), (young, 23), (other, 25)):
        path.touch()
        os.utime(path, (0, time.time() - 3600 * hours))
    path = render()
    assert set(cache.iterdir()) == {young, other, path}


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_writer_cleans_up(cache: Path, interruption: type[BaseException]) -> None:
    def progress(done: int, total: int) -> None:
        raise interruption

    with pytest.raises(interruption):
        cache_drive(SIZE, COUNT, 0, fingerprint_drive(0), progress)
    assert list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_told_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("precious")
    folder = tmp_path / "file" / "cache"
    monkeypatch.setenv("UNET_BENCH_CACHE", str(folder))
    with pytest.raises(ValueError, match="Not a directory") as caught:
        render()
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "file").read_text() == "precious"


FULL = f"""
import resource
from unet.frames import cache_drive, fingerprint_drive
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    cache_drive({SIZE}, {COUNT}, 0, fingerprint_drive(0), lambda done, total: None)
except ValueError as error:
    print(error)
"""


def test_a_cache_without_room_is_told_and_left_empty(cache: Path, repository: Path) -> None:
    with child(FULL, cache, repository) as process:
        message = process.communicate()[0]
    assert message.startswith(f"frame cache {cache}: File too large")
    assert len(message.splitlines()) == 1
    assert list(cache.iterdir()) == []


def test_the_cache_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("UNET_BENCH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "unet-bench"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert cache_folder() == Path("/home/somebody/.cache/unet-bench")
    monkeypatch.setenv("UNET_BENCH_CACHE", "/elsewhere")
    assert cache_folder() == Path("/elsewhere")


@pytest.mark.parametrize("left", [0, 90, 1000])
def test_a_damaged_cache_is_made_anew(cache: Path, left: int) -> None:
    path = render()
    os.truncate(path, left)
    assert_sound(render())


# A folder of images in the cache.

NAMES = [f"frame_{index}.png" for index in range(COUNT)]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Images of one colour each: red is their place in the order."""
    folder = tmp_path / "images"
    folder.mkdir()
    for index, name in enumerate(NAMES):
        Image.new("RGB", (SIZE, SIZE), (index, 0, 0)).save(folder / name)
    return folder


def read(
    folder: Path,
    *,
    names: list[str] = NAMES,
    size: int = SIZE,
    skip: bool = False,
    least: int = 1,
    calls: list[tuple[int, int]] | None = None,
) -> Cached:
    def progress(done: int, total: int) -> None:
        if calls is not None:
            calls.append((done, total))

    return cache_images(str(folder), names, size, least, skip, progress)


def reds(cached: Cached) -> list[int]:
    frames = np.load(cached.path, mmap_mode="r")
    assert frames.dtype == np.uint8
    assert len(frames) == cached.count
    assert frames.shape[1:] == (SIZE, SIZE, 3)
    assert (frames == frames[:, :1, :1]).all()
    return [int(red) for red in frames[:, 0, 0, 0]]


def test_images_are_decoded_in_order_into_the_cache(cache: Path, images: Path) -> None:
    calls: list[tuple[int, int]] = []
    cached = read(images, calls=calls)
    assert reds(cached) == list(range(COUNT))
    assert cached.skipped == ()
    assert calls == [(done, COUNT) for done in range(1, COUNT + 1)]
    assert {path.suffix for path in cache.iterdir()} == {".npy", ".json"}
    assert len(list(cache.iterdir())) == 2


def test_a_second_start_decodes_nothing(
    cache: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (images / NAMES[3]).write_bytes(b"")
    first = read(images, skip=True)

    def refuse(path: Path, size: int) -> None:
        raise AssertionError("a file was read")

    monkeypatch.setattr(folders, "read_frame", refuse)
    calls: list[tuple[int, int]] = []
    assert read(images, skip=True, calls=calls) == first
    assert calls == []
    assert first.skipped == (NAMES[3],)


def test_a_file_that_changed_is_decoded_anew(cache: Path, images: Path) -> None:
    first, path = read(images), images / NAMES[5]
    before = path.stat()
    content = path.read_bytes()
    other = images / "other.png"
    Image.new("RGB", (SIZE, SIZE), (200, 0, 0)).save(other)
    assert other.stat().st_size == len(content)
    path.write_bytes(other.read_bytes())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as an archive may do
    second = read(images)
    assert reds(second) == [*range(5), 200, *range(6, COUNT)]
    assert second.fingerprint != first.fingerprint
    assert reds(first) == list(range(COUNT))  # a trial that still reads them


def test_the_same_frames_elsewhere_or_larger_have_the_same_fingerprint(
    cache: Path, images: Path, tmp_path: Path
) -> None:
    first = read(images)
    larger = read(images, size=SIZE + 1)
    assert larger.fingerprint == first.fingerprint
    assert larger.path != first.path
    moved = tmp_path / "moved"
    images.rename(moved)
    assert read(moved).fingerprint == first.fingerprint
    assert read(moved, names=NAMES[::-1]).fingerprint != first.fingerprint
    assert read(moved, names=NAMES[:-1]).fingerprint != first.fingerprint


def test_unreadable_frames_are_all_named_in_one_line(cache: Path, images: Path) -> None:
    (images / NAMES[2]).write_bytes(b"")
    (images / NAMES[7]).write_text("These are words.")
    (images / NAMES[11]).unlink()
    calls: list[tuple[int, int]] = []
    with pytest.raises(ValueError, match="3 of 12 frames cannot be read") as caught:
        read(images, calls=calls)
    message = str(caught.value)
    assert message.startswith(f"data {str(images)!r}: ")
    assert "--skip-bad-frames" in message
    assert message.endswith(
        "frame_2.png (empty file), frame_7.png (no image that Pillow knows), "
        "frame_11.png (No such file or directory)"
    )
    assert calls[-1] == (COUNT, COUNT)
    assert list(cache.iterdir()) == []


def test_of_many_unreadable_frames_some_are_named(cache: Path, images: Path) -> None:
    for name in NAMES:
        (images / name).write_bytes(b"")
    with pytest.raises(ValueError, match="12 of 12") as caught:
        read(images)
    assert "frame_9.png" in str(caught.value)
    assert "frame_10.png" not in str(caught.value)
    assert str(caught.value).endswith(", and 2 more")


def test_unreadable_frames_can_be_left_out(cache: Path, images: Path) -> None:
    for index in (0, 5, 11):
        (images / NAMES[index]).write_bytes(b"")
    cached = read(images, skip=True)
    assert reds(cached) == [1, 2, 3, 4, 6, 7, 8, 9, 10]
    assert cached.skipped == ("frame_0.png", "frame_5.png", "frame_11.png")
    assert cached.path.stat().st_size < 9 * SIZE * SIZE * 3 + 1000  # no room is left over
    with pytest.raises(ValueError, match="3 of 12 frames cannot be read"):
        read(images)  # though they are in the cache
    readable = [name for name in NAMES if name not in cached.skipped]
    assert read(images, names=readable).fingerprint == cached.fingerprint


def test_too_few_readable_frames_are_refused(cache: Path, images: Path) -> None:
    (images / NAMES[4]).write_bytes(b"")
    with pytest.raises(ValueError, match=r"expected at least 12 that can: frame_4\.png \(empty"):
        read(images, skip=True, least=COUNT)
    assert read(images, skip=True, least=COUNT - 1).count == COUNT - 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_frames_that_may_not_be_read_are_named_until_they_may(cache: Path, images: Path) -> None:
    (images / NAMES[4]).chmod(0)
    with pytest.raises(ValueError, match=r"frame_4\.png \(Permission denied\)"):
        read(images)
    assert read(images, skip=True).count == COUNT - 1
    (images / NAMES[4]).chmod(0o600)
    assert read(images, skip=True).count == COUNT


def test_names_that_break_a_line_are_quoted(cache: Path, images: Path) -> None:
    (images / NAMES[0]).rename(images / "a\nb.png")
    (images / "a\nb.png").write_bytes(b"")
    (images / NAMES[1]).rename(images / "c\udcff.png")  # a byte that is no UTF-8
    (images / "c\udcff.png").write_bytes(b"")
    names = ["a\nb.png", "c\udcff.png", *NAMES[2:]]
    with pytest.raises(ValueError, match="2 of 12") as caught:
        read(images, names=names)
    assert str(caught.value).isprintable()
    assert str(caught.value).encode()
    cached = read(images, names=names, skip=True)
    assert cached == read(images, names=names, skip=True)
    assert cached.skipped == (r"'a\nb.png'", r"'c\udcff.png'")
    assert printable("Straße 1.png") == "Straße 1.png"


@pytest.mark.parametrize("left", [0, 20])
@pytest.mark.parametrize("suffix", [".npy", ".json"])
def test_damaged_images_in_the_cache_are_made_anew(
    cache: Path, images: Path, suffix: str, left: int
) -> None:
    first = read(images)
    (path,) = cache.glob(f"*{suffix}")
    os.truncate(path, left)
    assert read(images) == first
    assert reds(first) == list(range(COUNT))


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, RuntimeError])
def test_interrupted_decoding_leaves_nothing(
    cache: Path, images: Path, interruption: type[BaseException]
) -> None:
    def progress(done: int, total: int) -> None:
        if done == 5:
            raise interruption

    with pytest.raises(interruption):
        cache_images(str(images), NAMES, SIZE, 1, False, progress)
    assert list(cache.iterdir()) == []


DECODER = f"""
import sys
from unet.frames import cache_images
begun = False
def progress(done, total):
    global begun
    if not begun:  # both have begun to write before either goes on
        begun = True
        print("writing", flush=True)
        sys.stdin.readline()
print(cache_images(sys.argv[1], {NAMES}, {SIZE}, 1, False, progress).path, flush=True)
"""


def test_two_processes_at_once_decode_into_one_sound_file(
    cache: Path, images: Path, repository: Path
) -> None:
    environ = {**os.environ, "UNET_BENCH_CACHE": str(cache), "PYTHONPATH": str(repository)}
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", DECODER, str(images)],
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "writing\n"
    paths = {racer.communicate("go\n")[0].strip() for racer in racers}
    assert [racer.returncode for racer in racers] == [0, 0]
    assert paths == {str(read(images).path)}
    assert reds(read(images)) == list(range(COUNT))
    assert len(list(cache.iterdir())) == 2


INTERRUPTED = f"""
import os, signal, sys
from unet import folder
from unet.frames import cache_images
begun = []
def read(path, size):
    begun.append(path)
    raise folder.UnreadableError("for a reason")
folder.read_frame = read
def progress(done, total):
    if done == 3:
        signal.raise_signal(signal.SIGINT)
try:
    cache_images(sys.argv[1], {NAMES} * 1000, {SIZE}, 1, False, progress)
except KeyboardInterrupt:
    ahead = 2 * len(os.sched_getaffinity(0)) + 1
    print("interrupted", 3 <= len(begun) <= 3 + ahead)
"""


def test_ctrl_c_ends_decoding_at_once(cache: Path, images: Path, repository: Path) -> None:
    environ = {**os.environ, "UNET_BENCH_CACHE": str(cache), "PYTHONPATH": str(repository)}
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, str(images)],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("interrupted True\n", "")
    assert list(cache.iterdir()) == []
