import pytest
import torch


@pytest.fixture(autouse=True, scope="package")
def one_thread():
    """A worker scores with one thread; so do these tests."""
    torch.set_num_threads(1)
