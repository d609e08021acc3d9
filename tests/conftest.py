"""Shared by all tests."""

import os

import torch
from hypothesis import settings

# a machine that is busy with something else is no fault of what is tested
settings.register_profile("patient", settings(), deadline=None)
settings.load_profile("patient")

# pytest-xdist runs a process per core: more threads would only fight for them
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)
