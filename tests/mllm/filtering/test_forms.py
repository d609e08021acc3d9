"""Whatever form data have, what is kept has it too; what cannot be judged is counted, and what does not belong is refused."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections import Counter

import pytest

from pargo_mllm.data.open_corpus import open_corpus
from pargo_mllm.data.sources.shards import write_shards
from tests.mllm.made.command_line import ended
from tests.mllm.made.photographs import noise_picture, write_photographs
from tests.mllm.made.similarity_models import of_kind, random_clip
from tests.mllm.made.similarity_pairs import write_list


def filter(capsys, data, model, out, *more):
    return ended(capsys, "filter", data, "--model", model, "--out", out, "--even-so", *more)


def about_of(out):
    return json.loads((out / "about.json").read_text())


def png(seed):
    written = io.BytesIO()
    noise_picture(30, 30, seed).save(written, "PNG")
    return written.getvalue()


def test_shards_stay_shards(clip, tmp_path, capsys):
    said = {f"{n:04d}": {"png": png(n), "txt": f"a red dog {n}.".encode()} for n in range(10)}
    two = {"conversations": [{"from": "human", "value": "<image><image>"}, {"from": "gpt", "value": "two dogs."}]}
    said["0010"] = {"0.png": png(20), "1.png": png(21), "json": json.dumps(two).encode()}
    (tmp_path / "data").mkdir()
    write_shards(said.items(), tmp_path / "data", per_shard=6)
    (tmp_path / "data" / "about.json").write_text(json.dumps({"licence": "CC BY 4.0", "records": 11}))
    done = filter(capsys, tmp_path / "data", clip, tmp_path / "out", "--quantile", "0.3")
    assert done.status == 0, done.said
    kept = {}
    for shard in sorted((tmp_path / "out").glob("*.tar")):
        with tarfile.open(shard) as tar:
            names = tar.getnames()
            assert names == sorted(names)
            for name in names:
                key, _, suffix = name.partition(".")
                kept.setdefault(key, {})[suffix] = tar.extractfile(name).read()
    assert [shard.name for shard in sorted((tmp_path / "out").glob("*.tar"))] == ["000000.tar", "000001.tar"]
    assert len(kept) == 8
    assert all(said[key] == members for key, members in kept.items())
    about = about_of(tmp_path / "out")
    assert (about["licence"], about["records_in"], about["records"]) == ("CC BY 4.0", "shards", 8)
    assert about["filter"]["unjudged_kept"] == {"records with several pictures": 1}
    assert len(open_corpus(tmp_path / "out", 2)) == 8
    # another threshold takes the place of the choice before
    assert filter(capsys, tmp_path / "data", clip, tmp_path / "out", "--threshold", "1", "--unjudged", "drop").status == 0
    assert list((tmp_path / "out").glob("*.tar*")) == []
    assert about_of(tmp_path / "out")["skipped"] == {"below the threshold of clip": 10, "records with several pictures": 1}


def test_samples_that_cannot_be_read_are_dropped_and_what_is_left_is_whole(clip, tmp_path, capsys):
    good = lambda n: {"png": png(n), "txt": f"a red dog {n}.".encode()}  # noqa: E731
    said = {f"{n:04d}": good(n) for n in range(12)}
    damaged = {"0002": {"txt": b""}, "0004": {"txt": None, "json": b"{"}, "0005": {"txt": b"\xff\xfe"}, "0007": {"png": b"no"}}
    for key, members in damaged.items():
        said[key] = {suffix: content for suffix, content in {**said[key], **members}.items() if content is not None}
    said["0008"] = {"txt": b"no picture."}
    said["0009"] = {"png": png(9)}
    (tmp_path / "data").mkdir()
    write_shards(said.items(), tmp_path / "data", per_shard=5)
    done = filter(capsys, tmp_path / "data", clip, tmp_path / "out", "--threshold", "-1")
    assert done.status == 0, done.said
    about = about_of(tmp_path / "out")
    assert (about["entries"], about["records"], sum(about["skipped"].values())) == (12, 6, 6)
    assert about["skipped"]["records that are damaged"] == 3
    lines = [json.loads(line) for line in (tmp_path / "out" / "dropped.jsonl").read_text().splitlines()]
    assert Counter(line["why"] for line in lines) == about["skipped"]
    assert {line["id"] for line in lines if "id" in line} == set(damaged)
    assert {(line["shard"], line["entry"]) for line in lines if "shard" in line} == {("000001.tar", 3), ("000001.tar", 4)}
    assert len(open_corpus(tmp_path / "out", 1)) == 6
    found = ended(capsys, "validate", tmp_path / "out", "--json", "--processes", 1)
    report = json.loads(found.printed)
    assert (report["samples"], report["usable"], found.status) == (6, 6, 0), report


def test_a_picture_that_is_gone_is_not_kept(clip, tmp_path, capsys):
    """It was there when it was scored."""
    data, out = tmp_path / "data", tmp_path / "out"
    write_list(data, [(noise_picture(30, 30, n), f"a red dog {n}.") for n in range(10)])
    assert filter(capsys, data, clip, out, "--quantile", "0.5").status == 0
    before = {record["id"] for record in json.loads((out / "data.json").read_text())}
    for picture in (data / "images").iterdir():
        picture.unlink()
    done = filter(capsys, data, clip, out, "--quantile", "0", "--json")
    about = json.loads(done.printed)
    # of an earlier choice there still are some
    assert (about["entries"], about["records"]) == (10, 5)
    assert about["skipped"] == {"pictures that are missing or cannot be read": 5}
    kept = json.loads((out / "data.json").read_text())
    assert {record["id"] for record in kept} == before
    assert all((out / "images" / record["image"]).is_file() for record in kept)
    lines = [json.loads(line) for line in (out / "dropped.jsonl").read_text().splitlines()]
    assert {line["id"] for line in lines} == {f"s{n}" for n in range(10)} - before
    assert all(line["detail"].endswith(".png is not there") for line in lines)


def test_captions_of_a_coco_folder_are_records_of_their_own(clip, tmp_path, capsys):
    write_photographs(tmp_path / "data", 9)
    done = filter(capsys, tmp_path / "data", clip, tmp_path / "out", "--quantile", "0.25")
    assert done.status == 0, done.said
    about = about_of(tmp_path / "out")
    # photograph 3 is damaged; those that training would hold out are judged too
    assert about["skipped"] == {"below the threshold of clip": 2, "pictures that are missing or cannot be read": 1}
    assert (about["entries"], about["records"]) == (9, 6)
    records = json.loads((tmp_path / "out" / "data.json").read_text())
    captions = json.loads((tmp_path / "data" / "captions.json").read_text())["annotations"]
    told = {f"{row['image_id']}.jpg": row["caption"] for row in captions}
    assert all(record["conversations"][1]["value"] == told[record["image"]] for record in records)
    assert len(open_corpus(tmp_path / "out" / "data.json", 1)) == 6


def test_generated_scenes_are_data_too(clip, tmp_path, capsys):
    done = filter(capsys, "scenes:train=4,held_out=1", clip, tmp_path / "out", "--threshold", "-1")
    assert done.status == 0, done.said
    # a coarse and a detailed caption each
    assert about_of(tmp_path / "out")["records"] == 8
    assert len(open_corpus(tmp_path / "out" / "data.json", 1)) == 8


def test_a_list_as_strangers_leave_it(clip, tmp_path, capsys):
    root = tmp_path / "root"
    (root / "deep").mkdir(parents=True)
    for n in range(6):
        noise_picture(30, 30, n).save(root / "deep" / f"{n}.png")
    (root / "broken.png").write_bytes(b"\x89PNG\r\n")

    def record(id, said, **more):
        human = "<image>" * (1 if isinstance(more.get("image"), str) else len(more.get("image") or ()))
        return {"id": id, "conversations": [{"from": "human", "value": human + "?"}, {"from": "gpt", "value": said}], **more}

    ends = "a <|endoftext|> dog. <|startoftext|> cat."
    records = [
        record("whole", "a big dog. the cat.", image="deep/0.png", source={"nested": [1.50, None]}, frame="picture"),
        record("absolute", "a red cat", image=str(root / "deep" / "1.png")),
        record("list of one", ends, image=["deep/2.png"]),
        record("twice", "a dog", image="deep/3.png"),
        record("twice", "a cat", image="deep/3.png"),
        record("marks", "?! … —", image="deep/4.png"),
        record("long", "dog " * 400, image="deep/4.png"),
        record("endless", "dog. cat! " * 3000, image="deep/4.png"),
        record("emoji \u2028", "a dog \U0001f415\u200d. 犬。 猫。", image="deep/5.png"),
        record("gone", "a dog", image="no.png"),
        record("broken", "a dog", image="broken.png"),
        record("two", "a dog", image=["deep/0.png", "no.png"]),
        record("none", "a dog"),
        record("out", "a dog", image="../../etc/passwd"),
        record("half", "a \ud83d dog", image="deep/0.png"),
        "no record",
        record("folder", "a dog", image="deep"),
    ]
    (tmp_path / "list.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(records, indent=1).replace("\n", "\r\n").encode())
    words = ("--image-root", root, "--quantile", "0", "--html", tmp_path / "page.html")
    done = filter(capsys, tmp_path / "list.json", clip, tmp_path / "out", *words)
    assert done.status == 0, done.said
    about = about_of(tmp_path / "out")
    assert about["entries"] == 17 == about["records"] + sum(about["skipped"].values())
    # of one with several pictures too, if it was to be kept
    assert about["skipped"]["pictures that are missing or cannot be read"] == 4
    dropped = [json.loads(line) for line in (tmp_path / "out" / "dropped.jsonl").read_text().splitlines()]
    assert Counter(line["why"] for line in dropped) == about["skipped"]
    before = [line for line in dropped if "byte" in line]
    assert [(line["entry"], line["id"]) for line in before] == [(13, "out"), (14, "half"), (15, None)]
    content = (tmp_path / "list.json").read_bytes()
    assert all(content[line["byte"] :].startswith(b"{" if line["id"] else b'"no') for line in before)
    assert "half a character" in before[1]["detail"]
    (two,) = (line for line in dropped if line["id"] == "two")
    assert two["detail"] == "no.png is not there"
    assert about["filter"]["unjudged_kept"] == {
        "answers of more than 512 sentences": 1,
        "answers without a sentence": 1,
        "records without a picture": 1,
    }
    kept = {record["id"]: record for record in json.loads((tmp_path / "out" / "data.json").read_text())}
    assert kept["whole"] == records[0]
    assert kept["absolute"]["image"] == "deep/1.png"
    assert kept["emoji \u2028"] == records[8]
    assert about["filter"]["models"][0]["with_a_sentence_cut"] == 1
    assert (tmp_path / "out" / "images" / "deep" / "1.png").samefile(root / "deep" / "1.png")
    assert len(open_corpus(tmp_path / "out" / "data.json", 1)) == about["records"]


def test_every_model_must_find_that_a_pair_fits(clip, tmp_path, capsys):
    of_kind("blip", tmp_path / "blip")
    write_list(tmp_path / "data", [(noise_picture(30, 30, n), f"a red dog {n}.") for n in range(40)])
    words = ("filter", tmp_path / "data", "--model", clip, "--model", tmp_path / "blip", "--out", tmp_path / "out", "--even-so")
    done = ended(capsys, *words, "--quantile", "clip=0.25", "--quantile", "0.5")
    assert done.status == 0, done.said
    about = about_of(tmp_path / "out")
    by_model = {model["name"]: model for model in about["filter"]["models"]}
    assert {name: model["below"] for name, model in by_model.items()} == {"clip": 10, "blip": 20}
    lines = [json.loads(line) for line in (tmp_path / "out" / "dropped.jsonl").read_text().splitlines()]
    both = sum(len(line["by"]) == 2 for line in lines)
    assert about["records"] == 40 - len(lines) == 40 - (10 + 20 - both)
    assert about["skipped"].get("below the threshold of clip and of blip", 0) == both
    assert by_model["blip"]["threshold_told"].startswith("probability")
    for rules, said in (
        (("--quantile", "clip=0.5"), "say where blip drops pairs"),
        (("--quantile", "0.5", "--threshold", "0.2"), "two thresholds"),
        (("--threshold", "clap=0.5"), "no model is called 'clap'"),
        ((), "--threshold or --quantile"),
        (("--scores-only", "--threshold", "0"), "one of them"),
        (("--threshold", "blip=-0.1", "--quantile", "0.5"), "blip gives a probability, which is from 0 to 1"),
        (("--threshold", "clip=1.5", "--quantile", "0.5"), "clip gives a cosine, which is from -1 to 1"),
        (("--quantile", "0.5", "--measure", "match"), "gives cosine alone"),
    ):
        refused = ended(capsys, *words, *rules)
        assert (refused.status, said in refused.said) == (2, True), refused.said


def test_scores_of_another_model_or_of_other_data_are_never_taken(clip, tmp_path, capsys):
    write_list(tmp_path / "data", [(noise_picture(30, 30, n), f"a red dog {n}.") for n in range(6)])
    out = tmp_path / "out"
    assert filter(capsys, tmp_path / "data", clip, out, "--quantile", "0.5").status == 0
    scores = (out / "scores-clip.parquet").read_bytes()
    other = random_clip(tmp_path / "other" / "clip", seed=5)
    for model, more, said in (
        (other, (), "another model"),
        (clip, ("--dtype", "bfloat16"), "another dtype"),
        (clip, ("--language", "de"), "another language"),
    ):
        refused = filter(capsys, tmp_path / "data", model, out, "--quantile", "0.5", *more)
        assert (refused.status, said in refused.said) == (2, True), refused.said
    # the image processor is a part of the model
    shutil.copytree(clip, tmp_path / "again" / "clip")
    file = tmp_path / "again" / "clip" / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "image_mean": [0.1, 0.2, 0.3]}))
    assert "another model" in filter(capsys, tmp_path / "data", file.parent, out, "--quantile", "0.5").said
    shutil.rmtree(tmp_path / "data")
    write_list(tmp_path / "data", [(noise_picture(30, 30, n), f"a blue dog {n}.") for n in range(6)])
    for model in (clip, tmp_path / "gone" / "clip"):
        refused = filter(capsys, tmp_path / "data", model, out, "--quantile", "0.5")
        assert (refused.status, "data" in refused.said) == (2, True), refused.said
    assert (out / "scores-clip.parquet").read_bytes() == scores


@pytest.mark.parametrize(("pictures", "texts"), [(1, 8), (8, 1)])
def test_a_text_is_never_tried_beside_a_picture_that_it_may_fit(pictures, texts, clip, tmp_path, capsys):
    pairs = [(noise_picture(30, 30, n % pictures), f"a red dog {n % texts}.") for n in range(8)]
    write_list(tmp_path / "data", pairs)
    done = filter(capsys, tmp_path / "data", clip, tmp_path / "out", "--quantile", "0")
    assert "no two records show different pictures and say different things" in done.printed
    assert about_of(tmp_path / "out")["filter"]["models"][0]["auc_pairs"] == 0


def test_folders_that_hold_something_else_are_left_alone(clip, tmp_path, capsys):
    write_list(tmp_path / "data", [(noise_picture(30, 30, n), f"a red dog {n}.") for n in range(6)])
    before = {path: path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file()}
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("all of it")
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "data", tmp_path, tmp_path / "full", tmp_path / "file"):
        refused = filter(capsys, tmp_path / "data", clip, out, "--quantile", "0.5")
        assert (refused.status, "--out" in refused.said) == (2, True), refused.said
    assert {path: path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file()} == before
    assert (tmp_path / "full" / "thesis.txt").read_text() == "all of it"
    # what was filtered once may be filtered again, elsewhere
    assert filter(capsys, tmp_path / "data", clip, tmp_path / "out", "--quantile", "0.5").status == 0
    assert filter(capsys, tmp_path / "out", clip, tmp_path / "out", "--quantile", "0.5").status == 2
    assert filter(capsys, tmp_path / "out", clip, tmp_path / "twice", "--quantile", "0.5").status == 0
    assert about_of(tmp_path / "twice")["records"] == 2
