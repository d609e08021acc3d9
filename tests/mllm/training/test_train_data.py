"""pargo train on LLaVA lists and shards: the weights do not depend on batching, bad data is named."""

import io
import json
import resource

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pargo_mllm import ParGoForConditionalGeneration, ParGoProcessor
from pargo_mllm.cli import main
from pargo_mllm.data.feeding.collation import RowCollator
from pargo_mllm.data.feeding.encoding import ExampleEncoder
from pargo_mllm.data.sources.shards import ShardCorpus, write_shards
from pargo_mllm.files import what_is_wrong
from pargo_mllm.training.trainer.stage_trainer import StageProgress
from tests.mllm.made.training_runs import train_on

SHORT = ["--steps", "3", "--save-steps", "2", "--batch-size", "6", "--bf16", "false", "--report-to", "none"]
# Adam's steps are nearly proportional to the gradient: rounding stays as small as it is
GENTLE = ["--learning-rate", "0.5", "--adam-epsilon", "1.0", "--lora-rank", "4", "--lora-dropout", "0"]
STAGE2 = "extends: mini-stage2\nattention: sdpa\nviews: 0\nwarmup: 0.0\ncache_features: false\n"
WORDS = ["red", "green", "blue", "circle", "square", "big", "small", "one", "two", "three"]


def noise(seed, side=28):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def turns(*texts):
    return [{"from": ("human", "gpt")[index % 2], "value": text} for index, text in enumerate(texts)]


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    """One picture, several turns; two pictures; text alone; a picture that cannot be read; one that is not there."""
    folder = tmp_path_factory.mktemp("llava")
    (folder / "images").mkdir()
    for index in range(6):
        noise(index).save(folder / "images" / f"{index}.png")
    (folder / "images" / "broken.png").write_bytes(b"no picture")
    rows = [
        {
            "id": f"turns {index}",
            "image": f"{index}.png",
            "conversations": turns("<image>\nwhich colour", word, "what shape", "big square"),
        }
        for index, word in enumerate(WORDS[:5])
    ]
    rows.append({"id": "two", "image": ["4.png", "5.png"], "conversations": turns("<image> <image> which is big", "two")})
    rows += [{"id": f"text {word}", "conversations": turns("say yes", f"yes {word}")} for word in WORDS[:3]]
    rows.append({"id": "broken", "image": "broken.png", "conversations": turns("<image> what", "circle")})
    rows.append({"id": "absent", "image": "absent.png", "conversations": turns("<image> what", "circle")})
    (folder / "list.json").write_text(json.dumps(rows))
    return folder / "list.json"


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    def samples():
        for index in range(40):
            picture = io.BytesIO()
            noise(100 + index).save(picture, "PNG")
            yield f"{index:06d}", {"png": picture.getvalue(), "txt": f"{WORDS[index % 10]} {WORDS[index % 3]}".encode()}

    folder = tmp_path_factory.mktemp("shards")
    write_shards(samples(), folder, per_shard=15)
    return folder


@pytest.fixture(scope="module")
def start(make_model, processor, tmp_path_factory):
    """The model that training starts from, and a recipe of stage 2."""
    folder = tmp_path_factory.mktemp("start")
    make_model().save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    (folder / "stage2.yaml").write_text(STAGE2)
    (folder / "stage1.yaml").write_text(STAGE2.replace("mini-stage2", "mini-stage1").replace("views", "miniature: null\nviews"))
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def train(start, data, output, *more, stage=2):
    recipe = ["train", start / f"stage{stage}.yaml", "--data", data, "--model", start / "model", "--output", output]
    return main([str(word) for word in (*recipe, *SHORT, *more)])


def weights(folder):
    return load_file(folder / "model.safetensors")


def same(first, second):
    first, second = weights(first), weights(second)
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def whole(start, llava, tmp_path_factory):
    """Weights after stage 2 on the list: a row an example, two at a time."""
    output = tmp_path_factory.mktemp("whole") / "out"
    assert train(start, llava, output, *GENTLE, "--micro-batch-size", "2") == 0
    trained, before = weights(output), weights(start / "model")
    moved = max(float((trained[name] - before[name]).abs().max()) for name in trained)
    assert moved > 0.05
    return trained


@pytest.mark.parametrize(
    "more",
    [["--pack", "true"], ["--pack", "true", "--micro-batch-size", "3"], ["--cache-features", "true"], ["--workers", "2"]],
    ids=lambda more: " ".join(more[::2]),
)
def test_how_it_is_batched_does_not_change_the_weights(whole, start, llava, tmp_path, more):
    assert train(start, llava, tmp_path / "out", *GENTLE, *more) == 0
    for name, tensor in weights(tmp_path / "out").items():
        torch.testing.assert_close(tensor, whole[name], rtol=0, atol=1e-5)


def test_what_cannot_be_used_is_named_and_counted(start, llava, tmp_path, capsys):
    assert train(start, llava, tmp_path / "out", "--report-to", "tensorboard", "--max-length", "40") == 0
    said = "".join(capsys.readouterr())
    assert "broken" in said
    assert "absent.png" in said
    log = logged(tmp_path / "out")
    # 18 positions: an epoch of 11 examples and 7 of the next one; every number of a step is there
    assert log["train/skipped"][-1] >= 2
    for name in ("loss", "tokens_per_second", "images_per_second", "tflops_per_device", "data_wait", "memory_gib"):
        assert len(log[f"train/{name}"]) == 3
    assert what_is_wrong(tmp_path / "out") is None
    # 18 positions: an epoch of 11 examples, two of them broken, and 7 of the next one
    *_, last = json.loads((tmp_path / "out" / "training_log.json").read_text())
    assert last["skipped"]["pictures that cannot be read"] >= 2
    assert sum(last["skipped"].values()) == log["train/skipped"][-1]
    counts = {"entries": 11, "used": 11, "held_out": 0, "skipped": {}}
    assert last["data"] == [{"source": str(llava), "entries": {"records": counts}}]
    assert [entry["step"] for entry in json.loads((tmp_path / "out" / "training_log.json").read_text())] == [1, 2, 3]


@pytest.mark.parametrize("processes", [1, 2])
def test_what_is_skipped_is_counted_over_processes_and_interruptions(start, tmp_path, monkeypatch, processes):
    """Every third record has no picture: of 4 steps of 6, the positions that show one, whoever read them and when."""
    rows = [{"id": f"{n}", "image": "no.png", "conversations": turns("<image> what", "red")} for n in range(4)]
    rows += [{"id": f"text {n}", "conversations": turns("say yes", "yes one")} for n in range(8)]
    rows += [7, {"conversations": turns("say", "half \ud83d")}]
    (tmp_path / "list.json").write_text(json.dumps(rows))
    arguments = [start / "stage2.yaml", "--data", tmp_path / "list.json", "--model", start / "model", *SHORT, "--seed", "3"]
    # two epochs: each shows every record once
    arguments += ["--output", tmp_path / "out", "--steps", "4", "--save-steps", "1", "--held-out", "0"]
    if processes == 1:
        with monkeypatch.context() as interrupted:
            interrupted.setattr(StageProgress, "on_save", ctrl_c)
            assert main([str(word) for word in ("train", *arguments)]) == 130
        assert main([str(word) for word in ("train", *arguments)]) == 0
    else:
        assert "skipped 1 entries" in train_on(2, *arguments)
    *_, last = json.loads((tmp_path / "out" / "training_log.json").read_text())
    assert last["skipped"] == {"pictures that cannot be read": 8}
    (source,) = last["data"]
    reasons = {
        "records without conversations: [{from, value}]": 1,
        "records with a text that holds half a character (a lone surrogate)": 1,
    }
    assert source["entries"] == {"records": {"entries": 14, "used": 12, "held_out": 0, "skipped": reasons}}


def ctrl_c(self, args, state, control, **kwargs):
    """Behind the second checkpoint."""
    if state.global_step == 2:
        raise KeyboardInterrupt


def test_pictures_may_lie_elsewhere(start, llava, tmp_path, capsys):
    """As LLaVA's own lists: names from another folder on, or absolute ones."""
    rows = json.loads(llava.read_text())[:5]
    for number, row in enumerate(rows):
        row["image"] = row["image"] if number % 2 else f"{llava.parent}/images/{row['image']}"
    (tmp_path / "list.json").write_text(json.dumps(rows))
    both = f"[{{path: {tmp_path}/list.json}}, {{path: 'scenes:train=4'}}]"
    assert train(start, both, tmp_path / "out", "--image-root", llava.parent / "images", *GENTLE) == 0
    *_, last = json.loads((tmp_path / "out" / "training_log.json").read_text())
    assert last["skipped"] == {}
    assert last["data"][0]["entries"]["records"]["used"] == 5
    # of the list alone, and the same pictures
    own = f"[{{path: {tmp_path}/list.json, image_root: {llava.parent}/images}}, {{path: 'scenes:train=4'}}]"
    assert train(start, own, tmp_path / "own", *GENTLE) == 0
    assert same(tmp_path / "own", tmp_path / "out")
    # another folder is another run
    assert train(start, both, tmp_path / "out", "--image-root", tmp_path, *GENTLE) == 2
    capsys.readouterr()
    for data, root, says in (
        ("scenes:train=4", tmp_path, "says where LLaVA lists have their pictures, and data has none"),
        (f"[{{path: 'scenes:train=4', image_root: {tmp_path}}}]", None, "says where a LLaVA list has its pictures; scenes"),
        (tmp_path / "list.json", tmp_path / "none", "none is no folder"),
    ):
        assert train(start, data, tmp_path / "bad", *(("--image-root", root) if root else ())) == 2
        assert says in capsys.readouterr().err


@pytest.mark.parametrize("more", [[], ["--dry-run"]], ids=["train", "dry run"])
def test_an_output_that_cannot_be_one_is_refused_at_the_start(start, llava, tmp_path, capsys, monkeypatch, more):
    """A link that leads to nothing was found out when training was over."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_text("")
    for output, says in (
        ("link", "is a link that leads to nothing"),
        ("loop", "is a link that leads to nothing"),
        ("link/new/out", "link is a link that leads to nothing"),
        (".", "has no name of its own"),
        ("x/..", "has no name of its own"),
        ("n" * 250, "cannot be a folder"),
        ("file/out", "cannot be a folder"),
    ):
        assert train(start, llava, output, *more) == 2
        assert says in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link", "loop"]


def logged(output):
    events = EventAccumulator(str(output / "logs"), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_mixture_in_groups_of_like_length(start, llava, shards, tmp_path, capsys):
    both = f"[{{path: {llava}, weight: 1}}, {{path: {shards}, weight: 2}}]"
    assert train(start, both, tmp_path / "out", "--group-by-length", "true", "--pack", "true") == 0
    assert "examples of 51" in "".join(capsys.readouterr())
    # other batches, other weights
    assert train(start, both, tmp_path / "ungrouped", "--pack", "true") == 0
    assert not same(tmp_path / "ungrouped", tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [weight for _, weight in manifest["settings"]["data"]] == [1.0, 2.0]
    # other data is another run
    assert train(start, llava, tmp_path / "out") == 2


def test_captions_alone_in_stage_1(start, shards, tmp_path):
    assert train(start, shards, tmp_path / "out", "--template", "plain", stage=1) == 0
    before, after = weights(start / "model"), weights(tmp_path / "out")
    assert {name.split(".")[1] for name in after if not torch.equal(after[name], before[name])} == {"projector"}
    assert train(start, shards, tmp_path / "chat", stage=1) == 0
    assert not same(tmp_path / "chat", tmp_path / "out")


@pytest.fixture(scope="module")
def evaluated(start, shards, tmp_path_factory):
    """Logs of runs that evaluate, by micro-batch size; and one that does not."""
    found = {}
    for name, more in {"2": ["--micro-batch-size", "2"], "6": [], "packed": ["--pack", "true"]}.items():
        output = tmp_path_factory.mktemp("evaluated") / "out"
        settings = ["--eval-steps", "1", "--held-out", "0.3", "--report-to", "tensorboard", *GENTLE, *more]
        assert train(start, shards, output, *settings) == 0
        found[name] = logged(output)["eval/loss"], weights(output)
    found["folder"] = output
    output = tmp_path_factory.mktemp("evaluated") / "out"
    assert train(start, shards, output, "--held-out", "0.3", *GENTLE) == 0
    found["never"] = [], weights(output)
    return found


def test_held_out_loss_is_the_same_however_it_is_batched(evaluated):
    losses = evaluated["2"][0]
    assert len(losses) == 3
    assert len(set(losses)) == 3
    for name in ("6", "packed"):
        assert evaluated[name][0] == pytest.approx(losses, abs=1e-5)


def test_held_out_loss_is_the_mean_over_all_labels(evaluated, shards):
    folder = evaluated["folder"]
    model, processor = ParGoForConditionalGeneration.from_pretrained(folder).eval(), ParGoProcessor.from_pretrained(folder)
    encoder, collate = ExampleEncoder(processor), RowCollator(processor.tokenizer.pad_token_id, False)
    held_out = ShardCorpus(shards, split="test", held_out=0.3)
    said = []
    for index in range(len(held_out)):
        batch = collate([encoder(held_out[index])])
        del batch["contents"]
        labels = batch.pop("labels")[0, 1:]
        with torch.no_grad():
            chances = model(**batch).logits[0, :-1].log_softmax(-1)
        said += [-float(chances[place, label]) for place, label in enumerate(labels.tolist()) if label != -100]
    # LoRA is folded in now
    assert sum(said) / len(said) == pytest.approx(evaluated["packed"][0][-1], abs=1e-4)


def test_evaluating_changes_nothing(evaluated):
    for name, tensor in evaluated["never"][1].items():
        assert torch.equal(tensor, evaluated["6"][1][name])


def test_evaluation_needs_something_held_out(start, shards, tmp_path, capsys):
    assert train(start, shards, tmp_path / "out", "--eval-steps", "1") == 2
    assert "nothing is held out" in capsys.readouterr().err


def test_a_gradient_that_is_no_number_is_not_applied(start, llava, tmp_path, capsys):
    assert train(start, llava, tmp_path / "out", "--learning-rate", "1e30", "--save-steps", "1", "--steps", "9") == 2
    said = capsys.readouterr().err
    assert "the gradient holds NaN or infinity, and nothing of it is kept. The newest checkpoint is of step" in said
    assert said.count("pargo train:") == 1
    (step,) = [int(word.split(".")[0]) for word in said.split("of step ")[1:]]
    checkpoint = tmp_path / ".out.partial" / "checkpoints" / f"checkpoint-{step}"
    assert what_is_wrong(checkpoint) is None
    saved = load_file(next(checkpoint.glob("*.safetensors")))
    assert all(torch.isfinite(tensor).all() for tensor in saved.values())


def test_a_full_disk_loses_no_checkpoint(start, llava, tmp_path, capsys):
    assert train(start, llava, tmp_path / "whole", *GENTLE) == 0
    files = (tmp_path / "whole").rglob("*.safetensors")
    largest = max(file.stat().st_size for file in files)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest // 8, hard))
    try:
        assert train(start, llava, tmp_path / "out", *GENTLE) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    said = capsys.readouterr().err
    assert "step 2: its checkpoint cannot be written" in said
    assert "There is no checkpoint yet. Make room, and the same command goes on." in said
    trainer = tmp_path / ".out.partial" / "checkpoints"
    assert not [path for path in trainer.iterdir() if path.name.startswith(("checkpoint", "."))]
    assert train(start, llava, tmp_path / "out", *GENTLE) == 0
    first, second = weights(tmp_path / "whole"), weights(tmp_path / "out")
    assert all(torch.equal(first[name], second[name]) for name in first)


BAD = {
    "weight missing": ("[{path: a, weight: 1}, {path: b}]", "some parts have a weight and some have none"),
    "weight negative": ("[{path: a, weight: -1}]", "weight=-1.0 of a must be positive"),
    "no part": ("[]", "must name at least one path"),
    "unknown key": ("[{file: a}]", "must be a path, scenes:key=number,…, or a list of {path: …, weight: …}"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_mixtures(case, start, tmp_path, capsys):
    data, says = BAD[case]
    assert train(start, data, tmp_path / "out") == 2
    assert says in capsys.readouterr().err
