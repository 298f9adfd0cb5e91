"""Claim: a killed `normscope why` loses no finished run, leaves no half-written file, and goes on where it was.

    python benchmarks/kill.py --kills 20

Sends SIGKILL to the whole process group at seeded random instants, looks at every file after each, and lets the last
attempt finish.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> int:
    """Kill, look, resume; 1 where something was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--effort", default="quick")
    parser.add_argument("--longest", type=float, default=20.0, help="latest instant of a kill, in seconds")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    lost = half = 0
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "normscope", "why", "--effort", options.effort, "--out", folder]
        kept: dict[str, int] = {}
        for at in range(options.kills):
            process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
            )
            instant = draw.uniform(0.5, options.longest)
            deadline = time.monotonic() + instant
            while process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
            finished = process.poll() is not None
            if not finished:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            found = {path.name: path.stat().st_mtime_ns for path in Path(folder, "runs").glob("*.json")}
            lost += sum(found.get(name) != stamp for name, stamp in kept.items())
            half += sum(not _whole(Path(folder, "runs", name)) for name in found)
            half += sum(not _whole(path) for path in Path(folder).glob("run.json"))
            state = "had finished" if finished else f"killed after {instant:.1f} s"
            print(f"{at + 1:3d} {state}: {len(found)} runs kept ({len(found) - len(kept)} new)", flush=True)
            kept = found
            if finished:
                Path(folder, "run.json").unlink(missing_ok=True)
        last = subprocess.run(command, capture_output=True, text=True, check=False)
        lost += sum(
            not Path(folder, "runs", name).is_file() or Path(folder, "runs", name).stat().st_mtime_ns != stamp
            for name, stamp in kept.items()
        )
        print(f"last attempt left with {last.returncode}; {lost} finished runs lost or done twice, {half} half files")
    return 1 if lost or half or last.returncode else 0


def _whole(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
