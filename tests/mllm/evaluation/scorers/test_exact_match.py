"""Scores against what generate() says, word by word."""

import pytest
import torch

from pargo_mllm.data.corpus import about_image
from pargo_mllm.data.feeding.collation import RowCollator
from pargo_mllm.data.questions import Question
from pargo_mllm.evaluation.scorers.constant import best_constant_score
from pargo_mllm.evaluation.scorers.exact_match import Score, exact_match, shuffled
from tests.mllm.made.items import items_about

ASKED = ("what shape", "which colour is at the top", "what is at the top")
# what is asked for in the tests is partly not what was learned
LEARNED = [("circle", "red", "big blue square"), ("square", "green", "one circle"), ("circle", "blue", "three")]
ANSWERS = [("circle", "red", "big blue"), ("square", "green", "one circle"), ("circle", "blue", "three circle")]


@pytest.fixture(scope="module")
def features():
    return torch.randn(3, 16, 24, generator=torch.Generator().manual_seed(2))


def dataset(processor, answers, features, kinds=None):
    pairs = [list(zip(ASKED, of_one, strict=True)) for of_one in answers]
    return items_about(processor, pairs, features[: len(pairs)], kinds)


@pytest.fixture(scope="module")
def trained(make_model, processor, features):
    """A model that gives the answers."""
    model, data = make_model(), dataset(processor, LEARNED, features)
    batch = RowCollator(processor.tokenizer.pad_token_id, pack=False)(data)
    del batch["contents"]
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(25):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


@torch.no_grad()
def spoken(model, processor, prompt, features):
    """What generate() says, decoded."""
    text = processor.apply_chat_template(about_image(prompt, "")[:1], add_generation_prompt=True)
    text = text.replace(processor.image_token, processor.image_token * processor.num_image_tokens)
    inputs = processor.tokenizer(text, add_special_tokens=False, return_tensors="pt")
    said = model.generate(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        vision_features=features[None],
        max_new_tokens=6,
        do_sample=False,
        eos_token_id=processor.tokenizer.eos_token_id,
        pad_token_id=processor.tokenizer.pad_token_id,
    )
    return processor.tokenizer.decode(said[0, inputs["input_ids"].shape[1] :])


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_exact_match_is_what_generate_would_say(trained, processor, features, batch_size):
    data = dataset(processor, ANSWERS, features)
    # a picture that could not be read counts nothing
    skipped = {**data[0], "skipped": ("picture", "damaged")}
    score = exact_match(trained, [data[0], skipped, *data[1:]], processor.tokenizer.pad_token_id, batch_size=batch_size)
    expected = {
        f"{index} {prompt}": int(spoken(trained, processor, prompt, features[index]) == f"{answer} </s>")
        for index in range(3)
        for number, (prompt, answer) in enumerate(zip(ASKED, ANSWERS[index], strict=True))
    }
    assert score.right == expected
    assert 0 < sum(expected.values()) < 9, "a test with both right and wrong answers"
    assert set(score.asked.values()) == {1}
    assert score.mean == pytest.approx(sum(expected.values()) / 9)


def test_an_answer_that_goes_on_or_stops_too_early_is_wrong(trained, processor, features):
    said = spoken(trained, processor, ASKED[2], features[0]).removesuffix(" </s>").split()
    assert len(said) >= 2
    for words, right in ((said, True), (said[:-1], False), ([*said, "big"], False)):
        data = dataset(processor, [("circle", "red", " ".join(words))], features, kinds="abc")
        score = exact_match(trained, data, processor.tokenizer.pad_token_id)
        assert score.accuracy("c") == right


def test_hidden_pictures_do_not_matter(trained, processor, features):
    scores = []
    for source in (features, 9 * torch.randn_like(features)):
        data = dataset(processor, ANSWERS, source, kinds="abc")
        scores.append(exact_match(trained, data, processor.tokenizer.pad_token_id, hide_pictures=True))
    assert scores[0] == scores[1]
    seen = exact_match(trained, dataset(processor, ANSWERS, features, kinds="abc"), processor.tokenizer.pad_token_id)
    assert seen != scores[0]


def test_the_model_is_left_in_the_mode_it_was_in(trained, processor, features):
    for training in (True, False):
        trained.train(training)
        exact_match(trained, dataset(processor, ANSWERS, features), processor.tokenizer.pad_token_id)
        assert trained.training == training


@pytest.mark.parametrize("count", [2, 3, 7])
def test_shuffling_leaves_no_picture_in_its_place(count):
    items = [{"vision_features": index, "name": index} for index in range(count)]
    mixed = [item["vision_features"] for item in shuffled(items)]
    assert [item["name"] for item in shuffled(items)] == list(range(count))
    assert sorted(mixed) == list(range(count))
    assert all(index != other for index, other in enumerate(mixed))


def test_the_best_constant_answers_what_training_says_most_often():
    train = [("shape", "circle"), ("shape", "circle"), ("shape", "square"), ("colour", "red")]
    held_out = [("shape", "circle"), ("shape", "square"), ("shape", "square"), ("colour", "blue"), ("new", "x")]
    score = best_constant_score(*([Question(kind, "?", answer) for kind, answer in asked] for asked in (train, held_out)))
    assert score.right == {"shape": 1, "colour": 0, "new": 0}
    assert score.asked == {"shape": 3, "colour": 1, "new": 1}
    assert score.mean == pytest.approx(1 / 9)


def test_the_mean_counts_every_kind_the_same():
    score = Score()
    for kind, right in (("a", True), ("a", True), ("a", True), ("b", False)):
        score.add(kind, right)
    assert score.mean == 0.5
    assert Score().mean == 0
