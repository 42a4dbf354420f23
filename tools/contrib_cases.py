#!/usr/bin/env python3
"""Writes cases for operators of com.microsoft and ai.onnx.ml, with ONNX Runtime's results.

    python3 tools/contrib_cases.py FOLDER

ONNX has no cases for these operators; ONNX Runtime is what defines those of com.microsoft. Each case is a folder in ONNX's
layout, of one node with drawn operands (the seed is the case's name).
"""

import pathlib
import sys
import zlib

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

MS, ML = "com.microsoft", "ai.onnx.ml"
F = np.float32


class Cases:
    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.count = 0

    def add(self, name, op, domain, operands, outputs=("y",), constants=(), opset=17, ml=3, **attributes):
        """`operands`: name → array, or None for one left out; those in `constants` are initializers."""
        node = helper.make_node(op, [n if a is not None else "" for n, a in operands.items()], list(outputs), op, domain=domain, **attributes)
        given = {n: a for n, a in operands.items() if a is not None}
        info = lambda n, a: helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        inputs = [info(n, a) for n, a in given.items() if n not in constants]
        fixed = [numpy_helper.from_array(given[n], n) for n in constants if n in given]
        untyped = [onnx.ValueInfoProto(name=o) for o in outputs if o]
        graph = helper.make_graph([node], name, inputs, untyped, fixed)
        sets = [helper.make_opsetid("", opset), helper.make_opsetid(MS, 1), helper.make_opsetid(ML, ml)]
        model = helper.make_model(graph, opset_imports=sets, ir_version=10)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        feed = {n: a for n, a in given.items() if n not in constants}
        results = session.run(None, feed)
        del graph.output[:]
        graph.output.extend(info(o, r) for o, r in zip([o for o in outputs if o], results))
        model = helper.make_model(graph, opset_imports=sets, ir_version=10)
        data = self.folder / name / "test_data_set_0"
        data.mkdir(parents=True, exist_ok=True)
        (self.folder / name / "model.onnx").write_bytes(model.SerializeToString())
        for kind, arrays in [("input", feed.items()), ("output", zip([o for o in outputs if o], results))]:
            for i, (n, a) in enumerate(arrays):
                (data / f"{kind}_{i}.pb").write_bytes(numpy_helper.from_array(np.asarray(a), n).SerializeToString())
        self.count += 1


def drawn(name):
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return lambda *shape: rng.standard_normal(shape).astype(F)


def fused(c):
    r = drawn("fused")
    for kind, extra in [("Relu", {}), ("LeakyRelu", {"activation_params": [0.1]}), ("Clip", {"activation_params": [-0.5, 0.7]})]:
        c.add(f"fused_conv_{kind.lower()}", "FusedConv", MS, {"x": r(1, 3, 7, 8), "w": r(4, 3, 3, 3), "b": r(4)},
              kernel_shape=[3, 3], pads=[1, 1, 1, 1], activation=kind, **extra)  # fmt: skip
    c.add("fused_conv_add", "FusedConv", MS, {"x": r(1, 3, 5, 5), "w": r(4, 3, 1, 1), "b": r(4), "z": r(1, 4, 5, 5)}, kernel_shape=[1, 1], activation="Relu")
    c.add("fused_gemm", "FusedGemm", MS, {"a": r(3, 5), "b": r(4, 5), "c": r(4)}, transB=1, activation="Relu")
    c.add("fused_matmul", "FusedMatMul", MS, {"a": r(2, 5, 3), "b": r(2, 4, 5)}, transA=1, transB=1, alpha=0.5)
    c.add("fused_matmul_batch", "FusedMatMul", MS, {"a": r(3, 2, 5), "b": r(2, 5, 4)}, transBatchA=1)
    c.add("bias_gelu", "BiasGelu", MS, {"x": r(3, 8), "b": r(8)})
    c.add("fast_gelu", "FastGelu", MS, {"x": r(3, 8), "b": r(8)})
    c.add("quick_gelu", "QuickGelu", MS, {"x": r(3, 8)}, alpha=1.702)
    c.add("gelu", "Gelu", MS, {"x": r(3, 8)})
    c.add("cdist", "CDist", MS, {"a": r(5, 3), "b": r(4, 3)}, metric="euclidean")


def historical(c):
    """Experiments of the first opsets, in models converted from Core ML."""
    r = drawn("historical")
    old = {"domain": "", "opset": 7}
    image = {"x": r(2, 3, 7, 8)}
    c.add("affine", "Affine", operands=image, alpha=0.5, beta=-1.5, **old)
    c.add("crop", "Crop", operands=image, border=[1, 2, 3, 0], **old)
    c.add("crop_scale", "Crop", operands=image, border=[1, 2, 0, 0], scale=[3, 5], **old)
    c.add("image_scaler", "ImageScaler", operands=image, scale=2.0, bias=[0.5, -1.0, 3.0], **old)
    c.add("parametric_softplus", "ParametricSoftplus", operands=image, alpha=0.7, beta=1.3, **old)
    c.add("scaled_tanh", "ScaledTanh", operands=image, alpha=1.7, beta=0.6, **old)
    c.add("einsum_ones", "Einsum", "", {"a": r(1, 3, 1), "b": r(2, 2, 4)}, equation="bij,bjk->bik")
    c.add("einsum_ones_left", "Einsum", "", {"a": r(1, 3), "b": r(5, 1)}, equation="ij,ij->ji")


def norms(c):
    r = drawn("norms")
    x = {"x": r(2, 3, 8), "s": r(2, 3, 8), "g": r(8), "b": r(8)}
    c.add("skip_norm", "SkipLayerNormalization", MS, x, epsilon=1e-5)
    c.add("skip_norm_bias", "SkipLayerNormalization", MS, {**x, "e": r(8)}, ("y", "", "", "sum"), epsilon=1e-5)
    c.add("skip_simplified", "SkipSimplifiedLayerNormalization", MS, {"x": r(2, 3, 8), "s": r(2, 3, 8), "g": r(8)}, ("y", "", "", "sum"), epsilon=1e-5)
    c.add("simplified", "SimplifiedLayerNormalization", "", {"x": r(2, 3, 8), "g": r(8)}, epsilon=1e-5, axis=-1)
    half = lambda **o: {n: a.astype(np.float16) for n, a in o.items()}
    c.add("skip_norm_half", "SkipLayerNormalization", MS, half(**x), ("y", "mean", "inverse", "sum"), epsilon=1e-5)
    c.add("skip_simplified_half", "SkipSimplifiedLayerNormalization", MS, half(x=r(2, 3, 8), s=r(2, 3, 8), g=r(8)), ("y", "", "inverse"), epsilon=1e-5)
    c.add("layer_norm_rows", "LayerNormalization", "", {"x": r(2, 5, 7), "g": r(2, 1, 7), "b": r(2, 1, 7)})
    c.add("layer_norm_wider_scale", "LayerNormalization", "", {"x": r(3, 8).astype(np.float16), "g": r(8), "b": r(8)}, opset=12)
    c.add("simplified_rows", "SimplifiedLayerNormalization", "", {"x": r(2, 3, 7), "g": r(2, 1, 7)}, epsilon=1e-5, axis=-1)
    ids = lambda n, *s: np.random.default_rng(n).integers(0, n, s).astype(np.int32)
    c.add("embed_norm", "EmbedLayerNormalization", MS,
          {"ids": ids(11, 2, 5), "seg": ids(2, 2, 5), "word": r(11, 8), "pos": r(7, 8), "segs": r(2, 8), "g": r(8), "b": r(8), "m": ids(2, 2, 5)},
          ("y", "mask"), epsilon=1e-5)  # fmt: skip


def attention(c):
    r = drawn("attention")
    lengths = np.array([4, 2], np.int32)
    mask = np.array([[1, 1, 1, 0], [1, 1, 0, 0]], np.int32)
    qkv = {"x": r(2, 4, 12), "w": r(12, 24), "b": r(24)}
    c.add("attention", "Attention", MS, qkv, num_heads=2)
    c.add("attention_lengths", "Attention", MS, {**qkv, "m": lengths}, num_heads=2)
    c.add("attention_ends_begins", "Attention", MS, {**qkv, "m": np.array([4, 3, 1, 0], np.int32)}, num_heads=2)
    c.add("attention_mask_causal", "Attention", MS, {**qkv, "m": mask}, num_heads=2, unidirectional=1)
    c.add("attention_past", "Attention", MS, {**qkv, "m": None, "past": r(2, 2, 2, 3, 4)}, ("y", "present"), num_heads=2, unidirectional=1)
    c.add("mha", "MultiHeadAttention", MS, {"q": r(2, 3, 8), "k": r(2, 5, 8), "v": r(2, 5, 12)}, num_heads=2)
    c.add("mha_bias_mask", "MultiHeadAttention", MS, {"q": r(2, 4, 8), "k": r(2, 4, 8), "v": r(2, 4, 8), "b": r(24), "m": mask}, num_heads=2)
    c.add("mha_attention_bias", "MultiHeadAttention", MS,
          {"q": r(2, 3, 8), "k": r(2, 5, 8), "v": r(2, 5, 8), "b": None, "m": None, "a": r(1, 2, 3, 5)}, num_heads=2, scale=0.3)  # fmt: skip
    c.add("mha_past", "MultiHeadAttention", MS,
          {"q": r(2, 1, 8), "k": r(2, 1, 8), "v": r(2, 1, 8), "b": None, "m": None, "a": None, "pk": r(2, 2, 3, 4), "pv": r(2, 2, 3, 4)},
          ("y", "k2", "v2"), num_heads=2)  # fmt: skip
    one = lambda v: np.array(v, np.int32)
    gqa = lambda l: {"q": r(1, l, 64), "k": r(1, l, 32), "v": r(1, l, 32)}
    caches = {"cos": np.cos(r(16, 4)), "sin": np.sin(r(16, 4))}
    wide = {"cos": np.cos(r(16, 8)), "sin": np.sin(r(16, 8))}
    c.add("gqa_prompt", "GroupQueryAttention", MS, {**gqa(5), "pk": None, "pv": None, "last": one([4]), "total": one([5])},
          ("y", "k2", "v2"), num_heads=4, kv_num_heads=2)  # fmt: skip
    c.add("gqa_decode_rotary", "GroupQueryAttention", MS,
          {**gqa(1), "pk": r(1, 2, 6, 16), "pv": r(1, 2, 6, 16), "last": one([6]), "total": one([7]), **wide},
          ("y", "k2", "v2"), num_heads=4, kv_num_heads=2, do_rotary=1)  # fmt: skip
    c.add("gqa_window_softcap", "GroupQueryAttention", MS, {**gqa(6), "pk": None, "pv": None, "last": one([5]), "total": one([6])},
          ("y", "k2", "v2"), num_heads=4, kv_num_heads=2, local_window_size=3, softcap=5.0)  # fmt: skip
    # A cache with room for ten: behind what counts of it go the new keys.
    room = lambda b, l: {"q": r(b, l, 64), "k": r(b, l, 32), "v": r(b, l, 32), "pk": r(b, 2, 10, 16), "pv": r(b, 2, 10, 16)}
    outputs = ("y", "k2", "v2")
    c.add("gqa_room_prompt", "GroupQueryAttention", MS, {**room(1, 4), "last": one([3]), "total": one([4])},
          outputs, constants=("total",), num_heads=4, kv_num_heads=2)  # fmt: skip
    c.add("gqa_room_decode", "GroupQueryAttention", MS, {**room(2, 1), "last": one([6, 3]), "total": one([7]), **wide},
          outputs, constants=("total",), num_heads=4, kv_num_heads=2, do_rotary=1)  # fmt: skip
    c.add("gqa_room_more_window", "GroupQueryAttention", MS, {**room(1, 3), "last": one([8]), "total": one([9]), **wide},
          outputs, constants=("total",), num_heads=4, kv_num_heads=2, do_rotary=1, local_window_size=4)  # fmt: skip
    positions = np.array([[3, 4, 5], [0, 1, 2]], np.int64)
    c.add("rotary", "RotaryEmbedding", MS, {"x": r(2, 3, 16), "p": positions, **caches}, num_heads=2)
    c.add("rotary_interleaved", "RotaryEmbedding", MS, {"x": r(2, 2, 3, 8), "p": np.array([2], np.int64), **caches}, interleaved=1)


def quantized(c):
    r = drawn("quantized")
    bytes_ = lambda *s: np.random.default_rng(7).integers(0, 256, s).astype(np.uint8)
    fixed = ("b", "s", "z")
    c.add("nbits4", "MatMulNBits", MS, {"a": r(3, 40), "b": bytes_(6, 3, 8), "s": r(18)}, constants=fixed, K=40, N=6, bits=4, block_size=16)
    c.add("nbits4_zeros", "MatMulNBits", MS, {"a": r(3, 40), "b": bytes_(6, 3, 8), "s": r(18), "z": bytes_(12)}, constants=fixed, K=40, N=6, bits=4, block_size=16)
    c.add("nbits4_vector", "MatMulNBits", MS, {"a": r(40), "b": bytes_(6, 3, 8), "s": r(18)}, constants=fixed, K=40, N=6, bits=4, block_size=16)
    # So many that they stay packed.
    large = {"a": r(2, 256), "b": bytes_(70, 8, 16), "s": r(70 * 8)}
    c.add("nbits4_packed", "MatMulNBits", MS, large, constants=fixed, K=256, N=70, bits=4, block_size=32)
    one = {"a": r(1, 256), "b": bytes_(70, 8, 16), "s": r(70 * 8), "z": bytes_(70 * 4)}
    c.add("nbits4_packed_zeros", "MatMulNBits", MS, one, constants=fixed, K=256, N=70, bits=4, block_size=32)
    c.add("nbits8", "MatMulNBits", MS, {"a": r(3, 32), "b": bytes_(5, 1, 32), "s": r(5)}, constants=fixed, K=32, N=5, bits=8, block_size=32)
    for name, bits, width, zeros, shape in [("4", 4, 20, None, (2, 3)), ("4_zeros", 4, 20, 2, (3,)), ("8", 8, 40, None, (2,)), ("8_zeros", 8, 40, 3, ())]:
        z = None if zeros is None else bytes_(7, zeros)
        i = np.random.default_rng(3).integers(0, 7, shape).astype(np.int64)
        operands = {"b": bytes_(7, width), "i": i, "s": r(7, 3), "z": z}
        c.add(f"rows{name}", "GatherBlockQuantized", MS, operands, constants=fixed, bits=bits, block_size=16, gather_axis=0, quantize_axis=1)


def linear(c):
    r = drawn("linear")
    x = {"x": r(7, 4)}
    listed = lambda *s: [float(v) for v in r(*s).flatten()]
    for post in ["NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO"]:
        c.add(f"linear_classifier_{post.lower()}", "LinearClassifier", ML, x, ("label", "scores"), coefficients=listed(3, 4), intercepts=listed(3),
              classlabels_ints=[3, 5, 9], post_transform=post)  # fmt: skip
        c.add(f"linear_classifier_two_{post.lower()}", "LinearClassifier", ML, x, ("label", "scores"), coefficients=listed(1, 4), intercepts=listed(1),
              classlabels_ints=[0, 1], post_transform=post)  # fmt: skip
    c.add("linear_regressor", "LinearRegressor", ML, x, coefficients=listed(2, 4), intercepts=listed(2), targets=2)
    for kind in ["LINEAR", "POLY", "RBF", "SIGMOID"]:
        c.add(f"svm_regressor_{kind.lower()}", "SVMRegressor", ML, x, kernel_type=kind, kernel_params=[0.3, 0.1, 2.0], coefficients=listed(5),
              support_vectors=listed(5, 4), n_supports=5, rho=[0.2])  # fmt: skip
    for classes, proba in [(2, False), (2, True), (3, False), (4, True)]:
        pairs = classes * (classes - 1) // 2
        more = {"prob_a": [-1.5] * pairs, "prob_b": [0.1] * pairs} if proba else {}
        c.add(f"svm_classifier_{classes}_{'proba' if proba else 'plain'}", "SVMClassifier", ML, x, ("label", "scores"), kernel_type="RBF",
              kernel_params=[0.4, 0.0, 3.0], coefficients=listed(classes - 1, 2 * classes), support_vectors=listed(2 * classes, 4),
              vectors_per_class=[2] * classes, rho=listed(pairs), classlabels_ints=list(range(classes)), **more)  # fmt: skip


def trees(c):
    r = drawn("trees")
    x = {"x": r(16, 3)}

    def nodes(modes, depth=3, count=3):
        """Full trees; nodes and leaves numbered as a heap."""
        inner, all_ = 2**depth - 1, 2 ** (depth + 1) - 1
        a = {k: [] for k in ["treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids", "missing_value_tracks_true"]}
        leaves = []
        for t in range(count):
            for n in range(all_):
                leaf = n >= inner
                a["treeids"].append(t)
                a["nodeids"].append(n)
                a["featureids"].append(0 if leaf else (n + t) % 3)
                a["values"].append(0.0 if leaf else float(np.round(r(1)[0], 1)))
                a["modes"].append("LEAF" if leaf else modes[n % len(modes)])
                a["truenodeids"].append(0 if leaf else 2 * n + 1)
                a["falsenodeids"].append(0 if leaf else 2 * n + 2)
                a["missing_value_tracks_true"].append(int(n % 2))
                if leaf:
                    leaves.append((t, n))
        return {f"nodes_{k}": v for k, v in a.items()}, leaves

    def weights(prefix, leaves, ids, positive=False):
        pairs = [(t, n, i) for t, n in leaves for i in ids]
        w = [float(abs(v) if positive else v) for v in 0.2 * r(len(pairs))]
        return {f"{prefix}_treeids": [p[0] for p in pairs], f"{prefix}_nodeids": [p[1] for p in pairs], f"{prefix}_ids": [p[2] for p in pairs], f"{prefix}_weights": w}

    spotted = {"x": np.where(np.random.default_rng(1).random((16, 3)) < 0.2, np.nan, x["x"]).astype(F)}
    for modes in [["BRANCH_LEQ"], ["BRANCH_LT"], ["BRANCH_GTE"], ["BRANCH_GT"], ["BRANCH_EQ", "BRANCH_LEQ"], ["BRANCH_NEQ"]]:
        n, leaves = nodes(modes)
        name = modes[0].lower().split("_")[1]
        given = {"x": np.round(spotted["x"], 1)}
        c.add(f"tree_regressor_{name}", "TreeEnsembleRegressor", ML, given, n_targets=1, **n, **weights("target", leaves, [0]))
    n, leaves = nodes(["BRANCH_LEQ"])
    for how in ["SUM", "AVERAGE", "MIN", "MAX"]:
        c.add(f"tree_regressor_{how.lower()}", "TreeEnsembleRegressor", ML, x, n_targets=2, aggregate_function=how, base_values=[0.5, -0.25],
              **n, **weights("target", leaves, [0, 1]))  # fmt: skip
    for post in ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"]:
        c.add(f"tree_classifier_{post.lower()}", "TreeEnsembleClassifier", ML, x, ("label", "scores"), classlabels_int64s=[2, 4, 7],
              post_transform=post, **n, **weights("class", leaves, [0, 1, 2]))  # fmt: skip
        for positive in [False, True]:
            c.add(f"tree_classifier_two_{post.lower()}{'_positive' if positive else ''}", "TreeEnsembleClassifier", ML, x, ("label", "scores"),
                  classlabels_int64s=[0, 1], post_transform=post, **n, **weights("class", leaves, [0], positive))  # fmt: skip
    # Two classes with weights for both are left out: ONNX Runtime's label is then not that of the larger score, which ONNX's reference gives.


def features(c):
    r = drawn("features")
    x = {"x": r(5, 3)}
    c.add("scaler", "Scaler", ML, x, offset=[0.1, 0.2, 0.3], scale=[2.0, 3.0, 4.0])
    for norm in ["MAX", "L1", "L2"]:
        c.add(f"normalizer_{norm.lower()}", "Normalizer", ML, {"x": np.abs(x["x"])}, norm=norm)
    c.add("binarizer", "Binarizer", ML, x, threshold=0.2)
    c.add("imputer", "Imputer", ML, {"x": np.where(x["x"] > 0.5, np.nan, x["x"]).astype(F)}, imputed_value_floats=[1.0, 2.0, 3.0], replaced_value_float=float("nan"))
    c.add("one_hot", "OneHotEncoder", ML, {"x": np.array([1, 5, 2], np.int64)}, cats_int64s=[1, 2, 3])
    c.add("feature_vectorizer", "FeatureVectorizer", ML, {"x": r(4, 3), "z": r(4, 2)}, inputdimensions=[3, 2])
    c.add("feature_vectorizer_encoded", "FeatureVectorizer", ML, {"x": r(1, 1, 4), "z": r(1, 1, 2)}, inputdimensions=[4, 2])
    c.add("extractor", "ArrayFeatureExtractor", ML, {"x": r(3, 5), "at": np.array([4, 0], np.int64)})
    c.add("label_encoder", "LabelEncoder", ML, {"x": np.array([3, 1, 8], np.int64)}, keys_int64s=[1, 3], values_floats=[0.5, 1.5], default_float=-2.0)


def main():
    cases = Cases(sys.argv[1])
    wrong = []
    for group in [fused, historical, norms, attention, quantized, linear, trees, features]:
        try:
            group(cases)
        except Exception as e:  # A case that ONNX Runtime itself refuses is a mistake of this file.
            wrong.append(f"{group.__name__}: {e}")
    print(f"{cases.count} cases in {sys.argv[1]}")
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
