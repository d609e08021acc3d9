"""Cards of data: what they count, against counts of their own; and what strangers wrote, which they only show."""

from __future__ import annotations

import base64
import io
import json
import re
import statistics
import tarfile
from collections import Counter
from html.parser import HTMLParser

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pargo_cli.main import main
from pargo_mllm.jobs import engine_of
from pargo_mllm.pictures.lengths import quantile
from pargo_mllm.validation.card.about import about_of
from pargo_mllm.validation.card.run import CardError, make_card
from pargo_mllm.validation.card.words import Spoken, Tops
from pargo_mllm.validation.division import part_of
from tests.mllm.made import official
from tests.mllm.made.photographs import noise_picture


class Page(HTMLParser):
    """Its text, its pictures, and whatever stands in it that is no element of ours."""

    def __init__(self, html):
        super().__init__()
        self.said, self.pictures, self.strange, self.open = [], [], [], []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "img"):
            self.open.append(tag)
        if tag in ("script", "iframe", "a", "object", "link") or any(name.startswith("on") for name, _ in attributes):
            self.strange.append(tag)
        if tag == "img":
            source = dict(attributes)["src"]
            assert source.startswith("data:image/")
            self.pictures.append(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.said.append(data)


def card(data, *options):
    """The JSON of the command, its page, its README and that one's front matter."""
    out = data.parent / "card"
    assert main(["data", "card", str(data), "--out", str(out), *options]) == 0
    readme = (out / "README.md").read_text(encoding="utf-8")
    return Page((out / "card.html").read_text(encoding="utf-8")), readme, yaml.safe_load(readme.split("---\n")[1])


def listed(folder, answers, **more):
    """A LLaVA list of records about one picture each, of different sizes."""
    (folder / "images").mkdir()
    records = []
    for number, answer in enumerate(answers):
        noise_picture(40 + number, 30, number).save(folder / "images" / f"{number}.png")
        turns = [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": answer}]
        records.append({"id": f"r{number}", "image": f"{number}.png", "conversations": turns, **more})
    (folder / "data.json").write_text(json.dumps(records))
    return folder / "data.json"


def test_figures_are_those_of_the_prepared_set(tmp_path, capsys):
    (tmp_path / "source").mkdir()
    truth = official.write("coco_captions", tmp_path / "source")
    words = ["data", "prepare", "coco_captions", "--src", tmp_path / "source", "--out", tmp_path / "out", "--json"]
    assert main([*map(str, words)]) == 0
    about = json.loads(capsys.readouterr().out)
    page, readme, front = card(tmp_path / "out", "--json")
    told = json.loads(capsys.readouterr().out)
    captions = [said for one in truth.said.values() for said in one]
    assert (told["samples"], told["answers"], told["pictures"], told["picture_files"]) == (30, 30, 30, 6)
    assert told["mean_characters"] == about["mean_characters"] == round(statistics.mean(map(len, captions)), 2)
    assert told["mean_words"] == round(statistics.mean(len(caption.split()) for caption in captions), 2)
    assert front == {
        "pretty_name": "COCO Captions 2017",
        "license": "other",
        "license_name": "see-below",
        "task_categories": ["image-to-text"],
        "size_categories": ["n<1K"],
    }
    said = "\n".join(page.said)
    for text in ("COCO-Caption", "118K", "52", about["licence"], "captions that say nothing", "photograph"):
        assert text in said
    assert "captions CC BY 4.0" in readme
    assert all(f"]({name}.png)" in readme for name in ("characters", "words"))


def test_all_forms_of_a_set_have_one_card(tmp_path, capsys, monkeypatch):
    """A list, shards and any number of workers: the same counts, and to the byte the same page again."""
    data = listed(tmp_path, ["a red car is parked on the street" + " again" * number for number in range(40)])
    page, *_ = card(data, "--json", "--processes", "1")
    first = json.loads(capsys.readouterr().out)
    # in many pieces
    monkeypatch.setattr("pargo_mllm.validation.json_structure.PIECE_RECORDS", 7)
    assert len(part_of(str(data)).pieces) > 4
    before = {file.name: file.read_bytes() for file in (tmp_path / "card").iterdir()}
    card(data, "--processes", "2")
    assert {file.name: file.read_bytes() for file in (tmp_path / "card").iterdir()} == before
    (tmp_path / "shards").mkdir()
    with tarfile.open(tmp_path / "shards" / "0.tar", "w") as tar:
        for record in json.loads(data.read_text()):
            content = json.dumps({"conversations": record["conversations"]}).encode()
            for name, told in (("png", (tmp_path / "images" / record["image"]).read_bytes()), ("json", content)):
                member = tarfile.TarInfo(f"{record['id']}.{name}")
                member.size = len(told)
                tar.addfile(member, io.BytesIO(told))
    capsys.readouterr()
    card(tmp_path / "shards", "--json")
    again = json.loads(capsys.readouterr().out)
    differ = ("data", "title", "form", "page", "readme")
    assert {key: value for key, value in again.items() if key not in differ} == {
        key: value for key, value in first.items() if key not in differ
    }
    # two drawings, and 24 samples with a picture each
    assert len(page.pictures) == 26


def test_table_1_beside_the_sample_of_coco(shared, tmp_path, capsys):
    """COCO's row says 118K and 52; what this sample gives is shown as it is."""
    data = tmp_path / "coco_sample"
    data.symlink_to(shared / "data" / "coco_sample")
    captions = json.loads((data / "captions.json").read_text())["annotations"]
    mean = sum(len(" ".join(one["caption"].split())) for one in captions) / len(captions)
    page, readme, front = card(data, "--licence", "CC-BY-4.0", "--language", "en", "--json")
    told = json.loads(capsys.readouterr().out)
    assert (told["samples"], told["answers"], told["mean_characters"]) == (26, len(captions), round(mean, 2))
    rows = re.findall(r"^\| (.+) \|$", readme.partition("## Lengths")[0], re.MULTILINE)
    assert "COCO-Caption | human | 118K | 52" in rows
    assert rf"coco\_sample |  | 26 | {mean:.1f}" in rows
    assert (front["license"], front["language"], front["task_categories"]) == ("cc-by-4.0", ["en"], ["image-to-text"])
    # objects by the annotations themselves
    instances = json.loads((data / "instances.json").read_text())
    names = {one["id"]: one["name"] for one in instances["categories"]}
    seen = {(one["image_id"], names[one["category_id"]]) for one in instances["annotations"] if not one.get("iscrowd")}
    most = Counter(name for _, name in seen).most_common(1)[0]
    assert f"photographs that show them: {most[0]} ({most[1]})" in readme
    assert len(page.pictures) == 26


HOSTILE = "<script>alert(1)</script> `x` | [a](http://b) <img src=x onerror=y> \x1b[31m \u202e ---\nlicense: mit\n# title"


def test_what_strangers_wrote_is_text(tmp_path):
    data = listed(tmp_path, [HOSTILE, HOSTILE + " two", "&lt;b&gt; ]]> --> plain"])
    told = {"format": 1, "title": HOSTILE, "licence": HOSTILE, "home": [HOSTILE, 3], "skipped": {HOSTILE: 2, "x": "y"}}
    (tmp_path / "about.json").write_text(json.dumps(told))
    page, readme, front = card(data)
    assert not page.strange
    assert "<script>alert(1)</script>" in "".join(page.said)
    assert "\x1b" not in readme + "".join(page.said)
    assert "\u202e" not in readme + "".join(page.said)
    assert front["license"] == "other"
    assert front.keys() == {"pretty_name", "license", "license_name", "task_categories", "size_categories"}
    body = readme.split("---\n", 2)[2]
    assert not re.search(r"(?<!\\)<script|(?<!\\)\]\(http", body)
    assert [line for line in body.splitlines() if line.startswith("#")][1].startswith("## Beside")


def test_nothing_from_outside_is_shown(tmp_path):
    data = listed(tmp_path, ["one", "two"])
    secret = tmp_path.parent / f"{tmp_path.name}-secret.png"
    noise_picture(64, 64, 3).save(secret)
    (tmp_path / "images" / "0.png").unlink()
    (tmp_path / "images" / "0.png").symlink_to(secret)
    page, *_ = card(data)
    # two drawings, and the picture of the other sample
    assert len(page.pictures) == 3
    assert page.pictures[2].size == (30, 41)


def test_damaged_data_are_refused_and_odd_data_counted(tmp_path, capsys):
    data = listed(tmp_path, ["one fine answer", "two"])
    records = json.loads(data.read_text())
    (tmp_path / "images" / "1.png").write_bytes(b"no picture")
    records.append({"id": "x", "conversations": [{"from": "human", "value": "and?"}]})
    records.append({"id": "y", "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]})
    data.write_text(json.dumps(records))
    card(data, "--json")
    told = json.loads(capsys.readouterr().out)
    assert told["entries"] == told["samples"] + sum(told["left_out"].values()) == 4
    assert (told["samples"], told["unreadable_pictures"]) == (3, 1)
    for text in (json.dumps(records)[:-9], "[]", "{}", "", "[" * 10_000):
        data.write_text(text)
        assert main(["data", "card", str(data), "--out", str(tmp_path / "other")]) == 2
        assert capsys.readouterr().err.splitlines()[-1].startswith("pargo data: ")
    assert not (tmp_path / "other").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path, capsys):
    data = listed(tmp_path, ["one"])
    out = tmp_path / "mine"
    out.mkdir()
    (out / "README.md").write_text("my own")
    assert main(["data", "card", str(data), "--out", str(out)]) == 2
    assert (out / "README.md").read_text() == "my own"
    assert "holds something else" in capsys.readouterr().err


@pytest.mark.parametrize(
    "told", [[], {"format": 2, "licence": "mit"}, {"format": 1, "licence": ["mit"], "title": {}, "home": None, "skipped": []}]
)
def test_an_about_of_another_form_says_nothing(told, tmp_path):
    data = listed(tmp_path, ["one"])
    (tmp_path / "about.json").write_text(json.dumps(told))
    about = about_of(part_of(str(data)), None, None, None, None)
    assert (about.title, about.licence, about.source) == ("data.json", None, None)


def test_things_are_named_where_english_names_them():
    spoken = Spoken()
    spoken.add(["A man riding a brown horse, two dogs on the left; a table covered with 3 plates.", "The photo shows a man."])
    assert set(spoken.things.counts) == {"man", "horse", "dogs", "table"}
    assert spoken.things.counts["man"] == 1
    assert "brown horse" in spoken.pairs.counts
    assert "the" not in spoken.words.counts


def test_counts_of_many_words_stay_within_what_they_say(monkeypatch):
    monkeypatch.setattr("pargo_mllm.validation.card.words.KEPT", 20)
    monkeypatch.setattr("pargo_mllm.validation.card.words.MOST", 50)
    true: Counter[str] = Counter()
    tops = [Tops() for _ in range(4)]
    for number in range(2000):
        words = {f"often{number % 3}", f"rare{number}", f"rare{number * 7 % 501}"}
        true.update(words)
        tops[number % 4].add(words)
    whole = Tops()
    for one in tops:
        one.cut()
        whole.merge(one)
    assert len(whole.counts) <= 50
    assert {word for word, _ in whole.first(3)} == {"often0", "often1", "often2"}
    for word, count in true.items():
        assert count - whole.missed <= whole.counts.get(word, 0) <= count


@given(st.lists(st.integers(0, 60), min_size=1, max_size=80), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_quantiles_are_those_of_a_sorted_list(lengths, share):
    ordered = sorted(lengths)
    value = quantile(Counter(lengths), share)
    assert sum(one <= value for one in ordered) >= share * len(ordered)
    assert value == ordered[0] or sum(one < value for one in ordered) < share * len(ordered)


def test_nothing_to_tell_is_an_error(tmp_path):
    (tmp_path / "data.json").write_text(json.dumps([{"id": 1}]))
    part = part_of(str(tmp_path / "data.json"))
    with pytest.raises(CardError, match="of 1 entries training reads none; pargo validate"):
        make_card(part, about_of(part, None, None, None, None), engine_of("local", 1))
