import subprocess
import sys

import normscope


def test_every_public_name_resolves_and_is_what_it_is_called():
    for name in normscope.__all__:
        assert getattr(normscope, name) is not None
    assert set(normscope.__all__) == set(dir(normscope))


def test_importing_the_package_imports_nothing_heavy():
    code = (
        "import sys, normscope; print(sorted({'torch', 'scipy', 'matplotlib', 'sklearn', 'numpy'} & set(sys.modules)))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_planning_and_concluding_need_no_torch():
    code = (
        "import sys; from normscope.why import registry, study; [registry.claim(key) for key in registry.KEYS];"
        "import normscope.cli, normscope.report; print('torch' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        == "False"
    )


def test_every_source_is_in_the_bibliography():
    from normscope.bibliography import WORKS
    from normscope.why import registry

    for key in registry.KEYS:
        assert set(registry.claim(key).sources) <= set(WORKS)
