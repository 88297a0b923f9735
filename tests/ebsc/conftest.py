"""Every test starts from the same seed, on one thread."""

import pytest
import torch

torch.set_num_threads(1)  # the networks are tiny, and the cores are shared: more threads would only wait for each other


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
