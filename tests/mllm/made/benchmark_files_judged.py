"""Miniature sets of the benchmarks whose answers a judge grades, in the formats in which people have them."""

import base64
import csv
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

COLOURS = ("red", "green", "blue")
# question, answer, capabilities; the second shows the picture of the first
MM_VET = (
    ("which colour is at the top", "red", ["rec"]),
    ("what is at the top", "one <AND> two", ["rec", "ocr"]),
    ("what shape", "circle<OR>square", ["rec", "ocr", "math"]),
    ("which colour is big", "blue", ["ocr"]),
)
# category, question, reference
LLAVA_BENCH = (
    ("conv", "which colour is at the top", "It is red."),
    ("detail", "what is at the top", "A red circle."),
    ("complex", "what shape is small", "A square, for it is blue."),
    ("conv", "is it big", "Yes."),
)


def write_mm_vet(folder, form="json"):
    """MM-Vet as its authors' ``json``, LLaVA's ``llava`` lines, VLMEvalKit's ``tsv``, or the hub's ``parquet``.

    Returns what ``--data`` takes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = ["v1_0.png", "v1_0.png", "v1_2.png", "v1_3.png"]
    rows = list(zip(range(len(MM_VET)), names, MM_VET, strict=True))
    if form == "json":
        _save_pictures(folder / "images", names)
        entries = {
            f"v1_{number}": {"imagename": name, "question": question, "answer": answer, "imagesource": "", "capability": needs}
            for number, name, (question, answer, needs) in rows
        }
        return _write(folder / "mm-vet.json", json.dumps(entries, indent=4)).parent
    if form == "llava":
        _save_pictures(folder / "images", names)
        lines = [
            {"image": name, "text": question, "category": "conv", "question_id": number}
            for number, name, (question, _, _) in rows
        ]
        return _write_lines(folder / "llava-mm-vet.jsonl", lines).parent
    if form == "tsv":
        return _write_table(
            folder / "MMVet.tsv",
            [
                {"index": number, "question": question, "answer": answer, "category": ",".join(needs), "image": _base64(name)}
                for number, name, (question, answer, needs) in rows
            ],
        )
    return _write_parquet(
        folder / "test-00000-of-00001.parquet",
        [
            {"question_id": f"v1_{number}", "question": question, "answer": answer, "capability": ",".join(needs)}
            | {"image": {"bytes": _png(name), "path": name}}
            for number, name, (question, answer, needs) in rows
        ],
    )


def write_llava_bench(folder, form="jsonl"):
    """LLaVA-Bench as its authors' three files (``jsonl``), VLMEvalKit's ``tsv``, or the hub's ``parquet``.

    Returns what ``--data`` takes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = ["001.jpg", "001.jpg", "002.jpg", "003.jpg"]
    rows = list(zip(range(len(LLAVA_BENCH)), names, LLAVA_BENCH, strict=True))
    captions = {name: f"A drawing, number {name[:3]}." for name in names}
    if form == "jsonl":
        _save_pictures(folder / "images", names)
        _write_lines(
            folder / "questions.jsonl",
            [
                {"question_id": number, "image": name, "category": category, "text": question}
                for number, name, (category, question, _) in rows
            ],
        )
        _write_lines(
            folder / "context.jsonl",
            [{"id": name[:3], "image": name, "caption": caption} for name, caption in captions.items()],
        )
        answers = [{"question_id": number, "text": answer, "model_id": "gpt-4"} for number, _, (_, _, answer) in rows]
        return _write_lines(folder / "answers_gpt4.jsonl", answers).parent
    if form == "tsv":
        return _write_table(
            folder / "LLaVABench.tsv",
            [
                {"index": number, "question": question, "category": category, "gpt4_ans": answer, "caption": captions[name]}
                | {"image": _base64(name)}
                for number, name, (category, question, answer) in rows
            ],
        )
    return _write_parquet(
        folder / "train-00000-of-00001.parquet",
        [
            {"question_id": number, "question": question, "category": category, "gpt_answer": answer, "image_id": name[:3]}
            | {"caption": captions[name], "image": {"bytes": _png(name), "path": name}}
            for number, name, (category, question, answer) in rows
        ],
    )


def _picture(name):
    """Another colour for another number."""
    return Image.new("RGB", (24, 20), COLOURS[int(name.split(".")[0].removeprefix("v1_")) % len(COLOURS)])


def _png(name):
    buffer = io.BytesIO()
    _picture(name).save(buffer, "PNG")
    return buffer.getvalue()


def _base64(name):
    return base64.b64encode(_png(name)).decode()


def _save_pictures(folder, names):
    folder.mkdir(exist_ok=True)
    for name in names:
        _picture(name).save(folder / name)


def _write(file, text):
    file.write_text(text, encoding="utf-8")
    return file


def _write_lines(file, records):
    return _write(file, "".join(json.dumps(record) + "\n" for record in records))


def _write_table(file, records):
    with open(file, "w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, list(records[0]), delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
    return file


def _write_parquet(file, records):
    pq.write_table(pa.Table.from_pylist(records), file)
    return file
