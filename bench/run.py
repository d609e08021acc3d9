"""How fast are the two attentions, against every other way to compute them, on this machine?

    python bench/run.py                     some minutes, the suite "quick"
    python bench/run.py --suite cpu-band    every window of the cascade, on a CPU
    python bench/run.py --suite full        sweeps of visual tokens and windows
    python bench/run.py --base HEAD~5       this package's rows, beside those of an earlier commit's kernels
    python bench/run.py --list              what can be measured

Every provider is verified against the fp64 oracle before it is timed; one that cannot run, fails or is wrong is listed with
the reason. Rows go to OUT/SUITE.csv as they come, plots and tables beside it.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

if __package__ in (None, ""):
    # run as a script: the repository's root takes the place of this folder, so that nothing need be installed
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    # bench/compare.py runs this script with the kernels of another commit
    if "PARGO_BENCH_KERNELS" in os.environ:
        sys.path.insert(0, os.environ["PARGO_BENCH_KERNELS"])
# threads that wait must sleep: where other programs run too, spinning ones make a call a hundred times slower
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from tqdm import tqdm

from bench.compare import compare
from bench.contest.clocks import clocks
from bench.contest.engine import DTYPES, Setting
from bench.contest.first_use import first_use
from bench.contest.provider import Place, Provider
from bench.contest.records import ROOT, Environment, ResultFile, Row, environment, slug
from bench.contest.timing import caveats, copy_bandwidth, matmul_rate, meter_for
from bench.problems.anyres import AnyResolution
from bench.problems.projector import ProjectorStep
from bench.problems.suites import SUITES, Case, Suite
from bench.rivals.peers import PROVIDERS
from bench.shown import plots, report
from bench.workloads.anyres import measure_anyres
from bench.workloads.attention import LAYOUTS, measure_attention


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    args = parse(argv)
    device = torch.device(args.device)
    place = Place(device, DTYPES[args.dtype])
    if args.list:
        print(choices(place))
        return 0

    if args.base:
        passed_on = ["--device", args.device, "--dtype", args.dtype, "--layout", args.layout, "--seed", str(args.seed)]
        passed_on += ["--providers", *(args.providers or ["pargo"])] + (["--dry-run"] if args.dry_run else [])
        try:
            print(compare(args.base, args.suite, passed_on))
        except ValueError as error:
            print(error, file=sys.stderr)
            return 2
        return 0

    begin = time.perf_counter()
    suite = SUITES[args.suite]
    providers = chosen_providers(args.providers, suite)
    cases = chosen_cases(suite, args.dry_run)
    meter = meter_for(device)
    setting = Setting(
        suite=suite.name,
        place=place,
        dtype=args.dtype,
        layout=args.layout,
        seed=args.seed,
        meter=meter,
        seconds=0.0 if args.dry_run else suite.seconds,
        copy_bytes_per_s=copy_bandwidth(device, meter),
        matmul_flops_per_s=matmul_rate(device, place.dtype, meter),
    )
    # after the copy and the product: an idle device would show the clocks of one at rest
    machine = environment(device)
    if not place.on_cuda and not args.dry_run:
        first = first_use()
        if isinstance(first, str):
            print(f"no C kernels here: {first}")
        else:
            machine = replace(machine, compile_s=first.compiling, cached_s=first.cached)
    out = args.out or ROOT / "runs" / "bench" / slug(machine.device)
    print(headline(machine, setting, providers), flush=True)

    with (
        cold_compiler(suite.cold and not place.on_cuda and not args.dry_run),
        ResultFile(out / f"{suite.name}.csv", machine) as results,
        tqdm(cases, unit="case", disable=None) as progress,
    ):
        for group, case in enumerate(progress):
            rows = measure(case, group, providers, setting, progress.set_postfix_str, results.add)
            tqdm.write(report.summary(rows))
            sys.stdout.flush()

    print(f"after: copy {copy_bandwidth(device, meter) / 1e9:.1f} GB/s, clocks {clocks(device)}")
    drawn = plots.draw(results.path, out)
    print(f"\n{time.perf_counter() - begin:.0f} s; {results.path}", *(path.name for path in drawn), sep="\n  ")
    return 0


@contextmanager
def cold_compiler(wanted: bool) -> Iterator[None]:
    """torch.compile finds nothing of earlier runs; what its first use in a process costs is paid before."""
    if not wanted:
        yield
        return
    before = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        try:
            torch.compile(lambda x: x.sin() + 1)(torch.ones(64))
            yield
        finally:
            if before is None:
                del os.environ["TORCHINDUCTOR_CACHE_DIR"]
            else:
                os.environ["TORCHINDUCTOR_CACHE_DIR"] = before


def measure(
    case: Case,
    group: int,
    providers: list[Provider],
    setting: Setting,
    say: Callable[[str], None],
    keep: Callable[[Row], None],
) -> list[Row]:
    """The rows of a case, of whatever kind its problems are."""
    problem = case.problems[0]
    if isinstance(problem, ProjectorStep):
        # needs the model, which those who use the kernels alone may not have installed
        from bench.workloads.projector import measure_projector

        return measure_projector(problem, group, setting, say, keep)
    if isinstance(problem, AnyResolution):
        return measure_anyres(problem, group, setting, say, keep)
    return measure_attention(case, group, providers, setting, say, keep)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line; an unknown name is an error that lists the known ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default_device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--list", action="store_true", help="print suites, problems and providers, and what can run here")
    parser.add_argument("--suite", default="quick", choices=SUITES, metavar="NAME", help=f"{', '.join(SUITES)}; default: quick")
    parser.add_argument(
        "--providers", nargs="+", choices=PROVIDERS, metavar="NAME", help="measure only these (--list names them)"
    )
    parser.add_argument("--out", type=Path, help="folder for results; default: runs/bench/DEVICE. An earlier run is replaced")
    parser.add_argument("--device", default=default_device, choices=("cpu", "cuda"), help=f"default: {default_device}")
    parser.add_argument("--dtype", choices=DTYPES, help="default: fp32 on a CPU, bf16 on a GPU")
    parser.add_argument(
        "--layout", default="bhnd", choices=LAYOUTS, help="memory order of the inputs: contiguous, or as projections give them"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random inputs; default: 0")
    parser.add_argument("--base", metavar="REV", help="compare with an earlier commit's kernels, in turns; writes no file")
    parser.add_argument("--dry-run", action="store_true", help="the suite with tiny shapes, to see that all runs")
    args = parser.parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no CUDA device here; use --device cpu")
    args.dtype = args.dtype or ("fp32" if args.device == "cpu" else "bf16")
    return args


def chosen_providers(names: list[str] | None, suite: Suite) -> list[Provider]:
    """Those named on the command line, else the suite's, else all."""
    wanted = names or (tuple(PROVIDERS) if suite.providers is None else suite.providers)
    return [provider for name, provider in PROVIDERS.items() if name in wanted]


def chosen_cases(suite: Suite, dry_run: bool) -> list[Case]:
    """The suite's cases; for a dry run tiny ones, each once."""
    if not dry_run:
        return list(suite.cases)
    tiny = (
        Case(tuple(problem.shrunk(step) for step, problem in enumerate(case.problems)), case.providers) for case in suite.cases
    )
    return list(dict.fromkeys(tiny))


def headline(machine: Environment, setting: Setting, providers: list[Provider]) -> str:
    """The machine, what it can do at best, and who cannot run on it."""
    lines = [
        str(machine),
        f"copy {setting.copy_bytes_per_s / 1e9:.1f} GB/s; {setting.dtype} matrix product "
        f"{setting.matmul_flops_per_s / 1e9:.0f} GFLOP/s",
        f"suite {setting.suite}: {SUITES[setting.suite].question}",
    ]
    lines += caveats(machine.threads, setting.meter)
    for provider in providers:
        reason = provider.why_not_here(setting.place)
        if reason:
            lines.append(f"  {provider.name} cannot run here: {reason}")
    left_out = [name for name in PROVIDERS if name not in {provider.name for provider in providers}]
    if left_out:
        lines.append(f"  not asked for: {', '.join(left_out)} (--providers, --suite full)")
    return "\n".join(lines)


def choices(place: Place) -> str:
    """Suites with their problems, and providers with what keeps them from running here."""
    lines = []
    for suite in SUITES.values():
        lines.append(f"suite {suite.name}: {suite.question}")
        for case in suite.cases:
            only = f" (only {', '.join(case.providers)})" if case.providers else ""
            lines += [f"  {problem}{only}" for problem in case.problems]
    lines.append("providers:")
    for provider in PROVIDERS.values():
        reason = provider.why_not_here(place)
        not_here = f" [not here: {reason}]" if reason else ""
        lines.append(f"  {provider.name} ({', '.join(provider.ops)}): {provider.about}{not_here}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
