"""LLaVA JSON: what becomes of its records, in whatever state they are, and how little of them is kept."""

import json
import pickle
import random
import tracemalloc
import unicodedata
from collections import Counter

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from pargo_mllm.data.corpus import PICTURE_LENGTH, CorpusError, Tally
from pargo_mllm.data.open_corpus import open_corpus
from pargo_mllm.data.pictures import PictureError
from pargo_mllm.data.sources import json_rows as rows_module
from pargo_mllm.data.sources.json_rows import json_rows
from pargo_mllm.data.sources.llava import LlavaCorpus

IMAGE, TEXT = {"type": "image"}, "text"


def turns(*values):
    return [{"from": ("human", "gpt")[number % 2], "value": value} for number, value in enumerate(values)]


def row(number=0, **more):
    return {"id": str(number), "image": f"{number}.png", "conversations": turns("<image>\nwhat?", "a cat"), **more}


@pytest.fixture
def write(tmp_path):
    """Writes rows (or text as it is) as llava.json, with pictures 0.png and sub/0.png beside it."""
    (tmp_path / "images" / "sub").mkdir(parents=True)
    for name in ("0.png", "sub/0.png"):
        Image.new("RGB", (8, 6), "red" if name == "0.png" else "blue").save(tmp_path / "images" / name)

    def make(content):
        text = content if isinstance(content, bytes) else json.dumps(content).encode()
        (tmp_path / "llava.json").write_bytes(text)
        return tmp_path / "llava.json"

    return make


def corpus_of(file, **options):
    return LlavaCorpus(file, file.parent / "images", **options)


def said(text):
    return {"type": "text", "text": text}


@pytest.mark.parametrize(
    ("images", "values", "expected"),
    [
        ("0.png", ("<image>\nwhat?", " a cat\n"), [[IMAGE, said("what?")], [said("a cat")]]),
        ("0.png", ("what?\n<image>", "a cat"), [[said("what?"), IMAGE], [said("a cat")]]),
        ("0.png", ("is <image> red?", "yes"), [[said("is"), IMAGE, said("red?")], [said("yes")]]),
        ("0.png", ("hello", "hi", "<image>", "red"), [[said("hello")], [said("hi")], [IMAGE], [said("red")]]),
        (["0.png"], ("<image> what?", "a cat"), [[IMAGE, said("what?")], [said("a cat")]]),
        (
            ["0.png", "sub/0.png"],
            ("<image><image> same?", "no", "a line\nand <one>", "ok"),
            [[IMAGE, IMAGE, said("same?")], [said("no")], [said("a line\nand <one>")], [said("ok")]],
        ),
        (None, ("hello", "hi"), [[said("hello")], [said("hi")]]),
        ([], ("hello", "hi"), [[said("hello")], [said("hi")]]),
    ],
    ids=range(8),
)
@pytest.mark.parametrize("key", ["conversations", "conversatons"])
def test_records_become_messages(write, images, values, expected, key):
    record = {"id": 7, "image": images, key: turns(*values)}
    if images is None:
        del record["image"]
    example = corpus_of(write([record]))[0]
    (conversation,) = example.conversations
    assert [message["content"] for message in conversation] == expected
    assert [message["role"] for message in conversation] == ["user", "assistant"] * (len(values) // 2)
    colours = [show().getpixel((0, 0)) for show in example.pictures]
    names = [images] if isinstance(images, str) else images or []
    assert colours == [(255, 0, 0) if name == "0.png" else (0, 0, 255) for name in names]
    assert example.name == "llava.json: 7"


TURNS, ID, IMAGE_NAME, NAME = (
    "records without conversations: [{from, value}]",
    "records whose id is neither text nor number",
    "records whose image is neither a name nor a list of names",
    "records whose image names are none or lead out of the images",
)
ABSOLUTE = "records whose image names are absolute paths (image_root says where they may lead)"
NO_TEXT = "records with a turn that says no text, but null, a number, a list or an object"
HALF = "records with a text that holds half a character (a lone surrogate)"
TOOLS = "records with tools or calls of them"
MARKS, SILENT, ORDER, OPEN, UNKNOWN, SYSTEM, BOTH, VIDEO = (
    "records with more or fewer <image> in their turns than pictures",
    "records with a turn that says nothing",
    "records whose turns do not alternate from human to gpt",
    "records that end with a turn from human",
    "records with a turn from others than human, gpt and, in front of them, system",
    "records whose system turn shows a picture",
    "records that have both image and images",
    "records that show a video or hold sound",
)


def by(*speakers):
    return [{"from": speaker, "value": "x"} for speaker in speakers]


def text_row(*values, **more):
    return {"id": 1, "conversations": turns(*values), **more}


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (7, TURNS),
        (None, TURNS),
        ([], TURNS),
        ({}, TURNS),
        (row(conversations=[]), TURNS),
        (row(conversations={"from": "human", "value": "x"}), TURNS),
        (row(conversations=[7]), TURNS),
        (row(conversations=[{"from": "human"}]), NO_TEXT),
        (row(conversations=[{"from": 1, "value": "x"}]), TURNS),
        (row(conversations=[{"from": "human", "value": ["x"]}]), TURNS),
        (row(id=[1]), ID),
        (row(image=7), IMAGE_NAME),
        (row(image=["0.png", 7]), IMAGE_NAME),
        (row(image={"a": 1}), IMAGE_NAME),
        (row(image=["0.png"] * 256), "records with more than 255 pictures"),
        (row(image=""), MARKS),
        (row(image=["", "0.png"]), NAME),
        (row(image="."), NAME),
        (row(image="sub/"), NAME),
        (row(image="/etc/passwd"), ABSOLUTE),
        (row(image="n" * 300), NAME),
        (row(conversations=turns("<image> what?", "half \ud83d")), HALF),
        (row(image="../llava.json"), NAME),
        (row(image="sub/../../llava.json"), NAME),
        (row(image=["0.png", "sub/.."]), NAME),
        (row(image="nul\0.png"), NAME),
        (row(image="half\ud800.png"), NAME),
        (row(image=None), MARKS),
        (row(image=["0.png", "0.png"]), MARKS),
        (row(conversations=turns("what?", "a cat")), MARKS),
        (row(conversations=turns("<image><image>", "a cat")), MARKS),
        (row(conversations=turns("<image>", "a cat", "and?")), OPEN),
        (row(image=None, conversations=by("system")), OPEN),
        (row(image=None, conversations=by("gpt", "human")), ORDER),
        (row(image=None, conversations=by("human", "human")), ORDER),
        (row(image=None, conversations=by("human", "gpt", "gpt")), ORDER),
        (row(image=None, conversations=by("narrator", "gpt")), UNKNOWN),
        (row(image=None, conversations=by("human", "gpt", "system", "human", "gpt")), UNKNOWN),
        (row(image=None, conversations=by("human", "tool")), TOOLS),
        (row(conversations=turns("<image>", " \n")), SILENT),
        (row(image=None, conversations=turns(" ", "a cat")), SILENT),
        (row(image=None, conversations=[{"from": "system", "value": " "}, *by("human", "gpt")]), SILENT),
        (row(conversations=[{"from": "system", "value": "<image>"}, *by("human", "gpt")]), SYSTEM),
        (row(images=["0.png"]), BOTH),
        (row(image=None, images=7), IMAGE_NAME),
        (row(image=None, images=["../0.png"]), NAME),
        (text_row("what?", "a cat", video="a.mp4"), VIDEO),
        (text_row("what?", "a cat", videos=["a.mp4"]), VIDEO),
        (row(audio="a.wav"), VIDEO),
        (text_row("what?", "a cat", speech=["a.wav"]), VIDEO),
        (text_row("<video>\nwhat?", "a cat"), VIDEO),
        (text_row("what?\n<audio>", "a cat"), VIDEO),
        (text_row("what is said in <speech> here?", "a cat"), VIDEO),
        (text_row("hello", "hi", "<video> what?", "a cat"), VIDEO),
    ],
)
def test_malformed_rows_are_skipped_and_counted(write, bad, reason):
    corpus = corpus_of(write([row(), bad, row(1)]))
    assert [corpus[index].name for index in range(len(corpus))] == ["llava.json: 0", "llava.json: 1"]
    assert corpus.skipped == {reason: 1}


def test_text_about_videos_is_text(write):
    """What names no video, and HTML, is trained on as it is."""
    texts = ("how do I use the <video> tag?", "what is `<audio>`?", "fix: <video>\n<source>\n</video>", "a <videos> b")
    rows = [text_row(text, "with <video> and <audio>", video=None, audio="", videos=[]) for text in texts]
    corpus = corpus_of(write(rows))
    assert not corpus.skipped
    assert [corpus[index].conversations[0][0]["content"] for index in range(4)] == [[said(text)] for text in texts]


def test_pictures_may_be_named_by_images(write):
    same = turns("<image><image> same?", "no")
    rows = [
        {"id": 1, "images": ["0.png", "sub/0.png"], "conversations": same},
        {"id": 2, "image": None, "images": ["sub/0.png", "0.png"], "conversations": same},
        {"id": 3, "images": "0.png", "conversations": turns("<image>", "red")},
        {"id": 4, "image": "sub/0.png", "images": None, "conversations": turns("<image>", "blue")},
        {"id": 5, "images": [], "conversations": turns("hello", "hi")},
    ]
    corpus = corpus_of(write(rows))
    assert not corpus.skipped
    red, blue = (255, 0, 0), (0, 0, 255)
    seen = [[show().getpixel((0, 0)) for show in corpus[index].pictures] for index in range(5)]
    assert seen == [[red, blue], [blue, red], [red], [blue], []]


def test_a_first_turn_from_system_is_a_system_message(write):
    corpus = corpus_of(write([row(conversations=[{"from": "system", "value": " be brief\n"}, *turns("<image>", "a cat")])]))
    assert corpus[0].conversations == (
        [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": [IMAGE]},
            {"role": "assistant", "content": [said("a cat")]},
        ],
    )


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"  ",
        b"{}",
        b'{"images": []}',
        b"7",
        b"[",
        b"[7",
        b"[7,",
        b"[7,]",
        b"[7 8]",
        b"[7]]",
        b"[7]\n[8]",
        b'[{"a": }]',
        b'["\xff"]',
        b"[" * 100_000,
        b"[" + b"9" * 5000 + b"]",
        b"\x89PNG\r\n\x1a\n",
    ],
    ids=range(17),
)
def test_a_file_that_is_no_list_is_an_error_that_names_it(write, content):
    with pytest.raises(CorpusError, match=r"llava\.json cannot be read as a JSON list: "):
        corpus_of(write(content))


def test_a_list_that_leaves_nothing_says_why(write, tmp_path):
    with pytest.raises(CorpusError, match=r"llava\.json holds no record; a record is"):
        corpus_of(write([]))
    with pytest.raises(CorpusError, match=r"no record .*2 skipped: records without conversations"):
        corpus_of(write([7, 8]))
    with pytest.raises(CorpusError, match=r"missing\.json cannot be read"):
        LlavaCorpus(tmp_path / "missing.json", tmp_path)
    for index in (-1, 1):
        with pytest.raises(IndexError, match=f"index={index} must be from 0 to 0"):
            corpus_of(write([row()]))[index]


def test_an_element_too_long_to_be_a_record_is_refused(write, monkeypatch):
    monkeypatch.setattr(rows_module, "CHUNK", 100)
    monkeypatch.setattr(rows_module, "MAX_ROW", 1000)
    file = write([1, "x" * 900])
    assert [found.value for found in json_rows(file)] == [1, "x" * 900]
    with pytest.raises(CorpusError, match="element 1 is longer than 1,000 characters"):
        list(json_rows(write([1, "x" * 5000])))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=5), inside, max_size=4),
    max_leaves=12,
)


@example([0.5, -12, 1e300, "ü", {}], False, None, 1)
@given(st.lists(JSON, max_size=8), st.booleans(), st.sampled_from([None, 2]), st.integers(1, 40))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_are_what_json_reads_wherever_chunks_end(tmp_path, monkeypatch, values, escaped, indent, chunk):
    monkeypatch.setattr(rows_module, "CHUNK", chunk)
    try:
        content = json.dumps(values, ensure_ascii=escaped, indent=indent).encode()
    except UnicodeEncodeError:
        content = json.dumps(values, indent=indent).encode()
    file = tmp_path / "rows.json"
    file.write_bytes(b"\n " + content + b"\n")
    found = list(json_rows(file))
    assert [element.value for element in found] == json.loads(content)
    for element in found:
        assert file.read_bytes()[element.start : element.start + len(element.text)] == element.text
        assert json.loads(element.text) == element.value


def colour(corpus, index):
    return corpus[index].pictures[0]().getpixel((0, 0))


def test_links_in_the_folder_are_followed(write, tmp_path):
    images = tmp_path / "images"
    (tmp_path / "elsewhere").mkdir()
    for name, shade in (("x", "green"), ("0", "green"), (unicodedata.normalize("NFD", "é"), "blue")):
        Image.new("RGB", (8, 6), shade).save(tmp_path / "elsewhere" / f"{name}.png")
    (images / "link.png").symlink_to(tmp_path / "elsewhere" / "x.png")
    (images / "coco").symlink_to(tmp_path / "elsewhere")
    (images / "loop.png").symlink_to(images / "loop.png")
    (images / "nowhere.png").symlink_to(tmp_path / "missing.png")
    names = ("link.png", "coco/0.png", unicodedata.normalize("NFC", "coco/é.png"), "loop.png", "nowhere.png", "missing.png")
    corpus = corpus_of(write([row(image=name) for name in names]))
    assert [colour(corpus, index) for index in range(3)] == [(0, 128, 0), (0, 128, 0), (0, 0, 255)]
    for index, name in ((3, "loop"), (4, "nowhere"), (5, "missing")):
        with pytest.raises(PictureError, match=name):
            corpus[index].pictures[0]()


def test_where_the_user_says_pictures_lie(write, tmp_path):
    """image_root is where names lead from; absolute names lead into it, and nowhere else."""
    (tmp_path / "pictures" / "coco").mkdir(parents=True)
    Image.new("RGB", (8, 6), "green").save(tmp_path / "pictures" / "coco" / "0.png")
    (tmp_path / "pictures2").mkdir()
    Image.new("RGB", (8, 6), "green").save(tmp_path / "pictures2" / "0.png")
    inside = [f"{tmp_path}/pictures/coco/0.png", "coco/0.png"]
    outside = [f"{tmp_path}/pictures2/0.png", f"{tmp_path}/pictures/../pictures2/0.png", "/etc/passwd", f"{tmp_path}/pictures"]
    file = write([row(image=name) for name in (*inside, *outside)])
    corpus = open_corpus(file, 2, image_root=tmp_path / "pictures")
    assert [colour(corpus, index) for index in range(len(corpus))] == [(0, 128, 0)] * 2
    assert corpus.skipped == {NAME: 4}
    # whoever says "anywhere" gets it; what leads up stays out
    assert len(open_corpus(file, 2, image_root="/")) == 5
    # nothing is said: no absolute name
    assert open_corpus(file, 2).skipped == {ABSOLUTE: 5}
    with pytest.raises(CorpusError, match=r"image_root=.*missing is no folder"):
        open_corpus(file, 2, image_root=tmp_path / "missing")
    with pytest.raises(CorpusError, match=r"image_root=.* says where a LLaVA list has its pictures"):
        open_corpus("scenes", 2, image_root=tmp_path)


def test_json_lines(write, tmp_path):
    """A record a line; a line that is none is counted, whatever stands in it, and the others are read."""
    lines = [row(), row(1, id="größe"), row(2, conversations=turns("a", "b"), image=None)]
    bad = [b"{", b"\xff", b"[" * 100_000, b"9" * 5000, b'{"a": 1} {"a": 2}']
    text = b"\n\n".join([*(json.dumps(line, ensure_ascii=False).encode() for line in lines), *bad])
    file = tmp_path / "records.JSONL"
    for start, end in ((b"", b""), (b"\xef\xbb\xbf", b"\r\n \n")):
        file.write_bytes(start + text + end)
        corpus = corpus_of(file)
        assert corpus.tallies["records"] == Tally(8, 3, 0, Counter({"lines that are no JSON": 5}))
        assert [corpus[index].name for index in range(3)] == ["records.JSONL: 0", "records.JSONL: größe", "records.JSONL: 2"]
        assert colour(corpus, 0) == (255, 0, 0)
    with pytest.raises(CorpusError, match=r"llava\.json cannot be read .* end the file's name with \.jsonl"):
        corpus_of(write(b"\n".join(json.dumps(line).encode() for line in lines)))


@pytest.mark.parametrize("indent", [None, 1])
def test_a_list_that_is_named_as_lines_is_found_out(tmp_path, monkeypatch, indent):
    file = tmp_path / "list.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps([row(), row(1)], indent=indent).encode())
    with pytest.raises(CorpusError, match=r"list\.jsonl has no record .* end the file's name with \.json;"):
        corpus_of(file)
    monkeypatch.setattr(rows_module, "MAX_ROW", 50)
    if indent is None:
        with pytest.raises(CorpusError, match=r"line 0 is longer than 50 bytes; .* end the file's name with \.json"):
            corpus_of(file)
    file.write_bytes(b"\n")
    with pytest.raises(CorpusError, match=r"list\.jsonl holds no record"):
        corpus_of(file)


def test_names_in_messages_are_one_short_line(write):
    """A terminal prints them, whatever they hold: half a character ended a run, an escape sequence would act."""
    corpus = corpus_of(write([row(id="half \ud800"), row(id="a\n\x1b[2Jb"), row(id="x" * 10_000)]))
    for index in range(3):
        name = corpus[index].name
        assert name.isprintable()
        assert len(name.encode()) < 300


def test_both_sides_of_a_split(write):
    records = [row(number, image=f"folder/{number // 2}.png") for number in range(600)]
    records += [{"id": f"text {number}", "conversations": turns("a", "b")} for number in range(300)]
    sides = {}
    for split in ("train", "test"):
        corpus = corpus_of(write(records), split=split, held_out=0.2)
        sides[split] = {corpus[index].name.removeprefix("llava.json: ") for index in range(len(corpus))}
    assert sides["train"] | sides["test"] == {record["id"] for record in records}
    assert not sides["train"] & sides["test"]
    for number in range(0, 600, 2):
        assert (str(number) in sides["test"]) == (str(number + 1) in sides["test"]), "records about one picture"
    # binomial with 300 pictures and 300 texts, three standard deviations
    assert abs(sum(str(number) in sides["test"] for number in range(0, 600, 2)) - 60) < 21
    assert abs(sum(name.startswith("text") for name in sides["test"]) - 60) < 21
    random.Random(0).shuffle(records)
    moved = corpus_of(write(records[:450]), split="test", held_out=0.2)
    assert {moved[index].name.removeprefix("llava.json: ") for index in range(len(moved))} <= sides["test"], (
        "names decide alone"
    )


def test_settings_and_lengths(write):
    records = [row(0), row(1, image=None, conversations=turns("größe", "b" * 50))]
    corpus = corpus_of(write(records))
    assert corpus.parts == [2]
    texts = [json.dumps(record) for record in records]
    assert [corpus.length_hint(index) for index in range(2)] == [len(texts[0]) + PICTURE_LENGTH, len(texts[1])]
    assert corpus_of(write(records)).settings() == corpus.settings()
    assert corpus_of(write(records), held_out=0.001).settings() != corpus.settings()
    assert corpus_of(write(records[:1])).settings() != corpus.settings()
    json.dumps(corpus.settings())


def test_a_file_that_changes_while_it_is_used_is_noticed(write):
    corpus = corpus_of(write([row(number) for number in range(3)]))
    write([7, row(0), row(1), row(2)])
    with pytest.raises(CorpusError, match=r"llava\.json, byte 1"):
        corpus[0]
    corpus.file.write_bytes(b"[" + b"7".ljust(corpus.file.stat().st_size))
    with pytest.raises(CorpusError, match=r"has changed since it was opened: byte 1 is no record"):
        corpus[0]
    corpus.file.unlink()
    with pytest.raises(CorpusError, match=r"llava\.json cannot be read"):
        corpus[0]


def test_records_take_little_memory(write):
    file = write([row(number, conversations=turns("<image>\n" + "why? " * 200, "because " * 150)) for number in range(6_000)])
    assert file.stat().st_size > 13e6
    tracemalloc.start()
    try:
        corpus = corpus_of(file)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 6_000 * 40
    assert peak < 10 * 2**20
    copy = pickle.loads(pickle.dumps(corpus))
    assert copy[5_999].conversations == corpus[5_999].conversations
    assert len(pickle.dumps(corpus)) < 6_000 * 40
