"""LiteRT, whose model is a file of its own: one that was converted before, or what onnx2tf makes."""


def load(job):
    import importlib.metadata

    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    given, path = pinned(job)
    engine = Interpreter(model_path=job["converted"] or convert(path, job["folder"]), num_threads=job["threads"])
    engine.allocate_tensors()
    slots, ports = engine.get_input_details(), engine.get_output_details()
    if len(slots) != len(given) or len(ports) != len(job["expected"]):
        raise Refused(
            f"the converted model has {len(slots)} inputs and {len(ports)} outputs, the model {len(given)}"
            f" and {len(job['expected'])}"
        )
    # Names survive a conversion more or less; if not all do, the order counts.
    names = [plain(s["name"]) for s in slots]
    if set(names) != set(map(plain, given)):
        names = [plain(n) for n in given]
    by_name = {plain(n): a for n, a in given.items()}
    for slot, name in zip(slots, names):
        array = channels_last(by_name[name], slot["shape"])
        engine.set_tensor(slot["index"], np.ascontiguousarray(array.astype(slot["dtype"])))
    names, wanted = [plain(p["name"]) for p in ports], [plain(e["name"]) for e in job["expected"]]
    ports = [ports[names.index(n)] for n in wanted] if sorted(names) == sorted(wanted) else ports

    def results():
        found = [engine.get_tensor(p["index"]) for p in ports]
        return [as_expected(channels_first(f, e["shape"]), e) for f, e in zip(found, job["expected"])]

    return importlib.metadata.version("ai-edge-litert"), "as in its file", engine.invoke, results


def convert(path, folder):
    try:
        import onnx2tf
    except ImportError:
        raise Refused("pip install onnx2tf, or convert the model yourself and name it with --litert-model FILE") from None
    onnx2tf.convert(input_onnx_file_path=path, output_folder_path=folder, non_verbose=True)
    return os.path.join(folder, "model_float32.tflite")


def plain(name):
    """A tensor's name without what converters put around it."""
    name = name.split(":")[0].removeprefix("serving_default_")
    return "".join(c if c.isalnum() else "_" for c in name)


def channels_last(array, shape):
    """`array` as `shape` wants it: converters move channels to the end."""
    if list(array.shape) != list(shape) and array.ndim > 2:
        moved = array.transpose(0, *range(2, array.ndim), 1)
        return moved if list(moved.shape) == list(shape) else array
    return array


def channels_first(array, shape):
    if list(array.shape) != list(shape) and array.ndim > 2:
        moved = array.transpose(0, array.ndim - 1, *range(1, array.ndim - 1))
        return moved if list(moved.shape) == list(shape) else array
    return array


serve(load, "numpy", "onnx", "ai_edge_litert.interpreter")
