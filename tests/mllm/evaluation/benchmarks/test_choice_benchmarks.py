"""Benchmarks of multiple choice and of yes and no: their formats, published figures, and what peers and strangers write."""

import contextlib
import json

import pytest
from openpyxl import Workbook

from pargo_mllm.evaluation.benchmark import Answered, Prediction, ScoringError
from pargo_mllm.evaluation.benchmarks import find
from pargo_mllm.evaluation.joining import read_joined
from tests.mllm.made.benchmark_files_choices import WRITERS
from tests.mllm.made.benchmark_forms import FORMS, SIDE, base64_picture, hub_picture, write_parquet, write_table
from tests.mllm.made.scored_files import lines, scored, written


class TestPublishedFigures:
    def test_mme(self, shared):
        result = scored("mme", shared / "data" / "mme_lavin")
        assert (round(result["perception"], 4), round(result["cognition"], 4)) == (963.6114, 249.6429)
        assert len(result["subtasks"]) == 14
        assert result["missing_subtasks"] == []

    def test_seed_bench(self, shared):
        # eight questions stand in the file twice, and the published figure counts its lines
        result = scored("seed_bench", shared / "data" / "seed_bench" / "gpt4v_predictions.jsonl")
        assert (round(result["accuracy"], 6), result["questions"], result["repeated"]) == (0.672834, 17997, 8)
        assert result["rule"] == "letter"

    def test_pope(self, shared):
        folder = shared / "golden" / "scores" / "pope"
        result = scored("pope", folder / "llava-v1.5-13b_popular.jsonl", folder / "coco_pope_popular.json")
        assert result["counts"] == {"TP": 1182, "FP": 59, "TN": 1441, "FN": 318}
        figures = (100 * result["accuracy"], 100 * result["f1"], result["yes_ratio"])
        assert [round(value, digits) for value, digits in zip(figures, (4, 4, 6), strict=True)] == [87.4333, 86.2459, 0.413667]

    def test_mmbench(self, shared):
        result = scored("mmbench", shared / "golden" / "scores" / "mmbench" / "llava-v1.5-13b_dev_even.tsv")
        assert (round(result["circular"], 6), round(result["rows"], 6), result["items"]) == (0.683333, 0.767713, 600)
        assert result["rule"] == "official-2023"

    def test_scienceqa(self, shared):
        result = scored("scienceqa", shared / "golden" / "scores" / "scienceqa" / "llava-v1.5-13b_even.json")
        assert (round(100 * result["accuracy"], 4), round(100 * result["with_picture"], 4)) == (74.8232, 71.4286)
        assert result["pictured"] == 987

    def test_aokvqa_reads_the_official_file(self, shared):
        items = find("aokvqa").read(shared / "golden" / "scores" / "formats" / "aokvqa_v1p0_val_60.json")
        assert len(items) == 60
        first = items[0]
        assert (first.id, first.answer, first.choices["D"]) == ("22jbM6gDxdaMaunuzgrsBB", "D", "cigarette")
        assert first.picture == "000000461751.jpg"


# what the formats themselves do not have: ids of ScienceQA's parquet, names of SEED's types in its; and in which official files
# have questions that VLMEvalKit's table has not, those without a picture
def told(name, form, items):
    keep = ["id", "question", "answer", "part", "choices", "hint"]
    if (name, form) == ("scienceqa", "parquet"):
        keep.remove("id")
    if (name, form) == ("seed_bench", "parquet"):
        keep.remove("part")
    return [tuple(getattr(item, key) for key in keep) for item in items]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", WRITERS)
def test_each_format_gives_the_same_questions_with_their_pictures(name, form, tmp_path):
    benchmark = find(name)
    official = benchmark.read(WRITERS[name](tmp_path / "official", "official"))
    items = benchmark.read(WRITERS[name](tmp_path / form, form))
    if form == "tsv" and name in ("scienceqa", "hallusionbench"):
        official = [item for item in official if item.pictures]
    assert told(name, form, items) == told(name, form, official)
    for item, same in zip(items, official, strict=True):
        assert [opens().tobytes() for opens in item.pictures] == [opens().tobytes() for opens in same.pictures]
        assert all(opens().size == (SIDE, SIDE) for opens in item.pictures)
        assert item.question in benchmark.asked(item)
        assert all(text in benchmark.asked(item) for text in item.choices.values())


HOSTILE = (
    "yes", "A", "no idea", "B.\nbecause\tof it", "=1+1", "", "A person is here", "\x07\ud800", "<b>(c)</b>", "the answer is d",
)  # fmt: skip


@pytest.mark.parametrize("name", WRITERS)
def test_an_own_submission_scores_as_the_answers_themselves(name, tmp_path):
    """Hostile texts too: what is not in the format is in no figure."""
    benchmark = find(name)
    items = benchmark.read(WRITERS[name](tmp_path / "data"))
    said = [Prediction(HOSTILE[place % len(HOSTILE)], f"item {place}", item=item) for place, item in enumerate(items)]
    file = benchmark.submission(said, tmp_path / "out")
    # A-OKVQA's official file has neither right answers nor what was said, but the choice that was read
    by_choice = name == "aokvqa"
    answered = read_joined(benchmark, file, tmp_path / "data" if by_choice else None).answered
    assert len(answered) == len(items)
    for rule in [rule for rule in benchmark.rules if not rule.ranks][: 1 if by_choice else None]:
        direct = rule.figures(rule.mark([Answered(one.item, one.text) for one in said]))
        again = rule.figures(rule.mark(answered))
        if name == "seed_bench":
            # its lines hold no types
            direct["parts"] = again["parts"] = {}
        assert again == direct


class TestMMBench:
    COLUMNS = ("index", "question", "A", "B", "C", "D", "prediction", "answer")
    ROWS = (
        (241, "Which colour?", "red", "blue", None, None, "(A)", "A"),
        (1_000_241, "Which colour?", "blue", "red", None, None, "the red one", "B"),
        (242, "Which number?", 1, 2, None, None, "B", "B"),
        (1_000_242, "Which number?", 2, 1, None, None, None, "A"),
    )

    def sheet(self, folder):
        book = Workbook()
        for row in (self.COLUMNS, *self.ROWS):
            book.active.append(row)
        book.save(folder / "predictions.xlsx")
        return folder / "predictions.xlsx"

    @pytest.mark.parametrize("rule", ["official-2023", "vlmevalkit-2026"])
    def test_a_question_counts_if_every_rotation_is_right(self, tmp_path, rule):
        result = scored("mmbench", self.sheet(tmp_path), rule=rule)
        assert (result["circular"], result["rows"], result["unmatched"]) == (0.5, 0.75, 1)

    def test_a_table_of_the_same(self, tmp_path):
        rows = [dict(zip(self.COLUMNS, ("" if value is None else value for value in row), strict=True)) for row in self.ROWS]
        write_table(tmp_path / "predictions.tsv", rows)
        same, sheet = scored("mmbench", tmp_path / "predictions.tsv"), scored("mmbench", self.sheet(tmp_path))
        assert {**same, "versions": 0} == {**sheet, "versions": 0}

    def test_a_letter_that_is_no_choice_matches_none(self, tmp_path):
        file = written(tmp_path, "predictions.tsv", "index\tquestion\tA\tB\tprediction\tanswer\n1\tq?\tred\tblue\tE\tB\n")
        result = scored("mmbench", file)
        assert (result["rows"], result["unmatched"]) == (0.0, 1)

    def test_the_rules_differ(self, tmp_path):
        row = ("index\tquestion\tA\tB\tprediction\tanswer", "1\tq?\tred\tblue\tB is what I would say of it\tB")
        file = written(tmp_path, "predictions.tsv", "\n".join(row) + "\n")
        assert scored("mmbench", file)["circular"] == 1.0
        assert scored("mmbench", file, rule="vlmevalkit-2026")["circular"] == 0.0

    def test_without_answers_they_are_asked_for(self, tmp_path):
        data = WRITERS["mmbench"](tmp_path / "data")
        rows = [{"question_id": int(item.id), "prompt": "?", "text": item.answer} for item in find("mmbench").read(data)]
        with pytest.raises(ScoringError, match="--answers"):
            scored("mmbench", lines(tmp_path, rows))
        rows = [{**row, "prompt": ""} for row in rows]
        result = scored("mmbench", lines(tmp_path, rows), data)
        assert (result["circular"], result["parts"]) == (1.0, {"colour": 1.0, "shape": 1.0})
        assert result["l2_parts"] == {"perception": 1.0}

    @pytest.mark.parametrize(
        ("row", "why"),
        [
            ("one\tq?\tred\tblue\tA\tA", "line 2: the index is 'one'"),
            ("1\tq?\tred\tblue\tA\tQ", "line 2: the right answer is 'Q'"),
            ("1\tq?\tred\tblue\tA", "line 2"),
        ],
    )
    def test_a_row_that_cannot_be_read_is_refused_with_its_line(self, tmp_path, row, why):
        file = written(tmp_path, "predictions.tsv", f"index\tquestion\tA\tB\tprediction\tanswer\n{row}\n")
        with pytest.raises(ScoringError, match=why):
            scored("mmbench", file)

    def test_a_table_of_questions_is_no_prediction(self, tmp_path):
        data = WRITERS["mmbench"](tmp_path)
        with pytest.raises(ScoringError, match="no 'prediction'"):
            scored("mmbench", next(data.glob("*.tsv")))

    def test_the_hubs_blanks_are_no_words(self, tmp_path):
        """The hub's columns hold pandas' blank as a text: no hint is shown, and a split without answers has none."""
        row = {"index": 1, "question": "Which?", "A": "x", "B": "y", "C": "nan", "D": "nan", "hint": "nan", "answer": "nan"}
        write_parquet(tmp_path / "en" / "test-00000-of-00001.parquet", [{**row, "image": hub_picture(0)}])
        (item,) = find("mmbench").read(tmp_path)
        assert (item.hint, item.answer, item.choices) == ("", None, {"A": "x", "B": "y"})
        assert "nan" not in find("mmbench").asked(item)


class TestSeedBench:
    def test_a_letter_with_its_text_is_the_letter(self, tmp_path):
        rows = [("1", "A. one", "A"), ("2", "B", "C"), ("3", "no idea", "D"), ("4", "", "A")]
        text = ",\n".join(
            json.dumps({"question_id": number, "prediction": said, "gt_answer": right}) for number, said, right in rows
        )
        result = scored("seed_bench", written(tmp_path, "predictions.jsonl", text))
        assert (result["accuracy"], result["unmatched"]) == (0.25, 2)

    def test_rankings_are_scored_by_their_losses(self, tmp_path):
        losses = [{"A": 2.0, "B": 1.0}, {"A": 0.5, "B": 1.0}]
        rows = [{"question_id": str(n), "prediction": "A", "gt_answer": "B", "losses": loss} for n, loss in enumerate(losses)]
        result = scored("seed_bench", lines(tmp_path, rows))
        assert (result["rule"], result["accuracy"]) == ("likelihood", 0.5)

    def test_letters_are_no_likelihoods(self, tmp_path):
        file = lines(tmp_path, [{"question_id": "1", "prediction": "A", "gt_answer": "A"}])
        with pytest.raises(ScoringError, match="likelihood"):
            scored("seed_bench", file, rule="likelihood")

    @pytest.mark.parametrize("losses", [[1, 2], {}, {"A": "low"}, {"A": float("inf")}, {"A": None}, {"A": True}])
    def test_losses_that_are_none_are_refused_with_their_line(self, tmp_path, losses):
        good = {"question_id": "1", "prediction": "A", "gt_answer": "A", "losses": {"A": 1.0}}
        file = lines(tmp_path, [good, {**good, "question_id": "2", "losses": losses}])
        with pytest.raises(ScoringError, match=r"line 2: 'losses'"):
            scored("seed_bench", file)

    def test_the_official_results(self, tmp_path):
        rows = [{"q_id": str(n), "prediction": "A", "gt": "AB"[n % 2], "q_type_id": 1 + n // 2} for n in range(4)]
        assert scored("seed_bench", lines(tmp_path, rows))["parts"] == {"type 1": 0.5, "type 2": 0.5}

    def test_with_the_benchmarks_file_a_question_that_comes_twice_is_refused(self, tmp_path):
        data = WRITERS["seed_bench"](tmp_path / "data")
        rows = [{"question_id": number, "prediction": "A"} for number in ("101", "102", "103", "101")]
        with pytest.raises(ScoringError, match="line 4: id '101' comes twice"):
            scored("seed_bench", lines(tmp_path, rows), data)
        assert scored("seed_bench", lines(tmp_path, rows[:3]), data)["accuracy"] == 1 / 3


class TestMMStar:
    @pytest.mark.parametrize(
        ("text", "question", "choices"),
        [
            ("Which?\nOptions: A: red, B: green, or so, C: blue", "Which?", {"A": "red", "B": "green, or so", "C": "blue"}),
            ("Which?\nOptions: A: red,\nB: blue,", "Which?", {"A": "red", "B": "blue"}),
            # what is not lettered in order stays a part of the question
            ("Which?\nOptions: A: red, C: green, B: blue", None, {}),
            ("Options are few", None, {}),
        ],
    )
    def test_choices_at_the_end_of_the_question(self, tmp_path, text, question, choices):
        row = {"index": 0, "question": text, "image": "", "answer": "A", "category": "math"}
        write_table(tmp_path / "MMStar.tsv", [row])
        (item,) = find("mmstar").read(tmp_path)
        assert (item.question, item.choices) == (question or text, choices)


class TestMMVP:
    def test_a_pair_counts_if_both_are_right(self, tmp_path):
        said = [("(a)", "(a) Open"), ("(b)", "Closed"), ("(b)", "b"), ("(a)", "(b)")]
        prompt = "Is it open? (a) Open (b) Closed"
        rows = [
            {"question_id": n, "prompt": prompt, "answer": right, "response": text, "model_id": "m"}
            for n, (right, text) in enumerate(said, 1)
        ]
        result = scored("mmvp", lines(tmp_path, rows))
        assert (result["accuracy"], result["pair_accuracy"], result["pairs"]) == (0.75, 0.5, 2)


class TestScienceQA:
    def test_llavas_results_join_by_id(self, tmp_path):
        data = WRITERS["scienceqa"](tmp_path / "data")
        outputs = {"4": "B", "11": "B. green", "22": "The answer is one"}
        for value, right in (
            ({"acc": 1, "outputs": outputs, "results": {"4": 1, "11": 1, "22": -1}}, 2 / 3),
            ({"results": {"4": 1, "11": 0, "22": -1}}, 1 / 3),
        ):
            result = scored("scienceqa", written(tmp_path, "result.json", json.dumps(value)), data)
            assert result["accuracy"] == right
            assert result["pictured"] == 2
        assert result["with_picture"] == 0.0

    def test_right_and_wrong_ones_in_two_lists(self, tmp_path):
        entry = {"question_id": "4", "ground_truth": "B", "question": "q?", "pred": "B", "is_multimodal": False}
        other = {**entry, "question_id": "5", "pred": "A"}
        file = written(tmp_path, "result.json", json.dumps({"correct": [entry], "incorrect": [other]}))
        result = scored("scienceqa", file)
        assert (result["accuracy"], result["with_picture"], result["pictured"]) == (0.5, None, 0)

    @pytest.mark.parametrize("place", [7.5, "1", None, True, 99, -2])
    def test_a_result_that_is_no_choice_is_refused(self, tmp_path, place):
        file = written(tmp_path, "result.json", json.dumps({"results": {"4": place}}))
        with pytest.raises(ScoringError, match="result '4'"):
            find("scienceqa").predictions(file)


class TestAOKVQA:
    def test_the_official_predictions_are_texts_of_choices(self, tmp_path):
        data = WRITERS["aokvqa"](tmp_path / "data")
        ids = [item.id for item in find("aokvqa").read(data)]
        said = dict(zip(ids, ("dust", "ten", "a square"), strict=True))
        value = {number: {"multiple_choice": text, "direct_answer": "x"} for number, text in said.items()}
        assert scored("aokvqa", written(tmp_path, "predictions.json", json.dumps(value)), data)["accuracy"] == 2 / 3


@pytest.mark.parametrize("name", ["pope", "seed_bench", "mmstar", "scienceqa", "mmvp"])
def test_vlmevalkits_tables_have_the_right_answer_beside_the_prediction(name, tmp_path):
    """Its sheets are the benchmark's table with a column more."""
    yes = name == "pope"
    rows = [
        {
            "index": number,
            "question": "Is there a dog?" if yes else "Which?",
            **({} if yes else {"A": "dog", "B": "cat"}),
            "answer": right,
            "category": "made",
            "image_path": f"{number}.jpg",
            "prediction": said,
        }
        for number, (right, said) in enumerate([("Yes", "Yes"), ("No", "Yes")] if yes else [("A", "A"), ("B", "A")])
    ]
    write_table(tmp_path / "result.tsv", rows)
    assert scored(name, tmp_path / "result.tsv")["accuracy"] == 0.5


ROWS = {
    "pope": {"question_id": 1, "image": "1.jpg", "question": "Is there a dog?", "text": "Yes", "label": "yes"},
    "seed_bench": {"question_id": "1", "prediction": "A", "gt_answer": "A"},
    "mmstar": {"index": 1, "question": "q?", "prediction": "A", "answer": "A"},
    "mmvp": {"question_id": 1, "prompt": "q? (a) x (b) y", "answer": "(a)", "response": "(a)"},
    "scienceqa": {"question_id": "1", "ground_truth": "A", "question": "q?", "pred": "A", "is_multimodal": True},
    "aokvqa": {"question_id": "1", "prediction": "A", "answer": "A"},
    "hallusionbench": {
        "category": "VD", "subcategory": "map", "set_id": "0", "figure_id": "1", "question_id": "0", "question": "q?",
        "gt_answer": "1", "model_prediction": "Yes",
    },
}  # fmt: skip


@pytest.mark.parametrize("bad", [None, [], ["A"], {"a": 1}, True, float("inf"), 10**400])
@pytest.mark.parametrize("name", ROWS)
def test_whatever_stands_where_a_text_belongs_is_scored_or_refused_with_its_line(name, bad, tmp_path):
    for key in ROWS[name]:
        row = {**ROWS[name], key: bad}
        number = {} if key in ("question_id", "index") else {"index" if name == "mmstar" else "question_id": "2"}
        file = lines(tmp_path, [ROWS[name], {**row, **number}])
        with contextlib.suppress(ScoringError):
            scored(name, file)
            continue
        with pytest.raises(ScoringError, match=r"line \d"):
            scored(name, file)


@pytest.mark.parametrize("name", ROWS)
def test_a_question_that_comes_twice_is_refused_with_its_line(name, tmp_path):
    file = lines(tmp_path, [ROWS[name]] * 2)
    if name == "seed_bench":
        assert scored(name, file)["repeated"] == 1
    else:
        with pytest.raises(ScoringError, match=r"line 2: .*twice"):
            scored(name, file)


def test_a_rotation_without_a_picture_of_its_own_shows_the_one_that_it_names(tmp_path):
    row = {"question": "q?", "A": "x", "B": "y", "answer": "A"}
    rows = [{"index": 7, **row, "image": base64_picture(3)}, {"index": 1_000_007, **row, "image": "7"}]
    write_table(tmp_path / "mmbench.tsv", rows)
    first, second = find("mmbench").read(tmp_path)
    assert first.picture == second.picture
    assert first.pictures[0]().tobytes() == second.pictures[0]().tobytes()
