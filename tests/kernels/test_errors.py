"""Bad input: the error names the argument, its value, the rule and the way out, before anything is computed."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch.testing._internal.two_tensor import TwoTensor

from pargo_kernels import checks, intervals
from pargo_kernels.cascaded_partial_attention import cascaded_partial_attention
from pargo_kernels.partial_global_attention import partial_global_attention


def q(heads=4, tokens=10, dim=8, batch=2, **options):
    return torch.zeros(batch, heads, tokens, dim, **options)


def offsets(*values, dtype=torch.int32, device="cpu"):
    return torch.tensor(values, dtype=dtype, device=device)


def pgp(query=None, key=None, value=None, num_partial=6, **options):
    key = q(tokens=12) if key is None else key
    return partial_global_attention(
        q() if query is None else query, key, key if value is None else value, num_partial, **options
    )


def cpp(query=None, key=None, window=3, **options):
    query = q() if query is None else query
    key = query if key is None else key
    return cascaded_partial_attention(query, key, key, window, **options)


def packed(*values, **options):
    return pgp(key=q(batch=1, tokens=24), cu_seqlens_k=offsets(*values), **options)


BOTH = {
    "not a tensor": (lambda op: op(query=[1.0]), TypeError, "query is a list; it must be a torch.Tensor"),
    "wrong rank": (lambda op: op(query=q()[0]), ValueError, "query has shape [4, 10, 8]; it must have 4 dimensions"),
    "mixed dtypes": (
        lambda op: op(key=q(tokens=12, dtype=torch.float16)),
        TypeError,
        "query is torch.float32, key torch.float16, value torch.float16; they must be of one dtype: cast them",
    ),
    "integers": (
        lambda op: op(query=q(dtype=torch.int32), key=q(tokens=10, dtype=torch.int32)),
        TypeError,
        "query is torch.int32; use float16, bfloat16, float32 or float64",
    ),
    "mixed devices": (
        lambda op: op(key=q(tokens=12, device="meta")),
        ValueError,
        "query is on cpu, key on meta, value on meta; move them to one device",
    ),
    "head counts": (
        lambda op: op(key=q(heads=3, tokens=10)),
        ValueError,
        "query has 4 heads and key 3; the query's must be a multiple of the key's",
    ),
    "no kv heads": (lambda op: op(key=q(heads=0, tokens=10)), ValueError, "query has 4 heads and key 0"),
    "head dimensions": (
        lambda op: op(key=q(dim=4, tokens=10)),
        ValueError,
        "query has head_dim=8 and key 4; they must be equal",
    ),
    "wide heads": (
        lambda op: op(query=q(dim=257), key=q(dim=257, tokens=10)),
        ValueError,
        "query has head_dim=257; it must lie in 1...256: use more, narrower heads",
    ),
    "no columns": (lambda op: op(query=q(dim=0), key=q(dim=0, tokens=10)), ValueError, "head_dim=0"),
    "unknown impl": (lambda op: op(impl="cuda"), ValueError, "impl='cuda' is unknown: use one of 'auto', 'triton'"),
    "triton on the CPU": (lambda op: op(impl="triton"), ValueError, "impl='triton' cannot run: query is on cpu"),
    "C for fp64": (
        lambda op: op(query=q(dtype=torch.double), key=q(tokens=10, dtype=torch.double), impl="c"),
        ValueError,
        "impl='c' cannot run: query is float64, which the C kernels do not compute. Use impl='torch'",
    ),
    "C on another device": (
        lambda op: op(query=q(device="meta"), key=q(tokens=10, device="meta"), impl="c"),
        ValueError,
        "impl='c' cannot run: query is on meta; the C kernels run on a CPU. Use impl='torch'",
    ),
    "triton for fp64": (
        lambda op: op(query=q(dtype=torch.double), key=q(tokens=10, dtype=torch.double), impl="triton"),
        ValueError,
        "impl='triton' cannot run: query is float64, which the kernels do not compute. Use impl='torch'",
    ),
    "scale": (lambda op: op(scale=float("nan")), ValueError, "scale=nan must be a finite number"),
    "scale as a tensor": (lambda op: op(scale=torch.ones(())), ValueError, "must be a finite number"),
    "scale as a bool": (lambda op: op(scale=True), ValueError, "scale=True; it must be a finite number"),
    "scale as text": (lambda op: op(scale="1"), ValueError, "scale='1'; it must be a finite number"),
    "scale past float32": (lambda op: op(scale=1e39), ValueError, "scale=1e+39 must be a finite number, in float32 too"),
    "scale past float64": (lambda op: op(scale=10**400), ValueError, "scale=a number past the range of float64"),
    "complex": (
        lambda op: op(query=q(dtype=torch.cfloat), key=q(dtype=torch.cfloat)),
        TypeError,
        "query is torch.complex64; use",
    ),
    "fp8": (
        lambda op: op(query=q().to(torch.float8_e4m3fn), key=q().to(torch.float8_e4m3fn)),
        TypeError,
        "query is torch.float8_e4m3fn; use float16, bfloat16, float32 or float64: cast query, key and value",
    ),
    "sparse": (lambda op: op(key=q(tokens=10).to_sparse()), TypeError, "key has layout torch.sparse_coo; it must be a strided"),
    "a wrapper": (
        lambda op: op(query=TwoTensor(q(), q())),
        TypeError,
        "query is a TwoTensor, which has no memory of its own; it must be a plain torch.Tensor",
    ),
    "mkldnn": (lambda op: op(query=q().to_mkldnn()), TypeError, "query has layout torch._mkldnn; it must be a strided tensor"),
    "nested": (
        lambda op: op(query=torch.nested.nested_tensor([q()[0], q()[0]])),
        TypeError,
        "query is a nested tensor; it must be a strided one: pack the images along the tokens and pass cu_seqlens_k",
    ),
    "jagged": (
        lambda op: op(query=torch.nested.nested_tensor([q()[0], q()[0]], layout=torch.jagged)),
        TypeError,
        "query is a nested tensor",
    ),
    "tokens before heads": (
        lambda op: op(query=q(heads=304, tokens=4), key=q(heads=576, tokens=4)),
        ValueError,
        "If query [2, 304, 4, 8] is [batch, tokens, heads, head_dim], pass query.transpose(1, 2), and key and value likewise",
    ),
    "attention dropout": (lambda op: op(dropout_p=0.1), TypeError, "dropout_p"),
}
PARTIAL_GLOBAL = {
    "key and value": (lambda: pgp(value=q(tokens=13)), ValueError, "key has shape [2, 4, 12, 8] and value [2, 4, 13, 8]"),
    "too many partial rows": (lambda: pgp(num_partial=11), ValueError, "num_partial=11 must lie in 0...10"),
    "negative partial rows": (lambda: pgp(num_partial=-1), ValueError, "num_partial=-1 must lie in 0...10"),
    "partial rows as a float": (lambda: pgp(num_partial=6.0), TypeError, "num_partial=6.0 is a float; it must be an int"),
    "partial rows as a bool": (lambda: pgp(num_partial=True), TypeError, "num_partial=True is a bool"),
    "partial rows as a tensor": (
        lambda: pgp(num_partial=torch.tensor(6)),
        TypeError,
        "num_partial is a tensor; it must be an int",
    ),
    "partial rows of numpy's floats": (lambda: pgp(num_partial=np.float32(6)), TypeError, "is a float32; it must be an int"),
    "partial rows past 64 bits": (lambda: pgp(num_partial=10**400), ValueError, "num_partial is an integer of 1329 bits"),
    "partial rows past what can be printed": (lambda: pgp(num_partial=10**5000), ValueError, "num_partial is an integer of"),
    "tokens before heads, one count": (
        lambda: pgp(query=q(heads=24, tokens=4), key=q(heads=24, tokens=4), num_partial=12),
        ValueError,
        "(the rows of query; the rows after it are global rows). If query [2, 24, 4, 8] is [batch, tokens, heads",
    ),
    "fewer keys than partial rows": (
        lambda: pgp(key=q(tokens=5)),
        ValueError,
        "key has n_v=5 visual tokens for num_partial=6; every partial row needs at least one, and an",
    ),
    "no keys": (lambda: pgp(key=q(tokens=0), num_partial=0), ValueError, "key has n_v=0 visual tokens"),
    "batches": (lambda: pgp(key=q(batch=3, tokens=12)), ValueError, "query has batch 2 and key 3; they must be equal, or pass"),
    "offsets as a list": (lambda: pgp(cu_seqlens_k=[0, 12, 24]), TypeError, "cu_seqlens_k is a list"),
    "offsets in int64": (
        lambda: pgp(cu_seqlens_k=offsets(0, 12, 24, dtype=torch.int64)),
        TypeError,
        "cu_seqlens_k is torch.int64; it must be torch.int32: cu_seqlens_k.int()",
    ),
    "offsets for another batch": (lambda: packed(0, 24), ValueError, "cu_seqlens_k has shape [2]; it must be [3]"),
    "offsets on another device": (
        lambda: pgp(key=q(batch=1, tokens=24), cu_seqlens_k=offsets(0, 12, 24, device="meta")),
        ValueError,
        "cu_seqlens_k is on meta and query on cpu; move it there",
    ),
    "packed keys with a batch": (
        lambda: pgp(cu_seqlens_k=offsets(0, 12, 24)),
        ValueError,
        "key has batch 2; with cu_seqlens_k the images are packed along the tokens: [1, H_kv, total, D]",
    ),
    "offsets that do not begin at 0": (
        lambda: packed(1, 12, 24),
        ValueError,
        "cu_seqlens_k runs from 1 to 24; it must run from 0",
    ),
    "offsets that do not end at the total": (lambda: packed(0, 12, 23), ValueError, "from 0 to 24, the tokens of key"),
    "a packed image too small": (
        lambda: packed(0, 5, 24),
        ValueError,
        "cu_seqlens_k gives image 0 n_v=5 visual tokens for num_partial=6; every partial row needs at least one, and",
    ),
    "an image too small, for the oracle": (lambda: packed(0, 5, 24, impl="reference"), ValueError, "gives image 0 n_v=5"),
    "offsets that fall": (lambda: packed(0, 30, 24), ValueError, "cu_seqlens_k gives image 1 n_v=-6"),
}
CASCADED = {
    "another key length": (
        lambda: cpp(key=q(tokens=12)),
        ValueError,
        "query has shape [2, 4, 10, 8] and key [2, 4, 12, 8]; this is self-attention",
    ),
    "window of 0": (lambda: cpp(window=0), ValueError, "window=0 must lie in 1...10"),
    "window too wide": (
        lambda: cpp(window=11),
        ValueError,
        "window=11 must lie in 1...10 (num_partial; intervals.cascade_windows",
    ),
    "window wider than the band": (lambda: cpp(window=7, num_partial=6), ValueError, "window=7 must lie in 1...6"),
    "window as a float": (lambda: cpp(window=3.0), TypeError, "window=3.0 is a float; it must be an int"),
    "partial rows": (lambda: cpp(num_partial=11), ValueError, "num_partial=11 must lie in 0...10"),
    "window past 64 bits": (lambda: cpp(window=10**400), ValueError, "window is an integer of 1329 bits"),
    "tokens before heads": (
        lambda: cpp(query=q(heads=48, tokens=4), window=12),
        ValueError,
        "gives the paper's windows). If query [2, 48, 4, 8] is [batch, tokens, heads, head_dim], pass query.transpose",
    ),
    "edge": (lambda: cpp(edge="wrap"), ValueError, "edge='wrap' is unknown: use 'clamp'"),
}


def check_refusal(call, error, words):
    with pytest.raises(error) as caught:
        call()
    assert words in str(caught.value)


@pytest.mark.parametrize("op", (pgp, cpp), ids=("partial_global", "cascaded"))
@pytest.mark.parametrize("name", BOTH)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_both_refuse(op, name):
    # a good call of the same sizes has passed: what is remembered of it must not let a bad one through
    op(query=q())
    op(query=q(), key=q(tokens=10))
    call, error, words = BOTH[name]
    check_refusal(lambda: call(op), error, words)


@pytest.mark.parametrize("name", PARTIAL_GLOBAL)
def test_partial_global_attention_refuses(name):
    check_refusal(*PARTIAL_GLOBAL[name])


@pytest.mark.parametrize("name", CASCADED)
def test_cascaded_partial_attention_refuses(name):
    check_refusal(*CASCADED[name])


INTERVALS = {
    "partial_bounds": (lambda: intervals.partial_bounds(2.0, 4), TypeError, "num_partial=2.0 is a float; it must be an int"),
    "keys past 64 bits": (lambda: intervals.partial_bounds(2, 10**400), ValueError, "num_keys is an integer of 1329 bits"),
    "window_bounds": (lambda: intervals.window_bounds(4, 2.5), TypeError, "window=2.5 is a float; it must be an int"),
    "window_rows": (lambda: intervals.window_rows(True, 1), TypeError, "num_tokens=True is a bool; it must be an int"),
    "cascade_windows": (lambda: intervals.cascade_windows(3, None), TypeError, "num_layers=None is a NoneType"),
}


@pytest.mark.parametrize("name", INTERVALS)
def test_intervals_refuse(name):
    check_refusal(*INTERVALS[name])


@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.array], ids=lambda kind: kind.__name__)
def test_any_integer_counts_and_any_real_number_scales(kind):
    torch.manual_seed(0)
    query, key = torch.randn(2, 1, 4, 10, 8)
    for scale in (np.float32(0.5), np.float64(0.5), Fraction(1, 2)):
        expected = partial_global_attention(query, key, key, 6, scale=0.5)
        assert torch.equal(partial_global_attention(query, key, key, kind(6), scale=scale), expected)
        expected = cascaded_partial_attention(query, key, key, 3, num_partial=7, scale=0.5)
        assert torch.equal(cascaded_partial_attention(query, key, key, kind(3), num_partial=kind(7), scale=scale), expected)
    assert torch.equal(intervals.partial_bounds(kind(3), kind(8)), intervals.partial_bounds(3, 8))


@pytest.mark.parametrize("scale", [0, -1.5, 1e-42])
def test_zero_negative_and_subnormal_scales_are_numbers_like_others(scale):
    torch.manual_seed(0)
    query, key = torch.randn(2, 1, 4, 10, 8)
    out, exact = (partial_global_attention(query, key, key, 6, scale=scale, impl=impl) for impl in ("auto", "reference"))
    torch.testing.assert_close(out, exact)


EDGES_OF_WHAT_IS_ALLOWED = {
    "a key for every partial row": lambda: pgp(key=q(tokens=6)),
    "one key": lambda: pgp(key=q(tokens=1), num_partial=1),
    "one key, no partial rows": lambda: pgp(key=q(tokens=1), num_partial=0),
    "every row is partial": lambda: pgp(num_partial=10),
    "the widest head": lambda: pgp(query=q(dim=256), key=q(dim=256, tokens=12)),
    "the narrowest head": lambda: pgp(query=q(dim=1), key=q(dim=1, tokens=12)),
    "one key head for all": lambda: pgp(key=q(heads=1, tokens=12)),
    "packed, a key for every partial row": lambda: packed(0, 6, 24),
    "packed without partial rows, one key": lambda: packed(0, 1, 24, num_partial=0),
    "the widest window": lambda: cpp(window=10),
    "the narrowest window": lambda: cpp(window=1),
    "one partial row": lambda: cpp(window=1, num_partial=1),
    "no partial rows": lambda: cpp(window=1, num_partial=0),
}


@pytest.mark.parametrize("name", EDGES_OF_WHAT_IS_ALLOWED)
def test_what_is_just_allowed_is_computed(name):
    assert EDGES_OF_WHAT_IS_ALLOWED[name]().isfinite().all()


HINT = "pass query.transpose(1, 2)"


@pytest.mark.parametrize(
    ("query", "key", "hinted"),
    (
        ((2, 10, 4, 8), (2, 12, 4, 8), True),
        ((2, 10, 4, 8), (2, 12, 1, 8), True),
        ((2, 10, 4, 8), (2, 12, 3, 8), False),
        ((2, 10, 4, 8), (2, 12, 0, 8), False),
        ((2, 10, 10, 8), (2, 12, 5, 8), False),
        ((2, 10, 4, 8), (2, 4, 4, 8), False),
    ),
    ids=str,
)
def test_the_other_layout_is_named_where_it_would_do(query, key, hinted):
    query, key = torch.zeros(query), torch.zeros(key)
    with pytest.raises(ValueError, match="must be a multiple of the key's") as caught:
        checks.check_qkv(query, key, key)
    assert (HINT in str(caught.value)) == hinted


@pytest.mark.parametrize(("num_partial", "hinted"), ((5, True), (40, True), (41, False), (-1, False)))
def test_the_other_layout_is_named_where_the_count_would_do(num_partial, hinted):
    with pytest.raises(ValueError, match=f"num_partial={num_partial} must lie in 0...4") as caught:
        checks.check_partial_global(torch.zeros(2, 40, 4, 8), torch.zeros(2, 60, 4, 8), num_partial, None, False)
    assert (HINT in str(caught.value)) == hinted


def test_a_refusal_survives_compilation():
    compiled = torch.compile(lambda query, key: partial_global_attention(query, key, key, 6), backend="eager")
    with pytest.raises(ValueError, match="n_v=5 visual tokens for num_partial=6"):
        compiled(q(), q(tokens=5))


def test_a_refusal_survives_compilation_without_graph_breaks():
    compiled = torch.compile(lambda query, key: partial_global_attention(query, key, key, 6), backend="eager", fullgraph=True)
    with pytest.raises(Exception, match="n_v=5 visual tokens for num_partial=6"):
        compiled(q(), q(tokens=5))
