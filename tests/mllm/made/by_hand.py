"""The ParGo projector token by token, from the paper's equations: no mask, no batched attention, no shared code."""

import math

import torch
from torch.nn.functional import gelu, layer_norm


def slice_of(token, num_partial, num_features):
    """Eq. 1: features [floor(i n_v / n_p), floor((i + 1) n_v / n_p))."""
    return range(token * num_features // num_partial, (token + 1) * num_features // num_partial)


def window_of(token, layer, num_layers, num_partial, edge="clamp"):
    """Eq. 2: the w = l n_p / d partial tokens around a token, shifted inward (or cut off) at the borders; l from 1."""
    width = max(1, layer * num_partial // num_layers)
    if edge == "truncate":
        return [other for other in range(token - width // 2, token - width // 2 + width) if 0 <= other < num_partial]
    start = min(max(token - width // 2, 0), num_partial - width)
    return list(range(start, start + width))


def reach(num_partial, num_layers, num_features, edge="clamp"):
    """For every layer and partial token the set of features that can have influenced it."""
    known = [set() for _ in range(num_partial)]
    after = []
    for layer in range(1, num_layers + 1):
        known = [
            set(slice_of(token, num_partial, num_features)).union(
                *(known[other] for other in window_of(token, layer, num_layers, num_partial, edge))
            )
            for token in range(num_partial)
        ]
        after.append(known)
    return after


def attend(attention, token, seen):
    """One token attends to a list of vectors, head by head."""
    heads = attention.num_heads
    query, keys, values = attention.q_proj(token), attention.k_proj(seen), attention.v_proj(seen)
    width = len(query) // heads
    mixed = []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        scores = keys[:, part] @ query[part] / math.sqrt(width)
        weights = torch.exp(scores - scores.max())
        mixed.append((weights / weights.sum()) @ values[:, part])
    return attention.o_proj(torch.cat(mixed))


def norm(x, module):
    return layer_norm(x, x.shape[-1:], module.weight, module.bias, module.eps)


def project(projector, features):
    """Tokens ``[n_p + n_g, output_size]`` of one picture's features ``[n_v, c]``."""
    config = projector.config
    is_partial = config.projector_type == "pargo" and config.partial_global_perception
    num_partial = config.num_partial_tokens if is_partial else 0
    depth = config.num_hidden_layers
    tokens = projector.query_tokens[0]
    if config.query_position_embeddings:
        tokens = tokens + projector.position_embeddings[0]
    tokens = [norm(token, projector.layer_norm) for token in tokens]
    everyone = range(len(tokens))
    for number, layer in enumerate(projector.layers, start=1):
        before = torch.stack(tokens)
        for index in everyone:
            if index < num_partial:
                if config.windows == "full":
                    others = list(range(num_partial))
                else:
                    others = window_of(index, number, depth, num_partial, config.edge)
                attends = config.cascaded_partial_perception
            else:
                others = list(range(num_partial, len(tokens)))
                attends = config.global_self_attention or not is_partial
            if attends:
                seen = attend(layer.self_attention, before[index], before[others])
                tokens[index] = norm(seen + before[index], layer.self_attention_norm)
        for index in everyone:
            seen = slice_of(index, num_partial, len(features)) if index < num_partial else range(len(features))
            looked = attend(layer.cross_attention, tokens[index], features[list(seen)])
            token = norm(looked + tokens[index], layer.cross_attention_norm)
            tokens[index] = norm(layer.mlp.fc2(gelu(layer.mlp.fc1(token))) + token, layer.mlp_norm)
    return projector.output_proj(torch.stack(tokens))
