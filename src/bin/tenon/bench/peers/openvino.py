"""OpenVINO."""


def load(job):
    import openvino as ov

    core = ov.Core()
    model = core.read_model(job["model"])
    ports = {port: name for port in model.inputs for name in port.names}
    given = inputs(job, ports.values())
    # Shapes that are known are part of what is compiled, as they are for us.
    model.reshape({port: list(given[name].shape) for port, name in ports.items()})
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": str(job["threads"]),
        # What it would choose on some CPUs, 16 bits, is twice as fast and another function: only where we may round, too.
        "INFERENCE_PRECISION_HINT": job["precision"],
    }
    if job["precision"] == "f32":
        # With weights of bytes it would round activations to bytes, too, on CPUs that multiply those fast: not what the model says.
        settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = "0"
    compiled = core.compile_model(model, "CPU", settings)
    request = compiled.create_infer_request()
    for i, name in enumerate(ports.values()):
        # Shared, so that a run copies nothing.
        request.set_input_tensor(i, ov.Tensor(given[name], shared_memory=True))

    def results():
        tensors = [request.get_output_tensor(i) for i in range(len(compiled.outputs))]
        return [as_expected(t.data.copy(), e) for t, e in zip(tensors, job["expected"])]

    precision = str(compiled.get_property("INFERENCE_PRECISION_HINT").to_string())
    infer = request.infer
    return ov.__version__.split("-")[0], precision, lambda: infer(None, True, True), results


serve(load, "numpy", "openvino")
