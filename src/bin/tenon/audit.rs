//! `tenon audit`: what is in an object, and what it needs.

use crate::args::{CompileArgs, model_file};
use crate::failure::{Failure, Outcome};
use crate::output::{self, Table, bytes, say};
use serde_json::json;
use std::path::{Path, PathBuf};
use tenon::Compiler;
use tenon::backend::{Audit, audit};

/// Kinds of sections, and where an application finds them at run time.
const KINDS: [(&str, &str); 4] =
    [("code", "flash"), ("constant", "flash"), ("data", "flash and memory"), ("zero", "memory")];

#[derive(Debug, clap::Args)]
#[command(after_help = "\
An object (or archive) is read back from its bytes: its sections, what it exports, and the symbols it needs from elsewhere,
which for what tenon makes are none: no C library, no allocator, no files, no network. A model is compiled first; then the
arena is shown too. The exit code is 1 if the object needs anything.

Examples:
  tenon audit out/digits.o
  tenon audit out/libdigits.a --json
  tenon audit model.onnx --target aarch64-linux/cortex-a53")]
pub(crate) struct Args {
    /// An object, an archive, an .onnx file, or a folder with model.onnx.
    object: PathBuf,
    #[command(flatten)]
    compile: CompileArgs,
}

pub(crate) fn main(args: &Args, json: bool) -> Outcome {
    let (bytes, report) = match is_model(&args.object)? {
        false => (read(&args.object)?, None),
        true => {
            let path = model_file(&args.object)?;
            let compiled = Compiler::new(args.compile.options(&path)?).compile_file(&path)?;
            (compiled.object()?, Some(compiled.report()))
        }
    };
    let all = audit(&bytes).map_err(|e| Failure::bad_input(format!("{}: {e}", args.object.display())))?;
    let needs: usize = all.iter().map(|a| a.undefined.len()).sum();
    let loose: usize = all.iter().filter(|a| a.executable_stack).count();
    if json {
        let objects: Vec<_> = all.iter().map(to_json).collect();
        let memory = report.as_ref().map(|r| json!(r.memory));
        let arena = report.as_ref().map(|r| r.arena_bytes);
        output::json(&json!({ "ok": needs + loose == 0, "objects": objects, "arena_bytes": arena, "arena": memory }));
    } else {
        all.iter().for_each(print);
        if let Some(r) = &report {
            say!(
                "\n  arena {}, {} buffers (first byte, size, calls during which it is used)",
                bytes_of(r.arena_bytes),
                r.memory.len()
            );
            let mut table = Table::new(&["at", "size", "from", "to", "buffer"]);
            let mut rows: Vec<_> = r.memory.iter().collect();
            rows.sort_by_key(|m| (m.offset, m.first));
            for m in rows {
                table.row(&[&m.offset, &bytes_of(m.bytes), &m.first, &m.last, &format!("%{}", m.name)]);
            }
            table.print();
        }
    }
    if needs + loose == 0 {
        return Ok(());
    }
    let mut what = vec![];
    if needs > 0 {
        what.push(format!("needs {}", output::count(needs, "symbol")));
    }
    if loose > 0 {
        what.push("would make the stack executable".to_string());
    }
    Err(Failure::disagrees(format!("{} {}", args.object.display(), what.join(" and "))).told())
}

fn bytes_of(n: usize) -> String {
    bytes(n)
}

fn is_model(path: &Path) -> Outcome<bool> {
    if path.is_dir() || path.extension().is_some_and(|e| e == "onnx") {
        return Ok(true);
    }
    if path.is_file() {
        return Ok(false);
    }
    Err(Failure::bad_input(format!("{}: no such file or folder", path.display())))
}

fn read(path: &Path) -> Outcome<Vec<u8>> {
    std::fs::read(path).map_err(|e| Failure::bad_input(format!("cannot read {}: {e}", path.display())))
}

/// `; stack 312` of an info text.
fn stated(a: &Audit, what: &str) -> Option<usize> {
    let text = a.info.first()?;
    text.split("; ").find_map(|part| part.strip_prefix(what)?.trim().parse().ok())
}

fn to_json(a: &Audit) -> serde_json::Value {
    let symbols = |list: &[tenon::backend::Symbol]| -> Vec<_> {
        list.iter()
            .map(|s| json!({ "name": s.name, "kind": if s.code { "code" } else { "data" }, "bytes": s.bytes }))
            .collect()
    };
    let sections: Vec<_> = a
        .sections
        .iter()
        .map(|s| json!({ "name": s.name, "kind": s.kind, "bytes": s.bytes, "align": s.align, "relocations": s.relocations }))
        .collect();
    let totals: serde_json::Map<String, serde_json::Value> =
        KINDS.iter().map(|(k, _)| ((*k).to_string(), json!(a.bytes_of(k)))).collect();
    json!({
        "member": if a.member.is_empty() { None } else { Some(&a.member) },
        "format": a.format,
        "undefined": a.undefined,
        "executable_stack": a.executable_stack,
        "stack_bytes": stated(a, "stack "),
        "arena_bytes": stated(a, "arena "),
        "totals": totals,
        "sections": sections,
        "exported": symbols(&a.exported),
        "local": symbols(&a.local),
        "info": a.info,
    })
}

fn print(a: &Audit) {
    let member = if a.member.is_empty() { String::new() } else { format!("{}: ", a.member) };
    say!("{member}{}", a.format);
    for i in &a.info {
        say!("  {i}");
    }
    match a.undefined.as_slice() {
        [] => say!("  needs no other symbol: no library, no allocator, no file, no network"),
        list => say!("  needs {}", list.join(", ")),
    }
    if a.executable_stack {
        say!("  a linker would make the stack executable");
    }
    if let Some(n) = stated(a, "stack ") {
        say!("  stack {} at most in a run", bytes(n));
    }
    say!("");
    let mut table = Table::new(&["section", "size", "align", "relocations", "kind", "lives in"]);
    for s in &a.sections {
        let place = KINDS.iter().find(|(k, _)| *k == s.kind).map_or("", |(_, p)| p);
        table.row(&[&s.name, &bytes(s.bytes as usize), &s.align, &s.relocations, &s.kind, &place]);
    }
    table.print();
    say!("");
    let mut table = Table::new(&["symbol", "size", "kind", "seen by others"]);
    let mut symbols: Vec<_> =
        a.exported.iter().map(|s| (s, "yes")).chain(a.local.iter().map(|s| (s, "no"))).collect();
    symbols.sort_by_key(|(s, seen)| (*seen == "no", std::cmp::Reverse(s.bytes)));
    for (s, seen) in symbols {
        table.row(&[&s.name, &bytes(s.bytes as usize), &(if s.code { "code" } else { "data" }), &seen]);
    }
    table.print();
}
