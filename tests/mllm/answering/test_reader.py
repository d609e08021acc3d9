"""What is said to a question does not depend on the batch, its order, padding, or on what was read together with others."""

from collections import Counter

import pytest
import torch
from torch.nn import functional

from pargo_mllm.answering.prompts import Prompt, common_lead
from pargo_mllm.answering.reader import Reader
from pargo_mllm.answering.sharing import what_sharing_changes
from pargo_mllm.data.feeding.chat_format import ConversationError
from pargo_mllm.positions import max_positions
from tests.mllm.made.miniature_families import FAMILY_NAMES, around, make_family, make_tokenizer
from tests.mllm.made.photographs import noise_picture
from tests.mllm.made.tiny_causal import tiny_model

QUESTIONS = ("what is it?", "how many dogs are there, if any at all?", "x", "is it red")
NEW = 10


def talks(pictures=4):
    """[(group, picture or None, text)]: one question about the first picture, two about the second, …; one without any."""
    asked = [
        (str(index), noise_picture(20 + 10 * index, 30, seed=index), f"{question}{index}")
        for index in range(pictures)
        for question in QUESTIONS[: index + 1]
    ]
    return [*asked, ("none", None, "no picture")]


def conversation(text, **image):
    return [{"role": "user", "content": [*([{"type": "image", **image}] if image else []), {"type": "text", "text": text}]}]


def prompts_of(processor, asked):
    return [
        Prompt(
            tuple(processor.chat_format.prompt_tokens(conversation(text, **({} if picture is None else {"shown": True})))),
            () if picture is None else (lambda picture=picture: picture,),
            group,
        )
        for group, picture, text in asked
    ]


def leads_of(prompts):
    groups = {}
    for prompt in prompts:
        groups.setdefault(prompt.group, []).append(prompt)
    return {group: common_lead(own) for group, own in groups.items()}


def said(reader, prompts, batch_size, new=NEW):
    leads, answers = leads_of(prompts), []
    for first in range(0, len(prompts), batch_size):
        batch = prompts[first : first + batch_size]
        reader.forget(prompt.group for prompt in batch)
        answers += reader.answer(batch, leads, new)
    return answers


def alone(model, processor, asked, new=NEW):
    """By transformers' own generate, a prompt at a time."""
    shown = [conversation(text, **({} if picture is None else {"image": picture})) for _, picture, text in asked]
    answers = []
    for one in shown:
        inputs = processor.prompts([one])
        room = min(new, max_positions(model.config.text_config) - inputs["input_ids"].shape[1])
        ids = model.generate(**inputs, max_new_tokens=room, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        answers.append(tuple(ids.tolist()))
    return answers


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("share", [True, False], ids=["shared", "whole"])
def test_answers_are_those_of_each_prompt_alone(family, share):
    # of seed 0, Vicuna's says one token over and over
    model, processor = make_family(family, seed=1)
    asked = talks()
    expected = alone(model, processor, asked)
    assert len(set(expected)) > len(expected) // 2
    prompts = prompts_of(processor, asked)
    assert what_sharing_changes(model) is None
    for batch_size in (1, 2, 32):
        reader = Reader(model, processor, share)
        assert [one.ids for one in said(reader, prompts, batch_size)] == expected
        assert reader.pictures_read == 4
    turned = said(Reader(model, processor, share), prompts[::-1], 3)
    assert [one.ids for one in turned[::-1]] == expected


def test_in_bf16_only_near_ties_are_said_otherwise():
    """Of 8 seeds and 88 answers, those that sharing or another batch size changes hold a near tie that was counted."""
    changed = counted = 0
    for seed in range(8):
        model, processor = make_family("llama3", seed)
        model = model.to(torch.bfloat16)
        prompts = prompts_of(processor, talks())
        one_way, other_way = (
            said(Reader(model, processor, False), prompts, 1),
            said(Reader(model, processor, True), prompts, 32),
        )
        for first, second in zip(one_way, other_way, strict=True):
            changed += first.ids != second.ids
            counted += first.near_ties > 0
            assert first.ids == second.ids or first.near_ties
    assert 0 < changed < counted


def test_a_near_tie_is_counted_where_there_is_one():
    """The head's second-likeliest row made all but equal to the likeliest: every token is a tie; half as large: none is."""
    model, processor = make_family("qwen")
    prompts = prompts_of(processor, talks())[:3]
    reader = Reader(model, processor)
    assert [one.near_ties for one in said(reader, prompts, 8)] == [0, 0, 0]
    best = processor.tokenizer("a", add_special_tokens=False)["input_ids"][0]
    with torch.no_grad():
        head = model.lm_head.weight
        head[:] = 0.0
        hidden = model(input_ids=torch.tensor([[best]]), output_hidden_states=True).hidden_states[-1][0, -1]
        head[best], head[best + 1] = hidden, hidden * (1 - 1e-7)
    tied = said(Reader(model, processor), prompts, 8, new=3)
    assert all(one.near_ties == len(one.ids) for one in tied if one.near_ties)
    assert any(one.near_ties for one in tied)


def test_a_choice_is_rated_by_the_mean_loss_of_its_tokens():
    """By the loss of the whole text, a text at a time, as training computes it."""
    model, processor = make_family("vicuna")
    picture = noise_picture(20, 30, seed=1)
    opened = []

    def opens():
        opened.append(1)
        return picture

    ids = tuple(processor.chat_format.prompt_tokens(conversation("which?", shown=True)))
    choices = [tuple(processor.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in ("a cat", "b", "many dogs")]
    prompts = [Prompt(ids + choice, (opens,), "p", rated=len(choice)) for choice in choices]
    rated = {}
    for share in (True, False):
        for batch_size in (1, 2, 3):
            reader, leads = Reader(model, processor, share), leads_of(prompts)
            rated[share, batch_size] = [
                loss
                for first in range(0, len(prompts), batch_size)
                for loss in reader.losses(prompts[first : first + batch_size], leads)
            ]
            assert reader.pictures_read == 1
    assert len(opened) == 6
    pixels, _ = processor.encode_pictures([picture])
    for place, (prompt, choice) in enumerate(zip(prompts, choices, strict=True)):
        image = processor.image_token_id
        whole = [token for one in prompt.ids for token in [one] * (processor.num_image_tokens if one == image else 1)]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([whole]), pixel_values=pixels).logits[0]
        expected = functional.cross_entropy(logits[-len(choice) - 1 : -1], torch.tensor(choice)).item()
        for losses in rated.values():
            assert losses[place] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("projector", ["pargo", "linear"])
def test_pictures_in_tiles_are_shared_too(projector):
    """Of all tiles of a picture one set of tokens is made, or one of each."""
    model, processor = make_family("qwen", **({} if projector == "pargo" else {"projector_type": "linear"}))
    processor.max_tiles, processor.overview_tile, processor.tokens_per_tile = 4, True, projector == "linear"
    asked = talks(3)
    prompts = prompts_of(processor, asked)
    # of different shapes, they have different numbers of tokens
    assert len({processor.num_tiles(*picture.size[::-1]) for _, picture, _ in asked if picture}) > 1
    expected = alone(model, processor, asked)
    for batch_size in (1, 3, 32):
        assert [one.ids for one in said(Reader(model, processor), prompts, batch_size)] == expected


# a window in every layer; in some; another cache; none of it; ALiBi; learned positions
@pytest.mark.parametrize(
    ("model_type", "own", "shares"),
    [
        ("mistral", {"sliding_window": 64}, True),
        ("gemma2", {"sliding_window": 400}, True),
        ("llama4_text", {"attention_chunk_size": 64}, True),
        ("jamba", {}, False),
        ("bloom", {}, True),
        ("opt", {}, True),
    ],
)
def test_other_decoders(model_type, own, shares):
    """Where sharing would change something, prompts are read whole; where a window is too narrow for a batch, too."""
    model, processor = around(
        tiny_model(model_type, vocab_size=320, **{"max_position_embeddings": 512, **own}),
        make_tokenizer("vicuna"),
        family="vicuna",
    )
    asked = talks(3)
    reader = Reader(model, processor)
    assert reader.shares is shares, reader.shares_not_because
    assert [one.ids for one in said(reader, prompts_of(processor, asked), 32, 6)] == alone(model, processor, asked, 6)


def test_an_answer_at_the_models_end_is_as_long_as_alone():
    model, processor = make_family("vicuna")
    asked = talks(3)
    prompts = prompts_of(processor, asked)
    longest = max(len(prompt.ids) + (processor.num_image_tokens - 1) * len(prompt.pictures) for prompt in prompts)
    model.config.text_config.max_position_embeddings = longest + 4
    expected = alone(model, processor, asked)
    assert [one.ids for one in said(Reader(model, processor), prompts, 32)] == expected
    model.config.text_config.max_position_embeddings = longest
    with pytest.raises(ConversationError, match=f"{longest} tokens"):
        said(Reader(model, processor), prompts, 32)


def test_settings_of_the_models_own_make_no_answer_depend_on_others():
    """Beams, sampling, lengths and lookups are put aside; penalties stay, and padding, here the end token too, earns none."""
    model, processor = make_family("llama3", seed=2)
    asked = talks()
    model.generation_config.repetition_penalty = 1.7
    # answers that end: a token that some of them say is the end from here on
    end = Counter(token for answer in alone(model, processor, asked) for token in set(answer[2:])).most_common(1)[0][0]
    processor.tokenizer.pad_token = processor.tokenizer.convert_ids_to_tokens(end)
    model.generation_config.update(eos_token_id=end, pad_token_id=end)
    settings = {"repetition_penalty": 1.7, "no_repeat_ngram_size": 3}
    for own in ({"repetition_penalty": 1.7}, settings):
        model.generation_config.update(do_sample=False, num_beams=1, **own)
        expected = [
            (*answer[: answer.index(end)], end) if end in answer else answer for answer in alone(model, processor, asked)
        ]
        assert any(answer[-1] == end for answer in expected)
        model.generation_config.update(
            num_beams=3, do_sample=True, temperature=0.7, min_length=500, max_time=0.001, prompt_lookup_num_tokens=2
        )
        for batch_size in (1, 2, 32):
            reader = Reader(model, processor)
            assert reader.shares is ("no_repeat_ngram_size" not in own)
            assert [one.ids for one in said(reader, prompts_of(processor, asked), batch_size)] == expected
        model.generation_config.update(
            num_beams=1, do_sample=False, temperature=1.0, min_length=0, max_time=None, prompt_lookup_num_tokens=None
        )


def test_what_was_read_serves_the_next_batch():
    """Encoder and beginning run once a picture, however its questions fall into batches."""
    model, processor = make_family("vicuna")
    read = []
    model.model.vision_tower.register_forward_pre_hook(lambda _, args, kwargs: read.append(1), with_kwargs=True)
    prompts = prompts_of(processor, talks())
    said(Reader(model, processor), prompts, 1)
    assert len(read) == 4
