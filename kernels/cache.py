"""Where what takes long to make is kept, and whether it can be trusted. Never imports torch."""

import errno
import os
import stat
from pathlib import Path
from typing import Final


def cache_folder() -> Path:
    """`UNET_BENCH_CACHE`, or a folder in the user's cache.

    Raises:
        OSError: Neither is known.
    """
    if own := os.environ.get("UNET_BENCH_CACHE"):
        return Path(own)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "unet-bench"
    try:
        return Path.home() / ".cache" / "unet-bench"
    except RuntimeError:  # neither HOME is set nor does the password database know this user
        raise OSError(
            errno.ENOENT, "no home folder; expected UNET_BENCH_CACHE or HOME to name a folder"
        ) from None


COMPILED: Final = "compiled"
"""The folder in the cache for what is executed; everything else there is data."""


def open_trusted(path: str | Path, flags: int, dir_fd: int | None = None) -> int:
    """Opens a file or folder that nobody but this user and root can have written to.

    What is opened is what was checked, whatever happens to the name afterwards. Links are not
    followed.

    Args:
        path: The file or folder.
        flags: As of `os.open`.
        dir_fd: The folder that a relative path is relative to.

    Raises:
        PermissionError: Others can write to it, or it belongs to another user.
        OSError: It is not there or cannot be opened.
    """
    fd = os.open(path, flags | os.O_NOFOLLOW, dir_fd=dir_fd)
    found, problem = os.fstat(fd), None
    if found.st_uid not in (0, os.geteuid()):
        problem = f"belongs to another user (uid {found.st_uid})"
    elif found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        problem = f"can be written by other users (mode {stat.S_IMODE(found.st_mode):o})"
    if problem:
        os.close(fd)
        raise PermissionError(errno.EACCES, problem, str(path))
    return fd


def open_compiled_folder(*, make: bool) -> int:
    """Opens the folder in the cache for what is executed.

    Args:
        make: Whether to make it where there is none.

    Raises:
        PermissionError: Other users can write to it.
        OSError: It is not there or cannot be made.
    """
    folder = cache_folder() / COMPILED
    if make:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return open_trusted(folder, os.O_DIRECTORY)


def compiled_folder_problem() -> str | None:
    """Why nothing in the folder for what is executed is used, in words; `None` if it can be."""
    try:
        os.close(open_compiled_folder(make=False))
    except FileNotFoundError:  # it is yet to be made
        return None
    except OSError as error:
        return f"{error.filename} {error.strerror}"
    return None
