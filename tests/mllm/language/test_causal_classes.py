"""Every causal class of transformers behind pictures: text alone goes through it as through the class itself, or is refused."""

import json
import re
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from pargo_mllm import ParGoConfig
from pargo_mllm.configuration import LanguageModelError
from pargo_mllm.data.feeding.conversations import EncodedConversation
from pargo_mllm.data.feeding.packing import pack, pad_packed
from pargo_mllm.language.sameness import check_same
from tests.mllm.made.tiny_causal import IMAGE, MODEL_TYPES, NotBuilt, behind_pictures, built, composite

TABLE = Path(__file__).resolve().parents[3] / "docs" / "language_models.json"
EXACT = (
    *("llama", "mistral", "gemma", "gemma2", "gemma3_text", "granite", "cohere", "phi", "phi3", "gpt2", "gpt_neox", "opt"),
    *("qwen2", "qwen3", "qwen3_moe", "mixtral", "falcon", "falcon_h1", "qwen3_next", "bloom", "olmoe", "minicpm3"),
)
REFUSED = {
    "bert": "BertLMHeadModel has more behind its decoder than one linear head",
    "bart": "BartForCausalLM does not hold the class that AutoModel gives",
    "mamba": "MambaForCausalLM keeps no past_key_values",
    "gemma3n_text": "Gemma3nForCausalLM: the logits of text alone differ by",
    "cpmant": "CpmAntForCausalLM cannot stand behind pictures",
    "gemma3": "model_type='gemma3' is made of several parts itself",
}


def fate(model_type):
    """("exact" | "refused" | "not tried", why)."""
    config = composite(model_type)
    try:
        if config is not None:
            ParGoConfig(text_config=config)
        language_model = built(model_type)
        check_same(behind_pictures(language_model), language_model)
    except LanguageModelError as error:
        return "refused", str(error)
    except NotBuilt as error:
        return "not tried", str(error)
    return "exact", ""


@pytest.mark.parametrize("model_type", EXACT)
def test_text_alone_is_the_language_models_own(model_type):
    """Logits to the bit and the loss, compared here and not by the check that assembly makes; and that check passes."""
    language_model = built(model_type)
    model = behind_pictures(language_model)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(6, 90, (2, 11), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    labels = ids.masked_fill(mask == 0, -100)
    own = language_model(input_ids=ids, attention_mask=mask, labels=labels)
    ours = model(input_ids=ids, attention_mask=mask, labels=labels)
    assert torch.equal(ours.logits[mask.bool()], own.logits[mask.bool()])
    assert abs(ours.loss.item() - own.loss.item()) <= 1e-5 * max(1, own.loss.item())
    assert check_same(model, language_model) == 0
    # gradients too, and of the router's loss where there is one: of what the class's own loss says, not of the logits alone
    wanted = language_model.get_input_embeddings().weight
    (own_gradient,) = torch.autograd.grad(own.loss, wanted)
    (gradient,) = torch.autograd.grad(ours.loss, model.get_input_embeddings().weight)
    assert (gradient - own_gradient).abs().max() <= 1e-4 * own_gradient.abs().max()


@pytest.mark.parametrize("model_type", REFUSED)
def test_what_would_not_be_itself_is_refused_by_name(model_type):
    assert fate(model_type)[0] == "refused"
    assert fate(model_type)[1].startswith(REFUSED[model_type])


@pytest.mark.parametrize("model_type", ["gemma2", "granite", "phi"])
def test_a_head_that_is_a_bare_linear_map_would_be_noticed(model_type, monkeypatch):
    """What used to happen: the cap, the scale and the bias lost."""
    language_model = built(model_type)
    model = behind_pictures(language_model)
    weight = model.lm_head.weight
    monkeypatch.setattr(model.causal_head, "logits", lambda head, hidden: torch.nn.functional.linear(hidden, weight))
    with pytest.raises(LanguageModelError, match=r"the logits of text alone differ by"):
        check_same(model, language_model)


def test_a_router_loss_that_is_dropped_would_be_noticed(monkeypatch):
    language_model = built("mixtral")
    model = behind_pictures(language_model)
    monkeypatch.setattr(model.causal_head, "own_loss", lambda *args: None)
    with pytest.raises(LanguageModelError, match="its loss of text alone is"):
        check_same(model, language_model)


def test_generation_that_goes_another_way_would_be_noticed(monkeypatch):
    language_model = built("llama")
    model = behind_pictures(language_model)
    right = model.prepare_inputs_for_generation

    def forgetful(input_ids, *args, is_first_iteration=False, **kwargs):
        inputs = right(input_ids, *args, is_first_iteration=is_first_iteration, **kwargs)
        return inputs if is_first_iteration else {**inputs, "input_ids": 0 * inputs["input_ids"] + 7}

    monkeypatch.setattr(model, "prepare_inputs_for_generation", forgetful)
    with pytest.raises(LanguageModelError, match=r"it generates \[\[.*and here \[\["):
        check_same(model, language_model)


def test_padding_of_packed_rows_is_not_balanced():
    """A row is what it was before it was padded beside a longer one, the router's loss included."""
    model = behind_pictures(built("mixtral"))
    ids = torch.randint(6, 90, (9,), generator=torch.Generator().manual_seed(3)).tolist()
    short = pack([EncodedConversation(tuple(ids[:4]), (False, False, True, True))], IMAGE)
    long = pack([EncodedConversation(tuple(ids), (False,) * 9)], IMAGE)
    alone, beside = (pad_packed(rows, 0) for rows in ([short], [short, long]))
    padded = {name: value[:1] for name, value in beside.items()}
    assert padded["input_ids"].shape[1] > alone["input_ids"].shape[1]
    first, second = (model(**batch) for batch in (alone, padded))
    assert abs(first.aux_loss.item() - second.aux_loss.item()) <= 1e-6
    assert abs(first.loss.item() - second.loss.item()) <= 1e-6


def test_the_router_loss_does_not_depend_on_how_a_step_is_divided():
    """One batch of two rows, and the same rows one by one with the labels of the whole step."""
    model = behind_pictures(built("mixtral"))
    ids = torch.randint(6, 90, (2, 9), generator=torch.Generator().manual_seed(2))
    logits = model(input_ids=ids).logits
    words = cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    parts = [model(input_ids=row[None], labels=row[None], num_items_in_batch=16).loss for row in ids]
    alone = [model(input_ids=row[None], labels=row[None]).loss for row in ids]
    assert torch.allclose(sum(parts), sum(alone) / 2, atol=1e-6)
    assert sum(parts) > words


def test_the_docs_say_what_the_table_says():
    table = json.loads(TABLE.read_text())
    rows = [line.split("|") for line in TABLE.with_name("language-models.md").read_text().splitlines()]
    told = {name: row[1].split(":")[0].strip() for row in rows if len(row) == 4 for name in re.findall(r"`([\w-]+)`", row[2])}
    assert {name: how for how, names in table.items() for name in names} == {
        name: how for name, how in told.items() if how in ("exact", "refused", "not tried")
    }
    assert set(EXACT) <= set(table["exact"])
    assert set(REFUSED) <= set(table["refused"])


@pytest.mark.long
def test_every_causal_class_is_exact_or_refused_by_name():
    """And docs/language-models.md says which: ``python -m tests.mllm.language.test_causal_classes`` writes its table anew."""
    fates = {model_type: fate(model_type) for model_type in MODEL_TYPES}
    assert {name: how for name, (how, _) in fates.items()} == {
        name: how for how, names in json.loads(TABLE.read_text()).items() for name in names
    }
    assert sum(how != "not tried" for how, _ in fates.values()) >= 180


if __name__ == "__main__":
    table = {"exact": [], "refused": {}, "not tried": {}}
    for name in MODEL_TYPES:
        how, why = fate(name)
        print(name, how, why, flush=True)
        if how == "exact":
            table[how].append(name)
        else:
            table[how][name] = why
    TABLE.write_text(json.dumps(table, indent=2) + "\n")
