//! One trial for each file of `corpus/` and each of its stages; what comes out is a snapshot beside the file.
//!
//! A file begins with what to do: `// stage: print`, several lines for several stages. Graphs (`.tir`) have the stages
//!
//! - `error`: reading fails; the snapshot is the error as it is shown;
//! - `print`: the canonical text, which must read back as the same graph;
//! - `verify`: `ok`, or the text with the errors in it;
//! - `eval`: the reference interpreter's outputs on drawn inputs;
//! - `agree`: compiled for the target and run by the kernel interpreter, and compiled for this machine, it gives what the reference
//!   interpreter gives (found by `tools/random_graphs.py`, cut down by hand); no snapshot;
//! - `to=<phase>`: the state of the pipeline at the phase; `target: x86_64-linux/x86-64-v3` after it says for what, and
//!   `precision: bf16` behind that what factors may be rounded to;
//! - `asm`: machine code of the target, one function after the other, without addresses.
//!
//! Kernels (`.tk`) have `error`, `print`, `verify` and `run` (the kernel interpreter on drawn inputs). `INSTA_UPDATE=always`
//! accepts what comes out.

use capstone::arch::{BuildsCapstone, BuildsCapstoneExtraMode, BuildsCapstoneSyntax};
use capstone::prelude::{Capstone, CsResult, arch};
use libtest_mimic::{Arguments, Failed, Trial};
use object::{Object, ObjectSection, ObjectSymbol, SymbolKind};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tenon::engine::{Engine, Session};
use tenon::{Compiler, Options, Phase, Precision, Target};
use tenon_base::Fact;
use tenon_base::text::write_data;
use tenon_ir::verify::report;
use tenon_ir::{Graph, Tolerance, ValueId};
use tenon_kernel::verify::{Stage, render, verify_kernel};
use tenon_kernel::{Access, Kernel, Memory, run_kernel};
use tenon_snapshot_tests::data::{compare, draw};
use tenon_snapshot_tests::places::repository;

fn main() -> ExitCode {
    let root = repository().join("snapshot-tests/corpus");
    let mut files = vec![];
    collect(&root, &mut files);
    files.sort();
    let mut trials = vec![];
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let name = file.strip_prefix(&root).unwrap_or(&file).to_string_lossy().replace('\\', "/");
        let stages: Vec<(String, String)> =
            text.lines().map_while(|l| l.strip_prefix("//")).filter_map(stage).collect();
        if stages.is_empty() {
            let complaint = "expected `// stage: …` at the top";
            trials.push(Trial::test(name, move || Err(Failed::from(complaint))));
            continue;
        }
        for (stage, target) in stages {
            let (file, text) = (file.clone(), text.clone());
            let trial =
                Trial::test(format!("{name}: {stage} {target}"), move || check(&file, &text, &stage, &target));
            trials.push(trial);
        }
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn collect(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, out);
        } else if path.extension().is_some_and(|e| e == "tir" || e == "tk") {
            out.push(path);
        }
    }
}

/// ` stage: to=canonical  target: aarch64-linux` as stage and target.
fn stage(line: &str) -> Option<(String, String)> {
    let rest = line.trim().strip_prefix("stage:")?.trim();
    let (stage, target) = rest.split_once("target:").unwrap_or((rest, "x86_64-linux/x86-64-v3"));
    Some((stage.trim().to_string(), target.trim().to_string()))
}

fn check(file: &Path, text: &str, stage: &str, target: &str) -> Result<(), Failed> {
    let kernel = file.extension().is_some_and(|e| e == "tk");
    if stage == "agree" {
        return agree(text, target);
    }
    let found = if kernel { kernel_stage(text, stage) } else { graph_stage(text, stage, target) }?;
    let name = file.file_name().map_or_else(String::new, |n| n.to_string_lossy().replace('.', "_"));
    let what = match stage {
        "asm" => format!("asm-{}", target.replace('/', "-")),
        s => s.replace("to=", ""),
    };
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(file.parent().unwrap_or(file));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(format!("{name}.{what}"), found));
    Ok(())
}

fn graph_stage(text: &str, stage: &str, target: &str) -> Result<String, Failed> {
    let parsed = Graph::parse(text);
    if stage == "error" {
        return match parsed {
            Ok(_) => Err("expected an error, but the text is a graph".into()),
            Err(e) => Ok(e.to_string()),
        };
    }
    let graph = parsed.map_err(|e| e.to_string())?;
    let (target, precision) = target.split_once(" precision: ").unwrap_or((target, "f32"));
    let compiler = || {
        let mut options = Options::new(Target::parse(target)?);
        options.precision = if precision == "bf16" { Precision::Bf16 } else { Precision::F32 };
        Ok::<_, Failed>(Compiler::new(options))
    };
    match stage {
        "print" => {
            let printed = graph.to_string();
            let back = Graph::parse(&printed).map_err(|e| e.to_string())?;
            if !back.same_as(&graph) { Err("the text does not read back".into()) } else { Ok(printed) }
        }
        "verify" => Ok(tenon_ir::verify::verify(&graph).map_or_else(|e| report(&graph, &e), |()| "ok".into())),
        "eval" => {
            let facts = graph.inputs().iter().map(|&node| graph.fact(ValueId { node, port: 0 }));
            let inputs: Vec<_> = facts.enumerate().map(|(i, f)| draw(f, None, i as u64)).collect();
            let outputs = tenon_ir::eval::run(&graph, &inputs).map_err(|e| e.to_string())?;
            let mut out = String::new();
            for ((name, _), t) in graph.outputs().iter().zip(outputs) {
                let _ = write!(out, "{name:?}: {} = ", t.fact());
                write_data(&mut out, &t);
                out.push('\n');
            }
            Ok(out)
        }
        "asm" => {
            let compiled = compiler()?.compile_graph(graph)?;
            disassemble(&compiled.object()?, target)
        }
        _ => {
            let phase = stage.strip_prefix("to=").and_then(Phase::parse);
            let phase = phase.ok_or_else(|| Failed::from(format!("unknown stage `{stage}`")))?;
            Ok(compiler()?.run_to(graph, phase)?.print(phase, true))
        }
    }
}

fn agree(text: &str, target: &str) -> Result<(), Failed> {
    let graph = Graph::parse(text).map_err(|e| e.to_string())?;
    let facts = graph.inputs().iter().map(|&node| graph.fact(ValueId { node, port: 0 }));
    let inputs: Vec<_> = facts.enumerate().map(|(i, f)| draw(f, None, i as u64)).collect();
    let expected = tenon_ir::eval::run(&graph, &inputs).map_err(|e| e.to_string())?;
    for (engine, options) in [
        (Engine::Kernel, Options::new(Target::parse(target)?)),
        (Engine::Jit, Options::host().map_err(|e| e.to_string())?),
    ] {
        let compiled = Compiler::new(options).compile_graph(graph.clone())?;
        let found = Session::new(engine, &compiled)?.run(&inputs)?;
        for ((name, _), (x, y)) in graph.outputs().iter().zip(found.iter().zip(&expected)) {
            let c = compare(x, y, Tolerance::SUM, 1.0);
            if !c.ok() {
                return Err(format!("{engine}, output {name} ({}): {c}", y.fact()).into());
            }
        }
    }
    Ok(())
}

fn kernel_stage(text: &str, stage: &str) -> Result<String, Failed> {
    let parsed = Kernel::parse(text);
    if stage == "error" {
        return match parsed {
            Ok(_) => Err("expected an error, but the text is a kernel".into()),
            Err(e) => Ok(e.to_string()),
        };
    }
    let kernel = parsed.map_err(|e| e.to_string())?;
    match stage {
        "print" => {
            let printed = kernel.to_string();
            if Kernel::parse(&printed).as_ref() != Ok(&kernel) {
                return Err("the text does not read back".into());
            }
            Ok(printed)
        }
        "verify" => {
            Ok(verify_kernel(&kernel, Stage::Structured).map_or_else(|e| render(&kernel, &e), |()| "ok".into()))
        }
        "run" => {
            verify_kernel(&kernel, Stage::Structured).map_err(|e| render(&kernel, &e))?;
            let mut memory: Vec<Memory> = vec![];
            for (i, b) in kernel.buffers.iter().enumerate() {
                memory.push(match b.access {
                    Access::In => Memory::of(&draw(&Fact::of(b.dtype, &[b.len]), None, i as u64)),
                    _ => Memory::poisoned(b.dtype, b.len),
                });
            }
            run_kernel(&kernel, &mut memory, &Default::default()).map_err(|e| e.to_string())?;
            let mut out = String::new();
            for (b, m) in kernel.buffers.iter().zip(&memory).filter(|(b, _)| b.access == Access::Out) {
                let values: Vec<String> = m.scalars().map(|s| s.to_string()).collect();
                let _ = writeln!(out, "{}: [{}]", b.name, values.join(", "));
            }
            Ok(out)
        }
        _ => Err(format!("unknown stage `{stage}`").into()),
    }
}

fn capstone(target: &str) -> CsResult<Capstone> {
    if target.starts_with("aarch64") {
        Capstone::new().arm64().mode(arch::arm64::ArchMode::Arm).build()
    } else if target.starts_with("riscv64") {
        let compressed = [arch::riscv::ArchExtraMode::RiscVC].into_iter();
        Capstone::new().riscv().mode(arch::riscv::ArchMode::RiscV64).extra_mode(compressed).build()
    } else {
        Capstone::new().x86().mode(arch::x86::ArchMode::Mode64).syntax(arch::x86::ArchSyntax::Intel).build()
    }
}

/// Every function of the object: mnemonic and operands, without addresses. Branches keep their targets, relative to the
/// function, since capstone is told that it begins at 0.
fn disassemble(bytes: &[u8], target: &str) -> Result<String, Failed> {
    let file = object::File::parse(bytes)?;
    let cs = capstone(target)?;
    let mut functions: Vec<_> = file.symbols().filter(|s| s.kind() == SymbolKind::Text && s.size() > 0).collect();
    functions.sort_by_key(|s| s.name().unwrap_or("").to_string());
    let mut out = String::new();
    for f in functions {
        let section = file.section_by_index(f.section_index().ok_or("a function without a section")?)?;
        let start = usize::try_from(f.address() - section.address())?;
        let code =
            section.data()?.get(start..start + usize::try_from(f.size())?).ok_or("a function outside its section")?;
        let _ = writeln!(out, "{}:", f.name()?);
        let mut decoded = 0;
        for i in cs.disasm_all(code, 0)?.iter() {
            decoded += i.bytes().len();
            let _ = writeln!(out, "  {} {}", i.mnemonic().unwrap_or("?"), i.op_str().unwrap_or(""));
        }
        // Constants lie behind the code of a function.
        if decoded < code.len() {
            let _ = writeln!(out, "  ; {} bytes of data", code.len() - decoded);
        }
    }
    Ok(out)
}
