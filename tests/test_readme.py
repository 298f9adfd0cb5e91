"""The README shows what is really there."""

import json
import re
import runpy
from pathlib import Path

_ROOT = Path(__file__).parents[1]


def test_the_example_is_the_file_that_runs():
    block = re.search(r"```python\n(.*?)```", (_ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    code = (_ROOT / "examples" / "library.py").read_text(encoding="utf-8")
    assert block is not None
    assert code.endswith(block[1])


def test_every_local_link_of_the_documents_leads_somewhere():
    for document in [*_ROOT.glob("*.md"), *(_ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_costs_of_scope_are_those_that_were_measured():
    scope = runpy.run_path(str(_ROOT / "benchmarks" / "scope.py"))
    document = (_ROOT / "docs" / "scope.md").read_text(encoding="utf-8")
    shown = document.split(scope["BEGIN"])[1].split(scope["END"])[0].strip()
    assert shown == scope["table"](json.loads(scope["RESULTS"].read_text(encoding="utf-8")))
