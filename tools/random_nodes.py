"""The nodes and patterns that `random_graphs.py` draws from. Each function takes the growing graph and adds to it.

What ONNX Runtime refuses is dropped by the builder, so candidates may ask for more than it takes. Left out is only what ONNX does
not define: casts of floats that the integer cannot hold, division of integers by zero, indices outside.
"""

import numpy as np
from onnx import TensorProto, helper

F16, F32, F64 = np.float16, np.float32, np.float64
MS = "com.microsoft"


class Dropped(Exception):
    """ONNX Runtime does not take the candidate, or its results are of no use."""


def start(g):
    """The first values: an image, a sequence, rows, or others."""
    kinds = [
        lambda: (g.int(1, 2), g.pick([1, 2, 3, 4, 8]), g.int(3, 9), g.int(3, 9)),
        lambda: (g.int(1, 2), g.int(2, 7), g.pick([4, 6, 8, 16])),
        lambda: (g.int(1, 5), g.int(1, 17)),
        lambda: tuple(g.int(1, 5) for _ in range(g.int(0, 5))),
    ]
    for _ in range(g.int(1, 3)):
        shape = g.pick(kinds)()
        dtype = g.pick([F32] * 12 + [F16, F64, np.int32, np.int64, np.uint8, np.int8, np.bool_])
        g.input(g.drawn(shape, dtype))


def grow(g):
    """Adds one candidate."""
    weights = [w for w, _ in CANDIDATES]
    total = g.rng.random() * sum(weights)
    for weight, candidate in CANDIDATES:
        total -= weight
        if total < 0:
            break
    candidate(g)


# Helpers --------------------------------------------------------------------------------------------------------------


def floats(a):
    return a.dtype.kind == "f"


def f32(a):
    return a.dtype == F32


def whole(a):
    return a.dtype.kind in "iu"


def axis_of(g, a, low=0):
    """An axis, half of the time counted from the end."""
    axis = g.int(low, a.ndim - 1)
    return axis - a.ndim if g.chance(0.4) else axis


def axes_of(g, a):
    chosen = [i for i in range(a.ndim) if g.chance(0.5)] or [g.int(0, a.ndim - 1)]
    return [i - a.ndim if g.chance(0.3) else i for i in chosen]


def some(g, want=lambda a: True, **kw):
    name = g.some(want, **kw)
    if name is None:
        raise Dropped("nothing to work on")
    return name, g.values[name]


def broadcast(g, shape):
    """A shape that broadcasts against this one."""
    keep = [d if g.chance(0.65) else 1 for d in shape]
    if g.chance(0.35):
        keep = keep[g.int(0, len(keep)) :]
    if g.chance(0.1):
        keep = [g.int(1, 3)] + [1] * (len(shape) - len(keep)) + keep
    return keep


def partner(g, name, low=None, high=None):
    """Another operand for an operator with broadcasting: a value that is there, or a drawn one."""
    a = g.values[name]
    if low is None and g.chance(0.45):

        def fits(b):
            return b.dtype == a.dtype and all(x == y or 1 in (x, y) for x, y in zip(reversed(a.shape), reversed(b.shape)))

        other = g.some(fits)
        if other is not None:
            return other
    return g.operand(g.drawn(broadcast(g, a.shape), a.dtype, low, high))


# One operand ----------------------------------------------------------------------------------------------------------

SMOOTH = "Exp Sigmoid Tanh Softplus Softsign Mish Gelu Erf Sin Cos Atan Sinh Asinh HardSwish Selu Swish Abs Neg Relu Identity".split()
STEPS = "Floor Ceil Round Sign".split()
EXACT = "Abs Neg Relu Identity".split()


def unary(g):
    x, a = some(g, floats)
    op = g.pick(SMOOTH)
    if op == "HardSwish" and a.dtype == F64:  # whether its sixth is one of `f32` is not stated
        op = "Softsign"
    attributes = {"approximate": "tanh"} if op == "Gelu" and g.chance(0.5) else {}
    if a.dtype == F64:  # ONNX Runtime has its constants as `f32`
        attributes = {}
    g.add(op, [x], exact=op in EXACT, **attributes)


def unary_steps(g):
    x, _ = some(g, floats)
    g.add(g.pick(STEPS), [x])


def unary_tuned(g):
    x, a = some(g, floats)
    op, attributes = g.pick([
        ("LeakyRelu", {"alpha": g.pick([0.01, 0.2, 1.5, -0.5])}),
        ("Elu", {"alpha": g.pick([1.0, 0.3, 2.0])}),
        ("Celu", {"alpha": g.pick([1.0, 0.5, 2.0])}),
        ("Selu", {"alpha": 1.2, "gamma": 0.9}),
        ("ThresholdedRelu", {"alpha": g.pick([0.0, 0.5, 1.0])}),
        ("HardSigmoid", {"alpha": g.pick([0.2, 0.1666667, 0.5]), "beta": g.pick([0.5, 0.1])}),
        ("Shrink", {"lambd": g.pick([0.5, 0.1]), "bias": g.pick([0.0, 0.2])}),
    ])  # fmt: skip
    if op == "Shrink" and a.dtype == F64:  # ONNX Runtime computes it in `f32`
        return
    g.add(op, [x], **attributes)


def unary_guarded(g):
    """Functions with a domain: what they read is brought into it first."""
    x, a = some(g, floats)
    one = g.constant(np.array(g.pick([0.5, 1.0, 0.1]), a.dtype))
    (y,) = g.add("Add", [g.add("Abs", [x], exact=True)[0], one])
    if g.chance(0.3):
        (t,) = g.add("Tanh", [x])
        g.add(g.pick(["Asin", "Acos", "Tan"] if g.chance(0.7) else ["Atanh"]), [g.add("Mul", [t, g.constant(np.array(0.9, a.dtype))])[0]])
    else:
        g.add(g.pick(["Log", "Sqrt", "Reciprocal", "Acosh" if g.chance(0.2) else "Sqrt"]), [y])


def unary_whole(g):
    x, a = some(g, whole)
    g.add(g.pick(["Abs", "Neg", "Sign", "Identity", "BitwiseNot", "Relu"]), [x], exact=True)


def logical(g):
    x, a = some(g, lambda a: a.dtype == bool)
    if g.chance(0.4):
        g.add("Not", [x], exact=True)
    else:
        g.add(g.pick(["And", "Or", "Xor"]), [x, partner(g, x)], exact=True)


def clip(g):
    x, a = some(g, lambda a: floats(a) or (whole(a) and g.opset >= 12))
    low = g.constant(np.array(g.pick([-1, 0, -2] if a.dtype.kind != "u" else [0, 2]), a.dtype)) if g.chance(0.8) else ""
    high = g.constant(np.array(g.pick([1, 2, 6]), a.dtype)) if g.chance(0.8) else ""
    operands = [x, low, high]
    while not operands[-1]:
        operands.pop()
    g.add("Clip", operands, exact=True)


def cast(g):
    x, a = some(g)
    to = g.pick([F32, F32, F32, F64, F16, np.int32, np.int64, np.uint8, np.int8, np.bool_])
    if floats(a) and np.dtype(to).kind in "iu":
        room = np.iinfo(to)
        if a.size and not (room.min + 1 < float(a.min()) and float(a.max()) < room.max - 1):
            low, high = g.constant(np.array(max(room.min, -20), a.dtype)), g.constant(np.array(20, a.dtype))
            (x,) = g.add("Clip", [x, low, high], exact=True)
    elif whole(a) and np.dtype(to) == F16 and a.size and np.abs(a.astype(F64)).max() > 2000:
        return
    # To a narrower float it rounds; all else is exact.
    narrower = floats(a) and np.dtype(to).kind == "f" and np.dtype(to).itemsize < a.dtype.itemsize
    g.add("Cast", [x], to=helper.np_dtype_to_tensor_dtype(np.dtype(to)), exact=not narrower)


def is_special(g):
    x, _ = some(g, f32)
    g.add(g.pick(["IsNaN", "IsInf"]), [x])


# Two and more operands ------------------------------------------------------------------------------------------------


def arithmetic(g):
    x, a = some(g, lambda a: a.dtype != bool)
    op = g.pick(["Add", "Sub", "Mul", "Add", "Mul", "Div", "Pow", "Mod"])
    if op == "Div" or op == "Mod":
        sign = g.pick([-1, 1]) if a.dtype.kind != "u" else 1
        shape = broadcast(g, a.shape)
        b = (sign * g.drawn(shape, F64 if floats(a) else np.int64, 0.4 if floats(a) else 1, 3)).astype(a.dtype)
        fmod = {"fmod": 1} if op == "Mod" and (floats(a) or g.chance(0.3)) else {}
        g.add(op, [x, g.operand(b)], exact=whole(a), **fmod)
    elif op == "Pow":
        exponent = g.pick([2, 3, 1, 0] + ([0.5, -1, 1.5] if floats(a) else []))
        if exponent in (0.5, -1, 1.5):
            (x,) = g.add("Add", [g.add("Abs", [x], exact=True)[0], g.constant(np.array(0.3, a.dtype))])
        g.add("Pow", [x, g.constant(np.array(exponent, a.dtype if g.chance(0.7) else F32))], exact=whole(a))
    else:
        operands = [x, partner(g, x)]
        if g.chance(0.5) and op != "Sub":
            operands.reverse()
        g.add(op, operands, exact=whole(a))


def extremum(g):
    x, a = some(g, lambda a: a.dtype != bool)
    g.add(g.pick(["Max", "Min"]), [x] + [partner(g, x) for _ in range(g.int(0, 3))], exact=True)


def several(g):
    x, a = some(g, f32)
    g.add(g.pick(["Sum", "Mean"]), [x] + [partner(g, x) for _ in range(g.int(0, 3))])


def prelu(g):
    x, a = some(g, floats)
    shape = [d if g.chance(0.5) else 1 for d in a.shape][g.int(0, a.ndim) :]
    g.add("PRelu", [x, g.constant(g.drawn(shape, a.dtype))])


def compare(g):
    x, a = some(g, lambda a: a.dtype != bool)
    g.add(g.pick(["Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual"]), [x, partner(g, x)])


def where(g):
    x, a = some(g)
    c = g.some(lambda b: b.dtype == bool and all(p == q or 1 in (p, q) for p, q in zip(reversed(a.shape), reversed(b.shape))))
    c = c or g.operand(g.drawn(broadcast(g, a.shape), np.bool_))
    operands = [x, partner(g, x)]
    if g.chance(0.5):
        operands.reverse()
    g.add("Where", [c, *operands], exact=True)


def bits(g):
    x, a = some(g, whole)
    if a.dtype.kind == "u" and g.chance(0.5):
        g.add("BitShift", [x, g.constant(g.drawn(broadcast(g, a.shape), a.dtype, 0, 5))], direction=g.pick(["LEFT", "RIGHT"]), exact=True)
    else:
        g.add(g.pick(["BitwiseAnd", "BitwiseOr", "BitwiseXor"]), [x, partner(g, x)], exact=True)


# Reductions -----------------------------------------------------------------------------------------------------------


def reduce(g):
    x, a = some(g, lambda a: a.ndim > 0 and a.dtype != bool)
    # Sums of integers may overflow, which ONNX does not define.
    op = g.pick("Sum Mean Max Min Prod L1 L2 LogSum LogSumExp SumSquare".split() if floats(a) else ["Sum", "Max", "Min", "Mean"])
    if op == "LogSum":
        (x,) = g.add("Abs", [x], exact=True)
    axes = axes_of(g, a)
    keep = {"keepdims": g.int(0, 1)} if g.chance(0.7) else {}
    exact = whole(a) or op in ("Max", "Min")
    if g.chance(0.15):
        g.add("Reduce" + op, [x], exact=exact, **keep)
    elif g.opset >= (13 if op == "Sum" else 18):
        g.add("Reduce" + op, [x, g.ints(*axes)], exact=exact, noop_with_empty_axes=g.int(0, 1), **keep)
    else:
        g.add("Reduce" + op, [x], axes=axes, exact=exact, **keep)


def arg(g):
    x, a = some(g, lambda a: a.ndim > 0 and a.dtype != bool)
    last = {"select_last_index": g.int(0, 1)} if g.opset >= 12 else {}
    g.add(g.pick(["ArgMax", "ArgMin"]), [x], axis=axis_of(g, a), keepdims=g.int(0, 1), **last)


def softmax(g):
    x, a = some(g, lambda a: floats(a) and a.ndim > 0)
    axis = {"axis": axis_of(g, a)} if g.chance(0.8) else {}
    g.add(g.pick(["Softmax", "Softmax", "LogSoftmax", "Hardmax"]), [x], **axis)


def norm(g):
    x, a = some(g, lambda a: f32(a) and a.ndim >= 2)
    kind = g.pick(["Layer", "Layer", "RMS", "Instance", "Batch", "Batch", "Group", "LRN", "MVN", "Lp", "Skip"])
    r = lambda *shape: g.constant(g.drawn(shape))
    if kind == "Layer":
        axis = g.int(0, a.ndim - 1)
        bias = [r(*a.shape[axis:])] if g.chance(0.7) else []
        g.add("LayerNormalization", [x, r(*a.shape[axis:]), *bias], axis=axis - a.ndim if g.chance(0.5) else axis, shaken=True, epsilon=g.pick([1e-5, 1e-3]))
    elif kind == "RMS":
        axis = g.int(0, a.ndim - 1)
        g.add("RMSNormalization", [x, r(*a.shape[axis:])], axis=axis, shaken=True, epsilon=1e-5)
    elif kind == "Instance" and a.size > a.shape[0] * a.shape[1]:  # of one element, ONNX Runtime gives what rounding leaves
        g.add("InstanceNormalization", [x, r(a.shape[1]), r(a.shape[1])], shaken=True, epsilon=g.pick([1e-5, 1e-2]))
    elif kind == "Batch":
        c = a.shape[1]
        g.add("BatchNormalization", [x, r(c), r(c), r(c), g.constant(g.drawn((c,), F32, 0.3, 2.0))], shaken=True, epsilon=1e-4)
    elif kind == "Group":
        n = g.pick([d for d in range(1, a.shape[1] + 1) if a.shape[1] % d == 0])
        size = n if g.opset < 21 else a.shape[1]
        g.add("GroupNormalization", [x, r(size), r(size)], num_groups=n, shaken=True, epsilon=1e-3)
    elif kind == "LRN":
        g.add("LRN", [x], size=g.pick([1, 3, 5]), alpha=g.pick([1e-4, 0.5]), beta=g.pick([0.75, 0.5]), bias=g.pick([1.0, 2.0]))
    elif kind == "MVN":
        g.add("MeanVarianceNormalization", [x], shaken=True, axes=sorted(i % a.ndim for i in axes_of(g, a)))
    elif kind == "Lp":
        g.add("LpNormalization", [x], shaken=True, axis=axis_of(g, a), p=g.int(1, 2))
    else:
        h = a.shape[-1]
        g.add("SkipLayerNormalization", [x, g.operand(g.drawn(a.shape)), r(h), r(h)], domain=MS, shaken=True, epsilon=1e-5)


# Shapes ---------------------------------------------------------------------------------------------------------------


def reshape(g):
    x, a = some(g)
    if a.size == 0:
        return
    shape = []
    left = a.size
    for _ in range(g.int(0, 4)):
        d = g.pick([d for d in range(1, left + 1) if left % d == 0])
        shape.append(d)
        left //= d
    shape.append(left)
    g.rng.shuffle(shape)
    shape = [int(d) for d in shape]
    if g.chance(0.3):
        shape[g.int(0, len(shape) - 1)] = -1
    elif len(shape) <= a.ndim and g.chance(0.5):
        shape = [0 if d == e else d for d, e in zip(shape, a.shape)]
    g.add("Reshape", [x, g.ints(*shape)], exact=True)


def reshape_computed(g):
    """As exporters write it: a shape computed from the value's own."""
    x, a = some(g, lambda a: a.ndim >= 2)
    (s,) = g.add("Shape", [x], exact=True)
    keep = g.int(0, a.ndim - 1)
    (d,) = g.add("Gather", [s, g.constant(np.array(keep, np.int64))], axis=0, exact=True)
    if g.opset >= 13:
        (d,) = g.add("Unsqueeze", [d, g.ints(0)], exact=True)
    else:
        (d,) = g.add("Unsqueeze", [d], axes=[0], exact=True)
    (t,) = g.add("Concat", [d, g.ints(-1)] if g.chance(0.5) else [g.ints(-1), d], axis=0, exact=True)
    g.add("Reshape", [x, t], exact=True)


def view(g):
    x, a = some(g)
    kind = g.pick(["Flatten", "Squeeze", "Unsqueeze", "Transpose", "Transpose", "Identity", "Expand", "Tile"])
    if kind == "Flatten":
        axis = g.int(-a.ndim, a.ndim)
        g.add(kind, [x], axis=axis, exact=True)
    elif kind == "Squeeze":
        ones = [i - a.ndim if g.chance(0.5) else i for i, d in enumerate(a.shape) if d == 1 and g.chance(0.7)]
        if g.chance(0.2):
            g.add(kind, [x], exact=True)
        elif ones:
            g.add(kind, [x, g.ints(*ones)], exact=True) if g.opset >= 13 else g.add(kind, [x], axes=ones, exact=True)
    elif kind == "Unsqueeze":
        rank = a.ndim + g.int(1, 2)
        axes = sorted(int(i) for i in g.rng.choice(rank, rank - a.ndim, replace=False))
        axes = [i - rank if g.chance(0.3) else i for i in axes]
        g.add(kind, [x, g.ints(*axes)], exact=True) if g.opset >= 13 else g.add(kind, [x], axes=axes, exact=True)
    elif kind == "Transpose":
        perm = {"perm": [int(i) for i in g.rng.permutation(a.ndim)]} if g.chance(0.85) else {}
        g.add(kind, [x], exact=True, **perm)
    elif kind == "Expand":
        shape = [g.int(1, 4) if d == 1 and g.chance(0.6) else (1 if g.chance(0.3) else d) for d in a.shape]
        if g.chance(0.2):
            shape = [g.int(1, 3), *shape]
        g.add(kind, [x, g.ints(*shape)], exact=True)
    elif kind == "Tile":
        g.add(kind, [x, g.ints(*[g.pick([1, 1, 2, 3]) for _ in a.shape])], exact=True)
    else:
        g.add(kind, [x], exact=True)


def slice(g):
    x, a = some(g, lambda a: a.ndim > 0)
    axes = [i % a.ndim for i in axes_of(g, a)]
    starts, ends, steps = [], [], []
    for i in axes:
        d = a.shape[i]
        step = g.pick([1, 1, 1, 2, 3, -1, -2])
        low, high = sorted(g.int(0, d) for _ in range(2))
        if low == high:
            low, high = 0, d
        if step > 0:
            starts.append(low - d if g.chance(0.3) and low < d else low)
            ends.append(g.pick([high, high - d if high < d else 2**31, high if high < d else 2**63 - 1]))
        else:
            starts.append(g.pick([high - 1, -1, 10**6]))
            ends.append(low - 1 if low > 0 else -(10**6))
        steps.append(step)
    named = [i - a.ndim if g.chance(0.3) else i for i in axes]
    lists = [starts, ends, named, steps]
    if all(s == 1 for s in steps) and g.chance(0.5):
        lists.pop()
    g.add("Slice", [x, *[g.ints(*l) for l in lists]], exact=True)


def concat(g):
    x, a = some(g, lambda a: a.ndim > 0)
    axis = g.int(0, a.ndim - 1)

    def fits(b):
        return b.dtype == a.dtype and b.ndim == a.ndim and all(i == axis or p == q for i, (p, q) in enumerate(zip(a.shape, b.shape)))

    parts = [x]
    for _ in range(g.int(0, 3)):
        other = g.some(fits) if g.chance(0.6) else None
        shape = [g.int(1, 3) if i == axis else d for i, d in enumerate(a.shape)]
        parts.append(other or g.operand(g.drawn(shape, a.dtype)))
    g.rng.shuffle(parts)
    g.add("Concat", [str(p) for p in parts], axis=axis - a.ndim if g.chance(0.3) else axis, exact=True)


def split(g):
    x, a = some(g, lambda a: a.ndim > 0)
    axis = g.int(0, a.ndim - 1)
    d = a.shape[axis]
    n = g.pick([n for n in [1, 2, 3, 4] if n <= d] or [1])
    cuts = sorted(int(c) for c in g.rng.choice(np.arange(1, d), n - 1, replace=False)) if n > 1 else []
    parts = [int(p) for p in np.diff([0, *cuts, d])]
    named = {"axis": axis - a.ndim if g.chance(0.3) else axis}
    if g.opset >= 18 and g.chance(0.4):
        g.add("Split", [x], n, num_outputs=n, exact=True, **named)
    elif g.opset >= 13:
        g.add("Split", [x, g.ints(*parts)], n, exact=True, **named)
    else:
        g.add("Split", [x], n, split=parts, exact=True, **named)


def gather(g):
    x, a = some(g, lambda a: a.ndim > 0 and 0 not in a.shape)
    op = g.pick(["Gather", "Gather", "GatherElements", "GatherND"])
    axis = g.int(0, a.ndim - 1)
    d = a.shape[axis]
    kind = g.pick([np.int64, np.int64, np.int32])
    if op == "Gather":
        shape = [g.int(1, 4) for _ in range(g.int(0, 2))]
        g.add(op, [x, g.operand(g.drawn(shape, kind, -d, d - 1))], axis=axis - a.ndim if g.chance(0.3) else axis, exact=True)
    elif op == "GatherElements":
        shape = [g.int(1, 4) if i == axis else g.int(1, e) for i, e in enumerate(a.shape)]
        g.add(op, [x, g.operand(g.drawn(shape, kind, -d, d - 1))], axis=axis, exact=True)
    else:
        k = g.int(1, a.ndim)
        rows = np.stack([g.drawn((g.int(1, 1) * 4,), np.int64, -e, e - 1) for e in a.shape[:k]], axis=-1)
        g.add(op, [x, g.operand(rows)], exact=True)


def scatter(g):
    x, a = some(g, lambda a: a.ndim > 0 and 0 not in a.shape and a.dtype != bool)
    how = {"reduction": g.pick(["none", "add", "mul", "max", "min"])} if g.opset >= 18 else {}
    exact = whole(a) or how.get("reduction", "none") in ("none", "max", "min")
    if g.chance(0.5):
        axis = g.int(0, a.ndim - 1)
        shape = [g.int(1, d) for d in a.shape]
        if how.get("reduction", "none") == "none":  # no place twice: which of them stays is not defined
            order = np.argsort(g.rng.random([a.shape[axis] if i == axis else e for i, e in enumerate(shape)]), axis=axis)
            rows = np.take(order, np.arange(shape[axis]), axis=axis).astype(np.int64)
        else:
            rows = g.drawn(shape, np.int64, 0, a.shape[axis] - 1)
        g.add("ScatterElements", [x, g.operand(rows), g.operand(g.drawn(shape, a.dtype))], axis=axis, exact=exact, **how)
    else:
        k = g.int(1, a.ndim)
        places = int(np.prod(a.shape[:k]))
        count = g.int(1, min(places, 6))
        flat = g.rng.choice(places, count, replace=False)
        rows = np.stack(np.unravel_index(flat, a.shape[:k]), axis=-1).astype(np.int64)
        g.add("ScatterND", [x, g.operand(rows), g.operand(g.drawn((count, *a.shape[k:]), a.dtype))], exact=exact, **how)


def pad(g):
    x, a = some(g, lambda a: a.ndim > 0 and 0 not in a.shape and a.dtype != bool)
    mode = g.pick(["constant", "constant", "reflect", "edge"] + (["wrap"] if g.opset >= 19 else []))
    most = [2 if mode in ("constant", "edge") else min(2, d - 1) for d in a.shape]
    least = [-1 if mode == "constant" and d > 3 and g.chance(0.3) else 0 for d in a.shape]
    pads = [g.int(l, m) if g.chance(0.6) else 0 for l, m in zip(least * 2, most * 2)]
    value = [g.constant(np.array(g.pick([0, 1, 3]), a.dtype))] if mode == "constant" and g.chance(0.6) else []
    g.add("Pad", [x, g.ints(*pads), *value], mode=mode, exact=True)


def depth(g):
    x, a = some(g, lambda a: f32(a) and a.ndim == 4)
    b = g.pick([2, 3])
    if g.chance(0.5) and a.shape[1] % (b * b) == 0:
        g.add("DepthToSpace", [x], blocksize=b, mode=g.pick(["DCR", "CRD"]), exact=True)
    else:
        h, w = a.shape[2:]
        if h >= b and w >= b:
            starts, ends = g.ints(0, 0), g.ints(h // b * b, w // b * b)
            (y,) = g.add("Slice", [x, starts, ends, g.ints(2, 3)], exact=True)
            g.add("SpaceToDepth", [y], blocksize=b, exact=True)


def order(g):
    """Operators that number, order or repeat."""
    x, a = some(g, lambda a: a.ndim > 0 and 0 not in a.shape and a.dtype != bool)
    kind = g.pick(["TopK", "CumSum", "Trilu", "ReverseSequence", "OneHot", "NonZero", "Compress", "Unique", "Range", "EyeLike"])
    axis = g.int(0, a.ndim - 1)
    if kind == "TopK":
        k = g.ints(g.int(1, a.shape[axis]))
        g.add(kind, [x, k], 2, axis=axis, largest=g.int(0, 1))
    elif kind == "CumSum":
        where = g.constant(np.array(axis - a.ndim if g.chance(0.3) else axis, np.int64))
        g.add(kind, [x, where], exclusive=g.int(0, 1), reverse=g.int(0, 1), exact=whole(a))
    elif kind == "Trilu" and a.ndim >= 2:
        k = [g.constant(np.array(g.int(-2, 2), np.int64))] if g.chance(0.7) else []
        g.add(kind, [x, *k], upper=g.int(0, 1), exact=True)
    elif kind == "ReverseSequence" and a.ndim >= 2:
        t = g.int(0, 1)
        lengths = g.operand(g.drawn((a.shape[1 - t],), np.int64, 1, a.shape[t]))
        g.add(kind, [x, lengths], time_axis=t, batch_axis=1 - t, exact=True)
    elif kind == "OneHot":
        d = g.int(2, 6)
        rows = g.operand(g.drawn([g.int(1, 4) for _ in range(g.int(0, 2))], np.int64, -d, d - 1))
        pair = g.constant(np.array([0, g.pick([1, 5])], g.pick([F32, np.int64])))
        g.add(kind, [rows, g.ints(d), pair], axis=g.pick([-1, 0]), exact=True)
    elif kind in ("NonZero", "Unique") and g.chance(0.3):
        if kind == "NonZero":
            (x,) = g.add("Relu", [x], exact=True) if floats(a) else (x,)
            outs = g.add(kind, [x])
        else:
            outs = g.add(kind, [x], 4, sorted=1)
        hide(g, outs)
    elif kind == "Compress":
        keep = g.rng.random(a.shape[axis]) < 0.6
        keep[g.int(0, len(keep) - 1)] = True
        g.add(kind, [x, g.constant(keep)], axis=axis, exact=True)
    elif kind == "Range":
        kind = g.pick([np.int64, np.int32, F32])
        bounds = [np.array(v, kind) for v in (g.int(-3, 3), g.int(4, 12), g.int(1, 3))]
        g.add("Range", [g.constant(b) for b in bounds], exact=True)
    elif kind == "EyeLike" and a.ndim == 2:
        g.add(kind, [x], dtype=TensorProto.FLOAT, k=g.int(-1, 1), exact=True)


def hide(g, names):
    """Results whose extents depend on data are outputs only."""
    for n in names:
        g.made.remove(n)
        g.last_only.append(n)


def resize(g):
    x, a = some(g, lambda a: f32(a) and a.ndim in (3, 4))
    mode = g.pick(["nearest", "linear", "cubic"] if a.ndim == 4 else ["nearest", "linear"])
    how = {"coordinate_transformation_mode": g.pick(["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"])}
    if mode == "nearest":
        how["nearest_mode"] = g.pick(["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"])
    elif mode == "cubic":
        how["cubic_coeff_a"] = g.pick([-0.75, -0.5])
        how["exclude_outside"] = g.int(0, 1)
    if g.opset >= 18 and mode != "nearest" and g.chance(0.4):
        how["antialias"] = 1
    exact = mode == "nearest"
    scales = [1.0, 1.0] + [g.pick([2.0, 0.5, 1.5, 3.0, 0.75, 1.0]) for _ in a.shape[2:]]
    # Whether the extent is rounded before it is used is not stated.
    integral = all(float(d * s).is_integer() for d, s in zip(a.shape, scales))
    if g.chance(0.5) and (integral or how["coordinate_transformation_mode"] in ("half_pixel", "asymmetric")):
        g.add("Resize", [x, "", g.constant(np.array(scales, F32))], mode=mode, exact=exact, **how)
    else:
        sizes = [*a.shape[:2]] + [g.int(1, 2 * d + 1) for d in a.shape[2:]]
        g.add("Resize", [x, "", "", g.ints(*sizes)], mode=mode, exact=exact, **how)


# Windows --------------------------------------------------------------------------------------------------------------


def window(g, spatial, kernel):
    """Attributes of a window over these extents."""
    how = {}
    rank = len(spatial)
    if g.chance(0.5):
        how["strides"] = [g.int(1, 3) for _ in range(rank)]
    if g.chance(0.3):  # a window that does not fit is refused, or gives what no formula says
        how["dilations"] = [g.int(1, 2) if 2 * (k - 1) < d else 1 for d, k in zip(spatial, kernel)]
    choice = g.int(0, 3)
    if choice == 0:
        how["auto_pad"] = g.pick(["SAME_UPPER", "SAME_LOWER", "VALID"])
        if how["auto_pad"] != "VALID":
            how.pop("dilations", None)
    elif choice <= 2:
        how["pads"] = [g.int(0, k - 1) for k in [*kernel, *kernel]]
    return how


def conv(g):
    x, a = some(g, lambda a: f32(a) and 3 <= a.ndim <= 5 and 0 not in a.shape)
    c, spatial = a.shape[1], a.shape[2:]
    group = g.pick([1, 1, c] + [d for d in (2, 3, 4) if c % d == 0])
    out = group * g.int(1, 4) if group < c or g.chance(0.3) else group
    if g.chance(0.1):
        out = 16
        group = 1
    kernel = [g.int(1, min(3 if a.ndim < 5 else 2, d)) for d in spatial]
    bias = [g.constant(g.drawn((out,)))] if g.chance(0.6) else []
    w = g.constant(g.drawn((out, c // group, *kernel)))
    shape = {"kernel_shape": kernel} if g.chance(0.7) else {}
    y = g.add("Conv", [x, w, *bias], group=group, **shape, **window(g, spatial, kernel))
    if g.chance(0.5):
        follow(g, y[0])


def follow(g, y):
    """What usually follows a convolution or a product."""
    a = g.values[y]
    kind = g.pick(["Relu", "Sigmoid", "HardSwish", "BN", "Clip", "Add", "SiLU", "Gelu"])
    if kind == "BN" and a.ndim >= 2:
        c = a.shape[1]
        r = lambda: g.constant(g.drawn((c,)))
        g.add("BatchNormalization", [y, r(), r(), r(), g.constant(g.drawn((c,), F32, 0.3, 2.0))])
    elif kind == "Add":
        g.add("Add", [y, partner(g, y)])
    elif kind == "SiLU":
        (s,) = g.add("Sigmoid", [y])
        g.add("Mul", [y, s])
    elif kind == "Gelu":
        (s,) = g.add("Div", [y, g.constant(np.array(2**0.5, F32))])
        (s,) = g.add("Erf", [s])
        (s,) = g.add("Add", [s, g.constant(np.array(1, F32))])
        (s,) = g.add("Mul", [y, s])
        g.add("Mul", [s, g.constant(np.array(0.5, F32))])
    elif kind == "Clip":
        g.add("Clip", [y, g.constant(np.array(0, F32)), g.constant(np.array(6, F32))], exact=True)
    else:
        g.add(kind if kind not in ("BN", "HardSwish") or g.opset >= 14 else "Relu", [y])


def conv_transposed(g):
    x, a = some(g, lambda a: f32(a) and 3 <= a.ndim <= 4 and 0 not in a.shape)
    c, spatial = a.shape[1], a.shape[2:]
    group = g.pick([1, 1] + [d for d in (2, 3, 4, c) if c % d == 0])
    out = g.int(1, 3)
    kernel = [g.int(1, 3) for _ in spatial]
    how = {}
    strides = [g.int(1, 2) for _ in spatial]
    if g.chance(0.6):
        how["strides"] = strides
        if g.chance(0.3):
            how["output_padding"] = [g.int(0, s - 1) for s in strides]
    if g.chance(0.3):
        how["dilations"] = [g.int(1, 2) for _ in spatial]
    if g.chance(0.5):
        how["pads"] = [g.int(0, k - 1) for k in [*kernel, *kernel]]
    # Where the stride is longer than the kernel, ONNX Runtime does not give the extent that ONNX states.
    elif g.chance(0.3) and "output_padding" not in how and all(s <= k for s, k in zip(strides, kernel)):
        how["auto_pad"] = g.pick(["SAME_UPPER", "SAME_LOWER"])
    bias = [g.constant(g.drawn((out * group,)))] if g.chance(0.5) else []
    g.add("ConvTranspose", [x, g.constant(g.drawn((c, out, *kernel))), *bias], group=group, kernel_shape=kernel, **how)


def pool(g):
    x, a = some(g, lambda a: f32(a) and 3 <= a.ndim <= 5 and 0 not in a.shape)
    op = g.pick(["MaxPool", "MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"])
    if op.startswith("Global"):
        g.add(op, [x], exact=op == "GlobalMaxPool")
        return
    kernel = [g.int(1, min(3, d)) for d in a.shape[2:]]
    how = window(g, a.shape[2:], kernel)
    if op == "AveragePool" and g.opset < 19 or op == "LpPool" and g.opset < 18:
        how.pop("dilations", None)
    if op == "LpPool":
        if "SAME" in how.get("auto_pad", "") and any(t > k for t, k in zip(how.get("strides", []), kernel)):
            return  # ONNX Runtime lets this one begin inside of the operand
        how["p"] = g.int(1, 3)
    elif g.chance(0.35) and "auto_pad" not in how:
        how["ceil_mode"] = 1
    if op == "AveragePool":
        how["count_include_pad"] = g.int(0, 1)
    g.add(op, [x], 1, kernel_shape=kernel, exact=op == "MaxPool", **how)


# Products -------------------------------------------------------------------------------------------------------------


def matmul(g):
    x, a = some(g, lambda a: floats(a) and a.ndim >= 1 and a.size)
    n = g.pick([1, 2, 3, 5, 8, 16, 19])
    if g.chance(0.2):
        other = g.some(lambda b: b.dtype == a.dtype and b.ndim >= 2 and a.ndim >= 2 and b.shape[-2] == a.shape[-1] and b.shape[:-2] == a.shape[:-2])
        if other:
            g.add("MatMul", [x, other])
            return
    k = a.shape[-1]
    batch = broadcast(g, a.shape[:-2])[-2:] if g.chance(0.25) else []
    y = g.add("MatMul", [x, g.operand((g.drawn((*batch, k, n) if not g.chance(0.05) else (k,)) / np.sqrt(k)).astype(a.dtype))])
    if g.chance(0.3) and g.values[y[0]].ndim:
        bias = g.constant(g.drawn((g.values[y[0]].shape[-1],), a.dtype))
        y = g.add("Add", [bias, y[0]] if g.chance(0.3) else [y[0], bias])
    if g.chance(0.3) and a.dtype == F32:
        follow(g, y[0])


def gemm(g):
    x, a = some(g, lambda a: f32(a) and a.ndim == 2 and a.size)
    ta, tb, n = g.int(0, 1), g.int(0, 1), g.pick([1, 3, 4, 10, 16])
    m, k = a.shape[::-1] if ta else a.shape
    b = g.operand(g.drawn((n, k) if tb else (k, n)))
    c = [g.operand(g.drawn(g.pick([(n,), (m, n), (1, n), (m, 1), ()])))] if g.chance(0.8) else []
    scale = {"alpha": g.pick([0.5, 1.5]), "beta": g.pick([0.5, 2.0, 0.0])} if g.chance(0.4) else {}
    g.add("Gemm", [x, b, *c], transA=ta, transB=tb, **scale)


def einsum(g):
    x, a = some(g, lambda a: f32(a) and 2 <= a.ndim <= 4 and a.size)
    letters = "abcd"[: a.ndim]
    summed = g.pick(letters)
    r = lambda *shape: g.operand(g.drawn(shape))
    d = dict(zip(letters, a.shape))
    if g.chance(0.3):
        keep = [c for c in letters if g.chance(0.6)]
        g.rng.shuffle(keep)
        g.add("Einsum", [x], equation=f"{letters}->{''.join(keep)}")
    elif g.chance(0.5):
        out = letters.replace(summed, "z")
        g.add("Einsum", [x, r(d[summed], 3)], equation=f"{letters},{summed}z->{out}")
    else:
        shared = [c for c in letters if c != summed and g.chance(0.5)]
        second = [*shared, summed, "z"]
        g.rng.shuffle(second)
        sizes = {**d, "z": 2}
        out = [c for c in letters if c != summed] + ["z"]
        if g.chance(0.5):
            g.rng.shuffle(out)
        g.add("Einsum", [x, r(*[sizes[c] for c in second])], equation=f"{letters},{''.join(second)}->{''.join(out)}")


def attention(g):
    """Heads of attention, as exporters write them."""
    x, a = some(g, lambda a: f32(a) and a.ndim == 3 and a.size and a.shape[-1] % 2 == 0)
    b, l, d = a.shape
    heads = g.pick([h for h in (1, 2, 4) if d % h == 0])

    def project(order):
        (y,) = g.add("MatMul", [x, g.constant((g.drawn((d, d)) / np.sqrt(d)).astype(F32))])
        if g.chance(0.5):
            (y,) = g.add("Add", [y, g.constant(g.drawn((d,)))])
        (y,) = g.add("Reshape", [y, g.ints(*g.pick([[0, 0, heads, d // heads], [b, l, heads, -1]]))], exact=True)
        return g.add("Transpose", [y], perm=order, exact=True)[0]

    q, v = project([0, 2, 1, 3]), project([0, 2, 1, 3])
    k = project([0, 2, 3, 1])
    scale = g.constant(np.array((d / heads) ** (0.5 if g.chance(0.5) else -0.5), F32))
    divide = float(g.values[scale]) >= 1
    if not divide and g.chance(0.3):
        (q,) = g.add("Mul", [q, scale])
        (s,) = g.add("MatMul", [q, k])
    else:
        (s,) = g.add("MatMul", [q, k])
        (s,) = g.add("Div" if divide else "Mul", [s, scale])
    if g.chance(0.4):
        mask = np.where(np.tril(np.ones((l, l))), 0, g.pick([-1e4, -1e9])).astype(F32)
        (s,) = g.add("Add", [s, g.constant(mask.reshape(g.pick([(l, l), (1, 1, l, l)])))])
    (s,) = g.add("Softmax", [s], axis=g.pick([3, -1]))
    (y,) = g.add("MatMul", [s, v])
    (y,) = g.add("Transpose", [y], perm=[0, 2, 1, 3], exact=True)
    g.add("Reshape", [y, g.ints(*g.pick([[b, l, d], [0, 0, d], [0, 0, -1]]))], exact=True)


def layer_norm_open(g):
    """LayerNorm or RMSNorm in single operators."""
    x, a = some(g, lambda a: f32(a) and a.ndim >= 2 and a.size and a.shape[-1] > 1)
    ax = lambda v: g.add("ReduceMean", [v, g.ints(-1)])[0] if g.opset >= 18 else g.add("ReduceMean", [v], axes=[-1])[0]
    c = x
    if g.chance(0.6):
        (c,) = g.add("Sub", [x, ax(x)])
    square = g.add("Pow", [c, g.constant(np.array(2, F32))])[0] if g.chance(0.6) else g.add("Mul", [c, c])[0]
    (s,) = g.add("Add", [ax(square), g.constant(np.array(g.pick([1e-5, 1e-3]), F32))])
    (s,) = g.add("Sqrt", [s])
    if g.chance(0.6):
        (y,) = g.add("Div", [c, s])
    else:
        (y,) = g.add("Mul", [c, g.add("Reciprocal", [s])[0]])
    (y,) = g.add("Mul", [y, g.constant(g.drawn((a.shape[-1],)))])
    g.add("Add", [y, g.constant(g.drawn((a.shape[-1],)))])


def recurrent(g):
    x, a = some(g, lambda a: f32(a) and a.ndim == 3 and a.size and a.shape[0] <= 7)
    l, b, i = a.shape
    op, gates = g.pick([("LSTM", 4), ("GRU", 3), ("RNN", 1)])
    h = g.pick([1, 2, 4, 8])
    direction = g.pick(["forward", "reverse", "bidirectional"])
    d = 2 if direction == "bidirectional" else 1
    r = lambda *s: (g.drawn(s) / np.sqrt(s[-1])).astype(F32)
    operands = [x, g.constant(r(d, gates * h, i)), g.constant(r(d, gates * h, h))]
    operands.append(g.constant(g.drawn((d, 2 * gates * h))) if g.chance(0.7) else "")
    operands.append(g.operand(g.drawn((b,), np.int32, 1, l)) if g.chance(0.25) else "")
    operands.append(g.operand(g.drawn((d, b, h))) if g.chance(0.4) else "")
    if op == "LSTM":
        operands.append(g.operand(g.drawn((d, b, h))) if g.chance(0.4) else "")
        operands.append(g.constant(g.drawn((d, 3 * h))) if g.chance(0.3) else "")
    how = {"linear_before_reset": g.int(0, 1)} if op == "GRU" else {}
    if op == "RNN" and g.chance(0.3):
        how["activations"] = ["Relu"] * d
    while not operands[-1]:
        operands.pop()
    count = 3 if op == "LSTM" else 2
    keep = [g.chance(0.7) for _ in range(count)]
    keep[g.int(0, count - 1)] = True
    names = [g.name("v") if k else "" for k in keep]
    while not names[-1]:
        names.pop()
    g.add(op, operands, names, hidden_size=h, direction=direction, **how)


# Integers -------------------------------------------------------------------------------------------------------------


def quantised(g):
    """Quantise and dequantise: alone, around an operator, or as operators of integers.

    Weights have seven bits: without the instructions for it, ONNX Runtime saturates sums of two products of `u8` and `i8`.
    """
    x, a = some(g, lambda a: f32(a) and a.ndim >= 1 and a.size)
    scale = lambda v: g.constant(np.array(v, F32))
    dtype = g.pick([np.uint8, np.int8])
    zero = g.constant(np.array(g.pick([0, 3] if dtype is np.int8 else [128, 120]), dtype))
    s = scale(max(float(np.abs(a).max()) / 100, 1e-3))
    kind = g.pick(["pair", "pair", "conv", "matmul", "dynamic", "integer", "axis"])
    if kind == "axis" and g.opset >= 13:
        axis = g.int(0, a.ndim - 1)
        n = a.shape[axis]
        s = g.constant(g.drawn((n,), F32, 0.01, 0.1))
        zero = g.constant(np.zeros(n, dtype))
        (q,) = g.add("QuantizeLinear", [x, s, zero], axis=axis)
        g.add("DequantizeLinear", [q, s, zero], axis=axis)
        return
    if kind == "dynamic":
        q, s, zero = g.add("DynamicQuantizeLinear", [x], 3)
        if a.ndim >= 2 and g.chance(0.6):
            w = g.constant(g.drawn((a.shape[-1], 4), g.pick([np.uint8, np.int8]), 0, 60))
            (y,) = g.add("MatMulInteger", [q, w, zero], exact=True)
            (y,) = g.add("Cast", [y], to=TensorProto.FLOAT, exact=True)
            g.add("Mul", [y, g.add("Mul", [s, scale(0.01)])[0]])
        return
    (q,) = g.add("QuantizeLinear", [x, s, zero])
    if kind == "integer" and a.ndim >= 2:
        w = g.constant(g.drawn((a.shape[-1], 5), np.int8, -60, 60))
        if g.chance(0.5):
            t = g.constant(np.array(10, dtype))
            g.add("QLinearMatMul", [q, s, zero, w, scale(0.02), g.constant(np.array(0, np.int8)), scale(0.5), t])
        else:
            g.add("MatMulInteger", [q, w, zero], exact=True)
        return
    if kind == "conv" and a.ndim == 4:
        out = g.int(1, 4)
        kernel = [min(d, g.int(1, 3)) for d in a.shape[2:]]
        w = g.constant(g.drawn((out, a.shape[1], *kernel), np.int8, -60, 60))
        one = g.constant(np.array(0, np.int8))
        how = {"pads": [1, 1, 1, 1]} if min(kernel) > 1 else {}
        if g.chance(0.3):
            bias = [g.constant(g.drawn((out,), np.int32, -500, 500))] if g.chance(0.5) else []
            g.add("QLinearConv", [q, s, zero, w, scale(0.01), one, scale(0.2), g.constant(np.array(5, dtype)), *bias], **how)
        elif g.chance(0.2):
            g.add("ConvInteger", [q, w, zero], exact=True, **how)
        else:
            (x2,) = g.add("DequantizeLinear", [q, s, zero])
            (w2,) = g.add("DequantizeLinear", [w, scale(0.01), one])
            (y,) = g.add("Conv", [x2, w2], **how)
            if g.chance(0.5):
                (y,) = g.add("Relu", [y], exact=True)
            most = float(np.abs(g.values[y]).max())
            s3 = scale(max(most / 100, 1e-3))
            (y,) = g.add("QuantizeLinear", [y, s3, zero])
            g.add("DequantizeLinear", [y, s3, zero])
        return
    if kind == "matmul" and a.ndim >= 2:
        (x2,) = g.add("DequantizeLinear", [q, s, zero])
        w = g.constant(g.drawn((a.shape[-1], 6), np.int8, -60, 60))
        (w2,) = g.add("DequantizeLinear", [w, scale(0.01), g.constant(np.array(0, np.int8))])
        (y,) = g.add("MatMul", [x2, w2])
        s3 = scale(max(float(np.abs(g.values[y]).max()) / 100, 1e-3))
        (y,) = g.add("QuantizeLinear", [y, s3, zero])
        g.add("DequantizeLinear", [y, s3, zero])
        return
    g.add("DequantizeLinear", [q, s, zero])


# Control --------------------------------------------------------------------------------------------------------------


def branch(g):
    """An If over a value of the graph; both sides see values around them."""
    x, a = some(g, f32)
    c = g.some(lambda b: b.dtype == bool and b.size == 1 and b.ndim <= 1) or g.input(np.array(g.chance(0.5)))
    sides = []
    captured = [x]
    for _ in range(2):
        op = g.pick(["Tanh", "Neg", "Relu", "Sigmoid", "Identity"])
        nodes = [helper.make_node(op, [x], [g.name("b")])]
        if g.chance(0.5):
            other = partner(g, x)
            if np.broadcast_shapes(g.values[other].shape, a.shape) == a.shape:
                captured.append(other)
                nodes.append(helper.make_node("Add", [nodes[-1].output[0], other], [g.name("b")]))
        out = helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, a.shape)
        sides.append(helper.make_graph(nodes, g.name("side"), [], [out]))
    g.add("If", [c], 1, captured=captured, then_branch=sides[0], else_branch=sides[1])


def loop(g):
    """A loop of few iterations over a value, with a result that it gathers."""
    x, a = some(g, lambda a: f32(a) and a.size <= 256)
    i, go, v = g.name("i"), g.name("go"), g.name("s")
    nodes = [
        helper.make_node("Mul", [v, x], [g.name("b")]),
        helper.make_node(g.pick(["Tanh", "Sigmoid", "Softsign"]), [f"b{g.names}"], [g.name("b")]),
        helper.make_node("Identity", [go], [g.name("go")]),
        helper.make_node("Neg", [f"b{g.names - 1}"], [g.name("b")]),
    ]
    next, going, row = nodes[1].output[0], nodes[2].output[0], nodes[3].output[0]
    t = helper.make_tensor_value_info
    body = helper.make_graph(nodes, g.name("body"),
        [t(i, TensorProto.INT64, []), t(go, TensorProto.BOOL, []), t(v, TensorProto.FLOAT, a.shape)],
        [t(going, TensorProto.BOOL, []), t(next, TensorProto.FLOAT, a.shape), t(row, TensorProto.FLOAT, a.shape)])  # fmt: skip
    start = g.operand(g.drawn(a.shape))
    g.add("Loop", [g.constant(np.array(g.int(1, 4), np.int64)), g.constant(np.array(True)), start], 2, captured=[x], body=body)


CANDIDATES = [
    (10, unary), (2, unary_steps), (4, unary_tuned), (4, unary_guarded), (2, unary_whole), (2, logical), (3, clip), (4, cast),
    (0.5, is_special), (14, arithmetic), (3, extremum), (2, several), (1.5, prelu), (3, compare), (3, where), (1.5, bits),
    (6, reduce), (2, arg), (4, softmax), (6, norm), (4, reshape), (1.5, reshape_computed), (8, view), (5, slice), (5, concat),
    (3, split), (4, gather), (2, scatter), (3, pad), (1.5, depth), (4, order), (3, resize), (9, conv), (2, conv_transposed),
    (5, pool), (7, matmul), (3, gemm), (2, einsum), (1.5, attention), (1.5, layer_norm_open), (2, recurrent), (4, quantised),
    (1, branch), (1, loop),
]  # fmt: skip
