"""Maps and models whose answer to "where does it come from" is known, for it was put there."""

import torch
from PIL import Image
from torch import nn

from pargo_mllm.projectors.base import ProjectorPreTrainedModel
from tests.mllm.made.sizes import PATCH, SIDE

GREY, RED, BLUE = (128, 128, 128), (255, 128, 0), (0, 128, 255)
# of a token: what its colour is, what every one has, and what a word asks for
COLOUR, CONSTANT, ASKS = 0, 5, 7


class PlantedProjector(ProjectorPreTrainedModel):
    """Token i is the sum of all features j, ``mixing[i, j]`` times each, behind one linear map."""

    def __init__(self, config):
        super().__init__(config)
        self.mixing = nn.Parameter(torch.zeros(config.num_tokens, 1))
        self.output_proj = nn.Linear(config.vision_hidden_size, config.output_size)
        self.post_init()

    def forward(self, vision_features):
        self.check_features(vision_features)
        return self.output_proj(self.mixing @ vision_features)


def spot(place, colour):
    """A grey picture with one patch of 4 x 4 in a colour."""
    picture = Image.new("RGB", (SIDE, SIDE), GREY)
    row, column = divmod(place, SIDE // PATCH)
    picture.paste(colour, (column * PATCH, row * PATCH, (column + 1) * PATCH, (row + 1) * PATCH))
    return picture


def covered(place):
    """What such a patch covers, ``[16]``."""
    return torch.eye((SIDE // PATCH) ** 2)[place]


@torch.no_grad()
def plant(model, tokenizer, looks=True):
    """Weights under which a model of the fixtures says "red" or "blue" by the one patch that has a colour, and "two" where it
    is asked for a shape; blind where it does not look, so that no patch matters to it.

    A feature's first channel is red minus blue. The language model attends to everything alike, adds up what it finds there
    and says it.
    """
    names = dict(model.named_parameters())
    for name, parameter in names.items():
        parameter.fill_(float("norm" in name and name.endswith("weight")))
    vision, projector, language = model.model.vision_tower, model.model.projector, model.model.language_model
    conv = vision.get_parameter("embeddings.patch_embedding.weight")
    for channel, sign in ((0, 1.0), (1, -1.0)):
        conv[channel, 0], conv[channel, 2] = sign, -sign
    # LayerNorm of nothing is nothing, and its share of 24 channels of a pair is about 3.5
    projector.output_proj.weight[COLOUR, 0] = 1.0
    projector.output_proj.bias[CONSTANT] = 10.0
    if projector.config.projector_type == "pargo":
        for layer in projector.layers:
            attention = layer.cross_attention
            nn.init.eye_(attention.v_proj.weight)
            nn.init.eye_(attention.o_proj.weight)
        projector.query_tokens[..., 10], projector.query_tokens[..., 11] = 1.0, -1.0
    embeddings = language.get_input_embeddings().weight
    embeddings[:, CONSTANT] = 10.0
    embeddings[tokenizer.convert_tokens_to_ids("shape"), ASKS] = 10.0
    for layer in language.layers:
        value, out = layer.self_attn.v_proj.weight, layer.self_attn.o_proj.weight
        value[0, COLOUR] = 100.0 if looks else 0.0
        value[1, ASKS] = 100.0
        # two heads of queries read the first head of values
        out[COLOUR, 0], out[ASKS, 1] = 1.0, 1.0
    head = model.lm_head.weight
    head[tokenizer.convert_tokens_to_ids("red"), COLOUR] = 10.0
    head[tokenizer.convert_tokens_to_ids("blue"), COLOUR] = -10.0
    head[tokenizer.convert_tokens_to_ids("two"), ASKS] = 100.0
    return model
