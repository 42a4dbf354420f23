"""An LSTM of two layers, unrolled over 20 steps as some exporters write it: hundreds of small operators in one long chain.

    python unrolled_lstm.py FOLDER

Writes FOLDER/model.onnx and a data set with the outputs that ONNX Runtime computes.
"""

import pathlib
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

STEPS, INPUTS, HIDDEN = 20, 40, 64


def main(folder):
    rng = np.random.default_rng(7)
    nodes, weights = [], []

    def weight(name, *shape):
        array = (rng.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)
        weights.append(numpy_helper.from_array(array, name))
        return name

    def add(op, inputs, outputs=1, **attributes):
        names = [f"{op.lower()}_{len(nodes)}_{k}" for k in range(outputs)]
        nodes.append(helper.make_node(op, inputs, names, **attributes))
        return names if outputs > 1 else names[0]

    def cell(x, h, c, w, r, b):
        gates = add("Add", [add("Add", [add("MatMul", [x, w]), add("MatMul", [h, r])]), b])
        i, o, f, g = add("Split", [gates], 4, axis=1, num_outputs=4)
        i, o, f = (add("Sigmoid", [v]) for v in (i, o, f))
        c = add("Add", [add("Mul", [f, c]), add("Mul", [i, add("Tanh", [g])])])
        return add("Mul", [o, add("Tanh", [c])]), c

    layers = []
    for layer, width in enumerate([INPUTS, HIDDEN]):
        parts = [weight(f"w{layer}", width, 4 * HIDDEN), weight(f"r{layer}", HIDDEN, 4 * HIDDEN), weight(f"b{layer}", 4 * HIDDEN)]
        layers.append([f"h{layer}", f"c{layer}", parts])
    dense, bias = weight("dense", HIDDEN, HIDDEN), weight("bias", HIDDEN)
    results = []
    for x in add("Split", ["x"], STEPS, axis=0, num_outputs=STEPS):
        skip = x
        for state in layers:
            h, c, parts = state
            x, state[1] = cell(x, h, c, *parts)
            state[0] = x
        # A gated head of its own for every step, beside what the layers pass on.
        head = add("Sigmoid", [add("Add", [add("MatMul", [x, dense]), bias])])
        results.append(add("Concat", [add("Mul", [x, head]), add("Tanh", [skip])], axis=1))
    nodes.append(helper.make_node("Concat", results, ["y"], axis=0))

    def value(name, *shape):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    inputs = [value("x", STEPS, INPUTS)] + [value(f"{v}{k}", 1, HIDDEN) for k in range(2) for v in "hc"]
    graph = helper.make_graph(nodes, "unrolled_lstm", inputs, [value("y", STEPS, HIDDEN + INPUTS)], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    data = folder / "test_data_set_0"
    data.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    given = {v.name: rng.standard_normal([d.dim_value for d in v.type.tensor_type.shape.dim]).astype(np.float32) for v in inputs}
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for k, array in enumerate(given.values()):
        (data / f"input_{k}.pb").write_bytes(numpy_helper.from_array(array).SerializeToString())
    for k, array in enumerate(session.run(None, given)):
        (data / f"output_{k}.pb").write_bytes(numpy_helper.from_array(array).SerializeToString())
    print(len(nodes), "nodes")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
