"""Files of every form of data, damaged in any way: an error that a user can mend, or fewer examples; no traceback, no hang."""

import io
import json
import os
import shutil
import signal
import socket
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from pargo_mllm.data.feeding.encoding import ExampleEncoder
from pargo_mllm.data.open_corpus import open_corpus
from pargo_mllm.data.sources.shards import ShardCorpus, write_shards
from pargo_mllm.errors import UserError
from tests.mllm.made.shard_files import picture_bytes

# far more than any case takes: only what waits for ever is stopped
PATIENCE = 60


def turns(*values):
    return [{"from": ("human", "gpt")[number % 2], "value": value} for number, value in enumerate(values)]


def coco(folder):
    (folder / "images").mkdir(parents=True)
    for number in range(6):
        (folder / "images" / f"{number}.png").write_bytes(picture_bytes(number))
    images = [{"id": number, "file_name": f"{number}.png", "width": 8, "height": 6} for number in range(6)]
    captions = [{"image_id": number, "caption": "red circle"} for number in range(6)]
    boxes = [{"image_id": number, "category_id": 1, "bbox": [1, 1, 5, 3]} for number in range(6)]
    (folder / "captions.json").write_text(json.dumps({"images": images, "annotations": captions}))
    (folder / "instances.json").write_text(json.dumps({"annotations": boxes, "categories": [{"id": 1, "name": "square"}]}))
    return folder


def llava(folder, ending="json"):
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "0.jpg").write_bytes(picture_bytes(0, "JPEG"))
    records = [
        {"id": "größe", "image": "0.jpg", "conversations": turns("<image>\nwhat shape", "red \\ circle")},
        {"id": 2, "image": ["0.jpg", "0.jpg"], "conversations": turns("<image><image> which", "two")},
        {"conversations": turns("say", "yes", "no", "one")},
    ]
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    file = folder / f"list.{ending}"
    file.write_text("\n".join(lines) if ending == "jsonl" else f"[{', '.join(lines)}]", encoding="utf-8")
    return file


def shards(folder):
    record = json.dumps({"conversations": turns("<image> what", "circle")}).encode()
    samples = [(str(number), {"png": picture_bytes(number), "txt": b"a red circle"}) for number in range(3)]
    write_shards([*samples, ("3", {"jpg": picture_bytes(3, "JPEG"), "json": record, "cls": b"7"})], folder)
    ShardCorpus(folder)
    return folder


FORMS = {"coco": coco, "json": llava, "jsonl": lambda folder: llava(folder, "jsonl"), "shards": shards}
# what stands where a file was; pictures have tests of their own
PICTURES = (".png", ".jpg")


def flip(content, rng):
    changed = bytearray(content)
    for place in rng.integers(0, len(content), rng.integers(1, 9)):
        changed[place] = rng.integers(0, 256)
    return bytes(changed)


def surrogate(content, rng):
    place = int(rng.integers(0, len(content)))
    return content[:place] + b"\\ud83d" + content[place:]


DAMAGE = [
    flip,
    flip,
    flip,
    surrogate,
    lambda content, rng: content[: rng.integers(0, len(content))],
    lambda content, rng: content + bytes(rng.integers(0, 256, rng.integers(1, 600), dtype=np.uint8)),
    lambda content, rng: (
        content[: (place := int(rng.integers(0, len(content))))] + content[: rng.integers(1, 99)] + content[place:]
    ),
]


def as_socket(path):
    # a path that a socket can be bound to is short
    before = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
    finally:
        os.chdir(before)


OTHERS = {
    "pipe": os.mkfifo,
    "socket": as_socket,
    "folder": os.mkdir,
    "link to nothing": lambda path: path.symlink_to("nothing"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "endless device": lambda path: path.symlink_to("/dev/zero"),
    "no permission to be a file": lambda path: path.symlink_to("/proc/self/mem"),
}


@contextmanager
def patience(what):
    def give_up(*_):
        raise AssertionError(f"{what}: it hangs")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def read_everything(path, encoder):
    """Open it as training does and make items of all examples; what errors say, and how many items can be used."""
    said, usable = [], 0
    for stage, split, held_out in ((1, "train", 0.0), (2, "train", 0.3), (2, "test", 0.3)):
        try:
            corpus = open_corpus(path, stage, split, held_out=held_out)
        except UserError as error:
            said.append(str(error))
            continue
        for tally in corpus.tallies.values():
            assert tally.used + tally.other_side + tally.skipped.total() == tally.entries
        for index in range(len(corpus)):
            corpus.length_hint(index)
            try:
                example = corpus[index]
            except UserError as error:
                said.append(str(error))
                continue
            item = encoder(example)
            assert example.name.isprintable()
            usable += "skipped" not in item
    return said, usable


def damage_one(folder, rng):
    """Damage one file of a form; what was done."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    # each kind of file as often as any other
    kinds = sorted({file.suffix for file in files})
    kind = kinds[rng.integers(len(kinds))]
    mine = [file for file in files if file.suffix == kind]
    file = mine[rng.integers(len(mine))]
    state = file.stat()
    number = int(rng.integers(len(DAMAGE)))
    file.write_bytes(DAMAGE[number](file.read_bytes(), rng))
    if rng.integers(2):
        # a shard that looks as old as its index
        os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    return f"{file.name}, damage {number}"


@pytest.mark.parametrize("cases", [50, pytest.param(2000, marks=pytest.mark.long)])
def test_damaged_files_end_in_errors_or_in_fewer_examples(tmp_path, processor, cases):
    encoder = ExampleEncoder(processor, max_length=256)
    whole, usable = {}, {}
    for form, make in FORMS.items():
        made = make(tmp_path / form)
        whole[form] = made.relative_to(tmp_path / form)
        said, usable[form] = read_everything(made, encoder)
        assert usable[form] > 0
    worse = 0
    for case in range(cases):
        rng = np.random.default_rng([1, case])
        form = list(FORMS)[case % len(FORMS)]
        copy = tmp_path / "copy"
        shutil.copytree(tmp_path / form, copy)
        what = f"case {case}: {form}, {damage_one(copy, rng)}"
        try:
            with patience(what):
                said, left = read_everything(copy / whole[form], encoder)
        except Exception as error:
            raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
        assert all(str(copy) in words or "copy" in words or ":" in words for words in said)
        worse += left < usable[form]
        shutil.rmtree(copy)
    # most damage does harm
    assert worse > cases / 4


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize(
    ("form", "name"),
    [
        ("coco", "captions.json"),
        ("coco", "instances.json"),
        ("coco", "images"),
        ("json", "list.json"),
        ("jsonl", "list.jsonl"),
        ("shards", "000000.tar"),
    ],
)
def test_what_is_no_file_is_refused_by_name(tmp_path, form, name, other):
    path = FORMS[form](tmp_path / form)
    target = tmp_path / form / name
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    if (name, other) == ("images", "folder"):
        return
    OTHERS[other](target)
    with patience(f"{name}, {other}"), pytest.raises(UserError, match=tmp_path.name) as caught:
        open_corpus(path, 1)
    assert name.split("/")[-1] in str(caught.value)


@pytest.mark.parametrize("other", OTHERS)
def test_what_stands_where_an_index_was_is_not_read(tmp_path, other):
    """It is put aside by a new index; where that cannot be, the error names it."""
    folder = shards(tmp_path / "shards")
    index = folder / "000000.tar.index"
    index.unlink()
    OTHERS[other](index)
    with patience(other):
        if other == "folder":
            # an empty one gives way to nothing
            with pytest.raises(UserError, match=r"index of .*000000\.tar cannot be written"):
                ShardCorpus(folder)
        else:
            assert len(ShardCorpus(folder)) == 4
            assert index.is_file()
            assert not index.is_symlink()


def test_a_lone_surrogate_anywhere_ends_no_run(tmp_path, processor):
    """JSON can hold half a character. Whatever form it comes in, the record is counted and the others are trained on."""
    half = "half \ud83d"
    (tmp_path / "list.json").write_text(
        json.dumps([{"conversations": turns(half, "a")}, {"id": half, "conversations": turns("a", "b")}])
    )
    corpus = open_corpus(tmp_path / "list.json", 2)
    assert (len(corpus), corpus.skipped.total()) == (1, 1)
    assert "skipped" not in ExampleEncoder(processor)(corpus[0])
    print(corpus[0].name.encode())
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6)).save(buffer, "PNG")
    write_shards(
        [(str(n), {"png": buffer.getvalue(), "json": json.dumps({"caption": (half, "ok")[n]}).encode()}) for n in range(2)],
        tmp_path,
    )
    corpus = open_corpus(tmp_path, 2)
    problems = []
    for index in range(2):
        try:
            corpus[index]
        except UserError as error:
            problems.append(str(error))
    assert len(problems) == 1
    assert "half a character" in problems[0]
