"""From examples to items: ids and labels against the chat template with the pictures, and what cannot be used."""

import pickle
import tracemalloc

import pytest
import torch
from PIL import Image

from pargo_mllm import ParGoProcessor
from pargo_mllm.data.corpus import CorpusError, Example, about_image
from pargo_mllm.data.feeding import conversations
from pargo_mllm.data.feeding.conversations import ConversationEncoder, ConversationError
from pargo_mllm.data.feeding.encoding import WHY_SKIPPED, ExampleEncoder, TrainingSet
from pargo_mllm.data.feeding.packing import IGNORED
from pargo_mllm.data.pictures import PictureError, load_picture
from tests.mllm.made.miniature_families import FAMILY_NAMES, make_family
from tests.mllm.made.sizes import SIDE

IMAGE = {"type": "image"}


def user(*parts):
    return {"role": "user", "content": [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]}


def assistant(*parts):
    return {**user(*parts), "role": "assistant"}


CONVERSATIONS = [
    [user(IMAGE, "which one"), assistant("red"), user("what shape"), assistant("big circle")],
    [user("what is at the top", IMAGE), assistant("green"), user(IMAGE, "which", IMAGE), assistant("one two")],
    [user("which shape"), assistant("square"), user("what colour"), assistant("yes no")],
    [{"role": "user", "content": "which"}, {"role": "assistant", "content": "blue"}, user("what")],
]


@pytest.fixture(scope="module", params=FAMILY_NAMES)
def family(request):
    return make_family(request.param)


@pytest.fixture
def tiler(processor):
    """A processor that cuts at most four tiles, with an overview; each tile has tokens of its own."""
    options = {"num_image_tokens": 4, "max_tiles": 4, "overview_tile": True, "tokens_per_tile": True}
    return ParGoProcessor(processor.image_processor, processor.tokenizer, **options)


def from_template(processor, conversation, pictures):
    """Ids and marks from apply_chat_template with the pictures, and the pictures that the conversation shows."""
    shown = []

    def filled(part):
        if part != IMAGE:
            return part
        shown.append(pictures[len(shown)])
        return {**IMAGE, "image": shown[-1]}

    messages = [
        message
        if isinstance(message["content"], str)
        else {**message, "content": [filled(part) for part in message["content"]]}
        for message in conversation
    ]
    batch = processor.apply_chat_template(
        [messages], tokenize=True, return_dict=True, return_assistant_tokens_mask=True, return_tensors="pt"
    )
    return batch, torch.as_tensor(batch["assistant_masks"])[0].bool(), shown


def example(conversation, shown):
    return Example("it", (conversation,), tuple(lambda picture=picture: picture for picture in shown))


@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_ids_and_labels_are_the_chat_templates_with_the_pictures(family, pictures, conversation):
    _, processor = family
    batch, said, shown = from_template(processor, conversation, pictures)
    item = ExampleEncoder(processor)(example(conversation, shown))
    assert item["packed"].input_ids.tolist() == batch["input_ids"][0].tolist()
    assert item["packed"].labels.tolist() == torch.where(said, batch["input_ids"][0], IGNORED).tolist()
    assert item["packed"].position_ids.tolist() == list(range(len(said)))
    assert item["tile_counts"].tolist() == [1] * len(shown)
    assert ("pixel_values" in item) == bool(shown)
    if shown:
        assert torch.equal(item["pixel_values"], batch["pixel_values"])


@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_tiles_with_tokens_of_their_own(tiler, conversation):
    generator = torch.Generator().manual_seed(3)
    sizes = ((60, 56), (SIDE, SIDE), (24, 54))
    large = [
        Image.fromarray(torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8).numpy())
        for height, width in sizes
    ]
    batch, said, shown = from_template(tiler, conversation, large)
    item = ExampleEncoder(tiler)(example(conversation, shown))
    assert item["packed"].input_ids.tolist() == batch["input_ids"][0].tolist()
    assert item["packed"].labels.tolist() == torch.where(said, batch["input_ids"][0], IGNORED).tolist()
    assert item["tile_counts"].tolist() == [5, 1, 3][: len(shown)]
    if shown:
        assert torch.equal(item["pixel_values"], batch["pixel_values"])


def test_plain_is_pictures_and_what_the_assistant_says_with_its_end(family, pictures):
    _, processor = family
    begin, end = processor.tokenizer.bos_token or "", processor.tokenizer.eos_token
    image = processor.image_token * processor.num_image_tokens
    encoder = ExampleEncoder(processor, template="plain")
    for conversation, shown, said in (
        (CONVERSATIONS[0][:2], 1, "red"),
        (CONVERSATIONS[1][:2], 1, "green"),
        ([user(IMAGE, IMAGE, "what"), assistant("yes")], 2, "yes"),
        ([user("what"), assistant("one two")], 0, "one two"),
        (CONVERSATIONS[3], 0, "blue"),
    ):
        packed = encoder(example(conversation, pictures[:shown]))["packed"]
        ids = processor.tokenizer(begin + image * shown + said + end, add_special_tokens=False)["input_ids"]
        assert packed.input_ids.tolist() == ids
        # nothing stands in front of a first token, from which it could be predicted
        unsaid = max(1, bool(begin) + shown * processor.num_image_tokens)
        assert packed.labels.tolist() == [IGNORED] * unsaid + ids[unsaid:]


def test_a_picture_in_an_answer_is_nothing_that_is_said(processor, pictures):
    conversation = [user("which"), assistant("red", IMAGE, "circle")]
    packed = ExampleEncoder(processor)(example(conversation, pictures[:1]))["packed"]
    assert processor.tokenizer.decode(packed.labels[packed.labels != IGNORED]) == "red circle </s>"


def test_a_conversation_is_encoded_once(processor, monkeypatch):
    said = (("what", "circle"), ("which", "red"), ("what", "circle"))
    talks = [[user(IMAGE, prompt), assistant(answer)] for prompt, answer in said]
    alone = [ConversationEncoder(processor).encode_conversations([talk])[0] for talk in talks]
    encoder = ConversationEncoder(processor)
    rendered, right = [], encoder.format.render

    def counted(talk):
        rendered.append(talk)
        return right(talk)

    monkeypatch.setattr(encoder.format, "render", counted)
    for _ in range(2):
        assert encoder.encode_conversations(talks) == alone
        assert encoder.encode_conversations(talks[::-1], [1]) == alone[::-1]
    # equal ones together; with the pictures' tiles they may be longer
    assert rendered == [*talks[:2], *talks[:0:-1]]


def test_what_was_used_last_is_kept(processor, monkeypatch):
    talks = [[user(what), assistant("red " + "circle " * 20)] for what in ("which", "what", "why")]
    encoder = ConversationEncoder(processor)
    lengths = [len(encoder.encode_conversations([talk])[0].input_ids) for talk in talks]
    monkeypatch.setattr(conversations, "KEPT_TOKENS", sum(lengths[:2]))
    encoder = ConversationEncoder(processor)
    for used in (0, 1, 0, 2):
        encoder.encode_conversations([talks[used]])
    monkeypatch.setattr(processor.tokenizer, "apply_chat_template", lambda talks, **_: pytest.fail(f"again: {talks}"))
    encoder.encode_conversations([talks[0], talks[2]])


def test_a_stream_of_conversations_leaves_little_behind(processor, monkeypatch):
    monkeypatch.setattr(conversations, "KEPT_TOKENS", 1000)
    encoder = ExampleEncoder(processor)

    def stream(first, count):
        for number in range(first, first + count):
            conversation = [user("what " * 80 + f"shape {number}"), assistant(f"red {number} " + "circle " * 80)]
            assert "skipped" not in encoder(Example(str(number), (conversation,)))

    stream(0, 20)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    stream(20, 300)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    # 300 conversations of 160 words are a megabyte as token ids
    assert grown < 100_000


def failing(error):
    def open_picture():
        raise error

    return open_picture


def refusing_processor(processor):
    template = "{% generation %}{{ raise_exception('roles must alternate') }}{% endgeneration %}"
    return ParGoProcessor(processor.image_processor, processor.tokenizer, num_image_tokens=10, chat_template=template)


ABOUT_ONE = about_image("which", "red")


@pytest.mark.parametrize(
    ("conversations", "opens", "reason"),
    [
        ((ABOUT_ONE,), [lambda: load_picture("missing.png")], "missing.png cannot be read as a picture"),
        ((ABOUT_ONE,), [failing(CorpusError("shard 3 is damaged"))], "shard 3 is damaged"),
        ((ABOUT_ONE,), [failing(OSError("no such device"))], "no such device"),
        ((ABOUT_ONE,), [lambda: Image.new("RGB", (1, 9))], "a picture is 1 x 9 pixels"),
        ((ABOUT_ONE,), [], "shows 1 pictures and has 0"),
        (([user("which <image>"), assistant("red")],), [], "shows 1 pictures and has 0"),
        ((ABOUT_ONE,), [lambda: Image.new("RGB", (9, 9))] * 2, "shows 1 pictures and has 2"),
        (([user("what"), assistant("red " * 40)],), [], "max_length=40"),
        (([user("what")],), [], "the assistant says nothing"),
        (([user("half \ud83d"), assistant("red")],), [], "half a character"),
        ((), [], "no conversations to pack"),
        (
            (ABOUT_ONE, [user("which", IMAGE), assistant("red")]),
            [lambda: Image.new("RGB", (9, 9))],
            "conversation 1 begins otherwise",
        ),
    ],
)
def test_what_cannot_be_used_contributes_nothing_and_says_why(processor, conversations, opens, reason):
    item = ExampleEncoder(processor, max_length=40)(Example("number 7", conversations, tuple(opens)))
    name, said = item["skipped"]
    assert name == item["name"] == "number 7"
    assert reason in said
    assert item["why"] in WHY_SKIPPED
    assert item["packed"].input_ids.tolist() == [processor.tokenizer.pad_token_id]
    assert item["packed"].labels.tolist() == [IGNORED]
    assert item["tile_counts"].tolist() == []
    assert "pixel_values" not in item


def test_a_template_that_refuses_is_a_reason_too(processor):
    item = ExampleEncoder(refusing_processor(processor))(Example("it", ([user("what"), assistant("red")],)))
    assert "roles must alternate" in item["skipped"][1]


def test_reasons_are_counted_by_kind(processor):
    """The count is what a user reads first: a picture that is gone is no damaged record."""
    missing, long = lambda: load_picture("missing.png"), [user("what"), assistant("red " * 40)]
    examples = {
        "pictures that cannot be read": Example("a", (ABOUT_ONE,), (missing,)),
        "records that are damaged": Example("b", (ABOUT_ONE,), (failing(CorpusError("cut")),)),
        "conversations that cannot be encoded": Example("c", (ABOUT_ONE,)),
        "examples of more than max_length tokens": Example("d", (long,)),
        "examples in which the assistant says nothing": Example("e", ([user("what")],)),
    }
    assert {ExampleEncoder(processor, max_length=40)(example)["why"]: example for example in examples.values()} == examples


def test_the_longest_allowed_example_is_kept(processor):
    conversation = [user("what"), assistant("red")]
    length = len(ExampleEncoder(processor)(Example("it", (conversation,)))["packed"])
    assert "skipped" not in ExampleEncoder(processor, max_length=length)(Example("it", (conversation,)))
    assert "skipped" in ExampleEncoder(processor, max_length=length - 1)(Example("it", (conversation,)))


def test_bugs_are_not_skipped(processor):
    with pytest.raises(TypeError, match="a bug"):
        ExampleEncoder(processor)(Example("it", (ABOUT_ONE,), (failing(TypeError("a bug")),)))
    with pytest.raises(ValueError, match=r"max_length=0 must be at least 1"):
        ExampleEncoder(processor, max_length=0)
    with pytest.raises(ValueError, match=r"template='llava' is unknown; it must be one of 'chat', 'plain'"):
        ExampleEncoder(processor, template="llava")


def test_kept_features_stand_for_the_pictures(processor):
    kept = torch.randn(1, 16, 24)
    closed = failing(AssertionError("opened"))
    item = ExampleEncoder(processor)(Example("kept", (ABOUT_ONE,), (closed,), features=(lambda: kept,)))
    assert torch.equal(item["vision_features"], kept)
    assert item["tile_counts"].tolist() == [1]
    assert "pixel_values" not in item
    lost = Example("lost", (ABOUT_ONE,), (closed,), features=(failing(PictureError("its file is damaged")),))
    assert ExampleEncoder(processor)(lost)["skipped"] == ("lost", "its file is damaged")


def test_kept_features_of_tiles(tiler):
    two = [user(IMAGE, "which", IMAGE), assistant("red")]
    kept = (lambda: torch.zeros(3, 16, 24), lambda: torch.zeros(1, 16, 24))
    closed = failing(AssertionError("opened"))
    item = ExampleEncoder(tiler)(Example("two", (two,), (closed, closed), features=kept))
    assert item["tile_counts"].tolist() == [3, 1]
    assert item["vision_features"].shape == (4, 16, 24)
    assert (item["packed"].input_ids == tiler.image_token_id).sum() == 16


class Numbers:
    """A corpus whose example i says i words; the last one is damaged."""

    def __init__(self, count):
        self.count = count

    def __getitem__(self, index):
        if index == self.count - 1:
            raise CorpusError("a record is cut short")
        return Example(f"{self.count}/{index}", ([user("what"), assistant("red " * (index + 1))],))


def test_a_training_set_is_its_order(processor):
    order = [(1, 2), (0, 0), (1, 2), (0, 1)]
    data = TrainingSet([Numbers(2), Numbers(5)], order, ExampleEncoder(processor), len(order))
    assert len(data) == 4
    assert [data[position]["name"] for position in range(3)] == ["5/2", "2/0", "5/2"]
    assert data[3]["skipped"] == ("example 1 of corpus 0", "a record is cut short")
    assert [int((data[position]["packed"].labels != IGNORED).sum()) for position in range(4)] == [4, 2, 4, 0]


def test_an_encoder_can_be_sent_to_workers(processor):
    encoder = ExampleEncoder(processor, max_length=99)
    sent = pickle.loads(pickle.dumps(encoder))
    text = Example("it", (CONVERSATIONS[2],))
    assert torch.equal(sent(text)["packed"].input_ids, encoder(text)["packed"].input_ids)


def test_pairs_refuse_pictures_that_are_not_there(processor):
    with pytest.raises(ConversationError, match=r"shows 1 pictures and has 2.*'<image>' in a message"):
        ConversationEncoder(processor).encode_conversations([ABOUT_ONE], tile_counts=[1, 1])
    assert ConversationEncoder(processor).encode_conversations([]) == []
