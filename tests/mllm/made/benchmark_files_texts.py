"""Miniature sets of the benchmarks whose answers are words or boxes, in the formats that people have them in."""

import base64
import csv
import io
import json
import pickle

import pyarrow
from PIL import Image, ImageDraw
from pyarrow import parquet

FORMS = ("official", "tsv", "parquet")


def drawn(number):
    """A picture that differs from the others, wider than high."""
    picture = Image.new("RGB", (96, 64), (40 * number % 256, 90, 200 - 30 * number % 200))
    ImageDraw.Draw(picture).rectangle((8 + 10 * number, 8, 38 + 10 * number, 48), fill=(250, 240, 10 * number))
    return picture


def encoded(number, kind="PNG"):
    content = io.BytesIO()
    drawn(number).save(content, kind)
    return content.getvalue()


def write_vqav2(folder, form="official"):
    people = [["two"] * 7 + ["2", "three", "two "], ["yes"] * 10, ["red"] * 4 + ["dark red"] * 6]
    rows = [
        {
            "question_id": 262148000,
            "image_id": 262148,
            "question": "How many dogs?",
            "answer_type": "number",
            "people": people[0],
        },
        {"question_id": 262148001, "image_id": 262148, "question": "Is it day?", "answer_type": "yes/no", "people": people[1]},
        {
            "question_id": 393225000,
            "image_id": 393225,
            "question": "What color is it?",
            "answer_type": "other",
            "people": people[2],
        },
    ]
    for row in rows:
        said = row.pop("people")
        row["answers"] = [{"answer": one, "answer_confidence": "yes", "answer_id": n} for n, one in enumerate(said, start=1)]
    if form == "official":
        for number, image in enumerate((262148, 393225)):
            _save(folder / "val2014" / f"COCO_val2014_{image:012d}.jpg", encoded(number, "JPEG"))
        questions = [{key: row[key] for key in ("question_id", "image_id", "question")} for row in rows]
        notes = [{key: row[key] for key in ("question_id", "image_id", "answer_type", "answers")} for row in rows]
        _json(folder / "v2_OpenEnded_mscoco_val2014_questions.json", {"data_subtype": "val2014", "questions": questions})
        _json(folder / "v2_mscoco_val2014_annotations.json", {"data_subtype": "val2014", "annotations": notes})
        return folder
    pictures = [0, 0, 1]
    if form == "parquet":
        return _parquet(folder, "validation", [{**row, "image": _held(n)} for row, n in zip(rows, pictures, strict=True)])
    table = [
        {
            "index": row["question_id"],
            "question": row["question"],
            "answer": str([one["answer"] for one in row["answers"]]),
            "answer_type": row["answer_type"],
        }
        for row in rows
    ]
    return _tsv(folder, "VQAv2_VAL", table, pictures)


def write_textvqa(folder, form="official"):
    rows = [
        {
            "question_id": 34602,
            "image_id": "003a8ae2ef43b901",
            "question": "what is the brand?",
            "answers": ["nous les gosses"] * 8 + ["dakota"] * 2,
        },
        {"question_id": 34603, "image_id": "003a8ae2ef43b901", "question": "what number is on it?", "answers": ["17"] * 10},
        {
            "question_id": 34604,
            "image_id": "00b1f2d1c9d3a4e5",
            "question": "what does the sign say?",
            "answers": ["stop"] * 9 + ["stop!"],
        },
    ]
    pictures = [0, 0, 1]
    if form == "official":
        for row, number in zip(rows, pictures, strict=True):
            _save(folder / "train_images" / f"{row['image_id']}.jpg", encoded(number, "JPEG"))
        return _json(folder / "TextVQA_0.5.1_val.json", {"dataset_name": "textvqa", "data": rows}).parent
    if form == "parquet":
        return _parquet(folder, "validation", [{**row, "image": _held(n)} for row, n in zip(rows, pictures, strict=True)])
    table = [{"index": row["question_id"], "question": row["question"], "answer": str(row["answers"])} for row in rows]
    return _tsv(folder, "TextVQA_VAL", table, pictures)


def write_gqa(folder, form="official"):
    rows = {
        "201307251": {"imageId": "n161313", "question": "Is it overcast?", "answer": "no", "types": {"structural": "verify"}},
        "201640614": {
            "imageId": "n235859",
            "question": "Who is wearing the dress?",
            "answer": "woman",
            "types": {"structural": "query"},
        },
        "202225914": {
            "imageId": "n235859",
            "question": "Is the hat black?",
            "answer": "yes",
            "types": {"structural": "verify"},
        },
    }
    pictures = [0, 1, 1]
    if form == "official":
        for row, number in zip(rows.values(), pictures, strict=True):
            _save(folder / "images" / f"{row['imageId']}.jpg", encoded(number, "JPEG"))
        return _json(folder / "testdev_balanced_questions.json", rows).parent
    if form == "parquet":
        images = {row["imageId"]: number for row, number in zip(rows.values(), pictures, strict=True)}
        _parquet(folder / "testdev_balanced_images", "testdev", [{"id": key, "image": _held(n)} for key, n in images.items()])
        _parquet(folder / "testdev_balanced_instructions", "testdev", [{"id": key, **row} for key, row in rows.items()])
        return folder
    table = [{"index": key, "question": row["question"], "answer": row["answer"]} for key, row in rows.items()]
    return _tsv(folder, "GQA_TestDev_Balanced", table, pictures)


def write_docvqa(folder, form="official"):
    rows = [
        {
            "questionId": 49153,
            "question": "What is the date?",
            "question_types": ["handwritten", "form"],
            "image": "documents/pybv0228_81.png",
            "answers": ["1/8/93", "01/08/93"],
        },
        {
            "questionId": 24580,
            "question": "Who signed?",
            "question_types": ["form"],
            "image": "documents/pybv0228_81.png",
            "answers": ["R. Smith"],
        },
        {
            "questionId": 57349,
            "question": "What is the total?",
            "question_types": ["table/list"],
            "image": "documents/nkbl0226_1.png",
            "answers": ["0.28"],
        },
    ]
    pictures = [0, 0, 1]
    if form == "official":
        for row, number in zip(rows, pictures, strict=True):
            _save(folder / row["image"], encoded(number))
        return _json(folder / "val_v1.0_withQT.json", {"dataset_name": "SP-DocVQA", "data": rows}).parent
    if form == "parquet":
        rows = [{**row, "questionId": str(row["questionId"]), "image": _held(n)} for row, n in zip(rows, pictures, strict=True)]
        return _parquet(folder, "validation", rows)
    table = [{"index": row["questionId"], "question": row["question"], "answer": str(row["answers"])} for row in rows]
    return _tsv(folder, "DocVQA_VAL", table, pictures)


def write_chartqa(folder, form="official"):
    rows = [
        ("human", {"imgname": "41699051005347.png", "query": "How many bars?", "label": "14"}),
        ("human", {"imgname": "41699051005347.png", "query": "Which is the largest?", "label": "Food, Drinks"}),
        ("augmented", {"imgname": "two_col_1.png", "query": "What is the share in 2019?", "label": "22.5%"}),
    ]
    pictures = [0, 0, 1]
    if form == "official":
        for (_, row), number in zip(rows, pictures, strict=True):
            _save(folder / "test" / "png" / row["imgname"], encoded(number))
        for part in ("human", "augmented"):
            _json(folder / "test" / f"test_{part}.json", [row for kind, row in rows if kind == part])
        return folder
    common = [{"type": f"{part}_test", "question": row["query"], "answer": row["label"]} for part, row in rows]
    if form == "parquet":
        return _parquet(folder, "test", [{**row, "image": _held(n)} for row, n in zip(common, pictures, strict=True)])
    table = [
        {"index": n, "question": row["question"], "answer": row["answer"], "split": f"test_{part}"}
        for n, ((part, _), row) in enumerate(zip(rows, common, strict=True))
    ]
    return _tsv(folder, "ChartQA_TEST", table, pictures)


def write_ocrbench(folder, form="official"):
    rows = [
        {
            "dataset_name": "IIIT5K",
            "type": "Regular Text Recognition",
            "id": 0,
            "image_path": "IIIT5K/1002_1.png",
            "question": "what is written in the image?",
            "answers": ["PRIVATE"],
        },
        {
            "dataset_name": "STVQA",
            "type": "Scene Text-centric VQA",
            "id": 1,
            "image_path": "STVQA/7.png",
            "question": "What is the number?",
            "answers": ["17", "seventeen"],
        },
        {
            "dataset_name": "STVQA",
            "type": "Scene Text-centric VQA",
            "id": 2,
            "image_path": "STVQA/7.png",
            "question": "What is the color?",
            "answers": ["red"],
        },
        {
            "dataset_name": "HME100k",
            "type": "Handwritten Mathematical Expression Recognition",
            "id": 3,
            "image_path": "HME100k/1.png",
            "question": "Please write out the expression.",
            "answers": ["\\frac { 1 } { X }"],
        },
    ]
    pictures = [0, 1, 1, 2]
    if form == "official":
        for row, number in zip(rows, pictures, strict=True):
            _save(folder / "OCRBench_Images" / row["image_path"], encoded(number))
        return _json(folder / "OCRBench" / "OCRBench.json", rows).parent.parent
    if form == "parquet":
        hub = [
            {
                "dataset": row["dataset_name"],
                "question": row["question"],
                "question_type": row["type"],
                "answer": row["answers"],
            }
            for row in rows
        ]
        return _parquet(folder, "test", [{**row, "image": _held(n)} for row, n in zip(hub, pictures, strict=True)])
    table = [
        {"index": row["id"], "question": row["question"], "answer": str(row["answers"]), "category": row["type"]}
        for row in rows
    ]
    return _tsv(folder, "OCRBench", table, pictures)


def write_refcoco(folder, form="official", name="refcoco"):
    # of the pictures' own rectangles
    boxes = {1: [8, 8, 31, 41], 2: [18, 8, 31, 41]}
    sentences = {1: [(10, "left box"), (11, "the yellow one")], 2: [(12, "box on the right")]}
    if form == "official":
        refs = [
            {
                "ref_id": number,
                "ann_id": 100 + number,
                "image_id": number,
                "split": split,
                "file_name": "never_used.jpg",
                "sentences": [{"sent_id": own, "sent": text, "raw": text} for own, text in sentences[number]],
            }
            for number, split in ((1, "val"), (2, "testA"))
        ]
        refs.append({**refs[0], "ref_id": 3, "split": "train", "sentences": [{"sent_id": 13, "sent": "not asked", "raw": ""}]})
        images = [{"id": n, "file_name": f"COCO_train2014_{n:012d}.jpg", "width": 96, "height": 64} for n in boxes]
        for number, image in enumerate(images):
            _save(folder / "train2014" / image["file_name"], encoded(number, "JPEG"))
        by = "umd" if name == "refcocog" else "unc"
        _save(folder / name / f"refs({by}).p", pickle.dumps(refs, protocol=2))
        notes = [{"id": 100 + n, "image_id": n, "bbox": box} for n, box in boxes.items()]
        _json(folder / name / "instances.json", {"images": images, "annotations": notes})
        return folder
    if form == "parquet":
        rows = [
            {
                "question_id": str(n),
                "question": "Please describe.",
                "answer": [text for _, text in sentences[n]],
                "bbox": [float(one) for one in box],
                "file_name": f"COCO_train2014_{n:012d}_0.jpg",
                "image": _held(n - 1),
            }
            for n, box in boxes.items()
        ]
        return _parquet(folder, "val", rows)
    prefix = {"refcoco": "RefCOCO", "refcoco+": "RefCOCO+", "refcocog": "RefCOCOg"}[name]
    table, pictures = [], []
    for number, (x, y, width, height) in boxes.items():
        for own, text in sentences[number]:
            corners = {"bbox_x1": x, "bbox_y1": y, "bbox_x2": x + width, "bbox_y2": y + height}
            split = f"{prefix}_{'val' if number == 1 else 'testA'}"
            table.append({"index": own, "question": text, **corners, "width": 96, "height": 64, "split": split})
            pictures.append(number - 1)
    # the one table has all sets
    table.append({**table[0], "index": 99, "split": "RefCOCOg_val" if name != "refcocog" else "RefCOCO_val"})
    return _tsv(folder, "RefCOCO", table, [*pictures, 0])


def write_caption(folder, form="official"):
    captions = {
        391895: ["A man riding a bike.", "A man on a motorcycle, outside."],
        522418: ["A woman cutting a cake.", "A woman's cake."],
        184613: ["A child with an umbrella.", "A small child holding a huge umbrella near a cow"],
    }
    if form == "official":
        images = [{"id": number, "file_name": f"COCO_val2014_{number:012d}.jpg"} for number in captions]
        for number, image in enumerate(images):
            _save(folder / "val2014" / image["file_name"], encoded(number, "JPEG"))
        notes = [
            {"id": 10 * number + n, "image_id": number, "caption": text}
            for number, some in captions.items()
            for n, text in enumerate(some)
        ]
        return _json(folder / "annotations" / "captions_val2014.json", {"images": images, "annotations": notes}).parent.parent
    if form == "parquet":
        rows = [
            {
                "question_id": f"COCO_val2014_{number:012d}.jpg",
                "question": "Please describe.",
                "answer": some,
                "id": n,
                "file_name": f"COCO_val2014_{number:012d}.jpg",
                "image": _held(n),
            }
            for n, (number, some) in enumerate(captions.items())
        ]
        return _parquet(folder, "val", rows)
    table = [{"index": number, "answer": str(some)} for number, some in captions.items()]
    return _tsv(folder, "COCO_VAL", table, [0, 1, 2])


WRITERS = {
    "vqav2": write_vqav2,
    "textvqa": write_textvqa,
    "gqa": write_gqa,
    "docvqa": write_docvqa,
    "chartqa": write_chartqa,
    "ocrbench": write_ocrbench,
    "caption": write_caption,
    "refcoco": write_refcoco,
    "refcoco+": lambda folder, form="official": write_refcoco(folder, form, "refcoco+"),
    "refcocog": lambda folder, form="official": write_refcoco(folder, form, "refcocog"),
}


def _held(number):
    return {"bytes": encoded(number), "path": None}


def _save(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


def _json(file, value):
    return _save(file, json.dumps(value).encode())


def _parquet(folder, split, rows):
    folder.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / f"{split}-00000-of-00001.parquet")
    return folder


def _tsv(folder, name, rows, pictures):
    """As VLMEvalKit's tables: a picture that an earlier row has is named by that row's index."""
    folder.mkdir(parents=True, exist_ok=True)
    first = {}
    for row, number in zip(rows, pictures, strict=True):
        row["image"] = first.get(number, base64.b64encode(encoded(number)).decode())
        first.setdefault(number, str(row["index"]))
    with (folder / f"{name}.tsv").open("w", newline="", encoding="utf-8") as content:
        writer = csv.DictWriter(content, list(rows[0]), delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return folder
