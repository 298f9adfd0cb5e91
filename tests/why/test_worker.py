import pytest


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:1"])
def test_on_cuda_torch_is_asked_for_the_same_numbers_each_time(python, device):
    done = python(
        "import torch; from normscope.model.given import Spec; from normscope.why import worker\n"
        "from normscope.why.claim import Task\n"
        f"worker.settle(Task(spec=Spec('m.py:m', 'd.py:d', device='{device}')))\n"
        "print(torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled())\n"
    )
    assert done.stdout.split() == [str(device != "cpu")] * 2, done.stderr
