"""Benchmarks of yes and no, of a few questions each, in the formats in which people have them.

``write_NAME(folder, form)`` writes one with small pictures and returns what is given as ``--data``. Forms: "official", "tsv"
(VLMEvalKit's table) and "parquet" (the hub's).
"""

import json

from tests.mllm.made.benchmark_forms import (
    COLOURS,
    base64_picture,
    hub_picture,
    picture_file,
    write_json,
    write_parquet,
    write_table,
)


def write_mme(folder, form="official"):
    """Two pictures with two questions each in two subtasks of perception and one of cognition: 12 questions."""
    rows = []
    # the official archive has both of these layouts
    for task, apart in (("existence", False), ("OCR", True), ("code_reasoning", False)):
        for number in range(2):
            name = f"{number + 1:04d}"
            questions = [
                (f"Is there a {COLOURS[number]} square? Please answer yes or no.", "Yes"),
                ("Is it round? Please answer yes or no.", "No"),
            ]
            rows += [(task, name, number, question, answer) for question, answer in questions]
            if form == "official":
                picture_file(folder / task / ("images" if apart else "") / f"{name}.png", number)
                text = folder / task / ("questions_answers_YN" if apart else "") / f"{name}.txt"
                text.parent.mkdir(parents=True, exist_ok=True)
                text.write_text("".join(f"{question}\t{answer}\n" for question, answer in questions))
    if form == "tsv":
        table = [
            {
                "index": place,
                "category": task,
                "image_path": f"{task}/{name}.png",
                "question": question,
                "answer": answer,
                "image": base64_picture(number),
            }
            for place, (task, name, number, question, answer) in enumerate(rows)
        ]
        write_table(folder / "MME.tsv", table)
    if form == "parquet":
        table = [
            {
                "question_id": f"{task}/{name}.png",
                "image": hub_picture(number),
                "question": question,
                "answer": answer,
                "category": task,
            }
            for task, name, number, question, answer in rows
        ]
        write_parquet(folder / "data" / "test-00000-of-00001.parquet", table)
    return folder


def write_pope(folder, form="official"):
    """Six questions on two pictures. The official file is of one category."""
    rows = [
        (f"COCO_val2014_{310196 + shown:012d}", shown, f"Is there a {thing} in the image?", label)
        for shown in range(2)
        for thing, label in (("square", "yes"), ("dog", "no"), ("snowboard", "no"))
    ]
    if form == "official":
        for name, shown, *_ in rows:
            picture_file(folder / "val2014" / f"{name}.jpg", shown)
        lines = [
            json.dumps({"question_id": place, "image": f"{name}.jpg", "text": question, "label": label})
            for place, (name, _, question, label) in enumerate(rows, start=1)
        ]
        (folder / "coco_pope_popular.json").write_text("\n".join(lines) + "\n")
    if form == "tsv":
        table = [
            {
                "index": place,
                "question": question,
                "answer": label.capitalize(),
                "category": "popular",
                "image_path": f"{name}.jpg",
                "image": base64_picture(shown),
            }
            for place, (name, shown, question, label) in enumerate(rows, start=1)
        ]
        write_table(folder / "POPE.tsv", table)
    if form == "parquet":
        table = [
            {
                "id": str(place),
                "question_id": str(place),
                "question": question,
                "answer": label,
                "image_source": name,
                "image": hub_picture(shown),
                "category": "popular",
            }
            for place, (name, shown, question, label) in enumerate(rows, start=1)
        ]
        write_parquet(folder / "data" / "test-00000-of-00001.parquet", table)
    return folder


def write_hallusionbench(folder, form="official"):
    """Five questions; the official file and the hub's have one without a picture too."""
    rows = [
        ("VD", "illusion", "0", "0", "0", "Are both squares of one size?", "1", True),
        ("VD", "illusion", "0", "1", "0", "Are both squares of one size?", "0", True),
        ("VS", "chart", "0", "0", "0", "Did sales grow?", "1", False),
        ("VS", "chart", "0", "1", "0", "Did sales grow?", "1", True),
        ("VS", "chart", "0", "1", "1", "Did sales fall?", "0", True),
    ]
    names = ("category", "subcategory", "set_id", "figure_id", "question_id", "question", "gt_answer")
    entries = []
    for place, row in enumerate(rows):
        entry = dict(zip(names, row, strict=False)) | {
            "visual_input": "1" if row[-1] else "0",
            "gt_answer_details": "",
            "filename": None,
        }
        if row[-1]:
            entry["filename"] = f"./{row[0]}/{row[1]}/{row[2]}_{row[3]}.png"
        # the last two are on one figure
        entries.append((min(place, 3), entry))
    if form == "official":
        for place, entry in entries:
            if entry["filename"]:
                picture_file(folder / "hallusion_bench" / entry["filename"], place)
        write_json(folder / "HallusionBench.json", [entry for _, entry in entries])
    if form == "tsv":
        table = [
            {
                "index": "_".join(("hb", *row[:5])),
                "question": row[5],
                "answer": {"1": "Yes", "0": "No"}[row[6]],
                "category": row[0],
                "l2-category": row[1],
                "image": base64_picture(min(place, 3)),
            }
            for place, row in enumerate(rows)
            if row[-1]
        ]
        write_table(folder / "HallusionBench.tsv", table)
    if form == "parquet":
        table = [{**entry, "image": hub_picture(place) if entry["filename"] else None} for place, entry in entries]
        write_parquet(folder / "data" / "image-00000-of-00001.parquet", table)
    return folder
