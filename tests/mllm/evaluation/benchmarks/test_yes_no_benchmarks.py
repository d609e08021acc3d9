"""Benchmarks of yes and no: figures by hand, and what peers and strangers write."""

import json

import pytest

from pargo_mllm.evaluation.benchmark import Answered, Prediction, ScoringError
from pargo_mllm.evaluation.benchmarks import find
from pargo_mllm.evaluation.scoring import ScoringWarning
from tests.mllm.made.benchmark_files_choices import WRITERS
from tests.mllm.made.benchmark_forms import write_table
from tests.mllm.made.scored_files import lines, scored, written


class TestMME:
    def folder(self, folder, *answers):
        texts = ["Yes", "No", "Yes", "No"]
        return "".join(f"{1 + place // 2}.jpg\tq{place}?\t{texts[place]}\t{answer}\n" for place, answer in enumerate(answers))

    def test_points_by_hand(self, tmp_path):
        """Two pictures: both right; one right and one "other". 100 * 3/4 + 100 * 1/2."""
        written(tmp_path, "OCR.txt", self.folder(tmp_path, "yes", "no", "YES\twith\ttabs", "I cannot tell"))
        result = scored("mme", tmp_path)
        assert result["subtasks"] == {"OCR": 125.0}
        assert (result["perception"], result["cognition"]) == (125.0, 0)
        assert len(result["missing_subtasks"]) == 13
        # "other" is in neither
        assert result["details"]["OCR"]["precision"] == result["details"]["OCR"]["recall"] == 1.0
        assert result["details"]["OCR"]["other"] == 1

    @pytest.mark.parametrize(
        ("text", "line", "why"),
        [
            ("1.jpg\tq?\tYes\tyes\n2.jpg\tq?\tNo\tno\n", 2, "two consecutive lines"),
            ("1.jpg\tq?\tYes\tyes\n", 1, "missing behind it"),
            ("1.jpg\tq?\tYes\n1.jpg\tq?\tNo\tno\n", 1, "3 fields"),
            ("1.jpg\tq?\tYes\tyes\n1.jpg\tq?\tmaybe\tno\n", 2, "neither Yes nor No"),
        ],
    )
    def test_what_no_line_may_be_is_refused_with_its_number(self, tmp_path, text, line, why):
        written(tmp_path, "count.txt", text)
        with pytest.raises(ScoringError, match=rf"count.txt, line {line}: .*{why}"):
            scored("mme", tmp_path)

    def test_its_own_predictions_join_the_answers_of_a_file(self, tmp_path):
        data = WRITERS["mme"](tmp_path / "data")
        items = find("mme").read(data)
        said = find("mme").submission([Prediction(item.answer, "here", item.id, item=item) for item in items], tmp_path)
        with pytest.warns(ScoringWarning, match=r"mme: 11 subtasks are missing \(count, "):
            result = scored("mme", said, data)
        assert result["subtasks"] == dict.fromkeys(("existence", "OCR", "code_reasoning"), 200.0)

    def test_an_answer_keeps_its_tabs(self, tmp_path):
        written(tmp_path, "count.txt", self.folder(tmp_path, "no\tor\tyes", "no"))
        assert [one.text for one in find("mme").predictions(tmp_path)] == ["no\tor\tyes", "no"]

    def test_a_picture_of_which_one_question_was_asked_is_no_pair(self, tmp_path):
        items = find("mme").read(WRITERS["mme"](tmp_path))[:3]
        rule = find("mme").rules[0]
        figures = rule.figures(rule.mark([Answered(item, "Yes" if item.answer == "yes" else "No") for item in items]))
        assert figures["subtasks"] == {"existence": 200.0}
        assert figures["details"]["existence"]["single_questions"] == 1

    def test_the_folders_of_the_archive_are_found_below(self, tmp_path):
        WRITERS["mme"](tmp_path / "release" / "MME_Benchmark")
        assert len(find("mme").read(tmp_path)) == 12
        WRITERS["mme"](tmp_path / "again")
        with pytest.raises(ScoringError, match="2 places"):
            find("mme").read(tmp_path)

    def test_line_ends_of_windows_and_a_byte_order_mark(self, tmp_path):
        text = self.folder(tmp_path, "yes", "no", "yes", "no").replace("\n", "\r\n")
        written(tmp_path, "count.txt", "\ufeff" + text)
        assert scored("mme", tmp_path)["subtasks"] == {"count": 200.0}

    def test_a_folder_of_other_files(self, tmp_path):
        written(tmp_path, "other.txt", "text")
        with pytest.raises(ScoringError, match=r"existence\.txt"):
            scored("mme", tmp_path)

    def test_llavas_answers_join_by_picture_and_question(self, tmp_path):
        data = WRITERS["mme"](tmp_path / "data")
        rows = [
            {
                "question_id": item.picture,
                "prompt": f"{item.details['stated']}\nAnswer the question using a single word or phrase.",
                "text": "Yes",
            }
            for item in find("mme").read(data)
        ]
        result = scored("mme", lines(tmp_path, rows), data)
        assert result["subtasks"] == dict.fromkeys(("existence", "OCR", "code_reasoning"), 50.0)


class TestPope:
    def test_labels_are_no_predictions(self, tmp_path):
        data = WRITERS["pope"](tmp_path)
        with pytest.raises(ScoringError, match=r"line 1: .*--answers"):
            scored("pope", data / "coco_pope_popular.json", data)

    def test_all_three_files_are_one_set(self, tmp_path):
        data = WRITERS["pope"](tmp_path)
        text = (data / "coco_pope_popular.json").read_text()
        for category in ("random", "adversarial"):
            written(data, f"coco_pope_{category}.json", text)
        items = find("pope").read(data)
        assert len({item.id for item in items}) == 18
        assert {item.part for item in items} == {"popular", "random", "adversarial"}

    def test_the_authors_answers(self, tmp_path):
        data = WRITERS["pope"](tmp_path / "data")
        rows = [
            {"question_id": int(item.id), "question": item.question, "answer": "No, there is not"}
            for item in find("pope").read(data)
        ]
        result = scored("pope", lines(tmp_path, rows), data)
        assert result["counts"] == {"TP": 0, "FP": 0, "TN": 4, "FN": 2}
        assert (result["accuracy"], result["f1"], result["yes_ratio"]) == (4 / 6, 0.0, 0.0)

    def test_a_label_that_is_neither_is_refused(self, tmp_path):
        row = {"question_id": 1, "image": "1.jpg", "text": "Is there a dog?", "label": "perhaps"}
        with pytest.raises(ScoringError, match="line 1: the right answer is 'perhaps'"):
            find("pope").read(lines(tmp_path, [row]))

    def test_the_labels_may_lie_in_a_folder_beside_the_pictures(self, tmp_path):
        """As LLaVA's instructions have it."""
        WRITERS["pope"](tmp_path)
        (tmp_path / "coco").mkdir()
        (tmp_path / "coco_pope_popular.json").rename(tmp_path / "coco" / "coco_pope_popular.json")
        items = find("pope").read(tmp_path)
        assert len(items) == 6
        assert all(item.pictures[0]().size for item in items)


class TestHallusionBench:
    def test_llavas_answers_join_too(self, tmp_path):
        data = WRITERS["hallusionbench"](tmp_path / "data")
        items = find("hallusionbench").read(data)
        rows = [{"question_id": item.id, "prompt": item.question, "text": item.answer} for item in items]
        assert scored("hallusionbench", lines(tmp_path, rows), data)["accuracy"] == 1.0

    def test_figures_by_hand(self, tmp_path):
        """Five questions: the one without a picture may be left open; VS ocr and VD ocr of one number are two sets."""
        rows = [
            ("VD", "ocr", "0", "0", "0", "1", "Yes"),
            ("VD", "ocr", "0", "1", "0", "0", "Yes"),
            ("VS", "ocr", "0", "0", "0", "1", "I cannot tell"),
            ("VS", "ocr", "0", "1", "0", "1", "yes."),
            ("VS", "ocr", "0", "1", "1", "0", "unclear"),
        ]
        names = ("category", "subcategory", "set_id", "figure_id", "question_id", "gt_answer", "model_prediction")
        file = written(
            tmp_path, "result.json", json.dumps([{**dict(zip(names, row, strict=True)), "question": "q?"} for row in rows])
        )
        result = scored("hallusionbench", file)
        assert result["aAcc"] == result["accuracy"] == 3 / 5
        # figures: VD 0 right, VD 1 wrong, VS 1 half right
        assert result["fAcc"] == 1 / 3
        # questions: VD 0 wrong on a figure, VS 0 right on both, VS 1 wrong
        assert result["qAcc"] == 1 / 3
        assert result["unknown"] == 2


def test_the_same_of_mme(tmp_path):
    rows = [
        {
            "index": n,
            "category": "OCR",
            "image_path": "OCR/1.jpg",
            "question": f"q{n}? Please answer yes or no.",
            "answer": right,
            "prediction": "Yes",
        }
        for n, right in enumerate(("Yes", "No"))
    ]
    write_table(tmp_path / "result.tsv", rows)
    assert scored("mme", tmp_path / "result.tsv")["subtasks"] == {"OCR": 50.0}
