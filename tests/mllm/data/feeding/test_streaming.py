"""A million samples in flat memory, through workers, with exact resume."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from pargo_mllm.data.feeding.order import SampleOrder
from pargo_mllm.data.sources.shards import ShardCorpus, write_shards
from tests.mllm.made.shard_files import pairs


class Names(torch.utils.data.Dataset):
    """What a worker reads at (corpus, index): the sample's name and the size of its picture."""

    def __init__(self, corpus):
        self.corpus = corpus

    def __getitem__(self, place):
        _, index = place
        example = self.corpus[index]
        return example.name, example.pictures[0]().size


def resident():
    """Bytes of memory that this process holds, mapped files included."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def stream(corpus, seed, start, stop):
    """What two workers read at positions ``start`` to ``stop`` of a new order."""
    order = SampleOrder([corpus.parts], None, seed)
    positions = range(start, stop)
    loader = torch.utils.data.DataLoader(
        Names(corpus),
        batch_sampler=[
            [order[position] for position in positions[first : first + 16]] for first in range(0, len(positions), 16)
        ],
        num_workers=2,
        collate_fn=list,
        multiprocessing_context="fork",
    )
    return [item for batch in loader for item in batch]


@pytest.fixture(scope="module")
def million(tmp_path_factory):
    """A thousand shards of a thousand samples: one shard under many names, with an index each."""
    folder = tmp_path_factory.mktemp("million")
    (first,) = write_shards(pairs(1000), folder, per_shard=1000)
    ShardCorpus(folder)
    index = first.with_name("000000.tar.index").read_bytes()
    for number in range(1, 1000):
        shard = folder / f"{number:06d}.tar"
        os.link(first, shard)
        shard.with_name(f"{shard.name}.index").write_bytes(index)
    return folder


def test_a_million_samples_resume_in_the_middle_without_loss(million):
    """An epoch of positions, the second half of it from new objects: each sample once."""
    count, middle = 1_000_000, 437_219
    read = []
    for start, stop in ((0, middle), (middle, count)):
        order = SampleOrder([ShardCorpus(million).parts], None, 5)
        read.append(np.fromiter((order[position][1] for position in range(start, stop)), dtype=np.int64))
    assert np.array_equal(np.bincount(np.concatenate(read)), np.ones(count))


def test_a_million_samples_stream_through_workers_and_resume(million):
    corpus = ShardCorpus(million)
    straight = stream(corpus, 5, 500_000, 500_640)
    read = [name for name, _ in straight]
    assert len(set(read)) == 640
    assert {size for _, size in straight} == {(8, 6)}
    # killed after 320: new objects go on from the position
    resumed = [name for name, _ in stream(ShardCorpus(million), 5, 500_320, 500_640)]
    assert resumed == read[320:]
    order = SampleOrder([corpus.parts], None, 5)
    assert read == [corpus[order[position][1]].name for position in range(500_000, 500_640)]


def test_memory_is_flat_over_a_million_samples(million):
    """Positions of three epochs, all over the shards: memory stops growing after the first few."""
    corpus = ShardCorpus(million)
    order = SampleOrder([corpus.parts], None, 5)
    held = []
    for position in range(0, 3_000_000, 10_007):
        corpus[order[position][1]]
        held.append(resident())
    assert max(held[50:]) - held[50] < 8 * 2**20
