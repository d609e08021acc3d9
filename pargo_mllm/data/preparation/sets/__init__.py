"""Data sets, one file each; :mod:`pargo_cli.data_sets` lists them."""

from importlib import import_module

from pargo_cli.data_sets import DATA_SETS
from pargo_mllm.data.preparation.data_set import DataSet


def find(name: str) -> DataSet:
    """The data set of a name of :data:`pargo_cli.data_sets.DATA_SETS`."""
    module = import_module(f"{__name__}.{DATA_SETS[name]}")
    return next(data_set for data_set in module.ALL if data_set.name == name)
