"""webdataset shards under their public name; they live in :mod:`pargo_mllm.data.sources.shards`."""

from pargo_mllm.data.sources.shards import ShardCorpus, write_shards

__all__ = ["ShardCorpus", "write_shards"]
