"""Records as other trainers write them: the same conversation in every form is the same example."""

import base64
import io
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from pargo_mllm.data.corpus import CorpusError
from pargo_mllm.data.sources.llava import LlavaCorpus, read_record
from pargo_mllm.data.sources.llava_records import UnusableRecord
from pargo_mllm.data.sources.record_forms import as_llava
from pargo_mllm.data.sources.shards import ShardCorpus, write_shards
from tests.mllm.made.shard_files import picture_bytes


def said(text):
    return {"type": "text", "text": text}


def message(role, content):
    return {"role": role, "content": content}


IMAGE = {"type": "image"}
SHOWN, TOLD, ASKED, SAID = "what is <this>?", "a cat", "and which\ncolour?", "black"
# what every form below says of the pictures a.png and b/ü.png, or of a.png alone
ONE = [
    message("system", "be brief"),
    message("user", [IMAGE, said(SHOWN)]),
    message("assistant", [said(TOLD)]),
    message("user", [said(ASKED)]),
    message("assistant", [said(SAID)]),
]
TWO = [ONE[0], message("user", [IMAGE, IMAGE, said(SHOWN)]), *ONE[2:]]
A, B = "a.png", "b/ü.png"


def gpt(question, *more, system=True):
    first = [{"from": "system", "value": "be brief"}] if system else []
    return [
        *first,
        {"from": "human", "value": question},
        {"from": "gpt", "value": TOLD},
        {"from": "human", "value": ASKED},
        {"from": "gpt", "value": SAID},
        *more,
    ]


def chat(content, system=True):
    first = [message("system", "be brief")] if system else []
    rest = [message("assistant", TOLD), message("user", ASKED), message("assistant", SAID)]
    return [*first, message("user", content), *rest]


def renamed(turns, *names):
    return [{**turn, "from": dict(names).get(turn["from"], turn["from"])} for turn in turns]


FORMS_OF_ONE = {
    "llava": {"image": A, "conversations": gpt(f"<image>\n{SHOWN}")},
    "llava misspelt": {"image": A, "conversatons": gpt(f"<image>\n{SHOWN}")},
    "llava list": {"image": [A], "conversations": gpt(f"{'<image>'}{SHOWN}")},
    "internvl": {"image": A, "width": 8, "height": 6, "conversations": gpt(f"<image>\n{SHOWN}")},
    "pandas": {"image": None, "images": [A], "messages": None, "conversations": gpt(f"<image>\n{SHOWN}")},
    "empty beside full": {"image": "", "images": [A], "conversations": gpt(f"<image>\n{SHOWN}")},
    "the hub's picture": {"image": {"bytes": None, "path": A}, "conversations": gpt(f"<image>\n{SHOWN}")},
    "sharegpt": {"images": [A], "system": "be brief", "conversations": gpt(f"<image>{SHOWN}", system=False)},
    "sharegpt user": {
        "image": A,
        "conversations": renamed(gpt(f"<image>{SHOWN}"), ("human", "user"), ("gpt", "assistant")),
    },
    "sharegpt chatbot": {"image": A, "conversations": renamed(gpt(f"<image>{SHOWN}"), ("gpt", "chatbot"))},
    "role in conversations": {"image": A, "conversations": chat(f"<image>\n{SHOWN}")},
    "llama-factory": {"images": [A], "messages": chat(f"<image>{SHOWN}")},
    "llama-factory alpaca": {
        "instruction": "and which",
        "input": "colour?",
        "output": SAID,
        "system": "be brief",
        "history": [[f"<image>{SHOWN}", TOLD]],
        "images": [A],
    },
    "ms-swift": {"system": "be brief", "images": [{"path": A, "bytes": None}], "messages": chat(f"<image>{SHOWN}", False)},
    "ms-swift query": {
        "system": "be brief",
        "query": ASKED,
        "response": SAID,
        "history": [[f"<image>{SHOWN}", TOLD]],
        "images": [A],
    },
    "ms-swift query without a place": {
        "system": "be brief",
        "query": ASKED,
        "response": SAID,
        "history": [[SHOWN, TOLD]],
        "images": A,
    },
    "ms-swift pairs": {
        "system": "be brief",
        "images": [A],
        "conversation": [{"human": f"<image>{SHOWN}", "assistant": TOLD}, {"human": ASKED, "assistant": SAID}],
    },
    "qwen-vl": {"conversations": renamed(gpt(f"<img>{A}</img>\n{SHOWN}"), ("human", "user"), ("gpt", "assistant"))},
    "qwen-vl in messages": {"messages": chat(f"<img>{A}</img>{SHOWN}")},
    "openai": {"messages": chat([{"type": "image_url", "image_url": {"url": A, "detail": "low"}}, said(SHOWN)])},
    "openai developer": {
        "messages": [message("developer", "be brief"), *chat([{"type": "image_url", "image_url": A}, said(SHOWN)], False)]
    },
    "openai responses": {
        "messages": [
            *chat([{"type": "input_image", "image_url": A}, {"type": "input_text", "text": SHOWN}])[:-1],
            message("assistant", [{"type": "output_text", "text": SAID}]),
        ]
    },
    "axolotl": {"messages": chat([{"type": "image", "path": A}, said(SHOWN)])},
    "transformers": {"messages": chat([{"type": "image", "image": A}, said(SHOWN)])},
    "empty columns": {"messages": chat([{"type": "image", "image": A, "text": None}, {**said(SHOWN), "image_url": None}])},
    "vsft": {"images": [A], "messages": chat([{**said(SHOWN), "index": None}, {**IMAGE, "text": None, "index": 0}][::-1])},
    "the cauldron": {
        "images": [{"path": A, "bytes": None}],
        "system": "be brief",
        "texts": [{"user": SHOWN, "assistant": TOLD, "source": "x"}, {"user": ASKED, "assistant": SAID, "source": "x"}],
    },
}
FORMS_OF_TWO = {
    "llava": {"image": [A, B], "conversations": gpt(f"<image>\n<image>\n{SHOWN}")},
    "internvl": {"image": [A, B], "width_list": [8, 8], "height_list": [6, 6], "conversations": gpt(f"<image><image>{SHOWN}")},
    "llama-factory": {"images": [A, B], "messages": chat(f"<image><image>{SHOWN}")},
    "qwen-vl": {"conversations": gpt(f"<img>{A}</img><img>{B}</img>{SHOWN}")},
    "openai": {
        "messages": chat([*({"type": "image_url", "image_url": {"url": name}} for name in (A, B)), said(SHOWN)]),
    },
    "vsft": {"images": [A, B], "messages": chat([{**IMAGE, "index": 0}, {**IMAGE, "index": 1}, said(SHOWN)])},
    "the cauldron": {
        "images": [A, {"path": B}],
        "system": "be brief",
        "texts": [{"user": SHOWN, "assistant": TOLD}, {"user": ASKED, "assistant": SAID}],
    },
}


@pytest.mark.parametrize(
    ("record", "names", "expected"),
    [(record, [A], ONE) for record in FORMS_OF_ONE.values()] + [(record, [A, B], TWO) for record in FORMS_OF_TWO.values()],
    ids=[*FORMS_OF_ONE, *(f"two, {form}" for form in FORMS_OF_TWO)],
)
def test_every_form_says_the_same(record, names, expected):
    llava, found, messages = read_record({"id": 7, **record})
    assert (found, messages, llava["id"]) == (names, expected, 7)
    assert "width" not in record or llava["width"] == 8, "what says something else stays"
    # LLaVA's form is one that is read as it is
    assert read_record(llava)[1:] == (names, expected)
    assert as_llava(llava) == llava


def test_every_form_is_read_from_files(tmp_path):
    """Lines and lists, a mark of order, carriage returns: the same examples."""
    (tmp_path / "b").mkdir()
    Image.new("RGB", (8, 6), "red").save(tmp_path / A)
    Image.new("RGB", (8, 6), "blue").save(tmp_path / B)
    records = [*FORMS_OF_ONE.values(), *FORMS_OF_TWO.values()]
    lines = [json.dumps(record, ensure_ascii=False).encode() for record in records]
    for name, content in {
        "list.json": b"[" + b",\n".join(lines) + b"]",
        "mark.json": b"\xef\xbb\xbf[" + b",\r\n".join(lines) + b"]\r\n",
        "lines.jsonl": b"\n".join(lines),
        "mark.jsonl": b"\xef\xbb\xbf" + b"\r\n".join(lines) + b"\r\n",
    }.items():
        (tmp_path / name).write_bytes(content)
        corpus = LlavaCorpus(tmp_path / name, tmp_path)
        assert not corpus.skipped
        examples = [corpus[index] for index in range(len(corpus))]
        assert [example.conversations for example in examples] == [(ONE,)] * len(FORMS_OF_ONE) + [(TWO,)] * len(FORMS_OF_TWO)
        colours = [[show().getpixel((0, 0)) for show in example.pictures] for example in (examples[0], examples[-1])]
        assert colours == [[(255, 0, 0)], [(255, 0, 0), (0, 0, 255)]]


def inline(colour, form="PNG"):
    content = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(content, form)
    return base64.b64encode(content.getvalue()).decode()


def test_pictures_may_lie_in_the_record(tmp_path):
    png, jpeg = inline("red"), inline("red", "JPEG")
    parts = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{png}"}},
        {"type": "image", "base64": png},
        {"type": "image", "base64": f"data:image/jpeg;base64,{jpeg}"},
        {"type": "image", "image": {"bytes": png, "path": "../../x.png"}},
    ]
    records = [{"messages": chat([part, said(SHOWN)])} for part in parts]
    records += [{"image": f"data:image/png;base64,{png}", "conversations": gpt(f"<image>{SHOWN}")}]
    records += [{"images": [{"bytes": jpeg, "path": None}], "conversations": gpt(f"<image>{SHOWN}")}]
    (tmp_path / "list.json").write_text(json.dumps(records))
    corpus = LlavaCorpus(tmp_path / "list.json", tmp_path / "nowhere")
    assert not corpus.skipped
    for index in range(len(records)):
        assert corpus[index].conversations == (ONE,)
        (show,) = corpus[index].pictures
        assert show().getpixel((3, 3))[0] > 250
        # as long as its words, not as the picture's bytes
        assert corpus.length_hint(index) < len(json.dumps(FORMS_OF_ONE["openai"])) + 200 + 1200


TURNS = "records without conversations: [{from, value}]"
NO_TEXT = "records with a turn that says no text, but null, a number, a list or an object"
TWO_FORMS = "records in two forms at once (conversations beside messages, from beside role)"
TWO_PLACES = "records that name their pictures in two places at once"
TOOLS = "records with tools or calls of them"
PREFERENCES = "records that compare or judge answers (chosen, rejected, label)"
UNLEARNED = "records with an answer that is not to be learned (weight 0, loss or train false)"
PARTS = "records with a part of a message that is neither text nor a picture"
SYSTEMS = "records whose system is no text, or is said twice"
MARKS = "records with more or fewer <image> in their turns than pictures"
VIDEO = "records that show a video or hold sound"
UNKNOWN = "records with a turn from others than human, gpt and, in front of them, system"
NAME = "records whose image is neither a name nor a list of names"
OUTSIDE = "records whose image names are none or lead out of the images"
ADDRESS = "records whose images are addresses on the web (none is fetched; download them and name the files)"


def with_turn(**more):
    turns = chat(SHOWN)
    turns[-1] = {**turns[-1], **more}
    return {"messages": turns}


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"messages": chat(SHOWN), "conversations": gpt(SHOWN)}, TWO_FORMS),
        ({"query": SHOWN, "response": TOLD, "messages": chat(SHOWN)}, TWO_FORMS),
        ({"instruction": SHOWN, "output": TOLD, "query": SHOWN, "response": TOLD}, TWO_FORMS),
        (with_turn(**{"from": "gpt"}), TWO_FORMS),
        (with_turn(value="x"), TWO_FORMS),
        ({"images": [A], "messages": chat([{"type": "image_url", "image_url": {"url": A}}, said(SHOWN)])}, TWO_PLACES),
        ({"messages": chat([{"type": "image", "path": A, "url": B}, said(SHOWN)])}, TWO_PLACES),
        ({"image": A, "images": [A], "messages": chat(f"<image>{SHOWN}")}, "records that have both image and images"),
        (
            {"images": [A, B], "messages": chat([{**IMAGE, "index": 1}, {**IMAGE, "index": 0}, said(SHOWN)])},
            "records that show their pictures in another order than they are named in",
        ),
        ({"messages": [*chat(SHOWN), message("tool", "7")]}, TOOLS),
        ({"conversations": [*gpt(SHOWN), {"from": "function_call", "value": "7"}]}, TOOLS),
        (with_turn(tool_calls=[{"function": {}}], content=None), TOOLS),
        ({"messages": chat(SHOWN), "tools": [{"name": "x"}]}, TOOLS),
        ({"messages": chat(SHOWN), "rejected_response": "a dog"}, PREFERENCES),
        ({"conversations": gpt(SHOWN)[:-1], "chosen": {"value": "x"}, "rejected": {"value": "y"}}, PREFERENCES),
        ({"messages": chat(SHOWN), "label": False}, PREFERENCES),
        (with_turn(weight=0), UNLEARNED),
        (with_turn(loss=False), UNLEARNED),
        (with_turn(train=False), UNLEARNED),
        ({"messages": chat([{"type": "file", "file": {}}, said(SHOWN)])}, PARTS),
        ({"messages": chat([{"text": "no kind"}])}, PARTS),
        ({"messages": chat([{"type": ["text"], "text": "x"}])}, PARTS),
        ({"messages": chat([{"type": "video_url", "video_url": {"url": "a.mp4"}}])}, VIDEO),
        ({"messages": chat(SHOWN), "videos": ["a.mp4"]}, VIDEO),
        ({"messages": chat(SHOWN), "system": "be long"}, SYSTEMS),
        ({"messages": chat(SHOWN, False), "system": ["x"]}, SYSTEMS),
        ({"images": [A], "messages": chat(SHOWN)}, MARKS),
        ({"images": [A], "messages": chat(f"<image><image>{SHOWN}")}, MARKS),
        ({"messages": chat([{"type": "image", "path": A}, said("<image> in a text")])}, MARKS),
        ({"messages": chat([IMAGE, said(SHOWN)])}, MARKS),
        ({"images": [7], "messages": chat(f"<image>{SHOWN}")}, NAME),
        ({"images": [{"bytes": [1, 2], "path": A}], "messages": chat(f"<image>{SHOWN}")}, NAME),
        ({"messages": chat([{"type": "image_url", "image_url": {"file_id": "x"}}])}, NAME),
        ({"images": ["../a.png"], "messages": chat(f"<image>{SHOWN}")}, OUTSIDE),
        ({"conversations": gpt(f"<img>../a.png</img>{SHOWN}")}, OUTSIDE),
        ({"image": "https://example.org/a.png", "conversations": gpt(f"<image>{SHOWN}")}, ADDRESS),
        ({"messages": chat([{"type": "image_url", "image_url": {"url": "http://127.0.0.1/"}}, said(SHOWN)])}, ADDRESS),
        (
            {"images": [A], "messages": chat("<image> where is <ref-object>?"), "objects": {"ref": ["x"], "bbox": []}},
            "records with places for boxes (<bbox>, <ref-object>), which are filled in elsewhere",
        ),
        ({"messages": chat(["text"])}, TURNS),
        ({"messages": chat(7)}, NO_TEXT),
        ({"messages": [message(["user"], "x")]}, TURNS),
        ({"messages": [{"role": "user"}]}, NO_TEXT),
        ({"messages": [message("user", "x"), "y"]}, TURNS),
        ({"messages": "[{'role': 'user'}]"}, TURNS),
        ({"query": SHOWN, "response": TOLD, "history": "[]"}, TURNS),
        ({"query": SHOWN, "response": TOLD, "history": [["x"]]}, TURNS),
        ({"query": 7, "response": TOLD}, NO_TEXT),
        ({"query": SHOWN}, TURNS),
        (with_turn(content=None), NO_TEXT),
        ({"conversations": [*gpt(SHOWN)[:-1], {"from": "gpt", "value": None}]}, NO_TEXT),
        (with_turn(content=" "), "records with a turn that says nothing"),
        ({"messages": [*chat(SHOWN), message("critic", "x")]}, UNKNOWN),
    ],
)  # fmt: skip
def test_what_could_be_read_in_two_ways_is_left_out(tmp_path, record, reason):
    with pytest.raises(UnusableRecord) as problem:
        read_record(record)
    assert problem.value.reason == reason
    assert str(problem.value)
    file = tmp_path / "list.jsonl"
    file.write_text("\n".join(json.dumps(one) for one in (FORMS_OF_ONE["openai"], record)))
    assert LlavaCorpus(file, tmp_path).skipped == {reason: 1}


def test_file_addresses_are_absolute_names(tmp_path):
    Image.new("RGB", (8, 6), "red").save(tmp_path / A)
    value = {"messages": chat([{"type": "image", "image": f"file://{tmp_path}/{A}"}, said(SHOWN)])}
    (tmp_path / "list.json").write_text(json.dumps([value, FORMS_OF_ONE["llava"]]))
    assert LlavaCorpus(tmp_path / "list.json", tmp_path).skipped == {
        "records whose image names are absolute paths (image_root says where they may lead)": 1
    }
    corpus = LlavaCorpus(tmp_path / "list.json", tmp_path, absolute=True)
    assert corpus[0].pictures[0]().getpixel((0, 0)) == (255, 0, 0)


def test_words_that_only_look_like_another_form():
    """Keys that some data use for something else, and HTML, change nothing."""
    plain = gpt(f"<image>{SHOWN}")
    for more in ({"query": "q"}, {"output": "o"}, {"texts": ["x"]}, {"messages": []}, {"label": True}, {"tools": "[]"}):
        assert read_record({"image": A, "conversations": plain, **more})[1:] == ([A], ONE)
    text = "what does <img src='x.png'></img> do, and <img></img>?"
    assert read_record({"conversations": gpt(text)})[1] == []
    # a picture in an answer is one that nobody shows
    assert read_record({"messages": [*chat(SHOWN)[:-1], message("assistant", f"<img>{A}</img>")]})[1] == []


def test_shards_hold_records_of_every_form(tmp_path):
    """The pictures are those beside the record; what it names opens nothing."""
    names = [form for form in FORMS_OF_ONE if not form.startswith("qwen")]
    samples = [
        (f"{number:03d}", {"png": picture_bytes(0), "json": json.dumps(FORMS_OF_ONE[form]).encode()})
        for number, form in enumerate(names)
    ]
    write_shards(samples, tmp_path / "shards")
    corpus = ShardCorpus(tmp_path / "shards")
    assert [corpus[index].conversations for index in range(len(corpus))] == [(ONE,)] * len(names)
    bad = json.dumps({"messages": [*chat(SHOWN), message("tool", "x")]}).encode()
    write_shards([("0", {"png": picture_bytes(0), "json": bad})], tmp_path / "bad")
    with pytest.raises(CorpusError, match=r"000000\.tar: 0: turn 5 is from tool, or calls a tool"):
        ShardCorpus(tmp_path / "bad")[0]


VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "human", "gpt", "user", "<image>", "a.png"]),
    lambda inside: (
        st.lists(inside, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "from",
                    "value",
                    "role",
                    "content",
                    "type",
                    "text",
                    "image",
                    "image_url",
                    "url",
                    "path",
                    "bytes",
                    "user",
                    "index",
                ]
            ),
            inside,
            max_size=4,
        )
    ),
    max_leaves=10,
)
KEYS = ["conversations", "messages", "texts", "conversation", "query", "response", "history", "instruction", "input", "output"]


@given(st.dictionaries(st.sampled_from([*KEYS, "image", "images", "system", "tools", "label", "objects"]), VALUE, max_size=5))
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_a_record_holds_is_read_or_refused(record):
    kept = json.dumps(record)
    try:
        llava, names, messages = read_record(record)
    except UnusableRecord:
        pass
    else:
        assert len(names) == sum(part == IMAGE for turn in messages for part in turn["content"])
        assert read_record(llava)[1:] == (names, messages)
    assert json.dumps(record) == kept, "a record is not changed"


@pytest.mark.parametrize(
    "place", ['{"query": %s, "response": "x"}', '{"image": %s}', '{"messages": [{"role": "user", "content": [%s]}]}']
)
def test_what_is_nested_as_deeply_as_json_can_be_read_is_refused(place):
    """Just below the depth at which reading ends, nothing that a message says of it may go deeper."""
    for depth in range(900, 1000):
        try:
            value = json.loads(place % ("[" * depth + "]" * depth))
        except RecursionError:
            break
        with pytest.raises(UnusableRecord):
            read_record(value)
