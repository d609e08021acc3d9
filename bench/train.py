"""How fast is a whole training step, and what do the projector's kernels and packing gain in it?

    python bench/train.py                             the paper's sizes, stages 1 and 2, on one GPU
    python bench/train.py --size tiny                 what two CPU cores can do
    python bench/train.py --stage 1 --pictures 16     another micro-batch
    python bench/train.py --stage 1 --projector linear   what the patch loss adds to a step: see the last way
    python bench/train.py --list                      sizes, lengths and ways

Encoder, projector and language model with random weights, forward, backward and AdamW on one micro-batch that was made
before: no waiting for data. Every way is verified before it is timed; one that cannot run, fails or is wrong is listed
with the reason. Rows go to OUT/train_SIZE.csv as they come, a picture beside it. Tokens are those of the examples: neither
padding nor what is computed twice makes a way faster.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

if __package__ in (None, ""):
    # run as a script: the repository's root takes the place of this folder, so that nothing need be installed
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
# threads that wait must sleep: where other programs run too, spinning ones make a call a hundred times slower
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from tqdm import tqdm

from bench.contest.engine import DTYPES, Setting
from bench.contest.provider import Place
from bench.contest.records import ROOT, Environment, ResultFile, environment, slug
from bench.contest.timing import Meter, caveats, copy_bandwidth, matmul_rate, meter_for
from bench.problems.training import LENGTHS, ROW_LENGTH, SIZES, STAGE_LENGTHS, TrainingProblem
from bench.shown import plots, report
from bench.workloads.trainee import PATCHED, WAYS
from bench.workloads.training_step import measure_training, memory_estimate, needed_bytes

GIB = 2**30
# spent on the rounds of one stage
SECONDS = 60.0


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    args = parse(argv)
    device = torch.device(args.device)
    place = Place(device, DTYPES[args.dtype])
    problems = chosen_problems(args)
    if args.list:
        print(choices(place, args))
        return 0

    begin = time.perf_counter()
    meter = meter_for(device)
    if reason := too_large(problems, place, meter):
        print(reason, file=sys.stderr)
        return 2
    machine = environment(device)
    out = args.out or ROOT / "runs" / "bench" / slug(machine.device)
    setting = Setting(
        suite="train",
        place=place,
        dtype=args.dtype,
        layout="",
        seed=args.seed,
        meter=meter,
        seconds=0.0 if args.dry_run else SECONDS,
        copy_bytes_per_s=copy_bandwidth(device, meter),
        matmul_flops_per_s=matmul_rate(device, place.dtype, meter),
    )
    print(headline(machine, setting))
    with (
        ResultFile(out / f"train_{args.size}.csv", machine) as results,
        tqdm(problems, unit="stage", disable=None) as progress,
    ):
        for group, problem in enumerate(progress):
            tqdm.write(about(problem, place))
            rows = measure_training(problem, group, setting, progress.set_postfix_str, results.add)
            tqdm.write(report.training_table(rows))
    drawn = plots.draw_training(results.path, out / f"train_{args.size}.png")
    print(f"\n{time.perf_counter() - begin:.0f} s; {results.path}", *([drawn.name] if drawn else []), sep="\n  ")
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default_device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--list", action="store_true", help="print sizes, lengths and ways, and what can run here")
    parser.add_argument("--size", default="paper", choices=SIZES, metavar="NAME", help=f"{', '.join(SIZES)}; default: paper")
    parser.add_argument("--language-layers", type=positive, help="layers of the language model, in place of the size's")
    parser.add_argument("--projector", default="pargo", choices=("pargo", "linear"), help="default: pargo")
    parser.add_argument("--stage", type=int, nargs="+", choices=(1, 2), default=(1, 2), help="default: both")
    parser.add_argument("--pictures", type=positive, default=8, help="of the micro-batch, with all that is said; default: 8")
    parser.add_argument("--lengths", choices=LENGTHS, help="of what is said; default: captions in stage 1, else conversations")
    parser.add_argument(
        "--row-length", type=positive, default=ROW_LENGTH, help=f"most tokens of a packed row; default: {ROW_LENGTH}"
    )
    parser.add_argument("--gradient-checkpointing", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--out", type=Path, help="folder for results; default: runs/bench/DEVICE. An earlier run is replaced")
    parser.add_argument("--device", default=default_device, choices=("cpu", "cuda"), help=f"default: {default_device}")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), help="default: fp32 on a CPU, bf16 on a GPU")
    parser.add_argument("--seed", type=int, default=0, help="of weights, pictures, texts and their lengths; default: 0")
    parser.add_argument("--dry-run", action="store_true", help="everything tiny, to see that all runs")
    args = parser.parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no CUDA device here; use --device cpu")
    args.dtype = args.dtype or ("fp32" if args.device == "cpu" else "bf16")
    for problem in chosen_problems(args):
        longest = max(problem.example_lengths())
        if args.row_length < longest:
            parser.error(f"--row-length {args.row_length}: an example of stage {problem.stage} has {longest} tokens")
    return args


def positive(text: str) -> int:
    """A whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return number


def chosen_problems(args: argparse.Namespace) -> list[TrainingProblem]:
    """One a stage."""
    return [
        TrainingProblem(
            size=args.size,
            stage=stage,
            lengths=args.lengths or STAGE_LENGTHS[stage],
            pictures=min(3, args.pictures) if args.dry_run else args.pictures,
            seed=args.seed,
            language_layers=args.language_layers,
            row_length=args.row_length,
            gradient_checkpointing=args.gradient_checkpointing,
            dry=args.dry_run,
            projector=args.projector,
        )
        for stage in args.stage
    ]


def too_large(problems: list[TrainingProblem], place: Place, meter: Meter) -> str | None:
    """Why the problems are not even tried, or None: on a CPU the system would end this process, or others."""
    for problem in problems:
        needed, free = needed_bytes(problem, place), meter.available_bytes()
        if needed > free:
            return (
                f"{problem}: about {needed / GIB:.0f} GiB are needed and {free / GIB:.0f} GiB are free; choose a smaller "
                "--size, --language-layers or --pictures"
            )
    return None


def headline(machine: Environment, setting: Setting) -> str:
    """The machine, and which ways cannot run on it."""
    speeds = f"copy {setting.copy_bytes_per_s / 1e9:.1f} GB/s; {setting.dtype} matrix product"
    lines = [str(machine), f"{speeds} {setting.matmul_flops_per_s / 1e9:.0f} GFLOP/s"]
    lines += caveats(machine.threads, setting.meter)
    lines += [f"  {way} cannot run here: {reason}" for way in WAYS if (reason := way.why_not_here(setting.place))]
    return "\n".join(lines)


def about(problem: TrainingProblem, place: Place) -> str:
    """What is measured, and the memory that it is expected to take."""
    lengths = sorted(problem.example_lengths())
    return "\n".join(
        (
            "",
            str(problem),
            f"tokens of the examples, pictures included: {', '.join(map(str, lengths))} ({sum(lengths)} in all)",
            *([memory_estimate(problem).describe()] if place.half else []),
        )
    )


def choices(place: Place, args: argparse.Namespace) -> str:
    """Sizes, lengths, and ways with what keeps them from running here."""
    lines = [f"size {name}: {size.about}" for name, size in SIZES.items()]
    lines += [f"lengths {name}: {distribution.about}" for name, distribution in LENGTHS.items()]
    lines.append("ways (the projector's attention, rows, the language model's attention):")
    for way in (*WAYS, PATCHED):
        reason = way.why_not_here(place)
        lines.append(f"  {way}" + (f" [not here: {reason}]" if reason else ""))
    # a run says what memory it expects to take: following a whole model on paper takes seconds
    return "\n".join([*lines, "problems:", *(f"  {problem}" for problem in chosen_problems(args))])


if __name__ == "__main__":
    sys.exit(main())
