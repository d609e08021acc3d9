"""Chat models keep the template that they bring, and are trained on exactly what the assistant says in it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from transformers import GPT2Config, PreTrainedTokenizerFast

from pargo_mllm.data.feeding.chat_format import BREAK, ChatFormat, ConversationError, TemplateRefused
from pargo_mllm.data.feeding.conversations import ConversationEncoder
from pargo_mllm.language.families import FAMILIES, FamilyError, chosen_family, prepare_tokenizer
from tests.mllm.made.chat_templates import FORMATS, REFUSED, SYSTEM, TURNS, make_tokenizer
from tests.mllm.made.miniature_families import byte_level_tokenizer, make_family_around


def chat_format(name):
    tokenizer = make_tokenizer(name)
    prepare_tokenizer(tokenizer, chosen_family(GPT2Config(), tokenizer))
    assert tokenizer.chat_template == FORMATS[name].template
    return ChatFormat(tokenizer, tokenizer.chat_template, "<image>")


def conversation(name):
    return [*([SYSTEM] if FORMATS[name].system else []), *TURNS]


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_rendered_and_marked_is_the_format_by_hand(name):
    form, chat = FORMATS[name], chat_format(name)
    rendered = chat.render(conversation(name))
    assert rendered.text == form.text
    spoken = [rendered.text[start:end] for start, end in rendered.said]
    assert [part.lstrip() for part in spoken] == [part.lstrip() for part in form.said]
    assert chat.check() == form.turn_end


@pytest.mark.parametrize("name", FORMATS)
def test_tokens_are_the_texts_and_the_marked_ones_are_said(name):
    form, chat = FORMATS[name], chat_format(name)
    ids, said = chat.tokens(chat.render(conversation(name)))
    assert ids == chat.tokenizer(form.text, add_special_tokens=False)["input_ids"]
    runs, previous = [], False
    for token, is_said in zip(ids, said, strict=True):
        if is_said and not previous:
            runs.append([])
        if is_said:
            runs[-1].append(token)
        previous = is_said
    assert [chat.tokenizer.decode(run).strip() for run in runs] == [part.strip() for part in form.said]
    assert all(run[-1] == chat.tokenizer.convert_tokens_to_ids(form.turn_end) for run in runs)
    # and a model is asked with exactly what stood in front of its answer
    first = said.index(True)
    until = conversation(name).index(TURNS[1])
    assert chat.prompt_tokens(conversation(name)[:until]) == ids[:first]


@pytest.mark.parametrize("name", FORMATS)
def test_a_model_around_it_stops_where_its_turn_ends_and_pads_with_another_token(name):
    form, tokenizer = FORMATS[name], make_tokenizer(name)
    model, processor = make_family_around(tokenizer)
    assert processor.chat_template == form.template
    assert processor.tokenizer.convert_tokens_to_ids(form.turn_end) in model.generation_config.eos_token_id
    assert processor.tokenizer.pad_token not in (None, form.turn_end, form.eos)
    assert model.generation_config.pad_token_id == processor.tokenizer.pad_token_id
    picture = "<image>" * processor.num_image_tokens
    (encoded,) = ConversationEncoder(processor).encode_conversations([conversation(name)])
    assert processor.tokenizer.decode(encoded.input_ids) == processor.tokenizer.decode(
        processor.tokenizer(form.text.replace("<image>", picture), add_special_tokens=False)["input_ids"]
    )
    # transformers' own road renders the same
    assert processor.apply_chat_template(conversation(name), tokenize=False) == form.text


@pytest.mark.parametrize("name", REFUSED)
def test_a_template_that_training_would_get_wrong_is_refused_with_the_way_out(name):
    template, reason = REFUSED[name]
    tokenizer = byte_level_tokenizer(("<|im_start|>", "<|im_end|>"))
    tokenizer.chat_template = template
    with pytest.raises(TemplateRefused, match=r"family=.*--template.*endgeneration") as refusal:
        make_family_around(tokenizer)
    assert reason in str(refusal.value)
    # and the way out works
    _, processor = make_family_around(tokenizer, family="qwen")
    assert processor.chat_template == next(family.template for family in FAMILIES if family.name == "qwen")


def test_a_conversation_that_a_template_refuses_is_named():
    chat = chat_format("gemma")
    with pytest.raises(ConversationError, match="refuses the conversation: System role not supported"):
        chat.render([SYSTEM, *TURNS])
    with pytest.raises(ConversationError, match="roles must alternate"):
        chat_format("mistral").render([TURNS[0], TURNS[2], TURNS[3]])


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_control_tokens_that_people_write_are_text(name, data):
    """What is decoded is what was written, and no control token stands in it but those of the template."""
    form, chat = FORMATS[name], chat_format(name)
    tokenizer = chat.tokenizer
    special = sorted({token.content for token in tokenizer.added_tokens_decoder.values()} - {"<image>"})
    pieces = st.lists(st.sampled_from([*special, "a", " ", "é", "<", "|>", "im_end", "\n", "字"]), min_size=1, max_size=6)
    asked, answered = ("x" + "".join(data.draw(pieces)) + "y" for _ in range(2))
    talk = [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    ids, said = chat.tokens(chat.render(talk))
    plain, _ = chat.tokens(chat.render([{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]))
    control = set(tokenizer.convert_tokens_to_ids(special))
    assert [token for token in ids if token in control] == [token for token in plain if token in control]
    spoken = tokenizer.decode([token for token, is_said in zip(ids, said, strict=True) if is_said])
    assert spoken.strip().removesuffix(form.turn_end).strip() == answered
    assert asked in tokenizer.decode(ids)


def test_tokens_that_a_template_writes_are_control_though_the_tokenizer_does_not_say_so():
    backend = byte_level_tokenizer(()).backend_tokenizer
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    tokenizer.add_tokens(
        [AddedToken(token, special=False, normalized=False) for token in ("<|im_start|>", "<|im_end|>", "own")]
    )
    chat = ChatFormat(tokenizer, FORMATS["qwen2"].template, "<image>")
    assert chat.check() == "<|im_end|>"
    ids = chat.prompt_tokens([{"role": "user", "content": "a <|im_end|> of my own"}])
    # the system turn's and the question's; a word that was added is a word
    assert ids.count(tokenizer.convert_tokens_to_ids("<|im_end|>")) == 2
    assert ids.count(tokenizer.convert_tokens_to_ids("own")) == 1


def test_of_several_templates_the_default_one_is_kept():
    tokenizer = make_tokenizer("qwen2")
    tokenizer.chat_template = {"default": FORMATS["qwen2"].template, "tool_use": "{{ messages }}"}
    _, processor = make_family_around(tokenizer)
    assert processor.chat_template == processor.tokenizer.chat_template == FORMATS["qwen2"].template


def test_a_system_turn_that_moves_is_refused_in_the_conversation_alone():
    """Mistral's later templates put it into the last question: what stood in front of the first answer changes."""
    tokenizer = make_tokenizer("mistral")
    tokenizer.chat_template = (
        "{%- if messages[0]['role'] == 'system' -%}{%- set told = messages[0]['content'] -%}{%- set turns = messages[1:] -%}"
        "{%- else -%}{%- set turns = messages -%}{%- endif -%}{{- bos_token -}}{%- for message in turns -%}"
        "{%- if message['role'] == 'user' -%}{%- if loop.last and told is defined -%}"
        "{{- '[INST] ' + told + '\\n\\n' + message['content'] + '[/INST]' -}}{%- else -%}"
        "{{- '[INST] ' + message['content'] + '[/INST]' -}}{%- endif -%}"
        "{%- else -%}{{- ' ' + message['content'] + eos_token -}}{%- endif -%}{%- endfor -%}"
    )
    chat = ChatFormat(tokenizer, tokenizer.chat_template, "<image>")
    assert chat.check() == "</s>"
    assert chat.render(TURNS).text == "<s>[INST] <image>\nWhat?[/INST] A cat.</s>[INST] Sure?[/INST] Yes.</s>"
    with pytest.raises(ConversationError, match="renders what stands in front of turn 2 otherwise"):
        chat.render([SYSTEM, *TURNS])


def test_a_noncharacter_is_no_way_around_it():
    with pytest.raises(ConversationError, match=r"noncharacter '\\ufdd0'"):
        chat_format("qwen2").prompt([{"role": "user", "content": f"</{BREAK}s>"}])
    with pytest.raises(ConversationError, match="half a surrogate pair at character 2"):
        chat_format("qwen2").prompt([{"role": "user", "content": "ab\ud800"}])


def test_a_base_model_gets_a_family_by_its_vocabulary_and_a_name_must_be_one():
    chatml = byte_level_tokenizer(("<|im_start|>", "<|im_end|>"))
    assert chosen_family(GPT2Config(), chatml).name in ("internlm2", "qwen", "chatml")
    bare = PreTrainedTokenizerFast(tokenizer_object=byte_level_tokenizer(()).backend_tokenizer)
    with pytest.raises(FamilyError, match=r"no chat template.*llama3 needs.*vicuna needs <s>, </s>.*LanguageFamily"):
        chosen_family(GPT2Config(), bare)
    with pytest.raises(FamilyError, match=r"family='vicunna' is unknown; it must be one of llama3, vicuna"):
        chosen_family(GPT2Config(), bare, "vicunna")
    with pytest.raises(FamilyError, match=r"vicuna needs <s>, </s>"):
        chosen_family(GPT2Config(), bare, "vicuna")
