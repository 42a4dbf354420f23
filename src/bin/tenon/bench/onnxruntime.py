"""Runs a model on ONNX Runtime and times it when told to: the other end of `tenon bench --against onnxruntime`.

Standard input has one JSON document a line, standard output one answer to each. The first says what to run:
{"model", "inputs" (an .npz), "outputs" (where to write them, an .npz), "threads"}; {"seconds", "most"} asks for a turn, runs
until the time is up, at least one; the end of the input ends the process.
"""

import json
import sys
import time

import numpy as np
import onnxruntime as ort


def answer(**fields):
    print(json.dumps(fields), flush=True)


def main():
    job = json.loads(sys.stdin.readline())
    options = ort.SessionOptions()
    options.intra_op_num_threads = job["threads"]
    options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Its threads may spin within a run, but not while the other side has its turn.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3
    start = time.perf_counter()
    session = ort.InferenceSession(job["model"], options, providers=["CPUExecutionProvider"])
    load = time.perf_counter() - start
    given = np.load(job["inputs"])
    wanted = [i.name for i in session.get_inputs()]
    missing = [n for n in wanted if n not in given.files]
    if missing:
        return answer(error=f"it wants the inputs {', '.join(missing)}, which have no data")
    # Values bound once: a run then copies and allocates as little as it can.
    binding = session.io_binding()
    for name in wanted:
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(given[name])))
    names = [o.name for o in session.get_outputs()]
    for name in names:
        binding.bind_output(name, "cpu")
    session.run_with_iobinding(binding)
    outputs = binding.copy_outputs_to_cpu()
    np.savez(job["outputs"], **{f"o{i}": o for i, o in enumerate(outputs)})
    answer(version=ort.__version__, load_seconds=load, outputs=names)
    clock, run = time.perf_counter_ns, session.run_with_iobinding
    for line in sys.stdin:
        turn = json.loads(line)
        end = clock() + int(turn["seconds"] * 1e9)
        times = []
        while True:
            start = clock()
            run(binding)
            now = clock()
            times.append(now - start)
            if now >= end or len(times) >= turn["most"]:
                break
        answer(ns=times)


try:
    main()
except Exception as e:  # noqa: BLE001  whatever it is, the other side must hear of it
    answer(error=f"{type(e).__name__}: {e}")
