"""Benchmarks with answers in words or boxes: files in all formats, what peers write, and the figures that are published."""

import json
import warnings

import pytest
from PIL import ImageChops, ImageStat

from pargo_mllm.data.frames import FRAMES, convert, write_box
from pargo_mllm.evaluation.benchmark import Prediction, ScoringError
from pargo_mllm.evaluation.benchmarks import find
from pargo_mllm.evaluation.joining import read_joined
from pargo_mllm.evaluation.scorers.boxes import FrameWarning
from pargo_mllm.evaluation.scoring import chosen_rule, score
from tests.mllm.made.benchmark_files_texts import FORMS, WRITERS, drawn

SIZE = (96, 64)


def scored(name, predictions, answers=None, rule=None):
    benchmark = find(name)
    joined = read_joined(benchmark, predictions, answers)
    return score(benchmark, chosen_rule(benchmark, rule, False), joined.answered, joined_by=joined.by).result


def written(folder, value, name="predictions.json"):
    file = folder / name
    text = value if isinstance(value, str) else json.dumps(value)
    file.write_text(text, encoding="utf-8")
    return file


def lines(folder, rows, name="answers.jsonl"):
    return written(folder, "".join(json.dumps(row) + "\n" for row in rows), name)


def right_text(name, item):
    if name.startswith("refcoco"):
        return write_box(convert(item.answer, "pixels", "picture", SIZE))
    return item.answer[0]


@pytest.mark.parametrize("name", WRITERS)
def test_all_formats_hold_the_same_questions(name, tmp_path):
    read = {form: find(name).read(WRITERS[name](tmp_path / form, form)) for form in FORMS}
    official = read["official"]
    assert len({item.id for item in official}) == len(official) >= 3
    for form, items in read.items():
        assert [(item.question, item.answer) for item in items] == [(item.question, item.answer) for item in official], form
        # questions on one picture are on one picture in all formats
        same = [[one.picture == other.picture for other in items] for one in items]
        assert same == [[one.picture == other.picture for other in official] for one in official], form
        for item, other in zip(items, official, strict=True):
            difference = ImageStat.Stat(ImageChops.difference(item.pictures[0](), other.pictures[0]()))
            # of 255: JPEG is near, another picture is not
            assert max(difference.mean) < 8, form


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", WRITERS)
def test_right_answers_are_right_in_the_benchmarks_own_format_of_predictions(name, form, tmp_path):
    benchmark, data = find(name), WRITERS[name](tmp_path / "data", form)
    items = benchmark.read(data)
    said = [Prediction(right_text(name, item), "here", item.id, item=item) for item in items]
    file = benchmark.submission(said, tmp_path / "out")
    rule = "picture" if name.startswith("refcoco") else None
    result = scored(name, file, data, rule)
    # DocVQA's and ChartQA's and others' headline is 1 where all is right; CIDEr's best is 10, which rare words alone reach
    assert result[benchmark.headline] == pytest.approx(1) or (name == "caption" and result["cider"] > 1)
    assert result["questions"] == len(items)
    assert result["joined_by"] in ("id", "picture and question")
    wrong = benchmark.submission(
        [Prediction("[0,0,0,0] nothing", "here", item.id, item=item) for item in items], tmp_path / "no"
    )
    assert scored(name, wrong, data, rule)[benchmark.headline] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", WRITERS)
def test_llavas_lines_join_too(name, tmp_path):
    benchmark, data = find(name), WRITERS[name](tmp_path / "data")
    items = benchmark.read(data)
    rows = [
        # LLaVA's TextVQA numbers its questions by their pictures
        {
            "question_id": item.picture if name == "textvqa" else item.id,
            "prompt": benchmark.asked(item),
            "text": right_text(name, item),
        }
        for item in items
    ]
    result = scored(name, lines(tmp_path, rows), data, "picture" if name.startswith("refcoco") else None)
    assert result[benchmark.headline] == pytest.approx(1) or name == "caption"


def test_vqa_items_with_their_answers_are_worth_what_the_official_code_says(shared):
    file = shared / "golden/scores/vqa/scored_items_even.json"
    assert scored("vqav2", file)["accuracy"] == pytest.approx(0.592, abs=1e-12)
    # unanimous answers normalised: another figure, under another name
    always = scored("vqav2", file, rule="always")
    assert always["rule"] == "always"
    assert always["accuracy"] == pytest.approx(0.627, abs=1e-12)


@pytest.mark.parametrize(("run", "expected"), [("r1_500", 0.906), ("sft_500", 0.872)])
def test_boxes_of_vlm_r1_in_pixels(shared, run, expected):
    file = shared / f"golden/scores/rec/refcoco_val_qwen2_5vl_3b_instruct_{run}.json"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = scored("refcoco", file, rule="pixels")
    assert (result["accuracy"], result["frame"], result["unread"]) == (expected, "pixels", 0)
    assert "better_frame" not in result


def test_boxes_in_another_frame_than_declared_are_wrong_and_warned_of(shared):
    file = shared / "golden/scores/rec/refcoco_val_qwen2_5vl_3b_instruct_baseline.json"
    with pytest.warns(FrameWarning, match="0.0 % of the boxes are right in the declared frame, pixels"):
        result = scored("refcoco", file, rule="pixels")
    assert (result["accuracy"], result["better_frame"]) == (0, "thousand")
    # nothing in the file tells the sizes that this frame needs
    with pytest.raises(ScoringError, match=r"entry 1: boxes in the frame thousand need the picture's size"):
        scored("refcoco", file, rule="thousand")


def test_captions_of_the_sample(shared, tmp_path):
    golden = json.loads((shared / "golden/scores/caption/coco_sample_scores.json").read_text())
    told = golden["first_caption_vs_other_four"]
    results = written(tmp_path, [{"image_id": int(key), "caption": text} for key, text in told["candidates"].items()])
    notes = [{"image_id": int(key), "id": 0, "caption": one} for key, some in golden["references"].items() for one in some]
    answers = written(tmp_path, {"images": [], "annotations": notes}, "captions_val2014.json")
    result = scored("caption", results, answers)
    assert result["cider"] == pytest.approx(told["scores"]["CIDEr"], abs=1e-12)
    assert result["bleu4"] == pytest.approx(told["scores"]["Bleu_4"], abs=1e-12)
    assert result["rouge_l"] == pytest.approx(told["scores"]["ROUGE_L"], abs=1e-12)
    assert (result["pictures"], result["tokenizer"]) == (26, "ptb")
    both = written(tmp_path, {"candidates": told["candidates"], "references": golden["references"]}, "both.json")
    for file in (both, shared / "golden/scores/caption/coco_sample_scores.json"):
        assert scored("caption", file)["cider"] == result["cider"]


@pytest.mark.parametrize("answers", [None, "", "ref1.txt", "ref2.txt"])
def test_hypotheses_and_references_in_text_files(shared, answers):
    folder = shared / "golden/scores/nlg_eval_examples"
    result = scored("caption", folder / "hyp.txt", None if answers is None else folder / answers)
    assert round(result["cider"], 6) == 1.242192
    assert round(result["bleu4"], 6) == 0.201143
    assert round(result["rouge_l"], 6) == 0.522104
    assert [round(result[f"bleu{n}"], 6) for n in (1, 2, 3)] == [0.55, 0.428174, 0.284043]
    assert result["pictures"] == 2


def test_text_files_of_other_lengths_are_refused(tmp_path):
    written(tmp_path, "one\ntwo\n", "ref1.txt")
    written(tmp_path, "one\ntwo\nthree\n", "ref2.txt")
    hypotheses = written(tmp_path, "one\ntwo\n", "hyp.txt")
    with pytest.raises(ScoringError, match=r"ref2.txt: it has 3 captions, and .*ref1.txt has 2"):
        scored("caption", hypotheses)
    (tmp_path / "ref2.txt").unlink()
    assert scored("caption", hypotheses)["pictures"] == 2
    written(tmp_path, "one\n", "hyp.txt")
    with pytest.raises(ScoringError, match=r"hyp.txt, line 1: it has 1 captions, the references 2"):
        scored("caption", hypotheses)


def test_questions_of_vqav2_are_kept_where_annotations_are_apart(tmp_path):
    data = WRITERS["vqav2"](tmp_path)
    results = written(tmp_path, [{"question_id": n, "answer": "2"} for n in (262148000, 262148001, 393225000)])
    notes = data / "v2_mscoco_val2014_annotations.json"
    result = scored("vqav2", results, notes)
    # "two" and "2" are one answer, "three" is none
    assert result["parts"] == {"number": pytest.approx(1), "yes/no": 0, "other": 0}
    with pytest.raises(ScoringError, match="'262148000' has no right answer"):
        scored("vqav2", results, data / "v2_OpenEnded_mscoco_val2014_questions.json")


def test_gqa_is_exact_officially_and_without_case_and_dot_by_llavas_conversion(tmp_path):
    data = WRITERS["gqa"](tmp_path / "data")
    texts = {"201307251": "No.", "201640614": "woman", "202225914": "Yes"}
    file = written(tmp_path, [{"questionId": key, "prediction": text} for key, text in texts.items()])
    assert scored("gqa", file, data)["accuracy"] == 1
    official = scored("gqa", file, data, "official")
    assert (official["accuracy"], official["parts"]) == (pytest.approx(1 / 3), {"verify": 0, "query": 1})


def test_textvqa_reads_the_question_out_of_llavas_prompts(tmp_path):
    data = WRITERS["textvqa"](tmp_path / "data")
    first, second, third = find("textvqa").read(data)
    prompts = [
        f"{first.question.capitalize()}\nReference OCR token: 17, STOP\nAnswer the question using a single word or phrase.",
        f"Reference OCR token: what is the brand?\n{second.question}\nAnswer the question using a single word or phrase.",
        f"OCR tokens: a, b. Question: {third.question} Short answer:",
    ]
    rows = [
        {"question_id": item.picture, "prompt": prompt, "text": text}
        for item, prompt, text in zip((first, second, third), prompts, ("Dakota", "17", "Stop"), strict=True)
    ]
    result = scored("textvqa", lines(tmp_path, rows), data)
    # two of ten people said it: (2 * 1/3 + 8 * 2/3) / 10
    assert result["accuracy"] == pytest.approx((0.6 + 1 + 1) / 3, abs=1e-12)
    assert result["joined_by"] == "picture and question"


def test_docvqa_by_type_of_question(tmp_path):
    data = WRITERS["docvqa"](tmp_path / "data")
    texts = {49153: "1/8/93", 24580: "R. Smitt", 57349: "none"}
    result = scored("docvqa", written(tmp_path, [{"questionId": key, "answer": text} for key, text in texts.items()]), data)
    assert result["anls"] == result["accuracy"] == pytest.approx((1 + 7 / 8) / 3, abs=1e-12)
    assert result["parts"] == {"handwritten": 1, "form": pytest.approx(15 / 16), "table/list": 0}


def test_chartqa_in_both_parts_and_as_qwen_writes_it(tmp_path):
    data = WRITERS["chartqa"](tmp_path / "data")
    said = zip(find("chartqa").read(data), ("14.5", "food", "0.22"), strict=True)
    file = find("chartqa").submission([Prediction(text, "here", item.id, item=item) for item, text in said], tmp_path)
    assert scored("chartqa", file)["parts"] == {"human": 0.5, "augmented": 1}
    qwen = written(tmp_path, [{"answer": "14.5", "annotation": "14"}, {"answer": "Food", "annotation": "Drinks"}], "qwen.json")
    assert scored("chartqa", qwen)["accuracy"] == 0.5


def test_ocrbench_gives_a_point_a_question(tmp_path):
    rows = json.loads((WRITERS["ocrbench"](tmp_path) / "OCRBench/OCRBench.json").read_text())
    for row, text in zip(rows, ("it says private", "number 170", "blue", "\\frac{1}{X}"), strict=True):
        row["predict"] = text
    # ids that start anew in each part
    for row in rows:
        row["id"] = 0
    result = scored("ocrbench", written(tmp_path, rows))
    assert (result["score"], result["accuracy"]) == (3, 0.75)
    assert result["parts"]["Scene Text-centric VQA"] == 0.5
    assert [item.id for item in find("ocrbench").read(tmp_path / "predictions.json")] == ["0", "1", "2", "3"]


@pytest.mark.parametrize("frame", FRAMES)
def test_boxes_in_every_frame_by_id_in_the_official_files(frame, tmp_path):
    data = WRITERS["refcoco+"](tmp_path / "data")
    items = find("refcoco+").read(data)
    assert [item.part for item in items] == ["val", "val", "testA"]
    rows = [{"sent_id": item.id, "text": f"At {write_box(convert(item.answer, 'pixels', frame, SIZE))}."} for item in items]
    result = scored("refcoco+", lines(tmp_path, rows), data, frame)
    assert (result["accuracy"], result["frame"], result["parts"]) == (1, frame, {"val": 1, "testA": 1})


def test_boxes_that_cannot_be_read_are_wrong_and_counted(tmp_path):
    texts = ["", "somewhere left", "[nan,0,1,1]", "[1,2,3]", "[40,50,8,8]", "[8,8,39,49]"]
    rows = [{"ground_truth": [8, 8, 39, 49], "extracted_answer": text} for text in texts]
    result = scored("refcoco", written(tmp_path, {"accuracy": 0, "results": rows}), rule="pixels")
    assert (result["accuracy"], result["unread"]) == (pytest.approx(1 / 6), 4)


def test_boxes_with_their_sizes_beside_them_as_qwen_writes_them(tmp_path):
    rows = [{"answer": f"({n}) [500,500,1000,1000]", "gt_bbox": [48, 32, 96, 64], "hw": [64, 96]} for n in range(3)]
    file = written(tmp_path, rows)
    assert scored("refcocog", file, rule="thousand")["accuracy"] == 1
    with pytest.warns(FrameWarning, match="--frame thousand"):
        assert scored("refcocog", file, rule="picture")["better_frame"] == "thousand"


HOSTILE = [
    ("refcoco", [{"ground_truth": [1, 2, 3], "extracted_answer": [1, 2, 3, 4]}], "the right box is no list of four numbers"),
    ("refcoco", [{"ground_truth": [1, 2, 3, 1e400], "extracted_answer": []}], "the right box is no list of four numbers"),
    ("refcoco", [{"ground_truth": [1, 2, 3, 4], "answer": {"box": 1}}], "'answer' is an object, no text"),
    ("refcoco", [{"gt_bbox": [1, 2, 3, 4], "hw": [0, 5], "answer": "x"}], "the picture's size is"),
    ("vqav2", [{"question_id": 1, "answers": [], "prediction": "x"}], "'answers' is no list of texts"),
    ("vqav2", [{"question_id": 1, "answers": [{"a": 1}], "prediction": "x"}], "'answers' is no list of texts"),
    ("vqav2", [{"question_id": 1, "answers": ["x"], "prediction": None}], "'prediction' has no value"),
    ("vqav2", [{"question_id": 1, "answer": "x"}], "no right answer beside"),
    ("vqav2", [{"question_id": [1], "answers": ["x"], "prediction": "x"}], "'question_id' is a list"),
    ("ocrbench", [{"question": "?", "answers": ["x"]}], "it has no 'answer'|no right answer beside|has no"),
    ("caption", {"candidates": {"1": 5}}, "it is no caption"),
    ("caption", [{"image_id": 1, "caption": ["a", "b"]}], "'caption' is a list"),
    ("docvqa", [{"questionId": 1, "answers": "x", "prediction": True}], "no text and no number"),
    ("chartqa", "[[1]]", "it is a list, no object"),
    ("gqa", "", "it is empty"),
    ("vqav2", [{"question_id": 1, "prediction": "x", "answer": "x"}], "it has one right answer, and VQA accuracy asks"),
]


@pytest.mark.parametrize(("name", "value", "message"), HOSTILE)
def test_what_cannot_be_scored_is_refused_with_the_place(name, value, message, tmp_path):
    with pytest.raises(ScoringError, match=message) as refused:
        scored(name, written(tmp_path, value), rule="pixels" if name == "refcoco" else None)
    assert "predictions.json" in str(refused.value)


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    data = WRITERS["refcoco"](tmp_path)
    (data / "refcoco" / "refs(unc).p").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    with pytest.raises(ScoringError, match=r"it wants to use os\.system"):
        find("refcoco").read(data)
    assert not (tmp_path / "ran").exists()


def test_a_split_without_answers_can_be_asked_and_not_scored(tmp_path):
    data = WRITERS["docvqa"](tmp_path / "data")
    file = data / "val_v1.0_withQT.json"
    told = json.loads(file.read_text())
    for row in told["data"]:
        del row["answers"]
    file.write_text(json.dumps(told))
    items = find("docvqa").read(data)
    assert [item.answer for item in items] == [None] * 3
    assert items[0].pictures[0]().size == drawn(0).size
    said = written(tmp_path, [{"questionId": int(item.id), "answer": "x"} for item in items])
    with pytest.raises(ScoringError, match="has no right answer"):
        scored("docvqa", said, data)
