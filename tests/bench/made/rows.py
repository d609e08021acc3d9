"""A machine and a row, as a result file has them."""

from bench.contest.records import OK, Environment, Row

MACHINE = Environment("a, machine", 2, "PASSIVE", "2.13", "not installed", "3.11", "abc", True)
SIZES = {
    "batch": 1, "num_heads": 2, "head_dim": 16, "num_query": 23, "num_keys": 40, "num_partial": 20, "num_global": 3,
    "window": None, "edge": None,
}  # fmt: skip
ROW = Row(
    suite="s", group=0, problem="p", op="pgp", configuration=SIZES, dtype="fp32", layout="bhnd", direction="forward",
    launch="eager", provider="pargo", status=OK,
)  # fmt: skip
