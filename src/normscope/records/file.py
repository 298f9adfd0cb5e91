"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from normscope.errors import InputError


def write_atomic(path: Path, text: str | bytes) -> None:
    """Write `text` to `path` whole: aside first, then renamed over it.

    Raises:
        InputError: The folder cannot be written or the disk is full; what stood at `path` stays.
    """
    data = text.encode() if isinstance(text, str) else text
    aside: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            aside = file.name
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        Path(aside).chmod(0o666 & ~umask)
        Path(aside).replace(path)
        aside = None
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}; name a folder that can be written with --out"
        ) from None
    finally:
        if aside is not None:
            Path(aside).unlink(missing_ok=True)


def sweep(folder: Path, name: str) -> None:
    """Remove what a killed command was about to write to the files in `folder` that are called `name`, a pattern."""
    for aside in folder.glob(f".{name}.*"):
        aside.unlink(missing_ok=True)
