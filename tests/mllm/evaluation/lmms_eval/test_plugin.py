"""The model as lmms-eval runs it, with the real lmms-eval."""

from types import SimpleNamespace

import pytest

from pargo_mllm.chatting import Chat

pytest.importorskip("lmms_eval", reason="lmms-eval is not installed (make test-lmms-eval): its model was not run")

QUESTIONS = ("which colour", "what shape is at the top", "what is big")


@pytest.fixture
def folder(make_model, processor, tmp_path):
    make_model().save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    return tmp_path


def requests_for(pictures, settings):
    """One picture, text alone, one picture; as lmms-eval hands them to a chat model."""
    documents = [(QUESTIONS[0], pictures[0]), (QUESTIONS[1], None), (QUESTIONS[2], pictures[1])]

    def to_messages(document):
        question, picture = document
        content = [] if picture is None else [{"type": "image", "url": picture}]
        return [{"role": "user", "content": [*content, {"type": "text", "text": question}]}]

    made = [
        SimpleNamespace(args=(document[0], to_messages, settings[index], index, "task", "test"))
        for index, document in enumerate(documents)
    ]
    return made, {"task": {"test": documents}}


@pytest.mark.parametrize("batch_size", [1, 3])
def test_answers_are_the_models_in_the_order_asked(folder, make_model, processor, pictures, batch_size):
    from lmms_eval.models.registry_v2 import ModelRegistryV2

    from pargo_mllm.evaluation.lmms_eval_plugin import manifest

    registry = ModelRegistryV2()
    registry.register_manifest(manifest())
    # the registry checks that it is one of its own models
    model = registry.get_model_class("pargo")(str(folder), batch_size=batch_size, device="cpu")
    settings = [
        {"max_new_tokens": 5, "temperature": 0, "top_p": 0.9},
        {"max_new_tokens": 3},
        {"max_new_tokens": 5, "temperature": 0, "top_p": 0.9},
    ]
    requests, model.task_dict = requests_for(pictures, settings)
    expected = [
        Chat(make_model(), processor, [picture] if picture else [], generation={"max_new_tokens": length}).ask(question)
        for (question, picture), length in zip(model.task_dict["task"]["test"], (5, 3, 5), strict=True)
    ]
    assert model.generate_until(requests) == expected
    word = expected[0].split()[1]
    settings[0]["until"] = [word]
    assert model.generate_until(requests)[0] == expected[0].split(word)[0]


def test_what_is_not_offered_is_named(folder):
    from pargo_mllm.evaluation.lmms_eval_model import ParGoLmmsEval

    with pytest.raises(ValueError, match=r"batch_size='auto' must be a positive number"):
        ParGoLmmsEval(str(folder), batch_size="auto", device="cpu")
    model = ParGoLmmsEval(str(folder), device="cpu")
    with pytest.raises(NotImplementedError, match=r"loglikelihood is not offered"):
        model.loglikelihood([])
    video = [{"role": "user", "content": [{"type": "video", "url": "a.mp4"}]}]
    request = SimpleNamespace(args=("", lambda document: video, {}, 0, "task", "test"))
    model.task_dict = {"task": {"test": [None]}}
    with pytest.raises(ValueError, match=r"holds 'video'; pargo sees pictures and text only"):
        model.generate_until([request])
