"""The other end of `tenon bench --against`: what the program of every engine starts with.

Standard input has one JSON document a line, standard output one answer to each. The first is the job, what to run:
{"model", "inputs" (an .npz), "expected" (name, dtype and shape of each output), "outputs" (where to write them, an .npz),
"threads", "precision" ("f32" or "bf16"), "folder" (for files of its own), "converted" (the model in the engine's own format,
or null)}.
The answer is {"version", "precision", "load_seconds" and "first_seconds" (until the model was loaded, and until its first run had
ended; neither counts the import of packages or the reading of inputs), "outputs" (how many)}. Then {"seconds", "most"} asks for a turn: it runs
until the time is up, at least once, and answers with the times, {"ns"}. The end of the input ends the process.
Whatever goes wrong, the answer is {"error"}.
"""

import importlib
import json
import os
import sys
import time

# Whatever lies in the current folder, `import openvino` is the package.
sys.path[:] = [p for p in sys.path if p]


class Refused(Exception):
    """The engine does not run this model; the message says why."""


def serve(load, *modules):
    """Answers questions until there are none. `load`, which uses `modules`, makes of a job the version, the precision, a function
    that runs the model once, and one that gives what the last run computed, in the order expected."""
    # Libraries print to standard output, too; what they say goes where errors go.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**fields):
        answers.write(json.dumps(fields) + "\n")
        answers.flush()

    try:
        job = json.loads(sys.stdin.readline())
        for module in modules:
            importlib.import_module(module)
        start = time.perf_counter()
        version, precision, run, results = load(job)
        load_seconds = time.perf_counter() - start - sum(reading)
        run()
        first_seconds = time.perf_counter() - start - sum(reading)
        outputs = results()
        save(job["outputs"], outputs)
        answer(
            version=version,
            precision=precision,
            load_seconds=load_seconds,
            first_seconds=first_seconds,
            outputs=len(outputs),
        )
        for line in sys.stdin:
            turn = json.loads(line)
            answer(ns=times(run, turn["seconds"], turn["most"]))
    except (Exception, SystemExit) as e:  # whatever it is, the other side must hear of it
        answer(error=str(e) if isinstance(e, Refused) else f"{type(e).__name__}: {e}")


def times(run, seconds, most):
    """Nanoseconds of each run."""
    clock = time.perf_counter_ns
    end = clock() + int(seconds * 1e9)
    found = []
    while True:
        start = clock()
        run()
        now = clock()
        found.append(now - start)
        if now >= end or len(found) >= most:
            return found


def save(path, outputs):
    import numpy as np

    np.savez(path, **{f"o{i}": o for i, o in enumerate(outputs)})


def inputs(job, names):
    """The arrays for the inputs `names`, by name."""
    import numpy as np

    start = time.perf_counter()
    given = np.load(job["inputs"])
    missing = [n for n in names if n not in given.files]
    if missing:
        raise Refused(f"it wants the inputs {', '.join(missing)}, which have no data")
    arrays = {n: np.ascontiguousarray(given[n]) for n in names}
    # Engines read them where they are: they stay for as long as the process lives.
    kept.append(arrays)
    reading.append(time.perf_counter() - start)
    return arrays


kept = []
# Seconds that it took.
reading = []


def pinned(job):
    """The inputs, and the path of the model with their shapes in it: for converters, which need to know them."""
    import onnx

    model = onnx.load(job["model"])
    weights = {w.name for w in model.graph.initializer}
    wanted = [i for i in model.graph.input if i.name not in weights]
    given = inputs(job, [i.name for i in wanted])
    for value in wanted:
        shape = value.type.tensor_type.shape
        del shape.dim[:]
        shape.SetInParent()
        for extent in given[value.name].shape:
            shape.dim.add().dim_value = extent
    del model.graph.input[:]
    model.graph.input.extend(wanted)
    del model.graph.value_info[:]
    path = os.path.join(job["folder"], "model.onnx")
    onnx.save(model, path)
    return given, path


def as_expected(array, expected):
    """`array` with the dtype and rank of the output: for engines that have no 64-bit integers, or no scalars."""
    import numpy as np

    dtype, shape = np.dtype(expected["dtype"]), tuple(expected["shape"])
    if array.dtype != dtype and array.dtype.kind in "iub" and dtype.kind in "iub":
        array = array.astype(dtype)
    if [d for d in array.shape if d != 1] == [d for d in shape if d != 1]:
        array = array.reshape(shape)
    return array
