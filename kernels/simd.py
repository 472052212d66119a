"""Vector operations that numba does not write by itself, as intrinsics over LLVM IR.

The first four are generic IR: correct on every CPU, one or two instructions where AVX-512 exists. `block_sum` needs
AVX-512 VBMI: compiling it for a target without ends the process, so `has_vbmi` is asked before its caller is imported.
No bounds are checked: callers own the shapes.
"""

from __future__ import annotations

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils, codegen
from numba.core import config as numba_config
from numba.extending import intrinsic

_I1, _I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
_F32 = ir.FloatType()
ZERO = float(np.float32(1e-35))  # `walk.ZERO`
LANES = 64
BLOCK_BYTES = 3 * LANES  # of `block_sum`
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
def group_starts(typing_context, pivots, row, base, count, values, starts):
    """Find in which group of thresholds 16 values belong, a lane each; return the mask of those that are NaN.

    row[base…], 0 from `count` on: NaN and |x| <= 1e-35 become 0, and all are stored at values[base…] (float32).
    starts[base…] (int32) is 16 × how many of a lane's 16 pivots are below its value; pivot p of lane l stands at
    pivots[16 · base + 16 · p + l].
    """
    signature = types.int64(pivots, row, types.int64, types.int64, values, starts)

    def generate(context, builder, signature, arguments):
        floats, ints = ir.VectorType(_F32, 16), ir.VectorType(_I32, 16)
        kinds = dict(zip(("pivots", "row", "base", "count", "values", "starts"), signature.args, strict=True))
        given = dict(zip(kinds, arguments, strict=True))
        base = given["base"]

        def pointer(name, offset, kind):
            return _pointer(context, builder, kinds[name], given[name], offset, kind)

        left = builder.trunc(builder.sub(given["count"], base), _I32)
        inside = builder.icmp_signed(">", _splat(builder, left, ints), ir.Constant(ints, list(range(16))))
        zeros = ir.Constant(floats, [0.0] * 16)
        masked = ir.FunctionType(floats, [floats.as_pointer(), _I32, ir.VectorType(_I1, 16), floats])
        load = cgutils.get_or_insert_function(builder.module, masked, "llvm.masked.load.v16f32.p0v16f32")
        x = builder.call(load, [pointer("row", base, floats), ir.Constant(_I32, 4), inside, zeros])
        size = builder.bitcast(builder.and_(builder.bitcast(x, ints), ir.Constant(ints, [0x7FFFFFFF] * 16)), floats)
        value = builder.select(builder.fcmp_ordered(">", size, ir.Constant(floats, [ZERO] * 16)), x, zeros)
        builder.store(value, pointer("values", base, floats), align=64)
        sums = [ir.Constant(ints, [0] * 16)] * 4  # four chains: an addition waits for the one before
        step, first = ir.Constant(ints, [16] * 16), builder.mul(base, ir.Constant(_I64, 16))
        for p in range(16):
            at = pointer("pivots", builder.add(first, ir.Constant(_I64, 16 * p)), floats)
            below = builder.fcmp_ordered("<", builder.load(at, align=64), value)
            sums[p % 4] = builder.select(below, builder.add(sums[p % 4], step), sums[p % 4])
        total = builder.add(builder.add(sums[0], sums[1]), builder.add(sums[2], sums[3]))
        builder.store(total, pointer("starts", base, ints), align=64)
        return builder.zext(builder.bitcast(builder.fcmp_unordered("uno", x, x), _I16), _I64)

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


def successor(lane: int, roots: int) -> int:
    """Return the lane of a left child that is an internal node: preorder, but the roots of all trees come first."""
    return roots + lane * ((LANES - roots) // roots) if lane < roots else (lane + 1) % LANES


def _bytes(values):
    return ir.Constant(_BYTES, list(values))


def _children(builder, q, feature, rank, right, roots):
    """Return every lane's child code."""
    low, high = (_permute(builder, _BYTES, "vpermi2var", q[at], feature, q[at + 1]) for at in (0, 2))
    beyond = builder.icmp_signed("<", feature, _bytes([0] * LANES))
    left_side = builder.icmp_unsigned("<=", builder.select(beyond, high, low), rank)
    words = ir.VectorType(_I16, LANES // 2)
    shifted = builder.bitcast(builder.lshr(builder.bitcast(right, words), ir.Constant(words, [1] * 32)), _BYTES)
    left = builder.or_(
        builder.and_(shifted, _bytes([LANES] * LANES)), _bytes(successor(lane, roots) for lane in range(LANES))
    )
    return builder.select(left_side, left, right)


def _block_generator(doublings, roots, count):
    def generate(context, builder, signature, arguments):
        tables, ranks, leaves, first = arguments
        table_type, rank_type, leaf_type, _ = signature.args

        def load(array_type, array, offset):
            return builder.load(_pointer(context, builder, array_type, array, offset, _BYTES), align=64)

        def number(value):
            return ir.Constant(_I64, value)

        q = [load(rank_type, ranks, number(LANES * index)) for index in range(4)]
        base = builder.mul(first, number(BLOCK_BYTES))
        ats = []
        for block in range(count):
            table = [builder.add(base, number(BLOCK_BYTES * block + LANES * index)) for index in range(3)]
            ats.append(_children(builder, q, *(load(table_type, tables, offset) for offset in table), roots))
        for _ in range(doublings):  # block by block within a step: their latencies overlap
            ats = [_permute(builder, _BYTES, "vpermi2var", at, at, _bytes(range(LANES, 2 * LANES))) for at in ats]
        values = []
        for block, at in enumerate(ats):
            codes = builder.extract_element(builder.bitcast(at, ir.VectorType(_I64, 8)), ir.Constant(_I32, 0))
            start = builder.mul(builder.add(first, number(block)), number(LANES))
            for tree in range(roots):
                leaf = builder.and_(builder.lshr(codes, number(8 * tree)), number(LANES - 1))
                where = _pointer(context, builder, leaf_type, leaves, builder.add(start, leaf), _I64)
                values.append(builder.load(where, align=8))
        while len(values) > 1:
            values = [builder.add(a, b) for a, b in zip(values[::2], values[1::2], strict=True)]
        return values[0]

    return generate


def block_sum(doublings: int, roots: int, count: int):
    """Return an intrinsic: (tables uint8[], ranks uint8[256], leaves int64[], block) → the sum of what a row reaches.

    `count` blocks from `block` on, of `roots` trees each (1, 2, 4, 8; together at most 64 leaves). The 192 bytes of a
    block at tables[192 · block] are feature[64], rank[64], right[64] of its internal nodes; the root of tree j lies in
    lane j, its other nodes behind successor(j) in preorder. `feature` indexes `ranks`. A child's code is the lane of an
    internal node, or 64 + leaf. `right` holds the right child's code in 7 bits, and bit 7 where the left child is a
    leaf. The left child is successor(lane): a lane, or a leaf's number. Values stand at leaves[64 · block + leaf].

    After the first step every lane holds its child. Composing that with itself (one vpermi2b whose second table holds
    the leaves as their own children) d times is 2^d steps: enough for depth ≤ 2^d. All but `leaves` is read by whole
    cache lines, and begins on one. Values are integers because the vector units have no time to add: they permute.
    """

    @intrinsic
    def total(typing_context, tables, ranks, leaves, block):
        return types.int64(tables, ranks, leaves, types.int64), _block_generator(doublings, roots, count)

    return total
