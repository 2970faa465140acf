"""peak_memory counts the tensors that live at the same time."""

import pytest
import torch

from diffopt_lib.memory import peak_memory


def test_tensors_that_live_together_add_up():
    def run():
        a = torch.ones(1000, dtype=torch.float64)
        b = torch.ones(500, dtype=torch.float64)
        return a, b

    assert peak_memory(run) == 12000


def test_a_tensor_that_is_gone_no_longer_counts():
    def run():
        for _ in range(5):
            torch.ones(1000, dtype=torch.float64)

    assert peak_memory(run) <= 16000


def test_views_count_once_and_what_existed_before_counts_nothing():
    x = torch.ones(1000, dtype=torch.float64)

    def run():
        y = x + 1
        return y.reshape(10, 100), y[:3]

    assert peak_memory(run) == 8000


@pytest.mark.cuda
def test_agrees_with_the_cuda_allocator():
    def run():
        x = torch.ones(2**20, device="cuda", requires_grad=True)
        x.sin().exp().sum().backward()

    watched = peak_memory(run)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    allocated = torch.cuda.max_memory_allocated() - before
    assert abs(watched - allocated) <= 0.1 * allocated
