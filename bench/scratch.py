"""A temporary folder that is removed even when its process was killed: by the next one's start."""

import fcntl
import os
import shlex
import shutil
import tempfile
from pathlib import Path

PREFIX = "unet-bench-"

_OTHERS = ("/tmp", "/var/tmp")  # noqa: S108 (what is made there is private)

_LOCK_NAME = "owner"
"""A file that the folder's process keeps locked, so that a dead process's folder can be told."""


class ScratchFolder:
    """A folder of this process alone, in the folder of temporary files.

    Making one also removes those that killed processes of this user have left there.
    """

    def __init__(self) -> None:
        parent = temporary_folder()
        remove_abandoned(parent)
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        # Locked before it has its name: until then nobody judges the folder by it.
        unnamed = self.path / f"{_LOCK_NAME}.new"
        self._lock = unnamed.open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        unnamed.rename(self.path / _LOCK_NAME)

    def remove(self) -> None:
        """Removes it with all that is in it, as far as that goes."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def temporary_folder() -> Path:
    """The folder of temporary files; one without spaces, where there is one.

    Inductor puts paths into command lines without quoting them.
    """
    asked = tempfile.gettempdir()
    plain = (path for path in (asked, *_OTHERS) if shlex.quote(path) == path)
    return Path(next((path for path in plain if os.access(path, os.W_OK | os.X_OK)), asked))


def remove_abandoned(parent: Path) -> None:
    """Removes scratch folders whose process is gone; never a living one's, nor another user's."""
    for folder in parent.glob(f"{PREFIX}*"):
        try:
            if folder.lstat().st_uid != os.getuid():
                continue
            fd = os.open(folder / _LOCK_NAME, os.O_RDWR | os.O_NOFOLLOW)
        except OSError:  # without a lock it may be anybody's, or one that is being made
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            pass
        finally:
            os.close(fd)
