"""MNN, by way of its own converter."""


def load(job):
    import MNN
    import numpy as np

    given, path = pinned(job)
    converted = os.path.join(job["folder"], "model.mnn")
    convert(path, converted)
    engine = MNN.Interpreter(converted)
    # `high` is f32 throughout.
    settings = {"backend": "CPU", "numThread": job["threads"], "precision": "high", "memory": "normal"}
    session = engine.createSession(settings)
    slots = engine.getSessionInputAll(session)
    types = {
        "float32": MNN.Halide_Type_Float,
        "int32": MNN.Halide_Type_Int,
        "uint8": MNN.Halide_Type_Uint8,
    }
    hosts = []
    for name, array in given.items():
        if name not in slots:
            continue  # no output depends on it, or the outputs will show it
        if array.dtype.kind in "ib":
            array = array.astype(np.int32)  # it has no others
        if array.dtype.name not in types:
            raise Refused(f"its inputs cannot be {array.dtype}, as `{name}` is")
        host = MNN.Tensor(array.shape, types[array.dtype.name], array, MNN.Tensor_DimensionType_Caffe)
        hosts.append((slots[name], host, array))

    def feed():
        for slot, host, _ in hosts:
            slot.copyFrom(host)

    def results():
        found = engine.getSessionOutputAll(session)
        return [as_expected(read(MNN, found.get(e["name"]), e["name"]), e) for e in job["expected"]]

    def run():
        engine.runSession(session)

    def fed_run():
        feed()
        engine.runSession(session)

    feed()
    run()
    first = results()
    run()
    # The memory of an input may serve other values as soon as it has been read.
    kept = all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in zip(first, results()))
    return MNN.version(), "f32", run if kept else fed_run, results


def convert(source, target):
    # The extension itself. The commands that come with the package, `mnnconvert` and `mnnquant`, install packages and send an
    # identifier to their makers before they call it.
    import _tools

    _tools.mnnconvert(["mnnconvert", "-f", "ONNX", "--modelFile", source, "--MNNModel", target, "--bizCode", "bench"])
    if not os.path.isfile(target):
        raise Refused("its converter made nothing of it")


def read(MNN, tensor, name):
    import numpy as np

    if tensor is None:
        raise Refused(f"its converter has lost the output `{name}`")
    shape, dtype = tensor.getShape(), tensor.getDataType()
    kinds = {MNN.Halide_Type_Float: np.float32, MNN.Halide_Type_Int: np.int32, MNN.Halide_Type_Uint8: np.uint8}
    room = np.zeros(shape, kinds.get(dtype, np.int32))
    host = MNN.Tensor(shape, dtype, room, MNN.Tensor_DimensionType_Caffe)
    tensor.copyToHostTensor(host)
    return np.array(host.getNumpyData()).reshape(shape)


serve(load, "numpy", "onnx", "MNN")
