"""Vector operations that numba does not write by itself, as intrinsics over LLVM IR.

The first three are generic IR: correct on every CPU, one or two instructions where AVX-512 exists. `pair_leaves` needs
AVX-512 VBMI: compiling it for a target without ends the process, so `has_vbmi` is asked before its caller is imported.
No bounds are checked: callers own the shapes.
"""

from __future__ import annotations

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils, codegen
from numba.core import config as numba_config
from numba.extending import intrinsic

_I1, _I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
_F32 = ir.FloatType()
_BYTES = ir.VectorType(_I8, 64)
_BITS = ir.VectorType(_I1, 64)


def has_vbmi() -> bool:
    """Return whether this CPU has AVX-512 VBMI *and* numba compiles for it (NUMBA_CPU_NAME, NUMBA_CPU_FEATURES)."""
    target = numba_config.CPU_FEATURES
    if target is None:
        target = codegen.get_host_cpu_features()
    host = llvm.get_host_cpu_features()
    wanted = ("avx512f", "avx512bw", "avx512vl", "avx512vbmi")
    return all(f"+{name}" in target.split(",") and host.get(name, False) for name in wanted)


def _pointer(context, builder, array_type, array, offset, kind):
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [offset]), kind.as_pointer())


def _splat(builder, value, kind):
    empty = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(empty, value, ir.Constant(_I32, 0))
    lanes = ir.Constant(ir.VectorType(_I32, kind.count), [0] * kind.count)
    return builder.shuffle_vector(first, empty, lanes)


@intrinsic
def count_below16(typing_context, table, offset, x):
    """Return how many of the 16 float32 at table[offset…] are below x."""
    signature = types.int64(table, types.int64, types.float32)

    def generate(context, builder, signature, arguments):
        kind = ir.VectorType(_F32, 16)
        pointer = _pointer(context, builder, signature.args[0], arguments[0], arguments[1], kind)
        below = builder.fcmp_ordered("<", builder.load(pointer, align=4), _splat(builder, arguments[2], kind))
        count = builder.ctpop(builder.bitcast(below, _I16))
        return builder.zext(count, _I64)

    return signature, generate


@intrinsic
def at_most_mask(typing_context, column, offset, rank):
    """Return a 64-bit mask: bit r is set where column[offset + r] <= rank (uint8)."""
    signature = types.uint64(column, types.int64, types.uint8)

    def generate(context, builder, signature, arguments):
        pointer = _pointer(context, builder, signature.args[0], arguments[0], arguments[1], _BYTES)
        values = builder.load(pointer, align=1)
        return builder.bitcast(builder.icmp_unsigned("<=", values, _splat(builder, arguments[2], _BYTES)), _I64)

    return signature, generate


@intrinsic
def store_planes(typing_context, out, p0, p1, p2, p3, p4, p5):
    """Write 64 bytes to out[0…63]: byte r is the number whose bit b is bit r of plane b."""
    signature = types.void(out, *([types.uint64] * 6))

    def generate(context, builder, signature, arguments):
        total = ir.Constant(_BYTES, [0] * 64)
        for bit, plane in enumerate(arguments[1:]):
            value = ir.Constant(_BYTES, [1 << bit] * 64)
            chosen = builder.select(builder.bitcast(plane, _BITS), value, ir.Constant(_BYTES, [0] * 64))
            total = builder.or_(total, chosen)
        zero = ir.Constant(_I64, 0)
        builder.store(total, _pointer(context, builder, signature.args[0], arguments[0], zero, _BYTES), align=1)
        return context.get_dummy_value()

    return signature, generate


def _permute(builder, kind, name, *values):
    function = ir.FunctionType(_BYTES, [_BYTES] * len(values))
    declared = cgutils.get_or_insert_function(builder.module, function, f"llvm.x86.avx512.{name}.qi.512")
    return builder.call(declared, values)


def _pair_generator(doublings):
    def generate(context, builder, signature, arguments):
        tables, ranks, offset = arguments
        table_type, rank_type, _ = signature.args

        def load(array_type, array, base, index):
            where = builder.add(base, ir.Constant(_I64, 64 * index))
            return builder.load(_pointer(context, builder, array_type, array, where, _BYTES), align=1)

        zero = ir.Constant(_I64, 0)
        q = [load(rank_type, ranks, zero, index) for index in range(4)]
        feature, rank, left, right = (load(table_type, tables, offset, index) for index in range(4))
        none = ir.Constant(_BYTES, [0] * 64)
        low = _permute(builder, _BYTES, "vpermi2var", q[0], feature, q[1])
        high = _permute(builder, _BYTES, "vpermi2var", q[2], feature, q[3])
        gathered = builder.select(builder.icmp_signed("<", feature, none), high, low)
        at = builder.select(builder.icmp_unsigned("<=", gathered, rank), left, right)
        for _ in range(doublings):
            inner = builder.icmp_signed("<", at, none)  # bit 7: an internal node; leaves are fixed points
            at = builder.select(inner, _permute(builder, _BYTES, "permvar", at, at), at)
        first = builder.zext(builder.extract_element(at, ir.Constant(_I32, 0)), _I64)
        second = builder.zext(builder.extract_element(at, ir.Constant(_I32, 32)), _I64)
        return builder.or_(first, builder.shl(second, ir.Constant(_I64, 8)))

    return generate


def _pair_leaves(doublings):
    @intrinsic
    def pair(typing_context, tables, ranks, offset):
        return types.int64(tables, ranks, types.int64), _pair_generator(doublings)

    return pair


pair_leaves = tuple(_pair_leaves(doublings) for doublings in range(6))
"""pair_leaves[d](tables uint8[], ranks uint8[256], offset) → leaf of lane 0 | leaf of lane 32 << 8.

The 256 bytes at tables[offset] are feature[64], rank[64], left[64], right[64] of one tree of ≤ 64 leaves or of two of
≤ 32. `feature` indexes `ranks`; a child is 0x80 | lane of an internal node, or a leaf's number. After the first step
`at` holds every lane's child; composing it with itself d times is 2^d steps: enough for depth ≤ 2^d.
"""
