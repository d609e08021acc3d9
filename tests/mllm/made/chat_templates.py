"""Chat templates without marks, in the public formats of chat models, and what two turns look like in each by hand.

None is the text of a published file: each is written here from what the makers say of their format.
"""

from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from tests.mllm.made.miniature_families import byte_level_tokenizer, sentencepiece_tokenizer

_ALTERNATE = (
    "{%- for message in messages -%}"
    "{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}"
    "{{- raise_exception('roles must alternate: user, assistant, user, …') -}}"
    "{%- endif -%}"
)


@dataclass(frozen=True)
class Format:
    """``text`` of the conversation :data:`TURNS` (with :data:`SYSTEM` in front where ``system``), and its marked parts."""

    template: str
    special: tuple[str, ...]
    text: str
    said: tuple[str, str]
    turn_end: str
    bos: str | None = None
    eos: str | None = None
    system: bool = True
    sentencepiece: bool = False


SYSTEM = {"role": "system", "content": "Be brief."}
TURNS = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]},
    {"role": "assistant", "content": "A cat."},
    {"role": "user", "content": "Sure?"},
    {"role": "assistant", "content": "Yes."},
]

_CHATML = (
    "{% for message in messages %}"
    "{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou are an assistant.<|im_end|>\\n' }}"
    "{% endif %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_CHATML_TEXT = (
    "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n<image>\nWhat?<|im_end|>\n"
    "<|im_start|>assistant\nA cat.<|im_end|>\n<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\nYes.<|im_end|>\n"
)
_IM = ("<|im_start|>", "<|im_end|>")
_HEADERS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")


def _header(role, text):
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n{text}<|eot_id|>"


FORMATS = {
    "smollm2": Format(
        _CHATML, ("<|endoftext|>", *_IM), _CHATML_TEXT, ("A cat.<|im_end|>", "Yes.<|im_end|>"), "<|im_end|>", _IM[0], _IM[1]
    ),
    "qwen2": Format(_CHATML, _IM, _CHATML_TEXT, ("A cat.<|im_end|>", "Yes.<|im_end|>"), "<|im_end|>", None, "<|im_end|>"),
    "internlm2": Format(
        "{{ bos_token }}" + _CHATML.replace("'<|im_start|>system\\nYou are an assistant.<|im_end|>\\n'", "''"),
        _IM,
        "<s>" + _CHATML_TEXT,
        ("A cat.<|im_end|>", "Yes.<|im_end|>"),
        "<|im_end|>",
        "<s>",
        "</s>",
        sentencepiece=True,
    ),
    "llama3": Format(
        "{% for message in messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'"
        " + message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}"
        "{% endif %}{{ content }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}",
        ("<|begin_of_text|>", "<|end_of_text|>", *_HEADERS),
        "<|begin_of_text|>"
        + _header("system", "Be brief.")
        + _header("user", "<image>\nWhat?")
        + _header("assistant", "A cat.")
        + _header("user", "Sure?")
        + _header("assistant", "Yes."),
        ("A cat.<|eot_id|>", "Yes.<|eot_id|>"),
        "<|eot_id|>",
        "<|begin_of_text|>",
        "<|end_of_text|>",
    ),
    "mistral": Format(
        "{{ bos_token }}" + _ALTERNATE + "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
        "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}{% else %}"
        "{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}",
        (),
        "<s>[INST] <image>\nWhat? [/INST]A cat.</s>[INST] Sure? [/INST]Yes.</s>",
        ("A cat.</s>", "Yes.</s>"),
        "</s>",
        "<s>",
        "</s>",
        system=False,
        sentencepiece=True,
    ),
    "llama2": Format(
        "{% if messages[0]['role'] == 'system' %}{% set turns = messages[1:] %}{% set told = messages[0]['content'] %}"
        "{% else %}{% set turns = messages %}{% set told = false %}{% endif %}{% for message in turns %}"
        "{% if loop.index0 == 0 and told != false %}"
        "{% set content = '<<SYS>>\\n' + told + '\\n<</SYS>>\\n\\n' + message['content'] %}"
        "{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}"
        "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
        "{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
        (),
        "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n<image>\nWhat? [/INST] A cat. </s><s>[INST] Sure? [/INST] Yes. </s>",
        (" A cat. </s>", " Yes. </s>"),
        "</s>",
        "<s>",
        "</s>",
        sentencepiece=True,
    ),
    "zephyr": Format(
        "{% for message in messages %}\n{% if message['role'] == 'user' %}\n"
        "{{ '<|user|>\\n' + message['content'] + eos_token }}"
        "\n{% elif message['role'] == 'system' %}\n{{ '<|system|>\\n' + message['content'] + eos_token }}\n"
        "{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\\n'  + message['content'] + eos_token }}\n{% endif %}\n"
        "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}",
        (),
        "<|system|>\nBe brief.</s>\n<|user|>\n<image>\nWhat?</s>\n<|assistant|>\nA cat.</s>\n<|user|>\nSure?</s>\n"
        "<|assistant|>\nYes.</s>\n",
        ("A cat.</s>", "Yes.</s>"),
        "</s>",
        "<s>",
        "</s>",
        sentencepiece=True,
    ),
    "gemma": Format(
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        + _ALTERNATE
        + "{% if message['role'] == 'assistant' %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}"
        "{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}",
        ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
        "<bos><start_of_turn>user\n<image>\nWhat?<end_of_turn>\n<start_of_turn>model\nA cat.<end_of_turn>\n"
        "<start_of_turn>user\nSure?<end_of_turn>\n<start_of_turn>model\nYes.<end_of_turn>\n",
        ("A cat.<end_of_turn>", "Yes.<end_of_turn>"),
        "<end_of_turn>",
        "<bos>",
        "<eos>",
        system=False,
    ),
    "phi3": Format(
        "{% for message in messages %}{{'<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n'}}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}",
        ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        "<|system|>\nBe brief.<|end|>\n<|user|>\n<image>\nWhat?<|end|>\n<|assistant|>\nA cat.<|end|>\n<|user|>\nSure?<|end|>\n"
        "<|assistant|>\nYes.<|end|>\n<|endoftext|>",
        ("A cat.<|end|>", "Yes.<|end|>"),
        "<|end|>",
        None,
        "<|endoftext|>",
    ),
    "phi4": Format(
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '<|im_sep|>' + message['content'] + '<|im_end|>' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}",
        (*_IM, "<|im_sep|>"),
        "<|im_start|>system<|im_sep|>Be brief.<|im_end|><|im_start|>user<|im_sep|><image>\nWhat?<|im_end|>"
        "<|im_start|>assistant<|im_sep|>A cat.<|im_end|><|im_start|>user<|im_sep|>Sure?<|im_end|>"
        "<|im_start|>assistant<|im_sep|>Yes.<|im_end|>",
        ("A cat.<|im_end|>", "Yes.<|im_end|>"),
        "<|im_end|>",
        None,
        "<|im_end|>",
    ),
    # marks of its own, around the answer and its end
    "smollm3": Format(
        _CHATML.replace(
            "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}",
            "{{ '<|im_start|>' + message['role'] + '\\n' }}{% if message['role'] == 'assistant' %}{% generation %}"
            "{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{% else %}{{ message['content'] + '<|im_end|>' }}"
            "{% endif %}"
            "{{ '\\n' }}",
        ),
        _IM,
        _CHATML_TEXT,
        ("A cat.<|im_end|>", "Yes.<|im_end|>"),
        "<|im_end|>",
        None,
        "<|im_end|>",
    ),
}
# what training with them would get wrong, with a word of the refusal
REFUSED = {
    # thoughts in front of the last answer alone: what stands in front of an answer changes once another one follows
    "qwen3": (
        _CHATML.replace(
            "message['content'] + '<|im_end|>'",
            "('<think>\\n\\n</think>\\n\\n' if message['role'] == 'assistant' and loop.last else '')"
            " + message['content'] + '<|im_end|>'",
        ),
        "puts '<think>",
    ),
    "no end": (
        "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}",
        "no control token",
    ),
    "upper case": (_CHATML.replace("message['content']", "message['content'] | upper"), "puts 'THE LEFT ONE."),
    "marks without the end": (
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}{% if message['role'] == 'assistant' %}"
        "{% generation %}{{ message['content'] }}{% endgeneration %}{% else %}{{ message['content'] }}{% endif %}"
        "{{ '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
        "it marks 'The left one.'",
    ),
    "a prompt of another kind": (_CHATML.replace("'<|im_start|>assistant\\n'", "'<|im_start|>bot\\n'"), "otherwise"),
    "raises": ("{{ raise_exception('no') }}", "refuses the conversation: no"),
}


def make_tokenizer(name):
    """A tokenizer that brings the template of a format."""
    form = FORMATS[name]
    if form.sentencepiece:
        tokenizer = sentencepiece_tokenizer(form.special)
    else:
        backend = byte_level_tokenizer(form.special).backend_tokenizer
        roles = {"bos_token": form.bos, "eos_token": form.eos}
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **{role: name for role, name in roles.items() if name})
    tokenizer.chat_template = form.template
    return tokenizer
