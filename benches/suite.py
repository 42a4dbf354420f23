#!/usr/bin/env python3
"""Measures Tenon against ONNX Runtime on real models, and writes what came of it.

    python3 benches/suite.py CASE... [--seconds S] [--python PATH] [--tenon PATH] [-o benches/results/NAME.json]
    python3 benches/suite.py --docs benches/results/NAME.json     writes docs/BENCHMARKS.md from it

A CASE is a folder in ONNX's layout (model.onnx, test_data_set_0), or a folder of such folders. Each runs as `tenon bench
--against onnxruntime`: both engines take turns in one process each, on one thread, with the same inputs. A model that does not
compile, or whose outputs disagree, is a row that says so.
"""

import argparse
import json
import math
import os
import pathlib
import platform
import subprocess
import sys

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


def measure(args):
    rows = []
    for case in cases(args.cases):
        command = [args.tenon, "bench", case, "--json", "--seconds", args.seconds, "--against", "onnxruntime"]
        if args.python:
            command += ["--python", args.python]
        print(f"{case.name:<28}", end="", flush=True)
        try:
            done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=args.timeout)
            result = json.loads(done.stdout)
        except (subprocess.TimeoutExpired, ValueError) as e:
            result = {"ok": False, "error": f"{type(e).__name__}"}
        rows.append({"name": case.name, **result})
        if "against" in result:
            a = result["against"]
            agrees = "" if a["agrees"] else "  OUTPUTS DISAGREE"
            print(f"{a['ratio']:6.3f}  ({a['ratio_p25']:.3f} to {a['ratio_p75']:.3f}){agrees}", flush=True)
        else:
            print(f"  -     {str(result.get('error'))[:90]}", flush=True)
    about = {
        "cpu": cpu(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "threads": 1,
        "seconds": float(args.seconds),
        "tenon": version([args.tenon, "--version"]),
        "commit": version(["git", "rev-parse", "--short", "HEAD"]),
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps({"about": about, "models": rows}, indent=1) + "\n")
    print(f"written to {args.output}")
    return 0 if all(r.get("ok") for r in rows) else 1


def docs(path):
    data = json.loads(path.read_text())
    about, rows = data["about"], data["models"]
    good = [r for r in rows if "against" in r and r["against"]["agrees"]]
    peer = next((f"{r['against']['engine']} {r['against']['version']}" for r in good), "ONNX Runtime")
    out = [
        "# Speed and accuracy",
        "",
        f"Made by `benches/suite.py` from a run on {about['cpu']} ({about['system']}), {about['threads']} thread, at commit"
        f" {about['commit']}. Do not edit: run the script again.",
        "",
        f"*Ratio* is Tenon's time as a part of that of {peer}: below 1 Tenon is faster. The two take turns on the same inputs; of each pair of"
        " turns the fastest runs are compared, and shown are the median of these ratios and the range of their middle half. *Part of peak* counts"
        " two operations a multiply-add of convolutions and matrix products, in Tenon's median time, against what one core's widest f32"
        " multiply-adds reach when measured in the same run. *Difference* is the largest one between the two engines' outputs, as a part of"
        " the output's largest magnitude.",
        "",
        "Outputs of integer models may disagree on CPUs without VNNI: there ONNX Runtime adds products of bytes in 16 bits that saturate, unless"
        " `session.x64quantprecision` is set, which is not its default and not measured here. `tenon verify` says which of the two agrees with"
        " recorded outputs.",
        "",
        "| model | multiply-adds | ratio | middle half | part of peak | difference | weights | arena |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for r in sorted(rows, key=lambda r: r["name"]):
        a = r.get("against")
        if a is None:
            first = str(r.get("error", "")).splitlines()[:1]
            out.append(f"| {r['name']} | – | – | {(first or [''])[0][:80].replace('|', '/')} | – | – | – | – |")
            continue
        note = "" if a["agrees"] else " (outputs disagree)"
        out.append(
            f"| {r['name']}{note} | {count(r['macs'])} | {a['ratio']:.2f} | {a['ratio_p25']:.2f} to {a['ratio_p75']:.2f} |"
            f" {100 * r['part_of_peak']:.0f} % | {a['max_of_scale']:.1e} | {size(r['weight_bytes'])} | {size(r['arena_bytes'])} |"
        )
    if good:
        mean = math.exp(sum(math.log(max(r["against"]["ratio"], 1e-9)) for r in good) / len(good))
        faster = sum(r["against"]["ratio"] < 1 for r in good)
        worst = max(good, key=lambda r: r["against"]["ratio"])
        out += [
            "",
            f"Geometric mean of the ratios over {len(good)} models: {mean:.2f}. Tenon is faster on {faster} of them; the largest ratio is"
            f" {worst['against']['ratio']:.2f} ({worst['name']}).",
        ]
    DOCS.write_text("\n".join(out) + "\n")
    print(f"written to {DOCS}")
    return 0


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
    parser.add_argument("--timeout", type=float, default=300, help="seconds a model may take in all")
    parser.add_argument("--python", help="the Python with onnxruntime")
    parser.add_argument("--tenon", default=ROOT / "target/release/tenon", type=pathlib.Path)
    parser.add_argument("-o", "--output", default=ROOT / "benches/results/latest.json", type=pathlib.Path)
    parser.add_argument("--docs", metavar="JSON", type=pathlib.Path, help="write docs/BENCHMARKS.md from this file")
    args = parser.parse_args()
    if args.docs:
        return docs(args.docs)
    if not args.cases:
        parser.error("name cases, or --docs")
    return measure(args)


if __name__ == "__main__":
    sys.exit(main())
