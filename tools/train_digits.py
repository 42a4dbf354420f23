#!/usr/bin/env python3
"""Trains the small network of examples/digits and writes it as ONNX, with the digits it has never seen.

    pip install numpy onnx scikit-learn
    python3 tools/train_digits.py

The data are the 1797 handwritten digits of scikit-learn (8x8 pixels of 0..16, from UCI's "Optical Recognition of
Handwritten Digits", BSD-3 / CC BY 4.0). A fifth is held out, stratified. The network is

    image [1,1,8,8] / 16 -> conv 3x3 1->16, relu -> conv 3x3 16->32, relu -> maxpool 2 -> dense 512->10 -> softmax

and is trained in numpy: forward and backward passes are below, about 60 lines. Everything is seeded; the same versions
of numpy and scikit-learn on the same kind of machine give the same bytes.

Writes into examples/digits: model.onnx, heldout.npz (`x` f32[360,1,8,8], `y` i64[360]) and accuracy.json; into
examples/c-app: heldout.h, the first held-out digits as a C array.
"""

import json
import pathlib

import numpy as np
import onnx
import sklearn
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

SEED = 20
EPOCHS = 60
BATCH = 32
ROOT = pathlib.Path(__file__).resolve().parent.parent
DTYPE = np.float32


def patches(x):
    """[n,c,h,w] -> [n,h,w,c*9]: the zero-padded 3x3 neighbourhood of every pixel."""
    n, c, h, w = x.shape
    p = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    cols = [p[:, :, i : i + h, j : j + w] for i in range(3) for j in range(3)]
    return np.stack(cols, axis=2).transpose(0, 3, 4, 1, 2).reshape(n, h, w, c * 9)


def unpatches(d, c):
    """The transpose of `patches`: sums what every neighbourhood says of a pixel."""
    n, h, w, _ = d.shape
    d = d.reshape(n, h, w, c, 9)
    out = np.zeros((n, c, h + 2, w + 2), d.dtype)
    for k in range(9):
        i, j = divmod(k, 3)
        out[:, :, i : i + h, j : j + w] += d[..., k].transpose(0, 3, 1, 2)
    return out[:, :, 1:-1, 1:-1]


class Net:
    """The network with its gradients; parameters are a dictionary of arrays."""

    def __init__(self, rng):
        def he(*shape):
            fan_in = int(np.prod(shape[1:]))
            return (rng.standard_normal(shape) * np.sqrt(2 / fan_in)).astype(DTYPE)

        self.p = {
            "conv1.w": he(16, 1, 3, 3), "conv1.b": np.zeros(16, DTYPE),
            "conv2.w": he(32, 16, 3, 3), "conv2.b": np.zeros(32, DTYPE),
            "fc.w": he(10, 512), "fc.b": np.zeros(10, DTYPE),
        }  # fmt: skip

    def forward(self, x):
        p = self.p
        a0 = patches(x / DTYPE(16))
        z1 = (a0 @ p["conv1.w"].reshape(16, -1).T + p["conv1.b"]).transpose(0, 3, 1, 2)
        h1 = np.maximum(z1, 0)
        a1 = patches(h1)
        z2 = (a1 @ p["conv2.w"].reshape(32, -1).T + p["conv2.b"]).transpose(0, 3, 1, 2)
        h2 = np.maximum(z2, 0)
        n = len(x)
        blocks = h2.reshape(n, 32, 4, 2, 4, 2).transpose(0, 1, 2, 4, 3, 5).reshape(n, 32, 4, 4, 4)
        best = blocks.argmax(-1)
        flat = blocks.max(-1).reshape(n, -1)
        logits = flat @ p["fc.w"].T + p["fc.b"]
        self.cache = a0, z1, a1, z2, best, flat
        return logits

    def backward(self, d):
        """Gradients of all parameters, given that of the logits."""
        p = self.p
        a0, z1, a1, z2, best, flat = self.cache
        n = len(d)
        g = {"fc.w": d.T @ flat, "fc.b": d.sum(0)}
        dblocks = np.zeros((n, 32, 4, 4, 4), DTYPE)
        np.put_along_axis(dblocks, best[..., None], (d @ p["fc.w"]).reshape(n, 32, 4, 4, 1), -1)
        dh2 = dblocks.reshape(n, 32, 4, 4, 2, 2).transpose(0, 1, 2, 4, 3, 5).reshape(n, 32, 8, 8)
        dz2 = (dh2 * (z2 > 0)).transpose(0, 2, 3, 1)
        g["conv2.w"] = (dz2.reshape(-1, 32).T @ a1.reshape(-1, 144)).reshape(32, 16, 3, 3)
        g["conv2.b"] = dz2.sum((0, 1, 2))
        dh1 = unpatches(dz2 @ p["conv2.w"].reshape(32, -1), 16)
        dz1 = (dh1 * (z1 > 0)).transpose(0, 2, 3, 1)
        g["conv1.w"] = (dz1.reshape(-1, 16).T @ a0.reshape(-1, 9)).reshape(16, 1, 3, 3)
        g["conv1.b"] = dz1.sum((0, 1, 2))
        return g


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def shifted(x, rng):
    """Each image moved by at most one pixel: 1437 digits are few."""
    out = np.zeros_like(x)
    for i, (dy, dx) in enumerate(rng.integers(-1, 2, (len(x), 2))):
        out[i] = np.roll(np.roll(x[i], dy, 1), dx, 2)
    return out


def train(x, y):
    rng = np.random.default_rng(SEED)
    net = Net(rng)
    m = {k: np.zeros_like(v) for k, v in net.p.items()}
    v = {k: np.zeros_like(v) for k, v in net.p.items()}
    step, steps = 0, EPOCHS * (len(x) // BATCH)
    for epoch in range(EPOCHS):
        order = rng.permutation(len(x))
        loss = 0.0
        for i in range(len(x) // BATCH):
            step += 1
            rows = order[i * BATCH : (i + 1) * BATCH]
            bx = shifted(x[rows], rng) if rng.random() < 0.5 else x[rows]
            prob = softmax(net.forward(bx))
            loss -= np.log(prob[range(BATCH), y[rows]] + 1e-9).mean()
            d = prob
            d[range(BATCH), y[rows]] -= 1
            rate = 2e-3 * 0.5 * (1 + np.cos(np.pi * step / steps))
            for k, g in net.backward(d / BATCH).items():
                if k.endswith(".w"):
                    g = g + 1e-4 * net.p[k]
                m[k] = 0.9 * m[k] + 0.1 * g
                v[k] = 0.999 * v[k] + 0.001 * g * g
                mh, vh = m[k] / (1 - 0.9**step), v[k] / (1 - 0.999**step)
                net.p[k] = (net.p[k] - rate * mh / (np.sqrt(vh) + 1e-8)).astype(DTYPE)
        print(f"epoch {epoch + 1:2}/{EPOCHS}  loss {loss / (len(x) // BATCH):.4f}", end="\r")
    print()
    return net


def to_onnx(p):
    node = helper.make_node
    nodes = [
        node("Div", ["image", "white"], ["scaled"], "scale"),
        node("Conv", ["scaled", "conv1.w", "conv1.b"], ["c1"], "conv1", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("Relu", ["c1"], ["r1"], "relu1"),
        node("Conv", ["r1", "conv2.w", "conv2.b"], ["c2"], "conv2", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("Relu", ["c2"], ["r2"], "relu2"),
        node("MaxPool", ["r2"], ["pooled"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", ["pooled"], ["flat"], "flatten"),
        node("Gemm", ["flat", "fc.w", "fc.b"], ["logits"], "fc", transB=1),
        node("Softmax", ["logits"], ["probs"], "softmax", axis=1),
    ]
    weights = [numpy_helper.from_array(np.asarray(16, DTYPE), "white")]
    weights += [numpy_helper.from_array(a, k) for k, a in p.items()]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 8, 8])],
        [helper.make_tensor_value_info("probs", TensorProto.FLOAT, [1, 10])],
        weights,
        "Handwritten digits, 8x8 pixels of 0..16, to the probabilities of 0..9.",
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="train_digits.py")
    model.ir_version = 8
    onnx.checker.check_model(model, full_check=True)
    return model


def c_header(x, y):
    rows = [f"    {{{', '.join(f'{v:g}' for v in image.ravel())}}}," for image in x]
    return "\n".join([
        "/* Held-out digits, 8x8 pixels of 0..16, and what they show; written by tools/train_digits.py. */",
        f"#define HELDOUT {len(x)}",
        "static const float heldout_images[HELDOUT][64] = {",
        *rows,
        "};",
        f"static const int heldout_labels[HELDOUT] = {{{', '.join(map(str, y))}}};",
        "",
    ])  # fmt: skip


def main():
    data = load_digits()
    x = data.images.astype(DTYPE)[:, None]
    y = data.target.astype(np.int64)
    x_train, x_held, y_train, y_held = train_test_split(x, y, test_size=360, random_state=SEED, stratify=y)
    net = train(x_train, y_train)
    right = int((net.forward(x_held).argmax(1) == y_held).sum())
    accuracy = right / len(y_held)
    print(f"held out: {right} of {len(y_held)} right, {100 * accuracy:.2f} %")
    if accuracy <= 0.98:
        raise SystemExit("expected more than 98 %: the training went wrong, nothing is written")
    out = ROOT / "examples" / "digits"
    out.mkdir(parents=True, exist_ok=True)
    onnx.save(to_onnx(net.p), out / "model.onnx")
    np.savez_compressed(out / "heldout.npz", x=x_held, y=y_held)
    note = {
        "accuracy": round(accuracy, 4),
        "right": right,
        "heldout": len(y_held),
        "made_by": "tools/train_digits.py",
        "numpy": np.__version__,
        "scikit-learn": sklearn.__version__,
        "onnx": onnx.__version__,
        "data": "scikit-learn load_digits (UCI, Alpaydin & Kaynak 1998)",
    }
    (out / "accuracy.json").write_text(json.dumps(note, indent=1) + "\n")
    c_app = ROOT / "examples" / "c-app"
    c_app.mkdir(parents=True, exist_ok=True)
    (c_app / "heldout.h").write_text(c_header(x_held[:100], y_held[:100]))


if __name__ == "__main__":
    main()
