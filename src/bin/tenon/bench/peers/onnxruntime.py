"""ONNX Runtime."""


def load(job):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = job["threads"]
    options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Its threads may spin within a run, but not while others have their turn.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3
    session = ort.InferenceSession(job["model"], options, providers=["CPUExecutionProvider"])
    # Values bound once: a run then copies and allocates as little as it can.
    binding = session.io_binding()
    for name, array in inputs(job, [i.name for i in session.get_inputs()]).items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
    for output in session.get_outputs():
        binding.bind_output(output.name, "cpu")
    run = session.run_with_iobinding
    return ort.__version__, "as in the model", lambda: run(binding), binding.copy_outputs_to_cpu


serve(load, "numpy", "onnxruntime")
