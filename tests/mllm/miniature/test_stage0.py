"""Stage 0: what the small encoder and the small language model learn from, and in which order."""

from dataclasses import replace

import pytest
import torch
from transformers import SiglipVisionConfig, SiglipVisionModel

from pargo_mllm.miniature import stage0_language
from pargo_mllm.miniature.order import in_order
from pargo_mllm.miniature.stage0_encoder import NO_LABEL, PatchLabeller
from pargo_mllm.miniature.stage0_language import FactDataset, FactReader, ToldFacts
from pargo_mllm.training.trainer.settings import StageSettings
from tests.mllm.made.items import encoded

PAIRS = [("what shape", "circle"), ("which colour is at the top", "red"), ("what is at the top", "big blue square")]


def test_the_encoders_loss_is_the_sum_of_cross_entropies_over_labelled_patches():
    torch.manual_seed(0)
    encoder = SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=8, patch_size=4,
            vision_use_head=False,
        )
    )  # fmt: skip
    model, pixels = PatchLabeller(encoder, [3, 2]), torch.randn(2, 3, 8, 8)
    labels = torch.randint(0, 2, (2, 4, 2))
    labels[0, 1, 0] = labels[1, :, 1] = NO_LABEL
    features, expected = encoder(pixels).last_hidden_state, 0.0
    for head in range(2):
        losses = []
        for row in range(2):
            for patch in range(4):
                if labels[row, patch, head] != NO_LABEL:
                    scores = model.heads[head](features[row, patch])
                    losses.append(scores.logsumexp(0) - scores[labels[row, patch, head]])
        expected += torch.stack(losses).mean()
    torch.testing.assert_close(model(pixels, labels)["loss"], expected)


def test_told_facts_are_sums_of_words_each_in_a_slot_of_its_own(make_model, processor):
    model = make_model()
    language = type("Reading", (), {})
    conversations = encoded(processor, PAIRS)
    facts = [(7, 8, 9), (10,), (11, 12)]
    dataset = FactDataset([ToldFacts(facts, conversations)], 10, processor.image_token_id, seed=0)
    item, again = dataset[0], dataset[0]
    told = [tuple(word for word in slot.tolist() if word >= 0) for slot in item["facts"]]
    assert sorted(filter(None, told)) == sorted(facts)
    assert len(told) == 10
    assert not torch.equal(item["facts"], again["facts"]), "slots are drawn anew"

    class Recorder(torch.nn.Module):
        """Stands where the language model is, and keeps what it is given."""

        def __init__(self):
            super().__init__()
            self.embeddings = model.get_input_embeddings()

        def get_input_embeddings(self):
            return self.embeddings

        def forward(self, inputs_embeds, attention_mask, **kwargs):
            language.seen, language.mask = inputs_embeds, attention_mask

    batch = stage0_language._collate(processor.tokenizer.pad_token_id, [item])
    reader = FactReader(Recorder(), processor.image_token_id)
    reader(**batch)
    weight = model.get_input_embeddings().weight
    is_slot = batch["input_ids"][0] == processor.image_token_id
    for vector, words in zip(language.seen[0, is_slot], told, strict=True):
        torch.testing.assert_close(vector, weight[list(words)].sum(0) if words else torch.zeros(32))
    assert torch.equal(language.seen[0, ~is_slot], weight[batch["input_ids"][0, ~is_slot]])
    assert torch.equal(language.mask == 0, batch["attention_mask"])
    with pytest.raises(ValueError, match=r"num_slots=2 is too few for 3 facts"):
        FactDataset([ToldFacts(facts, conversations)], 2, processor.image_token_id, seed=0)


@pytest.mark.parametrize(("items", "steps"), [(7, 24), (7, 2), (4, 4), (1, 2)])
def test_every_epoch_of_stage_0_is_another_permutation(items, steps):
    settings = StageSettings(steps=steps, batch_size=2, learning_rate=0.1, seed=3)
    lessons = list(range(items))
    order = list(map(in_order(lessons, settings).__getitem__, range(2 * steps)))
    assert len(in_order(lessons, settings)) == 2 * steps
    epochs = [order[first : first + items] for first in range(0, len(order), items)]
    assert all(sorted(epoch) == lessons for epoch in epochs[:-1])
    assert len(set(epochs[-1])) == len(epochs[-1])
    if items > 4:
        assert len({tuple(epoch) for epoch in epochs}) == len(epochs)
        other = in_order(lessons, replace(settings, seed=4))
        assert order != list(map(other.__getitem__, range(2 * steps)))
