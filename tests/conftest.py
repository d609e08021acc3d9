"""Shared by all tests."""

import os

import torch

# pytest-xdist runs a process per core: more threads would only fight for them
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)
