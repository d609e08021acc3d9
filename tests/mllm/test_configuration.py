import pytest
from transformers import AutoConfig

from pargo_mllm import ParGoConfig, ParGoForConditionalGeneration, ParGoProjectorConfig

WIDTHS = {"vision_hidden_size": 24, "output_size": 32, "num_attention_heads": 2}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"projector_type": "q-former"}, ("projector_type='q-former'", "'pargo'", "'qformer'", "'linear'", "'mlp'")),
        ({"edge": "wrap"}, ("edge='wrap'", "'clamp'", "'truncate'")),
        ({"kernel_impl": "cuda"}, ("kernel_impl='cuda'", "'auto'", "'torch'")),
        ({"num_hidden_layers": 0}, ("num_hidden_layers=0", "at least 1")),
        ({"num_hidden_layers": 2.0}, ("num_hidden_layers=2.0", "integer")),
        ({"num_partial_tokens": -1}, ("num_partial_tokens=-1", "at least 0")),
        ({"num_partial_tokens": True}, ("num_partial_tokens=True", "integer")),
        ({"num_partial_tokens": 0, "num_global_tokens": 0}, ("num_partial_tokens=0", "num_global_tokens=0", "positive")),
        ({"hidden_size": 25}, ("num_attention_heads=2", "hidden_size=25", "divisor")),
        ({"output_size": 0}, ("output_size=0", "at least 1")),
        ({"hidden_act": "gleu"}, ("hidden_act='gleu'", "'gelu'")),
        ({"attention_dropout": 0.1}, ("attention_dropout=0.1", "set it to 0")),
        ({"num_hidden_layers": 3, "windows": [1, 2]}, ("windows=[1, 2]", "num_hidden_layers=3", "'full'")),
        ({"num_hidden_layers": 2, "num_partial_tokens": 8, "windows": [1, 9]}, ("[1, 9]", "holds 9", "num_partial_tokens=8")),
        ({"num_hidden_layers": 2, "num_partial_tokens": 8, "windows": [0, 8]}, ("[0, 8]", "holds 0", "1...")),
    ],
)
def test_projector_errors_name_argument_value_rule_and_way_out(options, said):
    with pytest.raises(ValueError, match=r".") as caught:
        ParGoProjectorConfig(**{**WIDTHS, **options})
    for words in said:
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"projector": {"num_partial_tokens": 17}}, ("num_partial_tokens=17", "16 visual tokens", "28-pixel", "fewer")),
        ({"projector": {"vision_hidden_size": 26}}, ("vision_hidden_size=26", "hidden_size=24", "leave it out")),
        ({"projector": {"output_size": 31}}, ("output_size=31", "hidden_size=32", "leave it out")),
        ({"image_token_id": 99999}, ("image_token_id=99999", "vocabulary", "resize")),
        ({"image_token_id": -1}, ("image_token_id=-1", "vocabulary")),
        ({"vision_config": {"model_type": "no_such_model"}}, ("vision_config", "'no_such_model'", "CONFIG_MAPPING")),
    ],
)
def test_model_errors_name_argument_value_rule_and_way_out(make_config, changes, said):
    good = make_config()
    fields = {name: getattr(good, name) for name in ("vision_config", "text_config", "image_token_id")}
    fields["projector_config"] = {**WIDTHS, "num_partial_tokens": 8, **changes.pop("projector", {})}
    with pytest.raises(ValueError, match=r".") as caught:
        ParGoConfig(**{**fields, **changes})
    for words in said:
        assert words in str(caught.value)


def test_a_qformer_may_have_more_tokens_than_the_picture_has_features(make_config):
    config = make_config(projector_type="qformer", num_partial_tokens=30)
    assert config.num_image_tokens == 32


def test_widths_come_from_the_parts(make_config):
    projector = make_config().projector_config
    assert (projector.vision_hidden_size, projector.output_size, projector.hidden_size) == (24, 32, 24)
    assert projector.intermediate_size == 96


def test_defaults_are_the_papers():
    config = ParGoProjectorConfig(vision_hidden_size=1024, output_size=4096)
    assert (config.num_hidden_layers, config.num_partial_tokens, config.num_global_tokens) == (6, 288, 16)
    assert config.layer_windows == [48, 96, 144, 192, 240, 288]  # the paper, below Eq. 2
    full = ParGoProjectorConfig(vision_hidden_size=1024, output_size=4096, windows="full")
    assert full.layer_windows == [288] * 6
    assert config.edge == "clamp"
    assert not config.global_self_attention


@pytest.mark.parametrize(("kind", "tokens"), [("pargo", 10), ("qformer", 10), ("linear", 16), ("mlp", 16)])
def test_number_of_image_tokens(make_config, kind, tokens):
    assert make_config(projector_type=kind).num_image_tokens == tokens


def test_everything_survives_saving_and_loading(make_config, tmp_path):
    config = make_config(
        windows=[2, 8, 5],
        edge="truncate",
        global_self_attention=True,
        query_position_embeddings=True,
        cascaded_partial_perception=False,
        partial_global_perception=False,
        hidden_act="relu",
        layer_norm_eps=1e-7,
        kernel_impl="torch",
        intermediate_size=17,
    )
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is ParGoConfig
    before, after = config.to_dict(), loaded.to_dict()
    for name in set(before) - {"_name_or_path", "transformers_version"}:
        assert after[name] == before[name], name
    assert loaded.projector_config.layer_windows == [2, 8, 5]


def test_without_arguments_it_has_the_papers_size(tmp_path):
    """transformers builds the default too, to save what differs from it."""
    config = ParGoConfig()
    assert (config.num_visual_tokens, config.num_image_tokens) == (576, 304)
    assert (config.vision_config.hidden_size, config.text_config.hidden_size, config.image_token_id) == (1024, 4096, 32000)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    # where its classes are is said in every folder
    assert {**loaded.to_dict(), "_name_or_path": ""} == {**config.to_dict(), "auto_map": loaded.auto_map}


def implementations(model):
    config = model.config
    return tuple(part._attn_implementation for part in (config.vision_config, config.projector_config, config.text_config))


@pytest.mark.parametrize(
    ("asked", "vision", "projector", "text"),
    [
        (None, "sdpa", "pargo", "sdpa"),
        ("eager", "eager", "pargo", "eager"),
        ("pargo", "sdpa", "pargo", "sdpa"),
        ({"projector_config": "eager"}, "sdpa", "eager", "sdpa"),
        ({"text_config": "eager", "projector_config": "sdpa"}, "sdpa", "sdpa", "eager"),
        ({"": "sdpa", "projector_config": "pargo"}, "sdpa", "pargo", "sdpa"),
    ],
)
def test_attention_implementation_of_every_part(make_model, tmp_path, asked, vision, projector, text):
    make_model().save_pretrained(tmp_path)
    loaded = ParGoForConditionalGeneration.from_pretrained(tmp_path, attn_implementation=asked)
    assert implementations(loaded) == (vision, projector, text)
    # the modules read the configuration they were built with
    assert loaded.model.projector.layers[0].cross_attention.config._attn_implementation == projector


def test_attention_implementation_changes_on_a_living_model(make_model):
    model = make_model()
    model.set_attn_implementation("eager")
    assert implementations(model) == ("eager", "pargo", "eager")
    model.set_attn_implementation({"projector_config": "sdpa"})
    assert implementations(model) == ("eager", "sdpa", "eager")
    model.set_attn_implementation("pargo")
    assert implementations(model) == ("eager", "pargo", "eager")


def test_the_projector_refuses_what_cannot_run_it(make_model):
    with pytest.raises(ValueError, match=r"'flash_attention_2' cannot run the projector.*'pargo'"):
        make_model().set_attn_implementation({"projector_config": "flash_attention_2"})
