"""Answers to many conversations are those to each alone."""

import pytest
from PIL import Image

from pargo_mllm.answering import answer, generation_settings


def ask(*parts):
    return [{"role": "user", "content": [*parts]}]


def test_answers_do_not_depend_on_what_else_is_asked(make_model, processor):
    model = make_model().eval()
    pictures = [Image.new("RGB", (30, 20), colour) for colour in ("red", "blue")]
    talks = [
        ask({"type": "image", "image": pictures[0]}, {"type": "text", "text": "what shape"}),
        ask({"type": "text", "text": "which colour is at the top"}),
        ask({"type": "image", "image": pictures[1]}, {"type": "text", "text": "what is at the top"}),
    ]
    settings = generation_settings(5)
    alone = [answer(model, processor, [talk], **settings)[0] for talk in talks]
    assert answer(model, processor, talks, **settings) == alone
    assert answer(model, processor, talks[::-1], **settings) == alone[::-1]
    assert answer(model, processor, [], **settings) == []
    with pytest.raises(ValueError, match="<image>"):
        answer(model, processor, [ask({"type": "text", "text": "what is <image>"})], **settings)


def test_greedy_decoding_has_no_settings_of_sampling():
    assert generation_settings(7, top_p=0.9, num_beams=2) == {"max_new_tokens": 7, "do_sample": False, "num_beams": 2}
    assert generation_settings(7, 0.5, top_p=0.9) == {"max_new_tokens": 7, "do_sample": True, "temperature": 0.5, "top_p": 0.9}
