"""The causal check: it believes maps of a model that looks at one patch by construction, and no map of one that is blind."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pargo_mllm import ParGoProcessor
from pargo_mllm.alignment.ablation import REMOVALS, CausalQuestion, causal_check, without
from pargo_mllm.alignment.attribution import AttributionError, possible_methods
from pargo_mllm.alignment.attribution.asked import Asked, answered
from tests.mllm.made.miniature_families import FAMILY_NAMES, make_family
from tests.mllm.made.planted import BLUE, RED, covered, plant, spot
from tests.mllm.made.tiny_causal import IMAGE, behind_pictures, tiny_model

PLANTED = {
    "linear": {"projector_type": "linear"},
    "pargo": {
        "num_partial_tokens": 8,
        "num_global_tokens": 0,
        "num_hidden_layers": 1,
        "cascaded_partial_perception": False,
    },
}


@pytest.fixture
def processor_of(processor, tokenizer):
    def make(model):
        return ParGoProcessor(processor.image_processor, tokenizer, num_image_tokens=model.config.num_image_tokens)

    return make


def ask(picture, words="which colour"):
    return [{"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": words}]}]


def questions(count=5, **changes):
    """About spots in different places; the other question of each is about a shape."""
    places = [(5 * number + 2) % 16 for number in range(count)]
    for number, place in enumerate(places):
        colour, answer = ((RED, "red"), (BLUE, "blue"))[number % 2]
        picture = spot(place, colour)
        made = {"answer": answer, "coverage": covered(place), "other": (ask(picture, "what shape"), "two")}
        yield CausalQuestion(ask(picture), **{**made, **changes})


@pytest.mark.parametrize(("kind", "remove"), [("linear", "mean"), ("linear", "drop"), ("linear", "block"), ("pargo", "mean")])
def test_maps_of_a_model_that_looks_at_one_patch_are_believed(make_model, processor_of, tokenizer, kind, remove):
    model = plant(make_model(**PLANTED[kind]), tokenizer)
    methods = ["slices", "jacobian", "answer_gradient", "random"]
    found = causal_check(model, processor_of(model), questions(), methods, remove=remove, draws=12)
    assert (found.used, found.skipped, found.left_out) == (5, {}, {})
    for method in methods[:-1]:
        check = found.methods[method]
        assert check.verdict == "believed", method
        assert (check.lost, check.p < 0.05) == (1.0, True)
        assert check.effect.value > 5 * check.random
        assert abs(check.control.value) < 1e-3, "what shape it is does not depend on it"
        assert check.specific.value == pytest.approx(check.difference.value, abs=1e-3)
    by_chance = found.methods["random"]
    assert by_chance.verdict == "no difference"
    assert by_chance.random == found.methods["jacobian"].random, "the same draws for all methods"
    assert by_chance.spread > 0
    for one in found.methods["jacobian"].removals:
        assert (one.count, one.said, one.lost) == (1, True, True)
        assert 0 <= one.random_lost < 0.5


def test_no_map_of_a_blind_model_is_believed(make_model, processor_of, tokenizer):
    model = plant(make_model(**PLANTED["linear"]), tokenizer, looks=False)
    found = causal_check(model, processor_of(model), questions(), draws=4)
    assert set(found.methods) == {"slices", "jacobian", "gradient", "answer_gradient", "answer_attention", "random"}
    assert {check.verdict for check in found.methods.values()} == {"no difference"}
    assert all(abs(check.difference.value) < 1e-5 for check in found.methods.values())


def test_a_map_that_points_elsewhere_is_not_believed(make_model, processor_of, tokenizer):
    model = plant(make_model(**PLANTED["linear"]), tokenizer)
    wrong = [CausalQuestion(ask(spot(place, RED)), "red", covered((place + 5) % 16)) for place in range(0, 16, 2)]
    check = causal_check(model, processor_of(model), wrong, ["jacobian"], draws=30).methods["jacobian"]
    assert abs(check.effect.value) < 1
    assert check.verdict in ("no difference", "worse than random")
    assert (check.control, check.specific) == (None, None)


@pytest.mark.long
def test_random_maps_are_called_better_as_often_as_chance_has_it():
    model, processor = make_family("qwen", projector_type="linear")
    generator = torch.Generator().manual_seed(0)
    some = [Image.effect_noise((28, 28), 60 + 10 * number).convert("RGB") for number in range(5)]
    asked = [CausalQuestion(ask(one), "no", torch.rand(16, generator=generator) / 3) for one in some]
    p = [
        causal_check(model, processor, asked, ["random"], draws=8, seed=seed, batch=64).methods["random"].p
        for seed in range(12)
    ]
    assert sum(one < 0.05 for one in p) <= 2
    assert sum(p) / 12 > 0.25, "the larger of two p, each of them uniform"


KINDS = dict(zip(FAMILY_NAMES, ("pargo", "resampler", "c_abstractor", "d_abstractor"), strict=True))


@pytest.mark.parametrize(
    "family", ["qwen", *(pytest.param(name, marks=pytest.mark.long) for name in FAMILY_NAMES if name != "qwen")]
)
def test_any_family_and_way_to_remove(family, pictures):
    model, processor = make_family(family, projector_type=KINDS[family])
    model.train()
    asked = [CausalQuestion(ask(picture), "no", covered(3), group="same") for picture in pictures[:2]]
    for remove in REMOVALS:
        found = causal_check(model, processor, asked, remove=remove, draws=2)
        assert list(found.methods) == [
            *possible_methods(model.model.projector),
            "answer_gradient",
            "answer_attention",
            "random",
        ]
        assert {check.verdict for check in found.methods.values()} == {"undecided"}, "one picture"
        json.dumps(found.as_json(), allow_nan=False)
    assert model.training
    one_by_one = causal_check(model, processor, asked, remove=remove, draws=2, batch=1)
    for method, check in found.methods.items():
        assert one_by_one.methods[method].effect.value == pytest.approx(check.effect.value, abs=1e-4)


def test_which_methods_are_asked_for_changes_no_figure(pictures):
    model, processor = make_family("qwen", projector_type="linear")
    asked = [CausalQuestion(ask(picture), "no", covered(3)) for picture in pictures[:2]]
    alone = causal_check(model, processor, asked, ["random"], draws=3).methods["random"]
    beside = causal_check(model, processor, asked, ["slices", "random"], draws=3).methods["random"]
    for one, other in zip(alone.removals, beside.removals, strict=True):
        assert one.effect == pytest.approx(other.effect, abs=1e-5)
        assert one.random == pytest.approx(other.random, abs=1e-5)


def test_tiles_are_checked_as_one_picture(processor, make_model, monkeypatch):
    monkeypatch.setattr(processor, "max_tiles", 4)
    monkeypatch.setattr(processor, "num_image_tokens", 16)
    monkeypatch.setattr(processor, "tokens_per_tile", True)
    wide = Image.effect_noise((112, 28), 90).convert("RGB")
    coverage = torch.zeros(64)
    coverage[10:20] = 1
    asked = [CausalQuestion(ask(wide), "red", coverage)]
    found = causal_check(make_model(projector_type="linear"), processor, asked, ["jacobian"], draws=2)
    assert found.methods["jacobian"].removals[0].count == 10


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_what_is_taken_away_and_what_stays(data):
    length, tokens = data.draw(st.integers(5, 12)), data.draw(st.integers(2, 4))
    first = data.draw(st.integers(0, length - tokens))
    embeddings = torch.randn(length, 3, generator=torch.Generator().manual_seed(length))
    one = Asked(embeddings, torch.arange(first, first + tokens), torch.tensor([1]), torch.zeros(1, 1, 1), {})
    count = data.draw(st.integers(1, tokens - 1))
    sets = torch.tensor([data.draw(st.permutations(range(tokens)))[:count] for _ in range(3)])
    for remove in REMOVALS:
        rows, mask = without(one, sets, remove)
        for row, gone in enumerate((sets + first).tolist()):
            left = [place for place in range(length) if place not in gone]
            if remove == "drop":
                assert torch.equal(rows[row], embeddings[left])
                continue
            assert torch.equal(rows[row, left], embeddings[left])
            if remove == "block":
                assert mask[row].nonzero()[:, 0].tolist() == left
            else:
                mean = embeddings[[place for place in left if first <= place < first + tokens]].mean(0)
                torch.testing.assert_close(rows[row, gone], mean.expand(count, -1))
        assert (mask is not None) == (remove == "block")


def test_questions_that_cannot_be_used_are_counted(make_model, processor_of, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    broken = [{"role": "user", "content": [{"type": "image", "path": str(tmp_path / "broken.png")}]}]
    model = make_model(projector_type="linear")
    given = [
        *questions(2),
        CausalQuestion(ask(spot(0, RED)), "red", torch.zeros(16)),
        CausalQuestion(broken, "red", covered(0)),
        CausalQuestion(ask(spot(0, RED)), "", covered(0)),
        CausalQuestion(ask(spot(0, RED)), "zebra", covered(0)),
        CausalQuestion(ask(spot(0, RED)), None, covered(0)),
        CausalQuestion(ask(spot(0, RED)), "<image>", covered(0)),
        CausalQuestion([{"role": "user", "content": "which colour"}], "red", covered(0)),
        CausalQuestion([{**ask(spot(0, RED))[0], "content": ask(spot(0, RED))[0]["content"] * 2}], "red", covered(0)),
        CausalQuestion([], "red", covered(0)),
        CausalQuestion([{}], "red", covered(0)),
    ]
    found = causal_check(model, processor_of(model), given, ["slices"], draws=2)
    assert (found.used, sum(found.skipped.values())) == (2, len(given) - 2)
    assert {
        "the answer '' is no text; it must be what the model says, or should say",
        "the conversation shows 2 pictures; what an answer comes from is told of one",
    } <= found.skipped.keys()
    assert found.skipped["the object covers no patch that the encoder sees"] == 1
    assert [one.question for one in found.methods["slices"].removals] == [0, 1]
    with pytest.raises(AttributionError, match=r"no question can be checked; 1 skipped: the object covers no patch"):
        causal_check(model, processor_of(model), given[2:3], ["slices"])
    with pytest.raises(AttributionError, match="no question can be checked: there is none"):
        causal_check(model, processor_of(model), [], ["slices"])


def test_what_cannot_be_checked_is_refused(make_model, processor_of, pictures):
    model = make_model(projector_type="qformer")
    one = CausalQuestion(ask(pictures[0]), "red", covered(0))

    def refused(message, questions=(one,), methods=("jacobian",), **options):
        with pytest.raises(AttributionError, match=message):
            causal_check(model, processor_of(model), questions, methods, **options)

    refused("'slices' is not possible for projector_type='qformer'", methods=["slices"])
    refused("method='lime' names no tokens; for this model there are jacobian, gradient, .*random", methods=["lime"])
    refused("remove='erase' takes no tokens away; there are mean, drop, block", remove="erase")
    refused("draws=1 must be at least 2", draws=1)
    refused("draws=2.5 must be at least 2", draws=2.5)
    refused("seed=-1 must be", seed=-1)
    refused("chunk=0 must be at least 1", chunk=0)
    refused(r"methods=\[\] must be a list of names; there are jacobian", methods=[])
    refused("methods='jacobian' must be a list of names", methods="jacobian")
    refused("question 0: other='zz'", [CausalQuestion(one.conversation, "red", covered(0), "zz")])
    refused(r"question 0: coverage of shape \[9\] must be \[16\]", [CausalQuestion(one.conversation, "red", torch.ones(9))])
    refused("question 0: coverage", [CausalQuestion(one.conversation, "red", torch.full((16,), float("nan")))])
    other = CausalQuestion(one.conversation, "red", covered(0), (ask(pictures[1]), "two"))
    refused("question 0: its other question shows another picture", [other])
    two = [{"role": "user", "content": [*ask(pictures[0])[0]["content"], *ask(pictures[1])[0]["content"]]}]
    refused("1 skipped: the conversation shows 2 pictures", [CausalQuestion(two, "red", covered(0))])


def test_blocking_is_refused_where_a_mask_hides_nothing():
    from pargo_mllm.alignment.ablation import _check_blocking

    for model_type, hides in (("llama", True), ("rwkv", False)):
        model = behind_pictures(tiny_model(model_type))
        with torch.no_grad():
            embeddings = model.get_input_embeddings()(torch.tensor([3, 4, *[IMAGE] * 4, 7, 8]))
        one = Asked(embeddings + torch.randn(8, 32) / 9, torch.arange(2, 6), torch.tensor([8]), torch.zeros(1, 1, 1), {})
        if hides:
            _check_blocking(model, one)
        else:
            with pytest.raises(AttributionError, match="remove='block' is not possible"):
                _check_blocking(model, one)
        with torch.no_grad():
            assert answered(model, *[without(one, torch.tensor([[1]]), "drop")[0], one.answer])[0].isfinite()
