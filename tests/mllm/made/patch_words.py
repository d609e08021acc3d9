"""Photographs whose patches have names, and projectors that learn them through the patch loss alone: no caption, no encoder."""

import random
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from pargo_mllm.alignment.labels import token_labels
from pargo_mllm.alignment.loss import directions
from pargo_mllm.alignment.origins import token_origins
from pargo_mllm.alignment.scores import WordScoring
from pargo_mllm.configuration import ParGoProjectorConfig
from pargo_mllm.data.regions import WHOLE, label_coverage
from pargo_mllm.projectors import build_projector
from tests.mllm.made.efficientnet import STRIDE, WIDTH

SIDE = 448
GRID = (SIDE // STRIDE, SIDE // STRIDE)


@dataclass(frozen=True)
class Views:
    """Of photographs, whole or in part.

    Args:
        photo: int ``[views]``, which photograph each is of.
        features: fp16 ``[views, n_v, 1280]``.
        coverage: fp32 ``[views, names, n_v]``.
        pictures: uint8 ``[views, SIDE, SIDE, 3]``.
    """

    photo: torch.Tensor
    features: torch.Tensor
    coverage: torch.Tensor
    pictures: torch.Tensor


@dataclass(frozen=True)
class Words:
    """Args:
    names: of things.
    vectors: fp32 ``[names, C]``.
    mean: fp32 ``[C]``, of all input embeddings.
    """

    names: tuple[str, ...]
    vectors: torch.Tensor
    mean: torch.Tensor


def views_of(files, regions, names, network, crops, seed=0):
    """The whole photograph, and ``crops`` parts of it, at least half of each side, mirrored half of the time.

    Args:
        regions: gives what is where in the photograph of a name.
    """
    drawn = random.Random(seed)
    windows = [(place, window) for place in range(len(files)) for window in (WHOLE, *(_window(drawn) for _ in range(crops)))]
    pictures, features = [], []
    for place, window in windows:
        with Image.open(files[place]) as photograph:
            pictures.append(_seen(photograph.convert("RGB"), window))
    pictures = torch.stack(pictures)
    for batch in pictures.split(8):
        features.append(network.features(batch).half())
    coverage = torch.zeros(len(windows), len(names), GRID[0] * GRID[1])
    for view, (place, window) in enumerate(windows):
        for name, covered in label_coverage(regions.of(files[place].name), GRID, window).items():
            coverage[view, names.index(name)] = torch.from_numpy(covered).flatten()
    return Views(torch.tensor([place for place, _ in windows]), torch.cat(features), coverage, pictures)


def _window(drawn):
    width, height = (drawn.uniform(0.5, 1) for _ in range(2))
    left, top = drawn.uniform(0, 1 - width), drawn.uniform(0, 1 - height)
    across = (left, left + width) if drawn.random() < 0.5 else (left + width, left)
    return across[0], top, across[1], top + height


def _seen(photograph, window):
    left, right = sorted((window[0], window[2]))
    box = (left * photograph.width, window[1] * photograph.height, right * photograph.width, window[3] * photograph.height)
    pixels = np.array(photograph.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=box))
    return torch.from_numpy(pixels if window[0] < window[2] else pixels[:, ::-1].copy())


def fresh(kind, words, seed):
    """A linear map, or ParGo of two layers with two features a partial token, as in the paper."""
    torch.manual_seed(seed)
    own = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "num_hidden_layers": 2}
    own |= {"num_partial_tokens": 98, "num_global_tokens": 6, "initializer_range": 256**-0.5, "query_initializer_range": 1.0}
    config = ParGoProjectorConfig(
        projector_type=kind,
        vision_hidden_size=WIDTH,
        output_size=words.vectors.shape[1],
        **(own if kind == "pargo" else {}),
    )
    return build_projector(config)


def learned(projector, views, photos, words, loss, seed, steps, batch, rate, decay):
    """Train a projector on the views of some photographs by ``loss(tokens, weights, words, mean)``, which gives a sum and a
    count."""
    origins = token_origins(projector, views.features.shape[1])
    chosen = torch.isin(views.photo, torch.tensor(photos)).nonzero().flatten()
    weights = token_labels(views.coverage[chosen], origins.shares) * origins.local[:, None]
    known = directions(words.vectors, words.mean)[None].expand(batch, -1, -1)
    optimizer = torch.optim.AdamW(projector.parameters(), lr=rate, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    drawn = torch.Generator().manual_seed(seed)
    projector.train()
    for _ in range(steps):
        places = torch.randperm(len(chosen), generator=drawn)[:batch]
        tokens = projector(views.features[chosen[places]].float())
        total, count = loss(tokens, weights[places], known, words.mean)
        optimizer.zero_grad()
        (total / count.clamp(min=1)).backward()
        torch.nn.utils.clip_grad_norm_(projector.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return projector.eval()


@torch.no_grad()
def judge(projector, views, trained, held_out, words, scoring=None):
    """Score the whole photographs that are held out. What no photograph in training shows is no label of theirs, and stays
    among the words that a patch may be nearest to.

    Returns:
        (scoring, the tokens ``[photos, tokens, C]``, what is true of them ``[photos, tokens, names]``).
    """
    origins = token_origins(projector, views.features.shape[1])
    scoring = scoring or WordScoring(words.names, words.vectors, words.mean)
    shown = (views.coverage[torch.isin(views.photo, torch.tensor(trained))] >= 0.5).any(dim=2).any(dim=0)
    whole = [int((views.photo == photo).nonzero()[0]) for photo in held_out]
    labels = token_labels(views.coverage[whole] * shown[:, None], origins.shares) * origins.local[:, None]
    tokens = projector(views.features[whole].float())
    scoring.add(tokens, labels)
    return scoring, tokens, labels
