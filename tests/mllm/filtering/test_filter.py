"""``pargo filter`` from the command line: what it keeps is what fits."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
from pyarrow import parquet

from pargo_mllm.data.open_corpus import open_corpus
from pargo_mllm.filtering import run, scoring
from pargo_mllm.filtering.models import look_at, open_scorer
from tests.mllm.made.command_line import ended
from tests.mllm.made.similarity_models import trained_clip
from tests.mllm.made.similarity_pairs import unseen, write_list, write_swapped

ONE = ("--processes", "1")


def records_of(folder):
    return json.loads((folder / "data.json").read_text())


def dropped_of(folder):
    return [json.loads(line) for line in (folder / "dropped.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def filtered(trained, swapped, tmp_path_factory):
    """Swapped pairs, half of them dropped, in a folder that is only read."""
    from pargo_cli.main import main

    out = tmp_path_factory.mktemp("filtered") / "out"
    words = ["filter", swapped[0], "--model", trained, "--out", out, "--quantile", "0.5", "--html", out.parent / "page.html"]
    assert main([str(word) for word in words]) == 0
    return out


def auc_of(out, right):
    values, right = np.array(parquet.read_table(out / "scores-clip.parquet")["minimum"].to_pylist()), np.array(right)
    auc = (values[right][:, None] > values[~right][None]).mean()
    print(f"AUC of {right.sum()} right against {(~right).sum()} swapped captions: {auc:.3f}")
    return auc


def test_a_model_tells_swapped_captions(filtered, swapped):
    assert auc_of(filtered, swapped[1]) > 0.9


@pytest.mark.long
def test_a_model_of_two_thousand_scenes_tells_swapped_captions_of_five_hundred(tmp_path, capsys):
    data, right = write_swapped(tmp_path, unseen(500))
    model = trained_clip(tmp_path / "clip")
    assert ended(capsys, "filter", data, "--model", model, "--out", tmp_path / "out", "--quantile", "0.5", *ONE).status == 0
    assert auc_of(tmp_path / "out", right) > 0.9


def test_what_is_kept_is_a_data_set_to_the_letter(filtered, swapped):
    folder, _ = swapped
    about = json.loads((filtered / "about.json").read_text())
    before = {record["id"]: record for record in records_of(folder)}
    kept, dropped = records_of(filtered), dropped_of(filtered)
    assert [record for record in kept if before[record["id"]] != record] == []
    assert [record["id"] for record in kept] + [line["id"] for line in dropped] != []
    assert {record["id"] for record in kept}.isdisjoint(line["id"] for line in dropped)
    assert (about["entries"], about["records"], len(dropped)) == (200, len(kept), 200 - len(kept))
    assert about["skipped"] == {"below the threshold of clip": 100}
    # a hard link takes no room
    for record in kept:
        assert (filtered / "images" / record["image"]).samefile(folder / "images" / record["image"])
    assert len(list((filtered / "images").iterdir())) == len(kept)
    assert len(open_corpus(filtered / "data.json", 1)) == len(kept)
    model = about["filter"]["models"][0]
    said = {record["id"]: record["conversations"][1]["value"] for record in before.values()}
    for line in dropped:
        (by,) = line["by"]
        assert by["model"] == "clip"
        assert by["score"] < by["threshold"] == model["threshold"]
        assert by["sentence"] == said[line["id"]]
    page = (filtered.parent / "page.html").read_text()
    assert page.count("data:image/jpeg") == 36
    assert (filtered / "histogram-clip.png").read_bytes().startswith(b"\x89PNG")


def test_another_threshold_computes_nothing(filtered, swapped, trained, tmp_path, capsys):
    out = shutil.copytree(filtered, tmp_path / "out", copy_function=os.link)
    scores = (out / "scores-clip.parquet").read_bytes()
    gone = tmp_path / "gone" / "clip"
    # no model could be asked
    done = ended(capsys, "filter", swapped[0], "--model", gone, "--out", out, "--threshold", "0.2", "--by", "mean", "--json")
    assert done.status == 0, done.said
    about = json.loads(done.printed)
    assert f"{gone} is not there" in " ".join(about["notes"])
    values = parquet.read_table(out / "scores-clip.parquet")["mean"].to_pylist()
    assert about["records"] == sum(value >= 0.2 for value in values) != 100
    assert len(list((out / "images").iterdir())) == len(records_of(out)) == about["records"]
    assert (out / "scores-clip.parquet").read_bytes() == scores


def test_random_weights_cannot_judge(untrained, swapped, tmp_path, capsys):
    words = ("filter", swapped[0], "--model", untrained, "--out", tmp_path / "out", "--quantile", "0.3")
    refused = ended(capsys, *words)
    assert refused.status == 2
    assert "cannot judge" in refused.said
    assert "AUC 0.5" in refused.said or "AUC 0.4" in refused.said
    assert not (tmp_path / "out" / "data.json").exists()
    nevertheless = ended(capsys, *words, "--even-so")
    assert (nevertheless.status, len(records_of(tmp_path / "out"))) == (0, 140)
    assert "cannot judge" in nevertheless.printed
    alone = ended(capsys, "filter", swapped[0], "--model", untrained, "--out", tmp_path / "out", "--scores-only")
    assert alone.status == 0
    assert "cannot judge" in alone.printed


def test_few_pairs_do_not_tell_whether_a_model_can_judge(trained, held_out, tmp_path, capsys):
    write_list(tmp_path / "data", [(picture, f"{caption}.") for picture, caption in held_out[:9]])
    done = ended(capsys, "filter", tmp_path / "data", "--model", trained, "--out", tmp_path / "out", "--threshold", "0.1")
    assert done.status == 2
    assert "clip was tried on too few pairs to tell whether it can judge" in done.said


def test_a_false_sentence_at_the_end_of_a_long_caption_lowers_its_score(trained, held_out, tmp_path, capsys):
    """Of 300 tokens, where CLIP reads 77."""
    pairs = []
    for index in range(20):
        picture, caption = held_out[index]
        false = next(other for _, other in held_out[index + 1 :] if not set(other.split()) & (set(caption.split()) - COMMON))
        # nine tokens or so a sentence, four where there is nothing but a photograph
        often = 320 // (len(caption.split()) + 1)
        pairs += [(picture, f"{caption}. " * often + f"{last}.") for last in (caption, false)]
    write_list(tmp_path / "data", pairs)
    scorer = open_scorer(look_at(trained, None), "float32", "cpu", 8)
    assert min(len(scorer.tokens.tokenizer(text)["input_ids"]) for _, text in pairs) >= 300
    assert (
        ended(capsys, "filter", tmp_path / "data", "--model", trained, "--out", tmp_path / "out", "--scores-only").status == 0
    )
    rows = parquet.read_table(tmp_path / "out" / "scores-clip.parquet").to_pylist()
    assert not any(row["cut"] for row in rows)
    assert min(len(row["sentences"]) for row in rows) > 30
    both = list(zip(rows[::2], rows[1::2], strict=True))
    below = [false["minimum"] < true["minimum"] and false["mean"] < true["mean"] for true, false in both]
    print(f"a false last sentence scores below the true one in {sum(below)} of {len(below)} captions")
    assert sum(below) >= 18
    # of the first 77 tokens, which is all that a cut leaves, both captions are the same
    for (_, true), (_, false) in zip(pairs[::2], pairs[1::2], strict=True):
        assert scorer.tokens([true]).ids.tolist() == scorer.tokens([false]).ids.tolist()


COMMON = {"big", "and", "photograph", "of"}


def test_a_blind_model_is_stopped_early(untrained, swapped, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scoring, "PER_PIECE", 50)
    # of 200 pairs
    monkeypatch.setattr(run, "EARLY", 100)
    words = ("filter", swapped[0], "--model", untrained, "--out", tmp_path / "out", "--quantile", "0.3", *ONE)
    stopped = ended(capsys, *words)
    assert (stopped.status, "100 pairs" in stopped.said and "the first records" in stopped.said) == (2, True), stopped.said
    assert len(list((tmp_path / "out").glob(".work/scores-*/*.parquet"))) == 2
    assert ended(capsys, *words, "--even-so").status == 0


def test_scores_alone_of_data_that_say_what_they_are(untrained, swapped, tmp_path, capsys):
    """What stands in the data's own about.json is no account of what was kept."""
    data = tmp_path / "data"
    shutil.copytree(swapped[0].parent if swapped[0].is_file() else swapped[0], data)
    (data / "about.json").write_text(json.dumps({"title": "a set", "entries": 7, "records": 7, "skipped": {}}))
    words = ("filter", data / "data.json", "--model", untrained, "--out", tmp_path / "out", "--scores-only")
    said = ended(capsys, *words, *ONE)
    assert said.status == 0, said.said
    assert "kept" not in said.said + said.printed
