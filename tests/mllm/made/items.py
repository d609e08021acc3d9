"""What a RowCollator takes, without a corpus: questions about pictures whose features are given."""

import torch

from pargo_mllm.data.corpus import about_image
from pargo_mllm.data.feeding.conversations import ConversationEncoder
from pargo_mllm.data.feeding.packing import pack


def encoded(processor, pairs):
    """Pairs of prompt and answer about one picture."""
    return ConversationEncoder(processor).encode_conversations([about_image(*pair) for pair in pairs])


def items_about(processor, pairs, features, kinds=None):
    """One item a picture: ``pairs[i]`` is said about it, its features are ``features[i]`` ``[n_v, c]``."""
    return [
        {
            "packed": pack(encoded(processor, said), processor.image_token_id),
            "vision_features": seen[None],
            "tile_counts": torch.tensor([1]),
            "name": f"picture {index}",
            "kinds": tuple(f"{index} {prompt}" for prompt, _ in said) if kinds is None else tuple(kinds),
        }
        for index, (said, seen) in enumerate(zip(pairs, features, strict=True))
    ]
