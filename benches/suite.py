#!/usr/bin/env python3
"""Measures Tenon against other engines on real models, and writes what came of it.

    python3 benches/suite.py CASE... [--against ENGINE,...] [--python [ENGINE=]PATH]... [--seconds S] [--threads N]
                                     [--precision bf16]
                                     [--tenon PATH] [-o benches/results/NAME.json]
    python3 benches/suite.py --docs benches/results/NAME.json...  writes docs/BENCHMARKS.md from them

A CASE is a folder in ONNX's layout (model.onnx, test_data_set_0), or a folder of such folders. Each runs as `tenon bench
--against`: the engines take turns in one process each, with the same inputs and number of threads. A model that does not compile, or
whose outputs disagree, is a row that says so; an engine that cannot run a model, or computes something else, does not count.

How long a model takes from its file to the first result is measured beside that, in new processes, `--first` times: what Tenon
takes to read, compile and run it once, and what another engine takes to make a session of it and run that, once its packages are
imported and the inputs are there.
"""

import argparse
import json
import math
import os
import pathlib
import platform
import subprocess
import sys

# Compiles and first runs of each model: the least time counts, as others use the machine, too.
FIRST_RUNS = 5

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs" / "BENCHMARKS.md"


def cases(paths):
    for p in map(pathlib.Path, paths):
        if (p / "model.onnx").is_file() or p.is_file():
            yield p
        else:
            found = sorted(q.parent for q in p.glob("*/model.onnx"))
            if not found:
                sys.exit(f"{p}: neither a case nor a folder of cases")
            yield from found


def cpu():
    try:
        for line in open("/proc/cpuinfo"):
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def version(command):
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    return done.stdout.strip() or "unknown"


def bench(args, case, seconds):
    """What `tenon bench` finds, or a TimeoutExpired or ValueError."""
    command = [args.tenon, "bench", case, "--json", "--seconds", seconds, "--against", args.against, "--threads", args.threads]
    command += ["--precision", args.precision]
    for python in args.python:
        command += ["--python", python]
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=args.timeout)
    return json.loads(done.stdout)


def measure(args):
    rows = []
    for case in cases(args.cases):
        print(f"{case.name:<28}", end="", flush=True)
        try:
            result = bench(args, case, args.seconds)
        except (subprocess.TimeoutExpired, ValueError) as e:
            result = {"ok": False, "error": f"{type(e).__name__}"}
        row = {"name": case.name, **result}
        # Engines that disagree do not count; the others do.
        if result.get("first_seconds") and args.first:
            row["first"] = first_results(args, case, result)
        rows.append(row)
        for a in result.get("against", []):
            print(f"{a['engine']} {told(a)}   ", end="")
        print(str(result.get("error", ""))[:90], flush=True)
    about = {
        "cpu": cpu(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "threads": args.threads,
        "precision": args.precision,
        "seconds": float(args.seconds),
        "tenon": version([args.tenon, "--version"]),
        "commit": version(["git", "rev-parse", "--short", "HEAD"]),
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps({"about": about, "models": rows}, indent=1) + "\n")
    print(f"written to {args.output}")
    return 0 if all(r.get("ok") for r in rows) else 1


def first_results(args, case, result):
    """Seconds from the model's file to the first result, by engine; the least of the measurement `result` and some more."""
    least = {}
    for i in range(args.first):
        if i > 0:
            try:
                result = bench(args, case, 0)
            except (subprocess.TimeoutExpired, ValueError):
                continue
        found = {"Tenon": result.get("first_seconds")}
        found |= {a["engine"]: a.get("first_seconds") for a in result.get("against", []) if a.get("agrees")}
        for engine, seconds in found.items():
            if seconds:
                least[engine] = min(seconds, least.get(engine, seconds))
    return least


def told(a):
    """A comparison in a word."""
    if "error" in a:
        return "–"
    return f"{a['ratio']:.2f}" if a["agrees"] else "wrong"


def docs(paths):
    out = [
        "# Speed and accuracy",
        "",
        "Made by `benches/suite.py`. Do not edit: run the script again.",
        "",
        "A ratio is Tenon's time as a part of the other engine's: below 1 Tenon is faster. All take turns on the"
        " same inputs; of each pair of turns the fastest runs are compared, and shown is the median of these ratios. *Best peer* is the engine"
        " that is fastest on the model, with the ratio against it and the range of the middle half of its ratios. *–* is an engine that does not"
        " run the model, *wrong* one whose outputs disagree: neither counts. *Part of peak* counts two operations a multiply-add of"
        " convolutions and matrix products, in Tenon's median time, against what one core's widest f32 multiply-adds reach when measured in the"
        " same run. *Difference* is the largest one to the outputs of the best peer, as a part of the output's largest magnitude.",
        "",
        "Outputs of integer models may disagree on CPUs without VNNI: there ONNX Runtime adds products of bytes in 16 bits that saturate, unless"
        " `session.x64quantprecision` is set, which is not its default and not measured here. `tenon verify` says which of the two agrees with"
        " recorded outputs.",
    ]
    for path in paths:
        data = json.loads(path.read_text())
        out += section(data["about"], sorted(data["models"], key=lambda r: r["name"]))
    DOCS.write_text("\n".join(out) + "\n")
    print(f"written to {DOCS}")
    return 0


def section(about, rows):
    """What came of one run."""
    engines = list(dict.fromkeys(a["engine"] for r in rows for a in r.get("against", [])))
    versions = {a["engine"]: a for r in rows for a in r.get("against", []) if "version" in a}
    named = {e: versions[e] for e in engines if e in versions}
    peers = ", ".join(f"{e} {v['version']} ({v['precision']})" if v["precision"] else f"{e} {v['version']}" for e, v in named.items())
    target = next((r["target"] for r in rows if "target" in r), about["system"])
    threads = f"{about['threads']} thread{'s' if about['threads'] > 1 else ''}"
    rounded = ", factors rounded to bf16" if about.get("precision") == "bf16" else ""
    out = [
        "",
        f"## {target}, {threads}{rounded}",
        "",
        f"A run on {about['cpu']} ({about['system']}, {about['cores']} cores) at commit {about['commit']}, against {peers}.",
        "",
        f"| model | multiply-adds | {' | '.join(engines)} | best peer | middle half | part of peak | difference | weights | arena |",
        f"|---|---:|{'---:|' * len(engines)}---|---:|---:|---:|---:|---:|",
    ]
    for r in rows:
        found = {a["engine"]: a for a in r.get("against", [])}
        if "macs" not in r:
            why = (str(r.get("error", "")).splitlines() or [""])[0][:80].replace("|", "/")
            out.append(f"| {r['name']} | – | {' | '.join('–' for _ in engines)} | {why} | – | – | – | – | – |")
            continue
        a = found.get((r.get("best") or {}).get("engine"))
        best = ["none", "–"] if a is None else [f"{a['ratio']:.2f} {a['engine']}", f"{a['ratio_p25']:.2f} to {a['ratio_p75']:.2f}"]
        cells = [r["name"], count(r["macs"]), *(told(found[e]) if e in found else "–" for e in engines), *best]
        cells += [f"{100 * r['part_of_peak']:.0f} %", "–" if a is None else f"{a['max_of_scale']:.1e}"]
        out.append("| " + " | ".join([*cells, size(r["weight_bytes"]), size(r["arena_bytes"])]) + " |")
    out += ["", "| against | models | geometric mean | Tenon is faster on | slower on (ratio) |", "|---|---:|---:|---:|---|"]
    for engine in engines:
        ratios = {r["name"]: a["ratio"] for r in rows for a in r.get("against", []) if a["engine"] == engine and a.get("agrees")}
        out.append(summary(engine, ratios))
    out.append(summary("**best peer**", {r["name"]: r["best"]["ratio"] for r in rows if r.get("best")}))
    return out + first_section(rows)


# Engines that read the same file, as a user of them does; others have a converter between.
READERS = ["ONNX Runtime", "OpenVINO"]


def first_section(rows):
    """What it takes from the file to the first result, model by model and in sum; nothing where it was not measured."""
    rows = [r for r in rows if r.get("first", {}).get("Tenon")]
    engines = [e for e in READERS if any(e in r["first"] for r in rows)]
    if not rows or not engines:
        return []
    out = [
        "",
        "### From the file to the first result",
        "",
        "Milliseconds from the model's file to the outputs of the first run: for Tenon reading, compiling and running the machine code once in"
        " the same process (as `tenon run` does, with `--effort quick`), for the others creating a session and running it once. All are new processes; the import of the"
        " others' Python packages and the reading of inputs are not counted. Runs have one thread; Tenon compiles on all cores, with the same"
        f" result for any number of them. Of each the least of up to {FIRST_RUNS} measurements is shown.",
        "",
        f"| model | Tenon | {' | '.join(engines)} | Tenon's part of ONNX Runtime's |",
        f"|---|---:|{'---:|' * len(engines)}---:|",
    ]
    for r in rows:
        first, ort = r["first"], r["first"].get("ONNX Runtime")
        cells = [f"{1e3 * first[e]:.1f}" if e in first else "–" for e in ["Tenon", *engines]]
        cells.append("–" if ort is None else f"{first['Tenon'] / ort:.2f}")
        out.append(f"| {r['name']} | {' | '.join(cells)} |")
    for engine in engines:
        ratios = [r["first"]["Tenon"] / r["first"][engine] for r in rows if engine in r["first"]]
        faster = sum(ratio < 1 for ratio in ratios)
        mean = math.exp(sum(math.log(max(ratio, 1e-9)) for ratio in ratios) / len(ratios))
        out += ["", f"Tenon is faster than {engine} on {faster} of {len(ratios)} models; the geometric mean of the ratios is {mean:.2f}."]
    return out


def summary(who, ratios):
    """A row of what all ratios against an engine, by model, come to."""
    if not ratios:
        return f"| {who} | 0 | – | – | – |"
    mean = math.exp(sum(math.log(max(r, 1e-9)) for r in ratios.values()) / len(ratios))
    slower = sorted(((r, name) for name, r in ratios.items() if r >= 1), reverse=True)
    names = ", ".join(f"{name} ({r:.2f})" for r, name in slower) or "none"
    return f"| {who} | {len(ratios)} | {mean:.2f} | {len(ratios) - len(slower)} | {names} |"


def count(n):
    for unit, size_ in [("G", 1e9), ("M", 1e6), ("k", 1e3)]:
        if n >= size_:
            return f"{n / size_:.2f} {unit}"
    return str(n)


def size(n):
    return f"{n / 2**20:.1f} MiB" if n >= 2**20 else f"{n / 1024:.1f} KiB"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help="case folders, or folders of them")
    parser.add_argument("--seconds", default="2", help="seconds for each engine and model")
    parser.add_argument("--threads", type=int, default=1, help="threads of every engine")
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32", help="bf16: every engine may round factors of products to it")
    parser.add_argument("--first", type=int, default=FIRST_RUNS, help="measurements of the first result; 0 for none")
    parser.add_argument("--timeout", type=float, default=600, help="seconds a model may take in all")
    parser.add_argument("--against", default="onnxruntime", metavar="ENGINE,...", help="as tenon bench has them: onnxruntime,openvino,mnn,litert")
    parser.add_argument("--python", action="append", default=[], metavar="[ENGINE=]PATH", help="the Python with the engines, or with one")
    parser.add_argument("--tenon", default=ROOT / "target/release/tenon", type=pathlib.Path)
    parser.add_argument("-o", "--output", default=ROOT / "benches/results/latest.json", type=pathlib.Path)
    parser.add_argument("--docs", nargs="+", metavar="JSON", type=pathlib.Path, help="write docs/BENCHMARKS.md from these files")
    args = parser.parse_args()
    if args.docs:
        return docs(args.docs)
    if not args.cases:
        parser.error("name cases, or --docs")
    return measure(args)


if __name__ == "__main__":
    sys.exit(main())
