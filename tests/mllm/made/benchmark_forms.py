"""What miniature sets of benchmarks are made of: small pictures, tables, the hub's parquet, JSON."""

import base64
import csv
import io
import json

import pyarrow as pa
from PIL import Image
from pyarrow import parquet

FORMS = ("official", "tsv", "parquet")
SIDE = 32
COLOURS = ("red", "green", "blue", "yellow", "white", "black")


def picture(number):
    """The bytes of a PNG: a square of a colour in a field of another."""
    image = Image.new("RGB", (SIDE, SIDE), COLOURS[number % len(COLOURS)])
    image.paste(COLOURS[(number + 1 + number // len(COLOURS)) % len(COLOURS)], (8, 8, 20, 20))
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def picture_file(path, number):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture(number))


def base64_picture(number):
    return base64.b64encode(picture(number)).decode()


def hub_picture(number):
    return {"bytes": picture(number), "path": None}


def write_table(path, rows, delimiter="\t"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_parquet(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(rows), path)


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
