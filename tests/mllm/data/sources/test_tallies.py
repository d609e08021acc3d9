"""Every entry of a source is used, held out, or counted with its reason; each is made together with its fate: the oracle."""

import io
import json
import tarfile
import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pargo_mllm.data.corpus import CorpusError
from pargo_mllm.data.open_corpus import open_corpus
from pargo_mllm.data.sources.coco import FolderError
from tests.mllm.made.shard_files import PICTURE

USED = "used"


@pytest.fixture(scope="module")
def empty():
    """Gives an empty folder each time it is called: hypothesis runs one test many times."""
    with tempfile.TemporaryDirectory() as folder:
        numbers = iter(range(10**9))

        def make():
            made = Path(folder) / str(next(numbers))
            made.mkdir()
            return made

        yield make


def opened_or_said(path, *arguments, **options):
    """The corpus, or what the error says in its place."""
    try:
        return open_corpus(path, *arguments, **options), ""
    except (CorpusError, FolderError) as error:
        return None, str(error)


def skipped_of(*fates):
    every = sum(fates, Counter())
    del every[USED]
    return every


def check(path, expected, stage=1, held_out=0.0):
    """Both sides count as ``expected`` ({kind: Counter of fates}); an error names what left nothing."""
    opened, main = [], next(iter(expected))
    for side in ("train", "test") if held_out else ("train",):
        corpus, said = opened_or_said(path, stage, side, held_out=held_out)
        if corpus is not None:
            opened.append(corpus)
        else:
            assert all(f"; {count:,} skipped: {fate}" in said for fate, count in skipped_of(*expected.values()).items())
    assert sum(map(len, opened)) == expected[main][USED]
    for corpus in opened:
        assert set(corpus.tallies) - {"files"} == set(expected)
        for kind, fates in expected.items():
            tally = corpus.tallies[kind]
            assert tally.entries == fates.total()
            assert tally.used + tally.other_side == fates[USED]
            assert tally.skipped == skipped_of(fates)
        assert corpus.tallies[main].used == len(corpus)


def turns(*values):
    return [{"from": ("human", "gpt")[number % 2], "value": value} for number, value in enumerate(values)]


TURNS = "records without conversations: [{from, value}]"
NO_TEXT = "records with a turn that says no text, but null, a number, a list or an object"
NAMES = "records whose image names are none or lead out of the images"
WHAT = "records whose image is neither a name nor a list of names"
HALF = "records with a text that holds half a character (a lone surrogate)"
MARKS = "records with more or fewer <image> in their turns than pictures"
SILENT = "records with a turn that says nothing"
VIDEO = "records that show a video or hold sound"
GOOD = turns("<image> what?", "a cat")
# pictures of many names: some are on each side of a split
NUMBERED = st.integers(0, 99).map(lambda number: ({"image": f"{number}.png", "conversations": GOOD}, USED))
RECORDS = NUMBERED | st.sampled_from(
    [
        ({"image": ["a.png", "sub/b.png"], "conversatons": turns("<image> or <image>?", "a cat")}, USED),
        ({"images": ["a.png", "sub/b.png"], "conversations": turns("<image> or <image>?", "a cat")}, USED),
        ({"conversations": [{"from": "system", "value": "be brief"}, *turns("what?", "a cat")]}, USED),
        ({"image": "a.png", "conversations": turns("what?", "a cat")}, MARKS),
        ({"image": "a.png", "conversations": turns("<image> what?", "")}, SILENT),
        ({"video": "a.mp4", "conversations": turns("what?", "a cat")}, VIDEO),
        ({"image": "a.png", "images": ["a.png"], "conversations": GOOD}, "records that have both image and images"),
        ({"conversations": turns("hello", "größe 😀")}, USED),
        ({"id": "a\u0000\u001b[2J", "image": "./a.png", "conversations": GOOD, "more": [1, None]}, USED),
        (None, TURNS),
        (17, TURNS),
        ("text", TURNS),
        ([[]], TURNS),
        ({"image": "a.png"}, TURNS),
        ({"image": "a.png", "conversations": [{"from": "human"}]}, NO_TEXT),
        ({"image": "a.png", "conversations": turns("<image>", None)}, NO_TEXT),
        ({"image": "a.png", "conversations": turns("<image>", "\ud83d")}, HALF),
        ({"image": 7, "conversations": GOOD}, WHAT),
        ({"image": ["a.png", None], "conversations": GOOD}, WHAT),
        ({"image": "../a.png", "conversations": GOOD}, NAMES),
        ({"image": "a/", "conversations": GOOD}, NAMES),
        ({"image": "\udcff.png", "conversations": GOOD}, NAMES),
        (
            {"image": "/a.png", "conversations": GOOD},
            "records whose image names are absolute paths (image_root says where they may lead)",
        ),
        ({"id": {}, "conversations": GOOD}, "records whose id is neither text nor number"),
        ({"image": ["a.png"] * 256, "conversations": GOOD}, "records with more than 255 pictures"),
    ]
)
BROKEN = st.sampled_from([b"{", b"\xff\xfe", b"[1,", b"{} {}", b"nul"]).map(lambda line: (line, "lines that are no JSON"))


@given(st.lists(RECORDS, max_size=12), st.sampled_from([0.0, 0.4]), st.sampled_from([None, 1]))
@settings(max_examples=60)
def test_records_of_a_list(empty, entries, held_out, indent):
    file = empty() / "list.json"
    file.write_text(json.dumps([record for record, _ in entries], indent=indent))
    check(file, {"records": Counter({USED: 0}) + Counter(fate for _, fate in entries)}, 2, held_out)


@given(st.lists(RECORDS | BROKEN, max_size=12), st.sampled_from([0.0, 0.4]), st.sampled_from([b"\n", b"\r\n", b"\n \n\n"]))
@settings(max_examples=60)
def test_records_of_lines(empty, entries, held_out, between):
    file = empty() / "list.jsonl"
    lines = [line if isinstance(line, bytes) else json.dumps(line).encode() for line, _ in entries]
    # a file that begins as UTF-16 does is refused whole
    file.write_bytes(b"\n" + between.join(lines))
    check(file, {"records": Counter(fate for _, fate in entries)}, 2, held_out)


ENDS = st.sampled_from(["jpg", "JPG", "jpeg", "png", "webp", "tiff"])
TEXTS = st.sampled_from([("txt", b"x"), ("TXT", b"x"), ("caption", b"x"), ("text", b"x"), ("json", b'{"caption": "x"}')])
# between the number of a sample and its extension
STEMS = st.sampled_from(["", "_a", ".v1", ".0", ".v1.2", ".jpg", " (1)", ".größe"])
UNUSED = "members of samples that are not used"
NO_TEXT, NO_PICTURE, SEVERAL = (
    f"samples {why}"
    for why in ("without a caption or conversations", "with a caption and no picture", "with a caption and several pictures")
)
TWICE = "samples with two members of one name, or two that could be the same"
IRREGULAR = "samples with a member that is no regular file (a link, a sparse file)"
BOTH = "samples whose pictures could be of two of them (a.0.jpg beside texts of a and of a.0)"


@st.composite
def blocks(draw):
    """Members that follow each other, their names behind the key's number, and the fates of samples and members."""
    stem, end, (text_end, text) = draw(STEMS), draw(ENDS), draw(TEXTS)
    picture, caption = (f"{stem}.{end}", PICTURE), (f"{stem}.{text_end}", text)
    kind = draw(st.integers(0, 13))
    if kind == 0:
        return [picture, caption], [USED], []
    if kind == 1:
        return [caption, picture], [USED], []
    if kind == 2:
        # several of one run, by what stands behind the first dot
        parts = draw(st.lists(st.sampled_from(["0", "1", "2", "v1", "v2.x"]), min_size=1, max_size=4, unique=True))
        return (
            [(f".{part}.{end}", content) for part in parts for end, content in (("jpg", b"x"), ("txt", b"x"))],
            [USED for _ in parts],
            [],
        )
    if kind == 3:
        count = draw(st.integers(0, 33))
        several = [(f"_s.{number}.png", PICTURE) for number in draw(st.permutations(range(count)))]
        fate = USED if count <= 32 else "samples with more than 32 pictures"
        return [*several, ("_s.json", b"{}")], [fate], []
    if kind == 4:
        return [picture], [NO_TEXT], []
    if kind == 5:
        return [(f"{stem}.txt", b"x")], [NO_PICTURE], []
    if kind == 6:
        return [("_m.0.jpg", PICTURE), ("_m.1.jpg", PICTURE), ("_m.txt", b"x")], [SEVERAL], []
    if kind == 7:
        return [picture, caption, draw(st.sampled_from([picture, caption, (f"{stem}.gif", PICTURE)]))], [TWICE], []
    if kind == 8:
        kinds = draw(st.sampled_from([tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]))
        return draw(st.sampled_from([[(picture[0], kinds), caption], [picture, (caption[0], kinds)]])), [IRREGULAR], []
    if kind == 9:
        return [(".0.jpg", PICTURE), (".0.txt", b"x"), (".json", b"{}")], [BOTH, BOTH], []
    if kind == 10:
        extension = draw(st.sampled_from(["cls", "npy", "url", "json5", "heic", "mp4"]))
        return (
            [picture, (f"{stem}.{extension}", b"x"), caption],
            [USED],
            [f"members that end with .{extension}, which is not read"],
        )
    if kind == 11:
        return [("_d", tarfile.DIRTYPE), ("_n", b"x")], [], ["folders", "members without an extension"]
    if kind == 12:
        return [("_l", tarfile.SYMTYPE), ("_l.bin", tarfile.FIFOTYPE)], [], ["links and special files"] * 2
    return [("/.hidden.jpg", PICTURE), ("/._a.jpg", PICTURE)], [], ["hidden files"] * 2


def write_tar(file, members, form):
    with tarfile.open(file, "w", format=form) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            if isinstance(content, bytes) and content not in KINDS:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            else:
                member.type, member.linkname = content, "elsewhere"
                tar.addfile(member)


KINDS = (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE)


@given(
    st.lists(blocks(), max_size=8),
    st.sampled_from([0.0, 0.4]),
    st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    st.sampled_from(["", "./", "a.b/c/"]),
)
@settings(max_examples=150, deadline=None)
def test_samples_and_members_of_shards(empty, entries, held_out, form, folder):
    samples, members, named = Counter(), Counter(), []
    for number, (block, fates, left) in enumerate(entries):
        named += [(f"{folder}{number:03d}{name}", content) for name, content in block]
        samples.update(fates)
        members.update(left)
        rest = len(block) - len(left)
        members[USED if USED in fates else UNUSED] += rest
    shards = empty()
    write_tar(shards / "a.tar", named, form)
    expected = {"samples": Counter({USED: 0}) + samples, "members": +members}
    check(shards, expected, 2, held_out)
    # from their indexes too
    assert list(shards.glob("*.index"))
    check(shards, expected, 2, held_out)


NAME = st.sampled_from(
    ["a", "a.0", "a.1", "a.00", "b", "b.0.1", ".h", "x/a", "x/.0", "a.txt", "é", "", "a.0.", "0", ".0", "jpg"]
)


@given(
    st.lists(
        st.tuples(NAME, st.sampled_from(["", ".jpg", ".JPG", ".txt", ".json", ".caption", ".cls", ".0", "."])), max_size=14
    )
)
@settings(max_examples=150, deadline=None)
def test_no_member_is_lost_whatever_names_are(empty, parts):
    """Names that nobody would choose: no fate is known beforehand, but every member has one, and used ones can be read."""
    folder = empty()
    members = [
        (name + end, {".jpg": PICTURE, ".JPG": PICTURE, ".json": b'{"caption": "x"}'}.get(end, b"x")) for name, end in parts
    ]
    write_tar(folder / "a.tar", members, tarfile.GNU_FORMAT)
    corpus, said = opened_or_said(folder, 1)
    if corpus is None:
        assert not parts or " skipped: " in said
        return
    for tally in corpus.tallies.values():
        assert tally.used + tally.other_side + tally.skipped.total() == tally.entries
    assert corpus.tallies["members"].entries == len(members)
    assert corpus.tallies["samples"].used == len(corpus)
    for index in range(len(corpus)):
        # a caption that names alone do not show to be about no picture, or several
        with suppress(CorpusError):
            assert [show().size for show in corpus[index].pictures] == [(8, 6)]


@st.composite
def photographs(draw, number):
    """Rows about image ``number`` of a COCO-style folder, and the fates of each: (images, captions, objects, is there)."""
    name, there = f"{number}.png", draw(st.booleans())
    image = {"id": number, "file_name": name, "width": 10, "height": 10}
    caption, thing = {"image_id": number, "caption": "x"}, {"image_id": number, "category_id": 1, "bbox": [1, 1, 5, 5]}
    captions, objects = draw(st.integers(0, 3)), draw(st.integers(0, 3))
    kind = draw(st.integers(0, 5))
    images, fate = [(image, USED)], USED
    if kind == 1:
        images = [(image, USED), (image, "images that are listed again")]
    elif kind == 2:
        images = [(row, "images that have one id and differ") for row in (image, {**image, "file_name": f"{number}.jpg"})]
        fate, there = "differ", False
    elif kind == 3:
        name, there = draw(st.sampled_from(["../x.png", "/x.png", "", "a/..", "\ud800.png", "\0"])), False
        images, fate = [({**image, "file_name": name}, "file names that are none or lead out of images/")], "names"
    elif kind == 4:
        images, fate, there = [({**image, "file_name": 5}, "malformed rows of images")], "malformed", False
    if captions == 0 and kind in (0, 1, 3, 5):
        again = [(row, why) for row, why in images if why == "images that are listed again"]
        images, fate = [(images[0][0], "images without a caption"), *again], "silent"
    told = USED if fate == USED else "captions of images that are not used"
    seen = USED if fate == USED else "objects of images that are not used"
    if fate == "malformed":
        told = "captions that are empty or of no listed image"
        seen = "objects that are crowds or have no usable box or name"
    if fate == "differ":
        # without the image, its size is not known
        seen = "objects that are crowds or have no usable box or name"
    said = [(caption, told)] * captions
    bad = draw(
        st.sampled_from([None, (" \n", "captions that are empty or of no listed image"), ("?!", "captions without a word")])
    )
    if bad is not None:
        said.append(
            ({**caption, "caption": bad[0]}, "captions that are empty or of no listed image" if fate == "malformed" else bad[1])
        )
    things = [(thing, seen)] * objects
    broken = draw(st.sampled_from([None, {"bbox": [1, 1, 0, 5]}, {"iscrowd": 1}, {"category_id": 9}, {"image_id": -99}]))
    if broken is not None:
        things.append(({**thing, **broken}, "objects that are crowds or have no usable box or name"))
    return images, said, things, name if there else None, fate == USED, objects if fate == USED else 0


@given(st.data(), st.integers(0, 8), st.integers(0, 3), st.booleans())
@settings(max_examples=60, deadline=None)
def test_images_captions_objects_and_files_of_a_folder(empty, data, count, strangers, at_home):
    root = empty()
    (root / "images").mkdir()
    good = [
        (
            [({"id": -number, "file_name": f"sub/good{number}.png", "width": 10, "height": 10}, USED)],
            [({"image_id": -number, "caption": "good"}, USED)],
            [({"image_id": -number, "category_id": 2, "bbox": [0, 0, 9, 9]}, USED)],
            None,
            True,
            1,
        )
        for number in range(1, 6 if at_home else 3)
    ]
    made = [*good, *(data.draw(photographs(number)) for number in range(1, count + 1))]
    rows = [[pair for block in made for pair in block[part]] for part in range(3)]
    others = [
        ({"image_id": 99, "caption": "x"}, "captions that are empty or of no listed image"),
        (7, "malformed rows of annotations"),
    ]
    rows[1] += others[:strangers]
    images, captions, objects = ([row for row, _ in part] for part in rows)
    categories = [{"id": 1, "name": "cup"}, {"id": 2, "name": "cat"}, {"id": 3}, {"id": 4, "name": "a"}, {"id": 4, "name": "b"}]
    (root / "captions.json").write_text(json.dumps({"images": images, "annotations": captions}))
    (root / "instances.json").write_text(json.dumps({"annotations": objects, "categories": categories}))
    for block in made:
        if block[3] is not None:
            Image.new("RGB", (10, 10)).save(root / "images" / block[3])
    for number in range(strangers):
        (root / "images" / f"stranger{number}").write_text("x")
    usable = sum(block[4] for block in made)
    fates = [Counter(fate for _, fate in part) for part in rows]
    if usable < 5:
        corpus, said = opened_or_said(root, 1)
        assert corpus is None
        assert all(f"; {number:,} skipped: {fate}" in said for fate, number in skipped_of(*fates).items())
        return
    for stage in (1, 2):
        silent = "photographs about which nothing is asked"
        opened = []
        for split in ("train", "test"):
            corpus, said = opened_or_said(root, stage, split)
            if corpus is None:
                assert stage == 2
                assert f" skipped: {silent}" in said
                continue
            opened.append(corpus)
            for kind, part in zip(("images", "captions", "objects"), fates, strict=True):
                tally = corpus.tallies[kind]
                left = silent if kind == "images" else f"{kind} of {silent}"
                asked = tally.skipped.pop(left, 0)
                assert tally.entries == part.total()
                assert tally.used + tally.other_side + asked == part[USED]
                assert tally.skipped == skipped_of(part)
                assert stage == 2 or asked == 0
            assert corpus.tallies["images"].used == len(corpus)
            lists = corpus.tallies["categories of instances.json"]
            assert (lists.entries, lists.used, lists.skipped.total()) == (5, 2, 3)
            files = corpus.tallies["files"]
            assert files.entries == strangers + sum(block[3] is not None for block in made)
            assert files.skipped["files in images/ that captions.json does not name"] == strangers
            assert files.used + files.skipped.total() == files.entries
        # in stage 2 a photograph without objects is counted, on its own side
        asked = sum(corpus.tallies["images"].used for corpus in opened)
        assert asked == usable if stage == 1 else asked <= sum(block[4] and block[5] > 0 for block in made)
