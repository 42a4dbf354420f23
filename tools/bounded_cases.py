#!/usr/bin/env python3
"""Writes a case for every model of the zoo with free dimensions, and for some small ones: two data sets of different sizes, with ONNX
Runtime's outputs.

    python3 tools/bounded_cases.py ZOO FOLDER [MODEL ...]

ZOO has the models as `materialize.py` makes them. FOLDER/<model>/bounds.json lists the dimensions as `tenon verify --dim` takes them: one
compile must run both sizes. Inputs are the zoo's own data, cut or repeated along the axes that vary.
"""

import json
import pathlib
import shutil
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

# Of every model its free dimensions: the bound and the two sizes that are run. One number pins a dimension, a name says that it is
# another one.
BATCH = (4, 1, 3)
MODELS = {
    "atspm_head_attn": {"D": (8, 6, 3), "K": (5, 4, 2)},
    "atspm_pair_cnn": {"N": (5, 4, 1), "T": (256, 240, 100)},
    "atspm_trees_function": {"X_0": (40, 1, 32)},
    "attacut_sc": {"seq_len": (48, 30, 17)},
    "basic_pitch": {"unk__749": BATCH},
    "brainmaze_spindle_eeg": {"batch_size": BATCH},
    "deepcut": {"unk__330": (20, 16, 5), "unk__331": (20, 16, 5)},
    "lac_gru": {"DynamicDimension.0": 1, "DynamicDimension.1": (24, 16, 7), "DynamicDimension.2": 1},
    "magika_v3_3": {"unk__214": BATCH},
    "minilm_l6_int8": {"batch": (2, 1, 2), "sequence": (40, 12, 32)},
    "mtcnn_onet": {"N": (4, 2, 3)},
    "mtcnn_pnet": {"N": (2, 1, 2), "M1": (128, 120, 77), "M2": (170, 160, 101)},
    "mtcnn_rnet": {"N": (5, 4, 3)},
    "open_nsfw_qoperator": {"unk__653": (2, 1, 2)},
    "ppocr_cls_mobile": {"x_0": (2, 1, 2), "x_2": (64, 48, 40), "x_3": (224, 192, 160)},
    "ppocrv4_det": {
        "p2o.DynamicDimension.0": 1,
        "p2o.DynamicDimension.1": (480, 448, 320),
        "p2o.DynamicDimension.2": (640, 640, 416),
    },
    "ppocrv4_rec": {"p2o.DynamicDimension.0": (2, 1, 2), "p2o.DynamicDimension.1": (352, 320, 200)},
    "silero_vad_v6": {"input_0": BATCH, "state_1": "input_0", "input_1": 576},
    "silero_vad_v6_ifless": {"batch": BATCH, "sequence": 576},
    "sk_gbr_diabetes": {"X_0": (40, 1, 32)},
    "sk_logreg_digits": {"X_0": (40, 1, 32)},
    "sk_rf_breast_cancer": {"X_0": (40, 1, 32)},
    "sk_svc_digits": {"X_0": (40, 1, 32)},
    "slovorez_fp16": {"unk__190": (2, 1, 2), "unk__191": (48, 32, 19)},
    "surfaces_gbr_mlp": {"input_0": (40, 1, 32)},
    "surfaces_knn_validity_trees": {"input_0": (40, 1, 32)},
    "voicefilter_lite_int8": {"batch": (2, 1, 2), "time": (12, 8, 5)},
}


def small_models():
    """Small models of operators whose result depends on where an axis ends: `(name, model)`. Their axes are `h` and `w`."""

    def model(name, nodes, weights=(), rank=4):
        value = onnx.helper.make_tensor_value_info
        x = value("x", onnx.TensorProto.FLOAT, [1, 2, "h", "w"][:rank])
        graph = onnx.helper.make_graph(nodes, name, [x], [value("y", onnx.TensorProto.FLOAT, None)], list(weights))
        return name, onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 19)], ir_version=9)

    node = onnx.helper.make_node
    weight = numpy_helper.from_array(np.linspace(-1, 1, 3 * 2 * 9, dtype=np.float32).reshape(3, 2, 3, 3), "k")
    for pad in ["SAME_UPPER", "SAME_LOWER"]:
        same = {"auto_pad": pad, "kernel_shape": [3, 3]}
        yield model(f"conv_{pad}", [node("Conv", ["x", "k"], ["y"], strides=[2, 3], **same)], [weight])
        yield model(f"max_{pad}", [node("MaxPool", ["x"], ["y"], strides=[2, 1], **same)])
        for counted in [0, 1]:
            yield model(f"mean_{pad}_{counted}", [node("AveragePool", ["x"], ["y"], strides=[3, 2], count_include_pad=counted, **same)])
    yield model("max_ceil", [node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1)])
    yield model("mean_pads", [node("AveragePool", ["x"], ["y"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])])
    scales = numpy_helper.from_array(np.array([1, 1, 1.5, 2], np.float32), "s")
    for mode, at in [
        ("nearest", "asymmetric"), ("nearest", "half_pixel"), ("linear", "half_pixel"), ("linear", "asymmetric"),
        ("linear", "pytorch_half_pixel"), ("cubic", "half_pixel"),
    ]:  # fmt: skip
        how = {"mode": mode, "coordinate_transformation_mode": at}
        yield model(f"scaled_{mode}_{at}", [node("Resize", ["x", "", "s"], ["y"], **how)], [scales])
    front = [
        node("Shape", ["x"], ["d"]),
        node("Mul", ["d", "two"], ["twice"]),
        node("Concat", ["nc", "hw"], ["size"], axis=0),
        node("Slice", ["twice", "begin", "end"], ["hw"]),
    ]
    ints = lambda n, v: numpy_helper.from_array(np.array(v, np.int64), n)
    constants = [ints("two", [2]), ints("nc", [1, 2]), ints("begin", [2]), ints("end", [4])]
    order = [front[0], front[1], front[3], front[2]]
    for mode, at in [("linear", "align_corners"), ("nearest", "asymmetric"), ("cubic", "pytorch_half_pixel")]:
        how = {"mode": mode, "coordinate_transformation_mode": at, "nearest_mode": "floor"}
        yield model(f"sized_{mode}_{at}", [*order, node("Resize", ["x", "", "", "size"], ["y"], **how)], constants)
    # To the extents of the last but one axis, whatever the last one is.
    square = [node("Shape", ["x"], ["d"]), node("Gather", ["d", "begin"], ["h"]), node("Concat", ["nc", "h", "h"], ["size"], axis=0)]
    how = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    yield model("square", [*square, node("Resize", ["x", "", "", "size"], ["y"], **how)], constants[1:3])
    flat = [node("Reshape", ["x", "to"], ["f"]), node("Softmax", ["f"], ["y"], axis=1)]
    yield model("flat", flat, [ints("to", [1, -1])])


def names(model):
    """Of every input that a caller gives: its name, dtype, and for each axis a number or the name that Tenon calls it by."""
    constant = {w.name for w in model.graph.initializer}
    for i in model.graph.input:
        if i.name in constant:
            continue
        t = i.type.tensor_type
        dims = []
        for axis, d in enumerate(t.shape.dim):
            known = d.WhichOneof("value") == "dim_value" and d.dim_value >= 0
            dims.append(d.dim_value if known else d.dim_param.strip("?") or f"{i.name}_{axis}")
        yield i.name, dims


def sized(array, dims, sizes):
    """The array with the extents that `sizes` says: cut, or repeated from its beginning."""
    for axis, d in enumerate(dims):
        if isinstance(d, str):
            array = np.take(array, np.arange(sizes[d]) % array.shape[axis], axis=axis)
    return array


def write(here, model, data, dims):
    """The case of `model`, which lies in the folder `here`."""
    options = onnxruntime.SessionOptions()
    # ONNX Runtime quantises the state of an LSTM by the part of the batch that a thread has.
    options.intra_op_num_threads = 1
    # And its products of bytes saturate in 16 bits on machines without VNNI if not told otherwise.
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(str(here / "model.onnx"), options, providers=["CPUExecutionProvider"])
    name, inputs = here.name, list(names(model))
    bounds = [f"{d}<={b[0]}" if isinstance(b, tuple) else f"{d}={b}" for d, b in dims.items()]
    (here / "bounds.json").write_text(json.dumps(bounds))
    for k in range(2):
        sizes = {d: b[1 + k] if isinstance(b, tuple) else b for d, b in dims.items()}
        sizes = {d: sizes.get(n, n) for d, n in sizes.items()}
        feeds = {n: sized(a, d, sizes) for (n, d), a in zip(inputs, data)}
        if name == "lac_gru":  # no longer than the sentence
            feeds["length"] = np.minimum(feeds["length"], sizes["DynamicDimension.1"])
        results = session.run(None, feeds)
        folder = here / f"test_data_set_{k}"
        folder.mkdir()
        for kind, all in [("input", feeds.items()), ("output", zip([o.name for o in session.get_outputs()], results))]:
            for i, (n, a) in enumerate(all):
                (folder / f"{kind}_{i}.pb").write_bytes(numpy_helper.from_array(np.array(a), n).SerializeToString())


def emptied(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def main(zoo, out, *only):
    zoo, out = pathlib.Path(zoo), pathlib.Path(out)
    for name in only or MODELS:
        here = emptied(out / name)
        for f in (zoo / name).iterdir():
            if f.is_file():
                shutil.copy(f, here / f.name)
        model = onnx.load(here / "model.onnx")
        data = [onnx.load_tensor(zoo / name / "test_data_set_0" / f"input_{i}.pb") for i, _ in enumerate(names(model))]
        write(here, model, [numpy_helper.to_array(t) for t in data], MODELS[name])
    for name, model in [] if only else small_models():
        here = emptied(out / name)
        onnx.save(model, here / "model.onnx")
        x = np.random.default_rng(1).standard_normal((1, 2, 9, 8)).astype(np.float32)
        write(here, model, [x], {"h": (13, 9, 6), "w": (16, 8, 15)})


if __name__ == "__main__":
    main(*sys.argv[1:])
