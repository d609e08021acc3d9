"""What the patch loss of stage 1 changes: alignment and caption loss on pictures that no run was trained on.

    python bench/alignment.py --model START

Stage 1 of ``pargo train mini-stage1`` is run from one start, with as many steps for all: each projector, with each weight of
the patch loss, 0 among them, and each seed. Every model is then judged on the pictures that its data hold out: the loss of
captions, by the trainer, and how well tokens and the words of what they show agree (:mod:`pargo_mllm.alignment.scores`).
Weights are to be chosen on other scenes than those that are reported: ``--data scenes:seed=2`` draws others.

START is a folder of model and processor, such as ``pargo train mini-stage1 --data scenes --steps 1`` leaves: encoder and
language model are taken from it, projectors are fresh.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
import statistics
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch

from bench.contest.records import environment, slug
from pargo_mllm.alignment.labels import token_labels
from pargo_mllm.alignment.looking import Source, draw_pictures, look
from pargo_mllm.alignment.origins import token_origins
from pargo_mllm.alignment.scores import WordScoring
from pargo_mllm.alignment.vocabulary import embedding_mean
from pargo_mllm.alignment.words import spelled
from pargo_mllm.cli import main as pargo
from pargo_mllm.files import write_whole
from pargo_mllm.loading import open_model

ROOT = Path(__file__).resolve().parent.parent
LINE = "{:>8} {:>7} {:>5} {:>10} {:>13} {:>13} {:>15} {:>9} {:>9}"
# whose tokens have a part of the picture of their own, by which they are judged
LOCAL = ("linear", "mlp", "pargo", "c_abstractor", "d_abstractor")
FIGURES = ("caption_loss", "alignment", "accuracy", "class_mean")


def main() -> int:
    """Train, judge, print a table, write a file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, metavar="DIR", help="where all runs start (default: the miniature of the recipe)")
    parser.add_argument("--data", default="scenes", metavar="PATH", help="whose held-out part is judged (default: scenes)")
    parser.add_argument("--pictures", type=int, default=200, metavar="N", help="held-out ones that are judged")
    parser.add_argument("--projectors", nargs="+", default=["linear", "pargo"], choices=LOCAL, metavar="TYPE")
    parser.add_argument("--weights", nargs="+", type=float, default=[0.0, 1.0], metavar="X", help="of the patch loss")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N")
    parser.add_argument("--steps", type=int, default=300, metavar="N", help="of stage 1")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="where models are left; what is there is not trained again")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="further keys of the recipe, for all runs")
    parser.add_argument("--patch", nargs="+", default=[], metavar="KEY=VALUE", help="the same, for runs with the patch loss")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON (default: runs/bench/MACHINE/alignment.json)")
    options = parser.parse_args()
    machine = environment(torch.device("cpu"))
    print(machine, flush=True)
    print(LINE.format("", "weight", "seed", "steps", "caption loss", "alignment", "nearest right", "by word", "seconds"))
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for projector in options.projectors:
            for weight in options.weights:
                for seed in options.seeds:
                    row = judged(options, options.keep or Path(scratch), projector, weight, seed)
                    rows.append(row)
                    figures = [f"{row[name]:.3f}" for name in FIGURES]
                    print(LINE.format(projector, weight, seed, options.steps, *figures, f"{row['seconds']:.0f}"), flush=True)
    summary = summed(rows)
    for one in summary:
        told = "; ".join(f"{name} {one[name][0]:.3f} ± {one[name][1]:.3f}" for name in FIGURES)
        print(f"{one['projector']}, weight {one['weight']:g}: {told}")
    file = options.out or ROOT / "runs" / "bench" / slug(machine.device) / "alignment.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    about = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    for place in ("model", "keep", "out"):
        del about[place]
    write_whole(file, json.dumps({"machine": str(machine), **about, "summary": summary, "rows": rows}, indent=1))
    print(file)
    return 0


def judged(options: argparse.Namespace, folder: Path, projector: str, weight: float, seed: int) -> dict[str, Any]:
    """Train a run, unless it is there, and judge it."""
    begin = time.perf_counter()
    output = folder / f"{projector}-weight{weight:g}-seed{seed}"
    keys = dict(pair.split("=", 1) for pair in (*options.set, *(options.patch if weight else ())))
    start = [] if options.model is None else ["--model", str(options.model)]
    words = ["train", "mini-stage1", "--data", options.data, *start, "--projector", projector, "--output", str(output)]
    steps = str(options.steps)
    keys |= {"steps": steps, "eval_steps": steps, "seed": str(seed), "report_to": "none", "save_steps": "null"}
    if weight:
        keys["patch_weight"] = str(weight)
    for key, value in keys.items():
        words += [f"--{key.replace('_', '-')}", value]
    said = output.with_name(output.name + ".log")
    if not said.is_file():
        told = io.StringIO()
        with contextlib.redirect_stdout(told):
            status = pargo(words)
        if status:
            raise SystemExit(f"pargo {' '.join(words)} ended with status {status}.")
        write_whole(said, told.getvalue())
    # held out is the last line that names it
    (*_, loss) = re.findall(r"held-out loss ([0-9.]+)", said.read_text())
    row = {"projector": projector, "weight": weight, "seed": seed, "caption_loss": float(loss)}
    return {**row, **alignment(output, options), "seconds": time.perf_counter() - begin}


def alignment(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What tokens with a part of the picture of their own say, on held-out pictures."""
    model, processor = open_model(folder)
    pictures = draw_pictures(Source(options.data, pictures=options.pictures))
    spelling = spelled(processor.tokenizer, pictures.names, pictures.names)
    names = list(spelling.ids)
    embeddings: Any = model.get_input_embeddings().weight
    scoring = WordScoring(names, spelling.vectors(embeddings), embedding_mean(embeddings))
    origins = token_origins(model.model.projector, model.config.num_visual_tokens)
    for looked in look(model.eval(), processor, pictures, 16, folder.name):
        own = dict(zip(looked.names, looked.coverage, strict=True))
        nothing = torch.zeros(looked.coverage.shape[1])
        coverage = torch.stack([own.get(name, nothing) for name in names])
        labels = token_labels(coverage, origins.shares) * origins.local[:, None]
        scoring.add(looked.tokens, labels)
    told = asdict(scoring.scores())
    del told["by_label"]
    return told


def summed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of every projector and weight, each figure's mean and standard deviation over the seeds."""
    arms: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for row in rows:
        arms.setdefault((row["projector"], row["weight"]), []).append(row)
    return [
        {
            "projector": projector,
            "weight": weight,
            "seeds": len(own),
            **{name: spread([row[name] for row in own]) for name in FIGURES},
        }
        for (projector, weight), own in arms.items()
    ]


def spread(values: list[float]) -> tuple[float, float]:
    """Mean and standard deviation (of a sample; 0 for one)."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


if __name__ == "__main__":
    sys.exit(main())
