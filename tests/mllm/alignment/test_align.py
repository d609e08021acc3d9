"""pargo align in miniature: what it says is what is there, on standard output, in its folder and on its page."""

import json
from html.parser import HTMLParser
from itertools import combinations

import numpy as np
import pytest
import torch
from PIL import Image

from pargo_mllm.alignment.plots import _Sheet, draw
from pargo_mllm.alignment.run import Outcome
from pargo_mllm.alignment.words import word_ids
from pargo_mllm.data.open_corpus import open_corpus
from pargo_mllm.loading import open_model, save_model
from tests.mllm.made.command_line import ended
from tests.mllm.made.miniature_families import make_family
from tests.mllm.made.photographs import CATEGORIES, write_photographs

SIDE, PATCHES = 28, 4
HOSTILE = "<b>&\"'$x"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """ParGo and a linear map before the same language model, the folder of one named as an attack on a page."""
    root = tmp_path_factory.mktemp("models")
    for name, projector in ((HOSTILE, "linear"), ("pargo", "pargo")):
        save_model(*make_family("qwen", projector_type=projector), root / name)
    return root / HOSTILE, root / "pargo"


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    return write_photographs(tmp_path_factory.mktemp("data") / "photographs", count=20)


class Page(HTMLParser):
    """Every element closed in its order; what is loaded, and all text."""

    def __init__(self, page):
        super().__init__()
        self.open, self.loaded, self.titles, self.said, self.elements = [], [], [], "", []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.loaded += [value for name, value in attrs if name in ("src", "href", "data")]
        self.titles += [value for name, value in attrs if name == "title"]
        if tag not in ("meta", "img", "input", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.said += data


def by_hand(folder, data):
    """Accuracy and cosine of a linear projector's patches, from boxes and embeddings by plain arithmetic."""
    model, processor = open_model(folder)
    table = model.get_input_embeddings().weight.detach().double()
    mean = table.mean(0)
    corpus = open_corpus(str(data), 2, "test")
    kept = [index for index in range(len(corpus)) if "3.jpg" not in corpus[index].name]
    instances = json.loads((data / "instances.json").read_text())
    things = {}
    for one in instances["annotations"]:
        things.setdefault(one["image_id"], []).append((CATEGORIES[one["category_id"]], one["bbox"]))
    shown = [things.get(int(corpus[index].name.split(".")[0]), []) for index in kept]
    names = sorted({name for one in shown for name, _ in one})
    words = [table[list(word_ids(processor.tokenizer, name))].mean(0) - mean for name in names]
    right, cosines = [], []
    for index, own in zip(kept, shown, strict=True):
        pixels = processor.image_processor(corpus[index].pictures[0](), return_tensors="pt")["pixel_values"]
        tokens = model.get_image_features(pixels).pooler_output[0].detach().double() - mean
        for patch in range(PATCHES**2):
            row, column = divmod(patch, PATCHES)
            labels = []
            for name, (x, y, width, height) in own:
                across = min((column + 1) * 30, x + width) - max(column * 30, x)
                down = min((row + 1) * 22.5, y + height) - max(row * 22.5, y)
                if max(across, 0) * max(down, 0) >= 0.5 * 30 * 22.5:
                    labels.append(name)
            if labels:
                found = [float(torch.cosine_similarity(tokens[patch], word, dim=0)) for word in words]
                right.append(names[int(np.argmax(found))] in labels)
                cosines.append(max(found[names.index(name)] for name in labels))
    return len(right), np.mean(right), np.mean(cosines)


def test_the_command_in_miniature(models, photographs, tmp_path, capsys):
    words = ("align", *models, "--data", photographs, "--close", 1, "--pictures", 50, "--device", "cpu")
    out, page = tmp_path / "out", tmp_path / "out" / "page.html"
    done = ended(capsys, *words, "--json", "--out", out, "--html", page)
    assert done.status == 0, done.said
    told = json.loads(done.printed)
    assert told == json.loads((out / "align.json").read_text())
    assert sorted(file.name for file in out.iterdir()) == sorted(["align.json", "page.html", *told["plots"]])
    for name in told["plots"]:
        with Image.open(out / name) as drawn:
            assert drawn.format == "PNG"
            assert min(drawn.size) > 100

    data = told["data"]
    assert data["pictures"] + sum(data["skipped"].values()) == data["drawn"]
    assert data["pictures"] == data["with_regions"]
    assert set(data["words"]) <= set(CATEGORIES)
    linear, pargo = told["models"]
    assert (linear["name"], linear["projector"], linear["tokens"]) == (HOSTILE, "linear", 16)
    assert (pargo["projector"], pargo["tokens"], pargo["words"]["tokens"]) == ("pargo", 10, 10)
    scores = linear["alignment"]["centred"]
    assert (scores["tokens"], scores["accuracy"], scores["alignment"]) == pytest.approx(by_hand(models[0], photographs))
    for model in told["models"]:
        assert {len(values) for values in model["by_picture"].values()} == {data["pictures"]}
        assert model["entropy"]["change"]["pictures"] == data["pictures"]
        explained = model["words"]["explained"]
        assert explained == sorted(explained)
    (row,) = [row for row in told["comparison"] if row["figure"] == "entropy_after"]
    pairs = zip(*(model["by_picture"]["entropy_after"] for model in told["models"]), strict=True)
    assert row["difference"] == pytest.approx(np.mean([second - first for first, second in pairs]))

    shown = Page(page.read_text())
    assert {value.partition(",")[0] for value in shown.loaded} <= {"data:image/jpeg;base64", "data:image/png;base64"}
    assert shown.elements.count("script") == 1
    assert shown.elements.count("button") == 2 * PATCHES**2
    assert sum("there is cup" in title for title in shown.titles) > 0
    assert HOSTILE in shown.said

    # once more into the same folder, in words for people
    again = ended(capsys, *words, "--out", out, "--html", page, "--only", "entropy")
    assert again.status == 0, again.said
    assert "entropy of a picture" in again.printed
    assert [file.name for file in out.glob("words-*.png")] == []


def test_what_needs_regions_is_left_out_and_said(models, tmp_path, capsys):
    data = write_photographs(tmp_path / "photographs", instances=False)
    words = ("align", models[0], "--data", data, "--close", 1)
    done = ended(capsys, *words, "--json")
    assert done.status == 0, done.said
    told = json.loads(done.printed)
    (model,) = told["models"]
    assert set(model["left_out"]) == {"alignment", "segmentation", "causal check"}
    assert "--patch-labels" in model["left_out"]["alignment"]
    assert {"alignment", "segmentation"}.isdisjoint(model)
    assert {"entropy", "words", "attribution"} <= set(model)
    assert told["comparison"] == []
    refused = ended(capsys, *words, "--only", "alignment")
    assert (refused.status, "--patch-labels" in refused.said, refused.printed) == (2, True, "")


def test_what_a_file_of_labels_does_not_say_is_not_known(models, tmp_path, capsys):
    """Of four pictures one is named, one is of another shape, and one of its regions is none."""
    data = write_photographs(tmp_path / "photographs", count=20, instances=False)
    names = [open_corpus(str(data), 2, "test").name(index).split()[0] for index in range(4)]
    cat = {"labels": ["cat"], "box": [0, 0, 120, 45]}
    dog = {"labels": ["dog"], "box": [0, 45, 120, 90]}
    lines = [
        {"image": names[0], "size": [120, 90], "regions": [cat, dog, {"labels": ["cat"]}]},
        {"image": names[1], "size": [90, 90], "regions": [{**cat, "box": [0, 0, 9, 9]}]},
        {"image": "elsewhere.jpg", "size": [120, 90], "regions": [cat]},
        3,
    ]

    def look(lines, *more):
        (tmp_path / "regions.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        words = ("align", models[0], "--data", data, "--patch-labels", tmp_path / "regions.jsonl", "--close", 0)
        return ended(capsys, *words, "--only", "alignment", *more)

    done = look(lines, "--json")
    assert done.status == 0, done.said
    told = json.loads(done.printed)
    assert (told["data"]["with_regions"], told["data"]["of_another_shape"]) == (1, 1)
    assert told["data"]["labels"]["pictures"]["skipped"] == {"lines that are no picture with its regions": 1}
    assert told["data"]["labels"]["regions"]["skipped"] == {"regions that have not one of box, polygons and mask": 1}
    scores = told["models"][0]["alignment"]["centred"]
    assert scores["tokens"] + scores["unlabelled"] == PATCHES**2
    assert told["models"][0]["left_out"] == {}
    said = look(lines).printed
    assert f"1 pictures have another shape than {tmp_path / 'regions.jsonl'} says, and are not labelled" in said
    assert "of 5 regions 4 used; 1 skipped: regions that have not one of box" in said
    refused = look(lines[1:])
    assert refused.status == 2
    assert f"says nothing of these {told['data']['pictures']} pictures, but for 1 that have another shape" in refused.said
    # things too small for any token
    lines[0]["regions"] = [{**cat, "box": [0, 0, 2, 2]}, {**dog, "box": [4, 4, 6, 6]}]
    refused = look(lines, "--out", tmp_path / "out")
    assert (refused.status, "--only alignment" in refused.said) == (2, True)
    words = ("align", models[0], "--data", data, "--patch-labels", tmp_path / "regions.jsonl", "--close", 0)
    done = ended(capsys, *words, "--out", tmp_path / "out", "--json")
    assert done.status == 0, done.said
    assert json.loads((tmp_path / "out" / "align.json").read_text())["models"][0]["by_picture"]["accuracy"] == 4 * [None]


def test_nothing_is_drawn_of_figures_that_no_picture_has(tmp_path):
    told = {"models": [{"name": "one", "by_picture": {"accuracy": [None, None]}}]}
    assert draw(Outcome(told), tmp_path) == {}


def test_what_is_somebodys_stays(models, photographs, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    (tmp_path / "page.html").write_text("mine")
    (tmp_path / "list.json").write_text("[]")
    begins = ("align", models[0], "--data", photographs)
    for words, said in (
        ((*begins, "--out", tmp_path / "full"), "holds something else"),
        ((*begins, "--out", tmp_path / "page.html"), "no folder"),
        ((*begins, "--html", tmp_path / "page.html"), "not written over"),
        (("align", models[0], models[0], "--data", photographs), "given twice"),
        (("align", tmp_path / "full", "--data", photographs), "config.json"),
        (("align", models[0], "--data", tmp_path / "nowhere"), "does not exist"),
        ((*begins, "--patch-labels", tmp_path / "nowhere"), "nowhere"),
        ((*begins, "--html", tmp_path / "nowhere" / "x.html"), "nowhere is no folder"),
        ((*begins, "--only", "entropy", "--num-words", 5), "--num-words is of the part words"),
        ((*begins, "--only", "words", "--close", 0), "--close is 0"),
        ((*begins, "--held-out", "0.5"), "--held-out 0.5 is of a LLaVA list or shards"),
        (("align", models[0], "--data", "scenes", "--held-out", "0.5"), "--held-out 0.5 is of a LLaVA list or shards"),
        (("align", models[0], "--data", tmp_path / "list.json"), "--held-out"),
    ):
        refused = ended(capsys, *words)
        assert (refused.status, refused.printed, said in refused.said) == (2, "", True), refused.said
        assert refused.said.count("\n") == 1
    assert (tmp_path / "full" / "thesis.txt").read_text() == (tmp_path / "page.html").read_text() == "mine"


def test_a_model_of_tiles_and_one_without_parts_of_its_own(photographs, tmp_path, capsys):
    model, processor = make_family("qwen", projector_type="qformer")
    processor.max_tiles = 4
    save_model(model, processor, tmp_path / "qformer")
    done = ended(capsys, "align", tmp_path / "qformer", "--data", photographs, "--json", "--close", 1)
    assert done.status == 0, done.said
    (told,) = json.loads(done.printed)["models"]
    assert "in one piece" in told["notes"][0]
    assert set(told["attribution"]["methods"]) == {"jacobian", "gradient", "attention", "rollout"}
    assert told["segmentation"]["pictures"] > 0


def test_words_on_a_picture_do_not_run_into_each_other(tmp_path):
    """Words of neighbouring patches: the boxes of what is drawn do not meet, and lie on their panel."""
    said = [""] * 64
    said[24], said[27], said[28], said[29], said[31] = "triangle", "square", "cross", "rectangle", "circle"
    sheet = _Sheet(1, 1, "words")
    for place, word in enumerate(said):
        if word:
            sheet.write(0, 0, word, (place % 8 + 0.5) / 8, (place // 8 + 0.5) / 8)
    sheet.save(tmp_path / "words.png")
    drawn = [text for text in sheet.ax.texts if text.get_text() in said]
    boxes = [text.get_window_extent() for text in drawn]
    assert len(boxes) == 5
    assert not [(one, other) for one, other in combinations(boxes, 2) if one.overlaps(other)]
