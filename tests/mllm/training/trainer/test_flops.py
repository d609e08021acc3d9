"""Operations of a training step against torch's own counter on the step itself."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pargo_mllm.data.feeding.contents import BatchContents, count_contents, visible_pairs
from pargo_mllm.data.feeding.packing import IGNORED, block_mask, pack, pad_packed
from pargo_mllm.language.lora import LoraSettings, add_lora
from pargo_mllm.training.trainer.flops import StepFlops
from pargo_mllm.training.trainer.parts import freeze_all_but
from tests.mllm.made.items import encoded


@pytest.fixture
def rows(processor):
    about = [[("which colour", "red"), ("what shape is at the top", "circle")], [("which shape", "big square")]]
    return [pack(encoded(processor, pairs), processor.image_token_id) for pairs in about]


def test_pairs_are_the_ones_of_the_mask(rows):
    for row in rows:
        assert visible_pairs(row) == int(block_mask(row.documents[None], row.segments[None]).sum())


@pytest.mark.parametrize("lora", [False, True])
def test_the_language_models_part_is_what_torch_counts(make_model, rows, processor, lora):
    model = make_model().train()
    model.set_attn_implementation("eager")
    freeze_all_but(model, "projector")
    trained = add_lora(model, LoraSettings(rank=4, alpha=8, dropout=0.0)) if lora else model
    lora_parameters = sum(weight.numel() for name, weight in trained.named_parameters() if "lora_" in name)
    batch = pad_packed([rows[0], rows[0]], processor.tokenizer.pad_token_id)
    # in place of what a trained projector would give: the gradient goes through the language model to its inputs
    embeddings = model.get_input_embeddings()(batch.pop("input_ids")).requires_grad_()
    # evaluating, a model of text alone leaves the projector out; its head runs where there are labels
    trained.eval()
    with FlopCounterMode(display=False) as counter:
        trained(inputs_embeds=embeddings, skip_logits=True, **batch).loss.backward()
    # the rotary angles are no work of the model's; transformers before 5.19 has them from a matrix product, which torch counts
    angles = sum(sum(ops.values()) for name, ops in counter.get_flop_counts().items() if name.endswith("rotary_emb"))
    counted = counter.get_total_flops() - angles
    tokens = 2 * len(rows[0].input_ids)
    # torch sees a dense mask
    labels = int((batch["labels"] != IGNORED).sum())
    everything = BatchContents(tokens=tokens, pairs=tokens * len(rows[0].input_ids), labels=labels, pictures={})
    flops = StepFlops(model.config, lora_parameters)
    assert flops.step(everything) == counted
    # and counts what is not there
    assert flops.step(count_contents([rows[0], rows[0]], [])) < counted


def test_operations_of_the_ops_follow_from_their_cells(make_config):
    # tokens, keys and values by hand: 8 + 2 tokens of width 24, 16 features
    config = make_config()
    flops = StepFlops(config, 0)
    projector = config.projector_config
    width, layers, inside = projector.hidden_size, projector.num_hidden_layers, projector.intermediate_size
    tokens, features, partial = 10, 16, 8
    linear = layers * 2 * (2 * tokens * width * width + 2 * features * width * width + 2 * tokens * width * inside)
    linear += layers * 2 * 4 * partial * width * width
    cells = sum(features * (1 + 2) + partial * max(1, layer * partial // layers) for layer in range(1, layers + 1))
    expected = linear + 4 * width * cells + 2 * tokens * width * config.text_config.hidden_size
    assert flops.picture(1, encoded=True) == 3 * expected


def test_the_encoder_counts_where_it_runs(make_model):
    model = make_model().eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.model.get_vision_features(torch.zeros(1, 3, 28, 28, device="cpu"))
    attention = 2 * 2 * 16 * 16 * 24
    with_it, without = (StepFlops(model.config, 0).picture(1, encoded) for encoded in (False, True))
    # this machine's fused attention is not in torch's count
    assert with_it - without in (counter.get_total_flops(), counter.get_total_flops() + attention)
