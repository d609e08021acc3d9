"""Benchmarks of multiple choice, of a few questions each, in the formats in which people have them.

``write_NAME(folder, form)`` writes one with small pictures and returns what is given as ``--data``. Forms: "official", "tsv"
(VLMEvalKit's table) and "parquet" (the hub's).
"""

from tests.mllm.made.benchmark_files_yes_no import write_hallusionbench, write_mme, write_pope
from tests.mllm.made.benchmark_forms import (
    base64_picture,
    hub_picture,
    picture,
    picture_file,
    write_json,
    write_parquet,
    write_table,
)


def write_mmbench(folder, form="official"):
    """Two questions, of four and of two choices, in all their rotations: 6 rows. A rotation names the row with its picture."""
    rows = []
    for number, (question, choices) in enumerate(
        (("Which colour is the square?", ["red", "green", "blue", "a red one"]), ("Is it round?", ["yes", "no"]))
    ):
        for turn in range(len(choices)):
            turned = choices[turn:] + choices[:turn]
            columns = {letter: turned[place] if place < len(turned) else "" for place, letter in enumerate("ABCD")}
            right = "ABCD"[turned.index(choices[-1])]
            row = {
                "index": 241 + number + 1_000_000 * turn,
                "question": question,
                "hint": "Look well." if number else "",
                **columns,
                "answer": right,
            }
            row |= {"category": ("colour", "shape")[number], "source": "made", "split": "dev", "comment": ""}
            rows.append((number, turn, row))
    if form == "parquet":
        table = [{**row, "L2-category": "perception", "image": hub_picture(number)} for number, _, row in rows]
        write_parquet(folder / "en" / "dev-00000-of-00001.parquet", table)
    else:
        table = [
            {**row, "l2-category": "perception", "image": str(241 + number) if turn else base64_picture(number)}
            for number, turn, row in rows
        ]
        write_table(folder / "mmbench_dev_20230712.tsv", table)
    return folder


def write_seed_bench(folder, form="official"):
    """Three questions on two pictures, and one on a video in the official file, which is none of the image part."""
    questions = [
        ("101", 1, 0, "Which colour is the square?", ["red", "green", "blue", "white"], "B"),
        ("102", 1, 1, "Which colour is around it?", ["red", "green", "blue", "white"], "B"),
        ("103", 5, 1, "How many squares are there?", ["one", "two", "three", "none"], "A"),
    ]
    rows = [
        {
            "question_id": number,
            "question_type_id": kind,
            "question": question,
            **{f"choice_{letter}": choice for letter, choice in zip("abcd", choices, strict=True)},
            "answer": right,
            "data_id": f"{shown}_1234",
            "data_type": "image",
        }
        for number, kind, shown, question, choices, right in questions
    ]
    types = {"Scene Understanding": 1, "Instances Counting": 5, "Action Recognition": 10}
    if form == "official":
        for shown in range(2):
            # the official pictures have no ending
            picture_file(folder / "SEED-Bench-image" / f"{shown}_1234", shown)
        video = {**rows[0], "question_id": "v1", "question_type_id": 10, "data_id": "1.webm", "data_type": "video"}
        write_json(folder / "SEED-Bench.json", {"questions": [*rows, video], "question_type": types})
    if form == "tsv":
        names = {number: name for name, number in types.items()}
        table = [
            {
                "index": number,
                "question": question,
                **dict(zip("ABCD", choices, strict=True)),
                "answer": right,
                "category": names[kind],
                "image": base64_picture(shown),
            }
            for number, kind, shown, question, choices, right in questions
        ]
        write_table(folder / "SEEDBench_IMG.tsv", table)
    if form == "parquet":
        table = [{**row, "image": [hub_picture(shown)]} for row, (_, _, shown, *_) in zip(rows, questions, strict=True)]
        write_parquet(folder / "data" / "test-00000-of-00001.parquet", table)
    return folder


def write_mmstar(folder, form="official"):
    """Three questions; the official file is the hub's, with the choices in the question."""
    rows = [
        (
            0,
            "Which colour is the square?",
            ["red", "green, or so", "blue", "white"],
            "B",
            "coarse perception",
            "image scene and topic",
        ),
        (1, "How many squares are there?", ["1", "2", "3", "4"], "A", "math", "statistical reasoning"),
        (2, "Which is it?", ["a", "b", "c", "d"], "C", "math", "geometry"),
    ]
    if form == "tsv":
        table = [
            {
                "index": place,
                "question": question,
                **dict(zip("ABCD", choices, strict=True)),
                "answer": right,
                "category": part,
                "l2_category": small,
                "image": base64_picture(place),
            }
            for place, question, choices, right, part, small in rows
        ]
        write_table(folder / "MMStar.tsv", table)
    else:
        table = [
            {
                "index": place,
                "question": f"{question}\nOptions: "
                + ", ".join(f"{letter}: {choice}" for letter, choice in zip("ABCD", choices, strict=True)),
                "image": picture(place),
                "answer": right,
                "category": part,
                "l2_category": small,
                "meta_info": {"source": "made"},
            }
            for place, question, choices, right, part, small in rows
        ]
        write_parquet(folder / "mmstar.parquet", table)
    return folder


def write_mmvp(folder, form="official"):
    """Two pairs."""
    rows = [
        (1, "Is the square open or closed?", ["Open", "Closed"], "a"),
        (2, "Is the square open or closed?", ["Open", "Closed"], "b"),
        (3, "Where is it?", ["Left", "Right"], "b"),
        (4, "Where is it?", ["Left", "Right"], "a"),
    ]
    listed = [
        {"Index": number, "Question": question, "Options": f"(a) {choices[0]} (b) {choices[1]}", "Correct Answer": f"({right})"}
        for number, question, choices, right in rows
    ]
    if form == "official":
        for number, *_ in rows:
            picture_file(folder / "MMVP Images" / f"{number}.jpg", number)
        write_table(folder / "Questions.csv", listed, ",")
    if form == "tsv":
        table = [
            {
                "index": number,
                "question": question,
                "A": choices[0],
                "B": choices[1],
                "answer": right.upper(),
                "image": base64_picture(number),
            }
            for number, question, choices, right in rows
        ]
        write_table(folder / "MMVP.tsv", table)
    if form == "parquet":
        write_parquet(
            folder / "data" / "train-00000-of-00001.parquet", [{**row, "image": hub_picture(row["Index"])} for row in listed]
        )
    return folder


def write_scienceqa(folder, form="official"):
    """Three questions, two of them with a picture, and one of another split in the official file."""
    rows = [
        ("4", "Which figure of speech is this?", ["chiasmus", "apostrophe"], 1, "", None, "language science"),
        (
            "11",
            "Which colour is the square?",
            ["red", "green", "blue"],
            1,
            "Two squares are placed as shown.",
            0,
            "natural science",
        ),
        ("22", "How many squares are there?", ["one", "two", "three", "four", "five"], 0, "", 1, "natural science"),
    ]
    if form == "official":
        problems = {}
        for number, question, choices, right, hint, shown, subject in rows:
            image = None if shown is None else "image.png"
            problems[number] = {
                "question": question,
                "choices": choices,
                "answer": right,
                "hint": hint,
                "image": image,
                "subject": subject,
                "split": "test",
            }
            if shown is not None:
                picture_file(folder / "test" / number / "image.png", shown)
        problems["5"] = {**problems["4"], "split": "train"}
        write_json(folder / "problems.json", problems)
    if form == "tsv":
        table = [
            {
                "index": number,
                "question": question,
                "hint": hint,
                **{letter: choices[place] if place < len(choices) else "" for place, letter in enumerate("ABCDE")},
                "answer": "ABCDE"[right],
                "category": subject,
                "image": base64_picture(shown),
            }
            for number, question, choices, right, hint, shown, subject in rows
            if shown is not None
        ]
        write_table(folder / "ScienceQA_TEST.tsv", table)
    if form == "parquet":
        table = [
            {
                "image": None if shown is None else hub_picture(shown),
                "question": question,
                "choices": choices,
                "answer": right,
                "hint": hint,
                "subject": subject,
            }
            for _, question, choices, right, hint, shown, subject in rows
        ]
        write_parquet(folder / "data" / "test-00000-of-00001.parquet", table)
    return folder


def write_aokvqa(folder, form="official"):
    """Three questions on two pictures."""
    rows = [
        ("22jbM6gDxdaMaunuzgrsBB", 461751, "What is in the square?", ["nothing", "food", "popsicle stick", "dust"], 3),
        ("2Aq5RiEn7eyfWjEbpuYT2o", 377368, "How many squares are there?", ["one", "ten", "nine", "thirty"], 0),
        ("2Br4bJfKY7SQM9DECrqqeG", 377368, "What is it?", ["a square", "a dog", "a cat", "a bird"], 0),
    ]
    if form == "official":
        entries = []
        for number, image, question, choices, right in rows:
            picture_file(folder / "val2017" / f"{image:012d}.jpg", image)
            entry = {"split": "val", "image_id": image, "question_id": number, "question": question, "choices": choices}
            entries.append(
                {**entry, "correct_choice_idx": right, "direct_answers": ["square"] * 10, "rationales": ["It is so."]}
            )
        write_json(folder / "aokvqa_v1p0_val.json", entries)
    if form == "tsv":
        table = [
            {
                "index": number,
                "question": question,
                **dict(zip("ABCD", choices, strict=True)),
                "answer": "ABCD"[right],
                "image": base64_picture(image),
            }
            for number, image, question, choices, right in rows
        ]
        write_table(folder / "A-OKVQA.tsv", table)
    if form == "parquet":
        table = [
            {
                "image": hub_picture(image),
                "question_id": number,
                "question": question,
                "choices": choices,
                "correct_choice_idx": right,
                "direct_answers": "['square']",
            }
            for number, image, question, choices, right in rows
        ]
        write_parquet(folder / "data" / "validation-00000-of-00001.parquet", table)
    return folder


# those of yes and no are read and scored alike
WRITERS = {
    "mme": write_mme,
    "mmbench": write_mmbench,
    "seed_bench": write_seed_bench,
    "pope": write_pope,
    "mmstar": write_mmstar,
    "mmvp": write_mmvp,
    "hallusionbench": write_hallusionbench,
    "scienceqa": write_scienceqa,
    "aokvqa": write_aokvqa,
}
