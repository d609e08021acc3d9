"""The lens on the last layer's output says what the model says."""

import pytest
import torch

from pargo_mllm.alignment.errors import AlignmentError
from pargo_mllm.alignment.lens import LogitLens
from tests.mllm.made.tiny_causal import behind_pictures, tiny_model

# RMSNorm; capped logits and scaled embeddings; LayerNorm, positions added in front; a decoder inside the decoder; a head with a
# bias; scaled logits; a mixture of experts; no attention
KINDS = ("llama", "gemma2", "gpt2", "opt", "phi", "cohere", "mixtral", "mamba")


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_on_the_last_layer_it_is_the_model(kind):
    model = behind_pictures(tiny_model(kind))
    ids = torch.arange(6, 12)[None]
    seen = []
    layers = next(module for module in model.model.language_model.modules() if isinstance(module, torch.nn.ModuleList))
    handle = layers[-1].register_forward_hook(lambda module, args, output: seen.append(output))
    expected = model(input_ids=ids, output_hidden_states=True)
    handle.remove()
    last = seen[0][0] if isinstance(seen[0], tuple) else seen[0]
    best = expected.logits[0].float().softmax(dim=-1).topk(4)
    lens = LogitLens(model)
    said = lens.words(last[0], 4)
    assert torch.equal(said.words, best.indices)
    torch.testing.assert_close(said.probabilities, best.values)
    normed = lens.words(expected.hidden_states[-1][0], 4, normed=True)
    assert torch.equal(normed.words, best.indices)
    # of those that may be listed, as likely as among all
    among = torch.ones(expected.logits.shape[-1], dtype=torch.bool)
    among[best.indices[0, 0]] = False
    listed = lens.words(last[0, :1], 3, among)
    assert torch.equal(listed.words[0], best.indices[0, 1:])
    torch.testing.assert_close(listed.probabilities[0], best.values[0, 1:])


def test_tokens_in_pieces_are_one(monkeypatch):
    lens = LogitLens(behind_pictures(tiny_model("llama")))
    hidden = torch.randn(7, 32, generator=torch.manual_seed(0))
    whole = lens.words(hidden, 2)
    monkeypatch.setattr("pargo_mllm.alignment.lens._LOGITS", 200)
    assert torch.equal(lens.words(hidden, 2).words, whole.words)
    assert lens.words(hidden[:0], 2).words.shape == (0, 2)
    with pytest.raises(ValueError, match=r"1\.\.\.96"):
        lens.words(hidden, 97)
    for wrong in ({"num_words": 2.5}, {"among": torch.ones(95, dtype=torch.bool)}, {"hidden": hidden[0]}):
        with pytest.raises(ValueError, match=r"must be|do not fit"):
            lens.words(**{"hidden": hidden} | wrong)
    for number in (float("nan"), float("inf")):
        with pytest.raises(AlignmentError, match="hidden states: row 0 of 7 holds"):
            lens.words(hidden * number)


def test_a_model_that_does_more_behind_its_layers_has_none(monkeypatch):
    model = behind_pictures(tiny_model("llama"))
    decoder = type(model.model.language_model)
    forward = decoder.forward

    def more(self, *args, **kwargs):
        out = forward(self, *args, **kwargs)
        out.last_hidden_state = out.last_hidden_state * 2
        return out

    monkeypatch.setattr(decoder, "forward", more)
    with pytest.raises(AlignmentError, match="no logit lens"):
        LogitLens(model)
