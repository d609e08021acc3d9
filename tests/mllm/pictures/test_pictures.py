"""Attention pictures, charts and the report: what they show is what was computed."""

import base64
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from pargo_mllm.demo.report import write_report
from pargo_mllm.pictures.accuracy import draw_accuracy, draw_loss
from pargo_mllm.pictures.attention import attention_figure, draw_token_attention, percent, spread
from pargo_mllm.pictures.token_maps import TokenMaps, token_maps
from tests.mllm.made import by_hand


def on_disk(path):
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def test_maps_are_the_models_attention(make_model, processor, pictures):
    model, picture = make_model(), pictures[1]
    maps = token_maps(model, processor, picture)
    assert (maps.grid, maps.num_partial, maps.num_global, maps.num_layers) == ((4, 4), 8, 2, 3)
    assert maps.picture.shape == (448, 448, 3)
    small = np.asarray(Image.fromarray(maps.picture).resize((28, 28), Image.Resampling.BOX)).astype(float)
    seen = np.asarray(picture.resize((28, 28), Image.Resampling.BICUBIC)).astype(float)
    assert np.corrcoef(small.ravel(), seen.ravel())[0, 1] > 0.9, "framed as for the encoder"
    # weights of the last layer, from the definition: softmax of the queries against all keys
    pixels = processor.image_processor(picture, return_tensors="pt")["pixel_values"]
    kept, projector = [], model.model.projector
    attention = projector.layers[2].cross_attention
    attention.register_forward_pre_hook(lambda _, inputs: kept.extend(inputs[:2]))
    with torch.no_grad():
        projector(model.model.get_vision_features(pixels))
        query, key = attention.q_proj(kept[0][0]), attention.k_proj(kept[1][0])
        halves = [slice(0, 12), slice(12, 24)]
        full = torch.stack([(query[8:, part] @ key[:, part].T / 12**0.5).softmax(-1) for part in halves]).mean(0)
    np.testing.assert_allclose(maps.cross[2, 8:], full.numpy(), atol=1e-5)
    np.testing.assert_allclose(maps.cross.sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize("edge", ["clamp", "truncate"])
def test_reach_is_the_closure_of_slices_and_windows(make_model, processor, pictures, edge):
    maps = token_maps(make_model(edge=edge, num_partial_tokens=7), processor, pictures[0])
    expected = by_hand.reach(7, 3, 16, edge)
    for layer, tokens in enumerate(maps.reach()):
        for token, patches in enumerate(tokens):
            assert set(patches.nonzero()[0]) == expected[layer][token]
    knowledge = maps.knowledge()
    np.testing.assert_allclose(knowledge.sum(-1), 1, atol=1e-5)
    assert ((knowledge > 0) == maps.reach()).all(), "knowledge comes from everything within reach and nothing else"
    for token in range(7):
        assert (maps.owners() == token).nonzero()[0].tolist() == list(by_hand.slice_of(token, 7, 16))


def test_without_the_cascade_a_token_reaches_its_slice(make_model, processor, pictures):
    maps = token_maps(make_model(cascaded_partial_perception=False), processor, pictures[0])
    assert maps.among_partial is None
    assert (maps.reach().sum(-1) == 2).all()


def test_the_model_is_left_as_it_was(make_model, processor, pictures):
    model = make_model().train()
    token_maps(model, processor, pictures[0])
    assert model.training


def test_a_projector_without_attention_is_refused(make_model, processor, pictures, tmp_path):
    with pytest.raises(ValueError, match=r"'linear' has no attention to show.*'pargo' or 'qformer'"):
        draw_token_attention(make_model(projector_type="linear"), processor, pictures[0], tmp_path / "x.png", title="x")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"projector_type": "qformer"},
        {"num_global_tokens": 0},
        {"num_partial_tokens": 0},
        {"global_self_attention": True, "windows": "full"},
        {"cascaded_partial_perception": False, "num_hidden_layers": 1},
    ],
    ids=str,
)
def test_every_projector_that_attends_can_be_drawn(make_model, processor, pictures, tmp_path, options):
    maps = token_maps(make_model(**options), processor, pictures[1])
    figure = attention_figure(maps, "half a formula $x_{ and <b>")
    figure.savefig(tmp_path / "a.png", dpi=30)
    pixels = on_disk(tmp_path / "a.png")
    assert pixels.shape[1] == 13 * 30
    assert pixels.std() > 20, "there is something in it"


def test_the_picture_file(make_model, processor, pictures, tmp_path):
    path = draw_token_attention(make_model(), processor, pictures[0], tmp_path / "new" / "a.png", title="scene")
    height, width, _ = on_disk(path).shape
    assert width == 1430
    assert 1100 < height < 4400
    assert [file.name for file in path.parent.iterdir()] == ["a.png"]


def wide_maps(tokens=10):
    """A picture of 4 x 9 patches with a class token in front."""
    rng = np.random.default_rng(0)
    cross = np.zeros((3, tokens + 1, 37))
    for token in range(tokens):
        seen = list(by_hand.slice_of(token, tokens, 37))
        cross[:, token, seen] = rng.random((3, len(seen)))
    cross[:, tokens] = rng.random((3, 37))
    among = np.zeros((3, tokens, tokens))
    for layer in range(3):
        for token in range(tokens):
            among[layer, token, by_hand.window_of(token, layer + 1, 3, tokens)] = 1
    picture = (255 * rng.random((40, 90, 3))).astype(np.uint8)
    return TokenMaps(
        picture, (4, 9), tokens, cross / cross.sum(-1, keepdims=True), among / among.sum(-1, keepdims=True), [3, 6, 10]
    )


def test_a_wide_grid_with_a_class_token_can_be_drawn(tmp_path):
    maps = wide_maps()
    assert maps.owners().shape == (36,)
    assert maps.owners()[0] == 0
    assert maps.reach()[-1].all()
    figure = attention_figure(maps, "wide")
    figure.savefig(tmp_path / "a.png", dpi=30)
    assert on_disk(tmp_path / "a.png").std() > 20


def test_a_hot_patch_is_bright_where_it_is(tmp_path):
    maps = wide_maps()
    maps.cross[-1, -1] = 0
    maps.cross[-1, -1, 1 + 9 + 7] = 1  # second row, eighth column
    figure = attention_figure(maps, "hot")
    (ax,) = [ax for ax in figure.axes[:3] if ax is figure.axes[2]]
    heat = ax.images[0].get_array().sum(-1)
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert (row // 10, column // 10) == (1, 7)


@pytest.mark.parametrize(("count", "most", "expected"), [(32, 6, 6), (4, 6, 4), (1, 6, 1), (0, 6, 0), (7, 1, 1)])
def test_spread_takes_both_ends(count, most, expected):
    chosen = spread(count, most)
    assert len(chosen) == expected
    assert chosen == sorted(set(chosen))
    if expected > 1:
        assert (chosen[0], chosen[-1]) == (0, count - 1)


@pytest.mark.parametrize(
    ("share", "text"), [(1.0, "100 %"), (0.13, "13 %"), (0.066, "6.6 %"), (0.0996, "10 %"), (0.003, "0.3 %")]
)
def test_percentages_are_short(share, text):
    assert percent(share) == text


HOSTILE = "<script>alert('x')</script> & \"q\" $x_{"


def score(mean):
    return {"mean": mean, "kinds": {"colour": mean + 0.0313, HOSTILE: mean - 0.0219}}


@pytest.fixture
def results():
    log = [{"step": step, "loss": 4 / step} for step in (1, 2, 3)]
    losses = {"stage1": log, "stage2": log}
    return {
        "data": {"name": f"scenes {HOSTILE}", "train": 4999, "test": 401, "questions": 3217},
        "seed": 77,
        "projectors": [
            {
                "name": "ParGo",
                "tokens": 36,
                "before": score(0.0811),
                "stage1": score(0.4022),
                "stage2": score(0.7233),
                "loss": losses,
            },
            {"name": HOSTILE, "tokens": 64, "before": score(0.0944), "stage1": score(0.2055), "loss": {"stage1": log}},
        ],
        "baselines": {"constant": score(0.1266), "text_only": score(0.1177), "shuffled": score(0.1388), HOSTILE: score(0.1499)},
        "seconds": {"stage 1": 61.5, f"stage 2 {HOSTILE}": 1234.5},
        "device": f"CPU {HOSTILE}",
        "versions": {"torch": "2.13.0", HOSTILE: HOSTILE},
        "attention": ["attention.png"],
        "limits": [f"It is small. {HOSTILE}"],
        "shows": [f"It learns. {HOSTILE}"],
    }


class Page(HTMLParser):
    """Text, tags and picture sources of a page."""

    def __init__(self, text):
        super().__init__()
        self.words, self.tags, self.images, self.links = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        values = dict(attrs)
        self.links += [values[name] for name in ("src", "href") if name in values]
        if tag == "img":
            self.images.append(values["src"])

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture
def page(results, tmp_path):
    Image.new("RGB", (30, 20), "red").save(tmp_path / "attention.png")
    path = write_report(tmp_path, results)
    return Page(path.read_text(encoding="utf-8"))


def test_the_report_has_every_number(page, results):
    text = " ".join(page.words)
    shares = [result for one in (*results["projectors"], *results["baselines"].values()) for result in shares_of(one)]
    assert len(shares) == 3 * 9
    for share in shares:
        assert f"{100 * share:.1f} %" in text, share
    for words in ("4,999", "401", "3,217", "seed 77", "61.5 s", "1,234.5 s", "2.13.0", "36", "64"):
        assert words in text
    assert "1,296.0" not in text, "phases run side by side: their sum is no time"
    for sentence in (*results["limits"], *results["shows"], results["device"], results["data"]["name"], HOSTILE):
        assert sentence in text


def shares_of(entry):
    """Every share below an entry of the results."""
    if "mean" in entry:
        return [entry["mean"], *entry["kinds"].values()]
    return [share for stage in ("before", "stage1", "stage2") if stage in entry for share in shares_of(entry[stage])]


def test_names_are_text_and_never_markup(page):
    assert "script" not in page.tags
    assert all(link.startswith("data:image/png;base64,") for link in page.links), "nothing is loaded from elsewhere"


def test_the_report_carries_its_pictures(page, tmp_path):
    embedded = [base64.b64decode(source.split(",", 1)[1]) for source in page.images]
    assert embedded == [(tmp_path / name).read_bytes() for name in ("accuracy.png", "attention.png", "loss.png")]
    for name in ("accuracy.png", "loss.png"):
        height, width, _ = on_disk(tmp_path / name).shape
        assert width == 1210
        assert 370 < height < 1100
    assert not [file for file in tmp_path.iterdir() if "partial" in file.name]


def test_the_best_of_each_stage_is_marked(page, tmp_path):
    marked = re.findall(r"<td class=best>([^<]+)</td>", (tmp_path / "report.html").read_text())
    assert sorted(marked) == ["40.2 %", "72.3 %", "9.4 %"]


@pytest.mark.parametrize("name", ["../outside.png", "/etc/hostname", "sub/a.png"])
def test_pictures_come_from_the_folder_of_the_report(results, tmp_path, name):
    with pytest.raises(ValueError, match=r"must be a file directly in"):
        write_report(tmp_path, {**results, "attention": [name]})


def test_a_report_of_nothing_and_missing_pictures_are_refused(results, tmp_path):
    with pytest.raises(ValueError, match=r"'projectors'.*is empty"):
        write_report(tmp_path, {**results, "projectors": []})
    with pytest.raises(FileNotFoundError, match=r"'attention\.png', which is not in"):
        write_report(tmp_path, results)


def test_bars_are_as_high_as_the_shares(results, tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr("pargo_mllm.pictures.accuracy.save_figure", lambda figure, path: figures.append(figure) or path)
    draw_accuracy(results, tmp_path / "a.png")
    draw_loss(results, tmp_path / "b.png")
    above, below = figures[0].axes
    assert sorted(bar.get_height() for bar in above.patches) == sorted([0.0811, 0.4022, 0.7233, 0.0944, 0.2055])
    assert sorted(bar.get_height() for bar in below.patches) == pytest.approx([0.7233 - 0.0219, 0.7233 + 0.0313])
    assert {line.get_ydata()[0] for line in above.lines} == {0.1266, 0.1177, 0.1388, 0.1499}
    assert [list(line.get_ydata()) for line in figures[1].axes[0].lines] == [[4.0, 2.0, 4 / 3]] * 2
