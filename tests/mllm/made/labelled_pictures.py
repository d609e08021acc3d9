"""Examples of every kind with pictures whose parts have names, and the patch loss of their tokens written out by hand."""

import math

import torch
from PIL import Image

from pargo_mllm.alignment.origins import token_origins
from pargo_mllm.alignment.windows import feature_coverage
from pargo_mllm.alignment.words import word_ids
from pargo_mllm.data.corpus import Example, about_image
from pargo_mllm.data.regions import Region

HALVES = (Region(("red",), (0.0, 0.0, 0.5, 1.0)), Region(("green",), (0.5, 0.0, 1.0, 1.0)))
# what overlaps, covers a part of a patch, is said twice, and is no word of the tokenizer
SEVERAL = (
    Region(("circle",), (0.0, 0.0, 1.0, 0.6)),
    Region(("big",), (0.1, 0.0, 0.9, 0.9)),
    Region(("big",), (0.9, 0.0, 1.0, 0.2)),
    Region(("zebra",), (0.0, 0.0, 1.0, 1.0)),
)
# all that these are called, and what none of them is
NAMES = ("yes", "red", "green", "circle", "big", "zebra", "blue")
WHOLE_PICTURE = (Region(("blue",), (0.0, 0.0, 1.0, 1.0)),)


def noise(seed, size):
    generator = torch.Generator().manual_seed(seed)
    return Image.fromarray(torch.randint(0, 256, (*size, 3), generator=generator, dtype=torch.uint8).numpy())


def labelled_examples(size=(40, 30), large=(40, 30)):
    """One and two pictures with regions, a picture of which nobody says anything, text alone, several conversations."""
    said = about_image("what shape", "circle")
    text = [{"role": "user", "content": "which"}, {"role": "assistant", "content": "yes"}]
    two = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "which"}, {"type": "image"}]},
        {"role": "assistant", "content": "one two three"},
    ]

    def opened(*seeds, size=size):
        return tuple(lambda seed=seed: noise(seed, size) for seed in seeds)

    def regions(*of_each):
        return tuple(lambda known=known: known for known in of_each)

    return [
        Example("halves", (said,), opened(0, size=large), regions=regions(HALVES)),
        Example("text", (text,)),
        Example("two", (two,), opened(1, 2), regions=regions(SEVERAL, HALVES)),
        Example("unknown", (said,), opened(3)),
        Example("nothing there", (said,), opened(4), regions=regions(())),
        Example("asked twice", (said, about_image("which colour", "red")), opened(5), regions=regions(WHOLE_PICTURE)),
    ]


@torch.no_grad()
def patch_loss_by_hand(model, processor, examples, threshold=0.5, hard=False, shares=None, names=None):
    """Losses of all tokens that have a label, one by one.

    Args:
        names: what a token is to choose among; None for the cosine of each with its own words.
        shares: gives, of the pixels of a picture and its tiles, what each token of each of its images reads; where they come
            from by architecture when None.
    """
    table = model.get_input_embeddings().weight.double()
    mean, losses = table.mean(0), []

    def direction(name):
        word = table[list(word_ids(processor.tokenizer, name))].mean(0) - mean
        return word / word.norm()

    for example in examples:
        for place, opens in enumerate(example.pictures):
            picture = opens()
            pixels, tiles = processor.encode_pictures([picture])
            tokens = model.get_image_features(pixels, tile_counts=tiles).pooler_output.double()
            known = () if example.regions is None else example.regions[place]()
            called, coverage = feature_coverage(known, processor, model.config, picture.size)
            by_image = coverage.double().unflatten(1, (len(tokens), -1))
            if shares is None:
                origins = token_origins(model.model.projector, by_image.shape[-1])
                read = [origins.shares[origins.local].double()] * len(tokens)
            else:
                read = shares(pixels, tiles)
            for image, image_tokens in enumerate(tokens):
                for token, weights in enumerate(read[image]):
                    covered = {name: float(weights @ by_image[label, image]) for label, name in enumerate(called)}
                    spelled = {name: share for name, share in covered.items() if word_ids(processor.tokenizer, name)}
                    said = {name: share for name, share in spelled.items() if share >= threshold - 1e-6}
                    if hard and said:
                        said = {max(said, key=lambda name: said[name]): 1.0}
                    if not said:
                        continue
                    seen = image_tokens[token] - mean
                    seen = seen / seen.norm()
                    if names is None:
                        target = sum(share * direction(name) for name, share in said.items())
                        losses.append(1 - float(seen @ target / target.norm()))
                    else:
                        likely = {
                            name: math.exp(float(seen @ direction(name)) / 0.07)
                            for name in names
                            if word_ids(processor.tokenizer, name)
                        }
                        chosen = {name: math.log(likely[name] / sum(likely.values())) for name in said}
                        losses.append(-sum(share * chosen[name] for name, share in said.items()) / sum(said.values()))
    return losses
