"""How far a trial is: two numbers in memory that parent and child share.

The child writes them with two stores a step and no system call; whoever watches reads them when it
likes.
"""

import mmap
import time
from pathlib import Path

_SIZE_BYTES = 16


class StepBoard:
    """The step that a trial has begun, and when.

    Args:
        path: A file of this board's own, made with `create`.
    """

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._numbers = memoryview(mmap.mmap(file.fileno(), _SIZE_BYTES)).cast("d")

    @classmethod
    def create(cls, path: Path) -> "StepBoard":
        """Makes the file, with no step begun."""
        path.write_bytes(bytes(_SIZE_BYTES))
        return cls(path)

    def begin(self, step: int) -> None:
        """Step `step`, counted from 1, begins now."""
        self._numbers[1] = time.monotonic()
        self._numbers[0] = step

    def read(self) -> tuple[int, float]:
        """The step that began last, 0 before the first, and its moment on the monotonic clock."""
        return int(self._numbers[0]), self._numbers[1]
