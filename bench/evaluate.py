"""Pictures and questions a second of an evaluation: what prompts about a picture have in common read once, or not.

    python bench/evaluate.py

Three ways answer the same questions, in turns. "shared" reads a picture, and what stands in front of its questions, once.
"encoded once" encodes and projects a picture once and reads every prompt whole. "one by one" is transformers' ``generate`` on
padded batches, in which every question brings its picture along. Before anything is timed, all say the same tokens in fp32.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np
import torch
from PIL import Image
from transformers import SiglipImageProcessorPil

from bench.contest.records import environment, slug
from bench.contest.timing import caveats, meter_for, quantiles
from bench.problems.training import MINUTE, SIZES
from pargo_mllm.answering.prompts import Prompt, common_lead
from pargo_mllm.answering.reader import Reader
from pargo_mllm.files import write_whole
from pargo_mllm.language.tokenizer import word_tokenizer
from pargo_mllm.modeling import ParGoForConditionalGeneration
from pargo_mllm.processing import ParGoProcessor

ROOT = Path(__file__).resolve().parent.parent
WAYS = ("shared", "encoded once", "one by one")
WORDS = [f"word{index}" for index in range(64)]
LINE = "{:>10} {:<14} {:>22} {:>14} {:>16}"


def main() -> int:
    """Measure, print a table, write a file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=(*SIZES, "minute"), default="tiny", help="of the model (default: tiny)")
    parser.add_argument("--pictures", type=int, default=4, metavar="N")
    parser.add_argument("--questions", type=int, nargs="+", default=[1, 2, 4, 8], metavar="N", help="about each picture")
    parser.add_argument("--batch-size", type=int, default=8, metavar="N")
    parser.add_argument("--new-tokens", type=int, default=4, metavar="N", help="of each answer")
    parser.add_argument("--rounds", type=int, default=7, metavar="N")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON (default: runs/bench/MACHINE/evaluate_SIZE.json)")
    options = parser.parse_args()
    device = torch.device(options.device)
    machine, meter = environment(device), meter_for(device)
    print("\n".join([str(machine), *caveats(machine.threads, meter)]), flush=True)
    built, processor = made(options.size)
    model: Any = built.to(device)  # type: ignore[arg-type]
    print(LINE.format("questions", "way", "questions/s (20-80 %)", "pictures/s", "against one by one"))
    rows: list[dict[str, Any]] = []
    for questions in options.questions:
        prompts = asked(processor, options.pictures, questions)
        ways = {name: way(name, model, processor, prompts, options.batch_size, options.new_tokens) for name in WAYS}
        check(model.float(), ways)
        model = model.to(getattr(torch, options.dtype))
        samples = timed(ways, options.rounds, meter)
        for name, seconds in samples.items():
            low, middle, high = quantiles(seconds)
            ratio = quantiles([slow / own for slow, own in zip(samples["one by one"], seconds, strict=True)])
            row = {"questions_a_picture": questions, "way": name, "pictures": options.pictures, "seconds": [low, middle, high]}
            rows.append({**row, "times_one_by_one": ratio})
            rates = [len(prompts) / one for one in (middle, high, low)]
            spread = f"{rates[0]:.2f} ({rates[1]:.2f}-{rates[2]:.2f})"
            faster = f"{ratio[1]:.2f} ({ratio[0]:.2f}-{ratio[2]:.2f})"
            print(LINE.format(questions, name, spread, f"{options.pictures / middle:.2f}", faster), flush=True)
    file = options.out or ROOT / "runs" / "bench" / slug(machine.device) / f"evaluate_{options.size}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    about = {"machine": str(machine), **{name: value for name, value in vars(options).items() if name != "out"}}
    write_whole(file, json.dumps({**about, "rows": rows}, indent=1))
    print(f"{file}")
    return 0


def made(size: str) -> tuple[ParGoForConditionalGeneration, ParGoProcessor]:
    """A model of random weights, and a processor of as many words as it needs."""
    config = (MINUTE if size == "minute" else SIZES[size]).config()
    tokenizer = word_tokenizer([" ".join(WORDS)])
    config.image_token_id = tokenizer.encode("<image>", add_special_tokens=False)[0]
    torch.manual_seed(0)
    model = ParGoForConditionalGeneration._from_config(config, dtype=torch.float32).eval()
    # no answer ends early: every way says as many tokens
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    side = config.vision_config.image_size
    images = SiglipImageProcessorPil(size={"height": side, "width": side})
    return model, ParGoProcessor(images, tokenizer, num_image_tokens=config.num_image_tokens)


def asked(processor: ParGoProcessor, pictures: int, questions: int) -> list[Prompt]:
    """Questions of 8 to 24 words about each picture."""
    rng = np.random.default_rng(0)
    prompts = []
    for number in range(pictures):
        picture = Image.fromarray(rng.integers(0, 256, (336, 336, 3), dtype=np.uint8))
        for _ in range(questions):
            text = " ".join(rng.choice(WORDS, rng.integers(8, 25)))
            conversation = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]
            ids = tuple(processor.chat_format.prompt_tokens(conversation))
            prompts.append(Prompt(ids, (lambda picture=picture: picture,), str(number)))  # type: ignore[misc]
    return prompts


def way(name: str, model: Any, processor: ParGoProcessor, prompts: list[Prompt], size: int, new_tokens: int) -> Callable:
    """What answers all prompts and returns the tokens of each."""
    groups: dict[str, list[Prompt]] = {}
    for prompt in prompts:
        groups.setdefault(prompt.group, []).append(prompt)
    leads = {group: common_lead(own) for group, own in groups.items()}
    batches = [prompts[first : first + size] for first in range(0, len(prompts), size)]

    def read() -> list[tuple[int, ...]]:
        reader, said = Reader(model, processor, share=name == "shared"), []
        for batch in batches:
            reader.forget(prompt.group for prompt in batch)
            said += [one.ids for one in reader.answer(batch, leads, new_tokens)]
        return said

    @torch.inference_mode()
    def one_by_one() -> list[tuple[int, ...]]:
        said = []
        for batch in batches:
            pictures = [opens() for prompt in batch for opens in prompt.pictures]
            pixels, _ = processor.encode_pictures(pictures)
            rows = [
                [token for one in prompt.ids for token in [one] * (processor.num_image_tokens if one == image else 1)]
                for prompt in batch
            ]
            inputs = processor.tokenizer.pad({"input_ids": rows}, padding_side="left", return_tensors="pt").to(model.device)
            out = model.generate(**inputs, pixel_values=pixels.to(model.device), max_new_tokens=new_tokens, do_sample=False)
            said += [tuple(row) for row in out[:, inputs["input_ids"].shape[1] :].tolist()]
        return said

    image = processor.image_token_id
    return one_by_one if name == "one by one" else read


def check(model: Any, ways: dict[str, Callable]) -> None:
    """All ways say the same tokens in fp32.

    Raises:
        SystemExit: if they do not.
    """
    answers = {name: answer() for name, answer in ways.items()}
    for name, said in answers.items():
        if said != answers["one by one"]:
            raise SystemExit(f"{name} says other tokens than generate() one by one: nothing is timed.")


def timed(ways: dict[str, Callable], rounds: int, meter: Any) -> dict[str, list[float]]:
    """Seconds of every way, a round of each in turn; the first round is none."""
    samples: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, answer in ways.items():
            begin = time.perf_counter()
            answer()
            meter.synchronize()
            if number:
                samples[name].append(time.perf_counter() - begin)
    return samples


if __name__ == "__main__":
    sys.exit(main())
