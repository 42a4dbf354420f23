#!/usr/bin/env python3
"""Writes ONNX's own operator cases, as the installed `onnx` package generates them: one folder a case.

    python3 tools/onnx_cases.py FOLDER
"""

import json
import pathlib
import sys

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.case.node import collect_testcases


def to_proto(value, info):
    """The tensor, sequence or optional as the type of the model's input or output says."""
    kind = info.type.WhichOneof("value")
    if kind == "sequence_type":
        return numpy_helper.from_list([np.asarray(v) for v in value], info.name)
    if kind == "optional_type":
        return numpy_helper.from_optional(value, info.name)
    if isinstance(value, onnx.TensorProto):
        out = onnx.TensorProto()
        out.CopyFrom(value)
        out.name = info.name
        return out
    return numpy_helper.from_array(np.asarray(value), info.name)


def main(folder):
    out = pathlib.Path(folder)
    written = skipped = 0
    for case in collect_testcases(None):
        here = out / case.name
        sets = []
        try:
            for inputs, outputs in case.data_sets or []:
                pairs = list(zip(inputs, case.model.graph.input)), list(zip(outputs, case.model.graph.output))
                sets.append([[to_proto(v, i).SerializeToString() for v, i in side] for side in pairs])
        except (TypeError, ValueError, NotImplementedError) as e:
            print(f"skipped {case.name}: {e}", file=sys.stderr)
            skipped += 1
            continue
        here.mkdir(parents=True, exist_ok=True)
        (here / "model.onnx").write_bytes(case.model.SerializeToString())
        (here / "tolerance.json").write_text(json.dumps({"rtol": case.rtol, "atol": case.atol}))
        for k, (inputs, outputs) in enumerate(sets):
            data = here / f"test_data_set_{k}"
            data.mkdir(exist_ok=True)
            for kind, protos in [("input", inputs), ("output", outputs)]:
                for i, proto in enumerate(protos):
                    (data / f"{kind}_{i}.pb").write_bytes(proto)
        written += 1
    (out / "done").write_text(f"onnx {onnx.__version__}: {written} cases\n")
    print(f"{written} cases written, {skipped} skipped")


if __name__ == "__main__":
    main(sys.argv[1])
