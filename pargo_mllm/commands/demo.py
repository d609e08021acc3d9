"""``pargo demo``."""

from __future__ import annotations

import argparse
import sys

from pargo_mllm.demo.run import COMPARABLE, DemoOptions, run_demo
from pargo_mllm.errors import UserError
from pargo_mllm.miniature.sizes import SCALES


def run(options: argparse.Namespace) -> None:
    """Run the demonstration.

    Raises:
        UserError: for a projector or a scale that there is not.
    """
    for name, asked, known in (("compare", options.compare, COMPARABLE), ("scale", [options.scale], tuple(SCALES))):
        for value in asked:
            if value not in known:
                raise UserError(f"--{name} {value} is unknown; it must be one of {', '.join(known)}.")
    wanted = DemoOptions(
        data=options.data,
        compare=tuple(dict.fromkeys(options.compare)),
        out=options.out,
        cache=options.cache,
        seed=options.seed,
        device=options.device,
        scale=options.scale,
    )
    try:
        run_demo(wanted)
    except KeyboardInterrupt:
        print("finished phases are kept; the same command goes on with the next one", file=sys.stderr)
        raise
