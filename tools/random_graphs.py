#!/usr/bin/env python3
"""Writes random models of ONNX operators, with ONNX Runtime's results: what Tenon makes of them must agree.

    python3 tools/random_graphs.py FOLDER [--count 500] [--first 0] [--seeds 17,23]

Each model is drawn from its seed alone (the folder's name), so that a seed names a model for good. It grows node by node: each
candidate is run by ONNX Runtime on the values that are already there; what it refuses, or what gives values that are not finite
or too large, is dropped and another one is drawn.

Tolerances are measured, not guessed. Beside the values themselves the builder carries several variants of every value that
was rounded: after each node the variants are moved by some units of the last place, and by a few parts in 10⁷ of the
tensor's magnitude (a sum's error is of that size). How far the variants are apart at an output is what another order of
additions may move it by. A node whose result jumps under that (a `Round` at a half, an `ArgMax` of two that are almost equal) is
dropped, so that integers and booleans must be equal.
"""

import argparse
import json
import pathlib
import shutil
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import random_nodes
from random_nodes import Dropped

onnxruntime.set_default_logger_severity(4)

F16, F32, F64 = np.float16, np.float32, np.float64
# What variants are moved by: relative to the element, and to the tensor's largest magnitude.
MOVES = {F16: (1e-3, 3e-4), F32: (6e-7, 2e-7), F64: (1e-13, 1e-14)}
VARIANTS = 4
# Operators whose results jump, although they are floats.
STEPS = {"Round", "Floor", "Ceil", "Sign", "Mod"}
# Magnitudes beyond this one are dropped: errors of later nodes would be judged by them.
LARGEST = {F16: 2e3, F32: 1e5, F64: 1e5}
ELEMENTS = 4096  # of any value

MS = "com.microsoft"


def info(name, array):
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)


def session(model, optimise=False):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


class Graph:
    """A model as it grows. `values` has an array for each name, `variants` those of rounded values."""

    def __init__(self, seed):
        self.seed = seed
        self.rng = np.random.default_rng([0x7E2072, seed])
        self.opset = int(self.rng.choice([11, 12, 13, 14, 15, 17, 18, 19, 20, 21, 22, 23, 24]))
        self.nodes, self.values, self.variants = [], {}, {}
        self.inputs, self.constants, self.made, self.used = [], {}, [], set()
        self.names = 0
        self.last_only = []  # results that are outputs only

    # Drawing ----------------------------------------------------------------------------------------------------------

    def chance(self, p):
        return bool(self.rng.random() < p)

    def pick(self, list):
        return list[int(self.rng.integers(len(list)))]

    def int(self, low, high):
        """From `low` to `high`, both included."""
        return int(self.rng.integers(low, high + 1))

    def drawn(self, shape, dtype=F32, low=None, high=None):
        """An array; floats are normal unless limits are given."""
        dtype = np.dtype(dtype)
        if dtype == bool:
            return self.rng.random(shape) < 0.5
        if dtype.kind in "iu":
            low = low if low is not None else (0 if dtype.kind == "u" else -9)
            return self.rng.integers(low, (high if high is not None else 9) + 1, shape).astype(dtype)
        if low is not None:
            return self.rng.uniform(low, high, shape).astype(dtype)
        if self.chance(0.1):  # ties, zeros
            return self.rng.integers(-2, 3, shape).astype(dtype)
        return self.rng.standard_normal(shape).astype(dtype)

    def some(self, want=lambda a: True, fresh=0.6):
        """The name of a value that is like that; the newest ones are preferred. Nothing if there is none."""
        names = [n for n in self.inputs + self.made if want(self.values[n])]
        if not names:
            return None
        unused = [n for n in names if n not in self.used]
        if unused and self.chance(fresh):
            return self.pick(unused)
        return self.pick(names[-8:] if self.chance(0.7) else names)

    # Growing ----------------------------------------------------------------------------------------------------------

    def name(self, stem):
        self.names += 1
        return f"{stem}{self.names}"

    def input(self, array, stem="x"):
        name = self.name(stem)
        self.values[name] = array
        self.inputs.append(name)
        return name

    def constant(self, array, stem="c"):
        array = np.asarray(array)
        name = self.name(stem)
        self.values[name] = array
        self.constants[name] = array
        return name

    def ints(self, *list):
        return self.constant(np.array(list, np.int64), "i")

    def operand(self, array):
        """A weight more often than an input."""
        return self.input(array) if self.chance(0.2) and len(self.inputs) < 6 else self.constant(array)

    def add(self, op, operands, outputs=1, domain="", captured=(), exact=False, shaken=False, **attributes):
        """Adds a node and returns the names of its results. `exact`: it moves or selects, and rounds nothing; `shaken`: what
        it computes inside loses digits that the result does not show, as if its operands were rounded."""
        names = [self.name("v") for _ in range(outputs)] if isinstance(outputs, int) else outputs
        node = helper.make_node(op, list(operands), names, f"{op}_{len(self.nodes)}", domain=domain,
                                **{k: v for k, v in attributes.items() if not (isinstance(v, list) and not v)})  # fmt: skip
        asked = dict.fromkeys([n for n in [*operands, *captured] if n])
        results = self.run(node, asked)
        kept = [n for n in names if n]
        rounded = shaken or any(n in self.variants for n in asked)
        variants = []
        for k in range(VARIANTS if rounded or not exact else 0):
            moved = {n: self.variants[n][k] if n in self.variants else self.values[n] for n in asked}
            if shaken:
                moved = {n: self.moved(a) if a.dtype.kind == "f" and n not in self.constants else a for n, a in moved.items()}
            variants.append(self.run(node, moved, again=True) if rounded else [a.copy() for a in results])
        if variants and (op in STEPS or any(a.dtype.kind != "f" for a in results)):
            self.admit_steps(node, asked, results)
        for i, (n, a) in enumerate(zip(kept, results)):
            self.admit(a)
            if variants:
                self.admit_variants(a, [v[i] for v in variants], exact)
        for i, (n, a) in enumerate(zip(kept, results)):
            self.values[n] = a
            if variants and a.dtype.kind == "f":
                self.variants[n] = [v[i] if exact else self.moved(v[i]) for v in variants]
        self.nodes.append(node)
        self.made += kept
        self.used.update(asked)
        return kept

    def run(self, node, asked, again=False):
        feed = {n: (asked[n] if again else self.values[n]) for n in asked}
        if not again:
            fixed = [numpy_helper.from_array(self.values[n], n) for n in asked if n in self.constants]
            free = [info(n, self.values[n]) for n in asked if n not in self.constants]
            outs = [onnx.ValueInfoProto(name=n) for n in node.output if n]
            try:
                self.last = session(self.model([node], free, outs, fixed))
            except Exception as e:  # noqa: BLE001  ONNX Runtime's errors have no common class
                raise Dropped(f"{node.op_type}: {e}") from None
        try:
            results = self.last.run(None, {n: a for n, a in feed.items() if n not in self.constants})
        except Exception as e:  # noqa: BLE001
            raise Dropped(f"{node.op_type}: {e}") from None
        if not all(isinstance(r, np.ndarray) for r in results):
            raise Dropped(f"{node.op_type}: no tensor")
        return results

    def model(self, nodes, inputs, outputs, fixed):
        graph = helper.make_graph(nodes, f"g{self.seed}", inputs, outputs, fixed)
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid(MS, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    def admit(self, a):
        if not 0 < a.size <= ELEMENTS:
            raise Dropped("no elements, or too many")
        if a.dtype.kind in "iu" and a.dtype.itemsize >= 4 and np.abs(a.astype(F64)).max() > 2**24:
            raise Dropped("too large")
        if a.dtype.kind == "f":
            if not np.isfinite(a).all():
                raise Dropped("not finite")
            if a.size and np.abs(a).max() > LARGEST[a.dtype.type]:
                raise Dropped("too large")

    def admit_variants(self, a, variants, exact):
        for v in variants:
            if v.shape != a.shape:
                raise Dropped("the shape depends on rounding")
            if a.dtype.kind != "f":
                if not np.array_equal(v, a):
                    raise Dropped("an integer depends on rounding")
            elif not np.isfinite(v).all():
                raise Dropped("not finite")
        if a.dtype.kind == "f" and a.size:
            apart = max(float(np.abs(v.astype(F64) - a.astype(F64)).max()) for v in variants)
            if apart > self.bound(a) * 300:
                raise Dropped("depends on rounding")

    def admit_steps(self, node, asked, results):
        """Few drawn variants may all lie on one side of a step, such as a quotient of 7.5000001 that `QuantizeLinear` rounds and
        ONNX Runtime finds to be 7.4999995: so all operands are moved up as far as they may be, and down."""
        for way in (-1, 1):
            moved = {n: self.shifted(self.values[n], way) if n in self.variants else self.values[n] for n in asked}
            for a, v in zip(results, self.run(node, moved, again=True)):
                self.admit_variants(a, [v], exact=False)

    def bound(self, a):
        scale = float(np.abs(a.astype(F64)).max()) if a.size else 0.0
        return sum(MOVES[a.dtype.type]) * max(scale, 1e-3)

    def moved(self, a):
        part, scale = MOVES[a.dtype.type]
        largest = np.abs(a).max() if a.size else 0
        wide = a.astype(F64)
        wide = wide + wide * part * self.rng.uniform(-1, 1, a.shape) + largest * scale * self.rng.uniform(-1, 1, a.shape)
        return np.asarray(wide, a.dtype)

    def shifted(self, a, way):
        if a.dtype.kind != "f":
            return a
        part, scale = MOVES[a.dtype.type]
        wide = a.astype(F64)
        return np.asarray(wide + way * (np.abs(wide) * part + np.abs(wide).max(initial=0) * scale), a.dtype)

    # Writing ----------------------------------------------------------------------------------------------------------

    def grow(self):
        random_nodes.start(self)
        want, tries = self.int(5, 40), 0
        while len(self.nodes) < want and tries < 12 * want:
            tries += 1
            kept = (len(self.nodes), len(self.made), len(self.inputs), set(self.used), dict(self.constants))
            try:
                random_nodes.grow(self)
            except Dropped as e:
                self.dropped = str(e)
                # Nodes of a pattern that were added before one was dropped stay: they are valid on their own.
                if len(self.nodes) == kept[0]:
                    for n in self.inputs[kept[2]:]:
                        del self.values[n]
                    del self.inputs[kept[2]:]
                    self.constants = kept[4]

    def write(self, folder):
        leaves = [n for n in self.made if n not in self.used] + self.last_only
        if not leaves:
            raise Dropped("no results")
        self.rng.shuffle(leaves)
        outputs = leaves[: self.int(1, max(1, min(6, len(leaves))))]
        inner = [n for n in self.made if n in self.used]
        if inner and self.chance(0.2):
            outputs.append(self.pick(inner))
        inputs = [n for n in self.inputs if n in self.used]
        asked = {n for node in self.nodes for n in node.input} | self.used
        fixed = [numpy_helper.from_array(a, n) for n, a in self.constants.items() if n in asked]
        nodes = []
        if self.chance(0.15):  # initializers as Constant nodes
            nodes = [helper.make_node("Constant", [], [t.name], value=t) for t in fixed]
            fixed = []
        model = self.model(nodes + self.nodes, [info(n, self.values[n]) for n in inputs],
                           [info(n, self.values[n]) for n in outputs], fixed)  # fmt: skip
        feed = {n: self.values[n] for n in inputs}
        try:
            plain = session(model).run(outputs, feed)
        except Exception as e:  # noqa: BLE001
            raise Dropped(f"the whole: {e}") from None
        try:
            quick = session(model, optimise=True).run(outputs, feed)
        except Exception:  # noqa: BLE001  its optimiser has faults of its own
            quick = plain
        # Between nodes ONNX Runtime may hold more digits than a value has.
        same = [a.dtype.kind == "f" or np.array_equal(a, self.values[n]) for n, a in zip(outputs, plain)]
        if not all(same):
            raise Dropped("an integer depends on how ONNX Runtime rounds")
        tolerances = []
        for n, a, b in zip(outputs, plain, quick):
            if a.dtype.kind != "f":
                tolerances.append(0.0)
                continue
            wide = a.astype(F64)
            apart = [float(np.abs(v.astype(F64) - wide).max()) for v in [b, *self.variants.get(n, [])] if a.size]
            tolerances.append(4 * max(apart, default=0.0) + 2 * self.bound(a))
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(model.SerializeToString())
        data = folder / "test_data_set_0"
        data.mkdir()
        for kind, named in [("input", feed.items()), ("output", zip(outputs, plain))]:
            for i, (n, a) in enumerate(named):
                (data / f"{kind}_{i}.pb").write_bytes(numpy_helper.from_array(np.asarray(a), n).SerializeToString())
        about = {"seed": self.seed, "opset": self.opset, "nodes": len(self.nodes), "suggested_atol": tolerances}
        (folder / "about.json").write_text(json.dumps(about))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seeds", help="these seeds only, separated by commas")
    args = parser.parse_args()
    seeds = [int(s) for s in args.seeds.split(",")] if args.seeds else range(args.first, args.first + args.count)
    counts, nodes, failed = {}, 0, 0
    for seed in seeds:
        folder = args.folder / f"g{seed:06}"
        shutil.rmtree(folder, ignore_errors=True)
        graph = Graph(seed)
        graph.grow()
        try:
            graph.write(folder)
        except Dropped as e:
            print(f"seed {seed}: {e}", file=sys.stderr)
            failed += 1
            continue
        nodes += len(graph.nodes)
        for n in graph.nodes:
            counts[n.op_type] = counts.get(n.op_type, 0) + 1
    most = ", ".join(f"{n} {c}" for n, c in sorted(counts.items(), key=lambda p: (-p[1], p[0])))
    print(f"{len(seeds) - failed} models of {nodes} nodes, {len(counts)} operators: {most}")
    return 1 if failed * 20 > len(seeds) else 0


if __name__ == "__main__":
    sys.exit(main())
