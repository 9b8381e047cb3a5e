"""Pictures of what was learnt: written by a trial's process, found again by reports."""

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

FOLDER = "previews"
"""Beside the journal whose rows name them."""


def write(folder: Path, pictures: Mapping[str, bytes]) -> dict[str, str]:
    """Writes pictures under names that are made of their content, so that none is there twice.

    Args:
        folder: Is made where there is none.
        pictures: PNG files by caption.

    Returns:
        Their names by caption.
    """
    names = {}
    for caption, content in pictures.items():
        folder.mkdir(exist_ok=True)
        name = f"{hashlib.sha256(content).hexdigest()[:16]}.png"
        path = folder / name
        if not path.exists():
            whole = path.with_suffix(f".{os.getpid()}")
            whole.write_bytes(content)
            whole.replace(path)
        names[caption] = name
    return names


def find(folder: Path, name: str) -> Path | None:
    """The picture that a row of a folder names; `None` where there is none, as in a mere copy.

    A journal may come from anywhere: other files than pictures are not to be had by it.
    """
    path = folder / FOLDER / name
    return path if re.fullmatch("[0-9a-f]{16}[.]png", name) and path.is_file() else None
