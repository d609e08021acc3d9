"""bf16 in Triton's interpreter, which keeps it as raw 16-bit patterns: dots read the bits as integers, casts truncate,
and masked loads with ``other`` fail. ``repair()`` gives dots, casts and constants their meaning and turns arithmetic on
bf16 values (which our kernels do in fp32) into an error, so that nothing is silently wrong.
"""

import numpy as np
import triton.language as tl
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle


def to_fp32(bits):
    """bf16 patterns (uint16) → float32, exact."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def to_bf16(values):
    """float32 → bf16 patterns (uint16), rounded to nearest, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(values), 0x7FC0, rounded).astype(np.uint16)


def repair():
    """Patch the interpreter of this process."""
    cast, dot, binary = InterpreterBuilder.cast_impl, InterpreterBuilder.create_dot, InterpreterBuilder.binary_op

    def cast_impl(self, src, dst_type):
        source, target = src.dtype.scalar, dst_type.scalar
        if source == target or tl.bfloat16 not in (source, target):
            return cast(self, src, dst_type)
        if source == tl.bfloat16:
            return cast(self, TensorHandle(to_fp32(src.data), tl.float32), dst_type)
        return TensorHandle(to_bf16(src.data.astype(np.float32)), tl.bfloat16)

    def create_dot(self, a, b, d, input_precision, max_num_imprecise_acc):
        a, b = (TensorHandle(to_fp32(x.data), tl.float32) if x.dtype.scalar == tl.bfloat16 else x for x in (a, b))
        return dot(self, a, b, d, input_precision, max_num_imprecise_acc)

    def binary_op(self, lhs, rhs, op):
        if lhs.dtype.scalar == tl.bfloat16:
            raise NotImplementedError(f"{op.__name__} on bf16 values: the interpreter would compute on their bit patterns")
        return binary(self, lhs, rhs, op)

    def get_bf16(self, value):
        return TensorHandle(to_bf16(np.array([value])), tl.bfloat16)

    def create_fp_to_fp(self, src, dst_type, rounding_mode):
        return cast_impl(self, src, dst_type)

    for name, method in {
        "cast_impl": cast_impl,
        "create_dot": create_dot,
        "binary_op": binary_op,
        "get_bf16": get_bf16,
        "create_fp_to_fp": create_fp_to_fp,
    }.items():
        setattr(InterpreterBuilder, name, method)
