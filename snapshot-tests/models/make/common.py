"""What the two generators share: one model a folder, with the inputs it was run on and what ONNX Runtime made of them."""

import pathlib
import shutil
import sys

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper

MADE = pathlib.Path(__file__).resolve().parent.parent
MODELS = {}


def model(make):
    """Registers `make(path) -> feeds`, which writes the model of its own name to `path`."""
    MODELS[make.__name__] = make
    return make


def session(path):
    """ONNX Runtime without its own optimiser, so that what is quantised is computed as the model says, node by node."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def without_notes(path):
    """The dynamo exporter writes the Python stack of each node, with the paths of the machine it ran on; nothing computes with that."""
    m = onnx.load(path)
    for part in [m, m.graph, *m.graph.node, *m.graph.value_info, *m.graph.input, *m.graph.output, *m.graph.initializer]:
        del part.metadata_props[:]
        part.doc_string = ""
    for f in m.functions:
        for part in [f, *f.node]:
            del part.metadata_props[:]
            part.doc_string = ""
    onnx.save(m, path)


def record(folder, feeds):
    """Runs the model and keeps inputs and outputs as ONNX's own cases do."""
    run = session(folder / "model.onnx")
    names = [i.name for i in run.get_inputs()]
    results = run.run(None, {n: feeds[n] for n in names})
    data = folder / "test_data_set_0"
    data.mkdir()
    for i, n in enumerate(names):
        (data / f"input_{i}.pb").write_bytes(numpy_helper.from_array(np.asarray(feeds[n], order="C"), n).SerializeToString())
    for i, (o, v) in enumerate(zip(run.get_outputs(), results)):
        (data / f"output_{i}.pb").write_bytes(numpy_helper.from_array(np.asarray(v, order="C"), o.name).SerializeToString())


def main():
    failed = 0
    for name in sys.argv[1:] or MODELS:
        folder = MADE / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            record(folder, MODELS[name](folder / "model.onnx"))
            size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
            print(f"{name}: {size // 1000} kB", flush=True)
        except Exception as e:  # The others are made all the same.
            shutil.rmtree(folder)
            failed += 1
            print(f"{name}: failed: {type(e).__name__}: {str(e)[:400]}", flush=True)
    sys.exit(failed > 0)
