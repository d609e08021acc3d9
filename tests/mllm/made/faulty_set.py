"""A LLaVA list of 2,000 samples without a fault, and every fault that can be planted in it, each at a place that is known."""

from __future__ import annotations

import base64
import io
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from tests.mllm.made.photographs import noise_picture

COUNT = 2000
WIDTH, HEIGHT = 32, 20


@dataclass
class FaultySet:
    """Records as JSON texts, that faults may break, and what must be found: (kind, number of the record)."""

    folder: Path
    records: list[dict] = field(default_factory=list)
    texts: dict[int, bytes] = field(default_factory=dict)
    planted: set[tuple[str, int | None]] = field(default_factory=set)

    @property
    def file(self) -> Path:
        return self.folder / "list.json"

    def write(self) -> Path:
        rows = [self.texts.get(number) or json.dumps(record).encode() for number, record in enumerate(self.records)]
        self.file.write_bytes(b"[" + b",\n".join(rows) + b"]\n")
        return self.file

    def picture(self, number: int) -> Path:
        return self.folder / "images" / self.records[number]["image"]


def clean_set(folder: Path, count: int = COUNT, frame: str = "picture") -> FaultySet:
    """Every record of its own words, picture and id; every fifth has a box, every seventh no picture, every third two turns."""
    made = FaultySet(folder)
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(7)
    for number in range(count):
        words = " ".join(f"w{word}" for word in rng.integers(0, 1000, 12))
        record = {"id": f"{number:06d}", "image": f"{number:06d}.{'png' if number % 4 == 0 else 'jpg'}"}
        turns = [("human", f"<image>\nWhat is in picture {number}?"), ("gpt", f"{words}, as I see it in {number}.")]
        if number % 3 == 0:
            turns += [("human", f"And beside it, in {number}?"), ("gpt", f"Nothing beside {number}.")]
        if number % 5 == 0:
            turns[-1] = ("gpt", f"Something at {written(box_in(frame, number))} of {number}.")
            record |= {"frame": frame, "width": WIDTH, "height": HEIGHT}
        if number % 7 == 0:
            del record["image"]
            turns[0] = ("human", turns[0][1].removeprefix("<image>\n"))
        else:
            noise_picture(HEIGHT, WIDTH, number).save(folder / "images" / record["image"])
        record["conversations"] = [{"from": role, "value": text} for role, text in turns]
        made.records.append(record)
    return made


def box_in(frame: str, number: int) -> tuple[float, ...]:
    """A box from the upper edge of the picture on."""
    left, bottom = number % 8, 10 + number % 9
    pixels = (left, 0, left + 20, bottom)
    band = (WIDTH - HEIGHT) / 2
    return {
        "pixels": pixels,
        "picture": (left / WIDTH, 0, (left + 20) / WIDTH, bottom / HEIGHT),
        "thousand": (1000 * left / WIDTH, 0, 1000 * (left + 20) / WIDTH, 1000 * bottom / HEIGHT),
        "padded": (left / WIDTH, band / WIDTH, (left + 20) / WIDTH, (band + bottom) / WIDTH),
    }[frame]


def written(box) -> str:
    return "[" + ",".join(f"{number:.3f}" for number in box) + "]"


def faulty_set(folder: Path) -> FaultySet:
    """The same with faults, each of its own record."""
    made = clean_set(folder)
    # those with a picture, one turn and no box; from the end on, so that what repeats is repeated by a later one
    free = [number for number in range(20, COUNT) if number % 3 and number % 5 and number % 7]
    # of them, jpg and png
    jpgs, pngs = (iter([number for number in free if (number % 4 == 0) == png]) for png in (False, True))

    def plant(kind, change, *more, numbers=jpgs):
        number = next(numbers)
        change(made.records[number], number)
        made.planted |= {(one, number) for one in (kind, *more) if one}

    def turn(index, **said):
        return lambda record, number: record["conversations"][index].update(said)

    def sets(**keys):
        return lambda record, number: record.update(keys)

    def renames(old, new):
        def change(record, number):
            record[new] = record.pop(old)

        return change

    def content(make):
        def change(record, number):
            file = made.picture(number)
            there = file.read_bytes()
            file.unlink()
            made_bytes = make(there, number)
            if made_bytes is not None:
                file.write_bytes(made_bytes)

        return change

    def text(make):
        def change(record, number):
            made.texts[number] = make(json.dumps(record).encode())

        return change

    def box(frame, numbers, size=(WIDTH, HEIGHT)):
        def change(record, number):
            record["conversations"][1]["value"] += f" At {written(numbers)}."
            record |= {"frame": frame, "width": size[0], "height": size[1]}

        return change

    plant("misspelt_read", renames("conversations", "conversatons"))
    plant("misspelt_key", renames("conversations", "convrsations"), "no_turns")
    plant("misspelt_key", renames("image", "imgae"), "image_marks")
    plant(
        "misspelt_key",
        lambda record, number: record["conversations"][1].update(vlaue=record["conversations"][1].pop("value")),
        "no_turns",
    )
    plant("unknown_key", sets(zebra=1))
    plant("id_number", lambda record, number: record.update(id=number))
    plant("id_number", sets(id=10**30))
    plant("id_wrong", sets(id=1.5))
    plant("id_wrong", sets(id=[1]))
    plant("role_order", lambda record, number: record["conversations"].reverse())
    plant("role_unknown", turn(0, **{"from": "narrator"}))
    plant("no_answer", lambda record, number: record["conversations"].append({"from": "human", "value": "And?"}))
    plant("image_marks", turn(0, value="<image> <image> what?"))
    plant("image_marks", turn(0, value="what?"))
    plant("empty_answer", turn(1, value=" \n"))
    plant("empty_turn", lambda record, number: record["conversations"].insert(0, {"from": "system", "value": " "}))
    plant(
        "system_picture",
        lambda record, number: record["conversations"].insert(0, {"from": "system", "value": "<image>"}),
        "image_marks",
    )
    plant("half_character", turn(1, value="cut here: \ud83d"))
    plant("control_character", turn(1, value="an answer\0 of nothing"))
    plant("control_character", turn(0, value="<image>\n\x1b[31mred\x1b[0m, is it?"))
    plant(
        "image_in_answer",
        lambda record, number: (turn(0, value=f"what is {number}?")(record, 0), turn(1, value="<image> it is")(record, 0)),
    )
    plant("other_media", sets(video="a.mp4"))
    plant("other_media", sets(audio=["a.wav"]))
    plant("no_turns", sets(conversations="hello"))
    # pictures by their names
    plant("image_null", lambda record, number: (record.update(image=None), turn(0, value="what?")(record, number)))
    plant("image_null", lambda record, number: (record.update(image=[]), turn(0, value="what else?")(record, number)))
    plant("image_empty", sets(image=""), "image_marks")
    plant("image_empty", lambda record, number: (record.update(image=""), turn(0, value="what now?")(record, number)))
    plant("image_type", sets(image=["a.jpg", 3]))
    plant("image_type", sets(image=7))
    plant("image_both", lambda record, number: record.update(images=[record["image"]]))
    plant("images_text", renames("image", "images"))
    plant(None, lambda record, number: record.update(image=[record["image"]]))
    plant("too_many_pictures", lambda record, number: record.update(image=[record["image"]] * 300))
    plant("name_leads_out", sets(image="../list.json"))
    plant("name_leads_out", sets(image="a\0b.jpg"))
    plant("image_address", sets(image="https://example.org/a.jpg"))
    plant("picture_empty", sets(image="data:image/png;base64,?"))
    plant(None, lambda record, number: record.update(image=held(made.picture(number))))
    plant("name_absolute", sets(image="/etc/hostname"))

    def link(record, number):
        outside = folder.parent / f"{folder.name}-outside.jpg"
        os.replace(made.picture(number), outside)
        made.picture(number).symlink_to(outside)

    plant("link_leads_out", link)
    # files of pictures
    plant("picture_missing", content(lambda there, number: None))
    plant("picture_empty", content(lambda there, number: b""))
    plant("picture_broken", content(lambda there, number: b"\xff\xd8\xff\xe0 no picture"))
    plant("picture_broken", content(lambda there, number: b"<html>404</html>"))
    plant("picture_truncated", content(lambda there, number: there[: len(there) * 2 // 3]))
    plant("picture_truncated", content(lambda there, number: there[: len(there) // 2]), numbers=pngs)
    plant("picture_huge", content(lambda there, number: blank(9000, 8000)), numbers=pngs)
    plant("picture_huge", content(lambda there, number: bomb()), numbers=pngs)
    plant("picture_small", content(lambda there, number: blank(3, 30)), numbers=pngs)
    plant("picture_animated", content(lambda there, number: animated("PNG")), numbers=pngs)
    plant("mislabelled", content(lambda there, number: blank(30, 30)))
    plant("mislabelled", content(lambda there, number: animated("GIF")), "picture_animated")

    def renamed(record, number):
        there = made.picture(number)
        record["image"] = "picture.txt"
        os.replace(there, made.picture(number))

    plant("wrong_extension", renamed)

    def folder_there(record, number):
        made.picture(number).unlink()
        made.picture(number).mkdir()

    def pipe(record, number):
        made.picture(number).unlink()
        os.mkfifo(made.picture(number))

    plant("picture_special", folder_there)
    plant("picture_special", pipe)
    # boxes
    plant("box_outside", box("picture", (0.1, 0.1, 1.2, 0.5)))
    plant("box_outside", box("pixels", (1, 1, 20, HEIGHT + 5)))
    plant("box_outside", box("thousand", (1, 1, 1200, 500)))
    plant("box_reversed", box("picture", (0.5, 0.1, 0.2, 0.5)))
    plant("box_frame", box("picture", (1, 1, 20, 15)))
    plant("box_frame", box("pixels", (0.1, 0.1, 0.5, 0.5)))
    plant("box_frame", box("thousand", (0.1, 0.1, 0.5, 0.5)))
    plant("box_padding", box("padded", (0.1, 0.0, 0.5, 0.5)))
    plant("box_flat", box("picture", (0.5, 0.1, 0.5, 0.5)))
    plant("box_unlikely", box("picture", (5, 4, 3, 2)))
    plant("frame_unknown", box("percent", (0.1, 0.1, 0.5, 0.5)))
    plant("size_differs", box("picture", (0.1, 0.1, 0.5, 0.5), (640, 480)))
    # rows
    plant("not_an_object", text(lambda row: b'["a", 1]'))
    plant("not_an_object", text(lambda row: b"null"))
    plant("invalid_utf8", text(lambda row: row.replace(b"What", b"Wh\xe4t", 1)))
    plant("not_finite", text(lambda row: row[:-1] + b', "weight": NaN}'))
    plant("not_finite", text(lambda row: row[:-1] + b', "weight": 1e999}'))
    plant("duplicate_key", text(lambda row: row[:-1] + b', "id": "again"}'))
    # a set
    plant("duplicate_record", lambda record, number: record.update(made.records[11], id="another"))
    plant("duplicate_record", lambda record, number: record.update(made.records[11]))
    plant("id_twice", sets(id=made.records[13]["id"]))
    # of the file: some images are lists
    made.planted.add(("image_forms", None))
    # of the boxes: they are in several frames
    made.planted.add(("frames_mixed", None))
    return made


def held(file: Path) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(file.read_bytes()).decode()}"


def blank(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def bomb() -> bytes:
    """A small PNG that says it is of two thousand million pixels."""
    content = bytearray(blank(8, 8))
    content[16:24] = (50_000).to_bytes(4, "big") * 2
    import zlib

    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


def animated(form: str) -> bytes:
    buffer = io.BytesIO()
    frames = [noise_picture(20, 30, seed) for seed in (1, 2)]
    frames[0].save(buffer, form, save_all=True, append_images=frames[1:])
    return buffer.getvalue()
