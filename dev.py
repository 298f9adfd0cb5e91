#!/usr/bin/env python3
"""Everything that a newcomer or a contributor runs, from a clean clone and with nothing but Python 3.11.

    python3 dev.py why     the main job: every claim tested, and a page written to normscope-why/page.html
    python3 dev.py test    the tests
    python3 dev.py lint    style, types, direction of imports
    python3 dev.py wheel   the built wheel, installed into an environment of its own and tried
    python3 dev.py sanitize the kernels under AddressSanitizer and UndefinedBehaviorSanitizer, by random cases
    python3 dev.py picture the README's picture: the top of normscope-why/page.html, by headless Chromium
    python3 dev.py check   lint, test and wheel: what continuous integration runs

Further words go to the command behind it: `python3 dev.py why --effort quick`, `python3 dev.py test -k moments`.
The first call makes .venv and installs what constraints.txt names; a later one only after one of those files changed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
# What decides whether the environment is still right.
_INPUTS = ("pyproject.toml", "constraints.txt", "CMakeLists.txt")
# What is tested of the wheel: whatever depends on how the kernels were built and packed.
_ON_THE_WHEEL = ("ops/test_backend.py", "ops/test_kernels.py", "ops/test_operators.py", "nn", "surgery/test_fuse.py")
_SANITIZERS = ("libasan", "libubsan")
_BUILD = ("scikit-build-core", "nanobind", "cmake", "ninja")


def call(*words: str | Path, **variables: str) -> None:
    """Run a command in the repository; leave with its exit code when it fails."""
    done = subprocess.run([str(word) for word in words], cwd=ROOT, env={**os.environ, **variables}, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def inputs() -> str:
    """The interpreter, and a hash of the files that decide what is installed, a line each."""
    files = [ROOT / name for name in _INPUTS] + sorted((ROOT / "csrc").rglob("*"))
    digest = hashlib.sha256()
    for file in files:
        if file.is_file():
            digest.update(file.read_bytes())
    return f"{sys.version!r}\n{digest.hexdigest()}"


def environment() -> None:
    """Make .venv with the package (its sources stay live) and the tools, unless it is there and up to date."""
    stamp = VENV / "installed"
    before, now = stamp.read_text(encoding="utf-8") if stamp.is_file() else "", inputs()
    if before == now:
        return
    print("setting up .venv (once; a few minutes where torch has to be fetched)", file=sys.stderr)
    if before.partition("\n")[0] != now.partition("\n")[0]:
        venv.create(VENV, with_pip=True, clear=True)
    stamp.unlink(missing_ok=True)
    pip = [BIN / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    constraints = ("-c", ROOT / "constraints.txt")
    # Without isolation what is compiled once serves the next build: an isolated one has other paths each time.
    call(*pip, *constraints, *_BUILD)
    call(*pip, *constraints, "--no-build-isolation", "-e", ".[dev]")
    stamp.write_text(now, encoding="utf-8")


def why(words: list[str]) -> None:
    """The main job."""
    call(BIN / "normscope", "why", *words)


def test(words: list[str]) -> None:
    """The tests, one process a core; they fail where the compiled kernels were not built or are not used."""
    variables = {"OMP_NUM_THREADS": "1", "NORMSCOPE_REQUIRE_KERNELS": "1"}
    call(BIN / "python", "-m", "pytest", "-n", "auto", *words, **variables)


def lint(_words: list[str]) -> None:
    """Style, format, types, direction of imports."""
    for words in (["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"], ["lint-imports"]):
        call(BIN / words[0], *words[1:])


def wheel(_words: list[str]) -> None:
    """Build the wheel, install it beside nothing of this repository, and test it there."""
    with tempfile.TemporaryDirectory() as folder:
        pip = [BIN / "python", "-m", "pip", "--disable-pip-version-check", "--quiet"]
        call(*pip, "wheel", "--no-build-isolation", "--no-deps", "-w", folder, ".")
        built = next(Path(folder).glob("*.whl"))
        apart = Path(folder) / "site"
        call(*pip, "install", "--no-deps", "--target", apart, built)
        shutil.copytree(ROOT / "tests", Path(folder) / "tests")
        # Without -S the editable installation would put itself before every path.
        paths = [str(apart), sysconfig.get_path("purelib", vars={"base": str(VENV), "platbase": str(VENV)})]
        code = f"import sys; sys.path[:0] = {paths}; import normscope, pytest; print(normscope.__file__);"
        words = ["-q", "-c", str(ROOT / "pyproject.toml"), "--rootdir", folder]
        words += [f"{folder}/tests/{part}" for part in _ON_THE_WHEEL]
        code += f"sys.exit(not normscope.__file__.startswith({str(apart)!r}) or pytest.main({words}))"
        call(BIN / "python", "-I", "-S", "-c", code, OMP_NUM_THREADS="1", NORMSCOPE_REQUIRE_KERNELS="1")


def sanitize(words: list[str]) -> None:
    """Build the kernels under sanitizers, see that these are in force, and run random cases at every level."""
    folder, flags = (
        ROOT / "build" / "sanitized",
        "-fsanitize=address,undefined;-fno-sanitize-recover=undefined;-O1;-g1;-w",
    )
    call(
        *(BIN / "cmake", "-S", ROOT, "-B", folder, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={BIN / 'ninja'}"),
        *(f"-DPython_EXECUTABLE={BIN / 'python'}", "-DCMAKE_BUILD_TYPE=None", f"-DNORMSCOPE_SANITIZE={flags}"),
    )
    call(BIN / "ninja", "-C", folder)
    compiler = os.environ.get("CXX", "g++")
    libraries = [
        subprocess.check_output([compiler, f"-print-file-name={name}.so"], text=True).strip() for name in _SANITIZERS
    ]
    variables = {
        "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter leaves memory behind on purpose
        "OMP_NUM_THREADS": "1",
    }
    fuzz = [BIN / "python", ROOT / "benchmarks" / "fuzz.py", "--kernels", next(folder.glob("_kernels*.so"))]
    planted = subprocess.run(
        [*fuzz, "--overrun"], env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )
    if "ERROR: AddressSanitizer" not in planted.stderr:
        print(f"the sanitizers did not notice a write past an output:\n{planted.stderr[-2000:]}", file=sys.stderr)
        sys.exit(1)
    print("a planted write past an output was noticed")
    levels = subprocess.check_output([*fuzz, "--levels"], env={**os.environ, **variables}, text=True).split()
    for level in levels:
        call(*fuzz, "--level", level, *(words or ["--cases", "2000"]), **variables)


def picture(_words: list[str]) -> None:
    """A picture of the page that `why` wrote."""
    page = ROOT / "normscope-why" / "page.html"
    if not page.is_file():
        print("there is no normscope-why/page.html yet: run `python3 dev.py why` first", file=sys.stderr)
        sys.exit(2)
    quiet = ["--disable-gpu", "--no-first-run", "--disable-background-networking", "--hide-scrollbars"]
    with tempfile.TemporaryDirectory() as profile:
        call(
            "chromium",
            "--headless",
            "--no-sandbox",
            *quiet,
            f"--user-data-dir={profile}",
            "--window-size=1280,1500",
            f"--screenshot={ROOT / 'docs' / 'page.png'}",
            page.as_uri(),
        )


COMMANDS = {
    "why": [why],
    "test": [test],
    "lint": [lint],
    "wheel": [wheel],
    "sanitize": [sanitize],
    "picture": [picture],
    "check": [lint, test, wheel],
}


def main() -> None:
    """Parse the one word and do it."""
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    environment()
    for command in COMMANDS[sys.argv[1]]:
        command(sys.argv[2:])


if __name__ == "__main__":
    main()
