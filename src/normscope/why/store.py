"""Finished runs on disk: one JSON file each, written whole by the parent, found again by key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from normscope.records import SCHEMA, sweep, write_atomic
from normscope.why.job import Job, Numbers


class Store:
    """A folder of finished runs.

    Args:
        folder: Where they are kept.
        salt: Hash of code, data and versions; runs of another salt are not found.
    """

    def __init__(self, folder: Path, salt: str) -> None:
        self._folder, self._salt = folder, salt

    def sweep(self) -> None:
        """Remove what a killed command was about to write."""
        sweep(self._folder, "*.json")

    def path(self, job: Job) -> Path:
        """Where the run of `job` is, or will be."""
        return self._folder / f"{job.key(self._salt)}.json"

    def load(self, job: Job) -> tuple[list[Numbers], float] | None:
        """(numbers of each member, seconds) of a finished run; None where there is none that is whole."""
        try:
            body: dict[str, Any] = json.loads(self.path(job).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if body.get("normscope") != SCHEMA or len(body.get("members", ())) != len(job.members):
            return None
        return body["members"], float(body["seconds"])

    def save(self, job: Job, members: list[Numbers], seconds: float) -> None:
        """Keep a finished run.

        Raises:
            InputError: The folder cannot be written.
        """
        body = {"normscope": SCHEMA, "job": job.spec(), "members": members, "seconds": seconds}
        write_atomic(self.path(job), json.dumps(body, allow_nan=False))
