//! The Rust module.

use super::names::KEYWORDS;
use super::{Field, comment, fields};
use std::fmt::Write;
use tenon_abi::{ARENA_ALIGN, Status};
use tenon_base::DType;
use tenon_kernel::Program;
use tenon_target::Target;

/// On every public item: a program uses a part of the interface. Not one attribute for the file, which `include!` would
/// not take.
const ALLOW: &str = "#[allow(dead_code, reason = \"a program uses a part of the interface\")]";

/// Outputs up to this many bytes may be returned by value.
const BY_VALUE: usize = 64 << 10;

/// A module of typed functions around `program`'s entry point. It needs no crate, not even `std`, and says nothing of
/// how the object is linked.
///
/// `half` floats are `u16` bits, `bool`s are `u8` 0 or 1.
pub fn rust_module(program: &Program, target: &Target) -> String {
    let mut out = String::new();
    // Writing to a `String` does not fail.
    let _ = write(&mut out, program, target);
    out
}

fn rust_type(d: DType) -> &'static str {
    match d {
        DType::F16 => "u16",
        DType::Bool => "u8",
        d => d.name(),
    }
}

/// `digits_v2` as `DigitsV2`.
fn camel(name: &str) -> String {
    let mut out = String::new();
    for part in name.split('_').filter(|p| !p.is_empty()) {
        let mut chars = part.chars();
        out.extend(chars.next().map(|c| c.to_ascii_uppercase()));
        out.push_str(chars.as_str());
    }
    if out.starts_with(|c: char| c.is_ascii_alphabetic()) { out } else { format!("Model{out}") }
}

/// Names that the module itself defines.
fn model_type(name: &str) -> String {
    let name = camel(name);
    if ["Status", "Arena", "Outputs", "Self"].contains(&name.as_str()) { format!("{name}Model") } else { name }
}

fn array(f: &Field) -> String {
    format!("[{}; {}]", rust_type(f.dtype), f.len)
}

fn write(o: &mut String, p: &Program, target: &Target) -> std::fmt::Result {
    let name = &p.name;
    let model = model_type(name);
    let (inputs, outputs) = fields(p, KEYWORDS);
    writeln!(o, "// {name}: compiled by tenon {} for {}.\n", env!("CARGO_PKG_VERSION"), comment(&target.name))?;
    status(o)?;
    writeln!(
        o,
        "\n/// Bytes of memory for intermediate results.\npub const ARENA_BYTES: usize = {};\n\
         /// Its alignment.\n{ALLOW}\npub const ARENA_ALIGN: usize = {ARENA_ALIGN};\n",
        p.arena_bytes
    )?;
    writeln!(
        o,
        "#[repr(C, align({ARENA_ALIGN}))]\nstruct Arena([u8; ARENA_BYTES]);\n\n\
         /// The model `{name}` with memory for its intermediate results.\n///\n\
         /// Put it in a `static`, or in a `Box` if [`ARENA_BYTES`] is too much for the stack.\n\
         {ALLOW}\npub struct {model} {{\n    arena: Arena,\n}}\n"
    )?;
    let small = outputs.iter().map(Field::bytes).sum::<usize>() <= BY_VALUE && !outputs.is_empty();
    if small && outputs.len() > 1 {
        writeln!(
            o,
            "/// What [`{model}::run`] gives.\n{ALLOW}\n#[derive(Clone, Copy, Debug, PartialEq)]\npub struct Outputs {{"
        )?;
        for f in &outputs {
            writeln!(o, "    /// {}\n    pub {}: {},", f.what, f.name, array(f))?;
        }
        writeln!(o, "}}\n")?;
    }
    let mut ins = String::new();
    let mut outs = String::new();
    for f in &inputs {
        write!(ins, ", {}: &{}", f.name, array(f))?;
    }
    for f in &outputs {
        write!(outs, ", {}: &mut {}", f.name, array(f))?;
    }
    let names =
        |list: &[Field], prefix: &str| -> String { list.iter().map(|f| format!(", {prefix}{}", f.name)).collect() };

    writeln!(
        o,
        "{ALLOW}\nimpl {model} {{\n    /// A model ready to run.\n    pub const fn new() -> {model} {{\n        \
         {model} {{ arena: Arena([0; ARENA_BYTES]) }}\n    }}\n"
    )?;
    if small {
        let result = match outputs.as_slice() {
            [one] => array(one),
            _ => "Outputs".into(),
        };
        writeln!(o, "    /// Runs the model.\n    pub fn run(&mut self{ins}) -> Result<{result}, Status> {{")?;
        for f in &outputs {
            writeln!(o, "        let mut {} = {};", f.name, zeros(f))?;
        }
        writeln!(
            o,
            "        self.run_into({})?;",
            format!("{}{}", names(&inputs, ""), names(&outputs, "&mut ")).trim_start_matches(", ")
        )?;
        match outputs.as_slice() {
            [one] => writeln!(o, "        Ok({})\n    }}\n", one.name)?,
            many => {
                let list: Vec<&str> = many.iter().map(|f| f.name.as_str()).collect();
                writeln!(o, "        Ok(Outputs {{ {} }})\n    }}\n", list.join(", "))?;
            }
        }
    }
    writeln!(
        o,
        "    /// Runs the model and writes to `{}`.\n    pub fn run_into(&mut self{ins}{outs}) -> Result<(), Status> {{\n        \
         run_in(&mut self.arena.0{}{})\n    }}\n}}\n",
        outputs.iter().map(|f| f.name.as_str()).collect::<Vec<_>>().join("`, `"),
        names(&inputs, ""),
        names(&outputs, ""),
    )?;
    writeln!(o, "impl Default for {model} {{\n    fn default() -> {model} {{\n        {model}::new()\n    }}\n}}\n")?;
    run_in(o, name, &inputs, &outputs, &ins, &outs)
}

fn zeros(f: &Field) -> String {
    let zero = if matches!(f.dtype, DType::F32 | DType::F64) { "0.0" } else { "0" };
    format!("[{zero}; {}]", f.len)
}

fn run_in(
    o: &mut String,
    name: &str,
    inputs: &[Field],
    outputs: &[Field],
    ins: &str,
    outs: &str,
) -> std::fmt::Result {
    writeln!(o, "/// Runs the model in `arena`: [`ARENA_BYTES`] bytes aligned to [`ARENA_ALIGN`].\n///")?;
    for f in inputs.iter().chain(outputs) {
        writeln!(o, "/// - `{}`: {}", f.name, f.what)?;
    }
    writeln!(o, "{ALLOW}\npub fn run_in(arena: &mut [u8]{ins}{outs}) -> Result<(), Status> {{")?;
    let pointers = |o: &mut String, list: &[Field], what: &str, kind: &str, cast: &str| -> std::fmt::Result {
        let body: Vec<String> = list.iter().map(|f| format!("{}.{cast}().cast()", f.name)).collect();
        writeln!(o, "    let {what}: [*{kind} u8; {}] = [{}];", list.len(), body.join(", "))
    };
    writeln!(o, "    if arena.len() < ARENA_BYTES {{\n        return Err(Status::WrongLength);\n    }}")?;
    pointers(o, inputs, "inputs", "const", "as_ptr")?;
    pointers(o, outputs, "outputs", "mut", "as_mut_ptr")?;
    writeln!(
        o,
        "    // SAFETY: the arrays have the lengths that the code expects, the arena was checked above, its alignment is\n    \
         // checked by the code; outputs and arena are borrowed mutably.\n    \
         let code = unsafe {{ {name}_run(inputs.as_ptr(), outputs.as_ptr(), arena.as_mut_ptr(), core::ptr::null()) }};\n    \
         Status::check(code)\n}}\n\n\
         unsafe extern \"C\" {{\n    fn {name}_run(\n        inputs: *const *const u8,\n        outputs: *const *mut u8,\n        \
         arena: *mut u8,\n        env: *const u8,\n    ) -> i32;\n}}"
    )
}

fn status(o: &mut String) -> std::fmt::Result {
    writeln!(
        o,
        "/// Why a run failed.\n#[derive(Clone, Copy, Debug, PartialEq, Eq)]\n#[repr(i32)]\npub enum Status {{"
    )?;
    let errors = || Status::ALL.into_iter().filter(|s| *s != Status::Ok);
    for s in errors() {
        writeln!(o, "    /// {}\n    {s:?} = {},", s.what(), s as i32)?;
    }
    writeln!(
        o,
        "    /// a code of another version\n    Unknown = -1,\n}}\n\nimpl Status {{\n    \
         fn check(code: i32) -> Result<(), Status> {{\n        match code {{\n            0 => Ok(()),"
    )?;
    for s in errors() {
        writeln!(o, "            {} => Err(Status::{s:?}),", s as i32)?;
    }
    writeln!(o, "            _ => Err(Status::Unknown),\n        }}\n    }}\n}}\n")?;
    writeln!(
        o,
        "impl core::fmt::Display for Status {{\n    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {{\n        \
         f.write_str(match self {{"
    )?;
    for s in errors() {
        writeln!(o, "            Status::{s:?} => \"{}\",", s.what())?;
    }
    writeln!(
        o,
        "            Status::Unknown => \"a code of another version\",\n        }})\n    }}\n}}\n\nimpl core::error::Error for Status {{}}"
    )
}
