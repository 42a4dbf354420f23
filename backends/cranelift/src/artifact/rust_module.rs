//! The Rust module.

use super::names::KEYWORDS;
use super::{Field, Interface, comment, fields};
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
/// how the object is linked. Of a program for several threads it needs `tenon_runtime`: `run_on` and its kind take what runs
/// the parts.
///
/// `half` floats are `u16` bits, `bool`s are `u8` 0 or 1.
pub fn rust_module(program: &Program, target: &Target) -> String {
    rust_module_of(program, target, &Interface::default())
}

/// The same, for an object made with options.
pub fn rust_module_of(program: &Program, target: &Target, interface: &Interface) -> String {
    let mut out = String::new();
    // Writing to a `String` does not fail.
    let _ = write(&mut out, program, target, interface);
    out
}

fn rust_type(d: DType) -> &'static str {
    match d {
        DType::F16 => "u16",
        DType::Bool | DType::U4 | DType::U2 => "u8",
        d => d.carrier().name(),
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

fn write(o: &mut String, p: &Program, target: &Target, interface: &Interface) -> std::fmt::Result {
    let name = &p.name;
    let model = model_type(name);
    let (inputs, outputs) = fields(p, KEYWORDS, &interface.shapes);
    writeln!(o, "// {name}: compiled by tenon {} for {}.\n", env!("CARGO_PKG_VERSION"), comment(&target.name))?;
    status(o)?;
    writeln!(
        o,
        "\n/// Bytes of memory for intermediate results.\npub const ARENA_BYTES: usize = {};\n\
         /// Its alignment.\n{ALLOW}\npub const ARENA_ALIGN: usize = {ARENA_ALIGN};\n",
        p.arena_bytes
    )?;
    if p.threads() > 1 {
        writeln!(
            o,
            "/// Threads that a run can use, where it is given any.\n{ALLOW}\npub const THREADS: usize = {};\n",
            p.threads()
        )?;
    }
    if let Some(stack) = interface.stack {
        writeln!(
            o,
            "/// Bytes of the stack that a run takes at most.\n{ALLOW}\npub const STACK_BYTES: usize = {stack};\n"
        )?;
    }
    if let Some(bytes) = interface.weights_file {
        writeln!(
            o,
            "/// Bytes of the file `{}.weights.bin`, which holds the constant data.\n{ALLOW}\n\
             pub const WEIGHTS_BYTES: usize = {bytes};\n",
            comment(name)
        )?;
    }
    let weights = interface.weights_file.is_some();
    // `Self` as the text writes it, and what stands before it.
    let (own, generics) = if weights { (format!("{model}<'w>"), "<'w>") } else { (model.clone(), "") };
    let field = if weights { "    weights: &'w [u8],\n" } else { "" };
    writeln!(
        o,
        "{}#[repr(C, align({ARENA_ALIGN}))]\nstruct Arena([u8; ARENA_BYTES]);\n\n\
         /// The model `{name}` with memory for its intermediate results.\n///\n\
         /// Put it in a `static`, or in a `Box` if [`ARENA_BYTES`] is too much for the stack.\n\
         {ALLOW}\npub struct {own} {{\n    arena: Arena,\n{field}}}\n",
        if p.states.is_empty() {
            String::new()
        } else {
            format!(
                "/// Bytes at the beginning of the arena that are kept from run to run; zeros before the first.\n{ALLOW}\npub \
                 const STATE_BYTES: usize = {};\n\n",
                p.state_bytes()
            )
        }
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

    let (doc, parameter, given) = match weights {
        true => (
            "A model with the contents of its file of constant data, at an address aligned to [`ARENA_ALIGN`] (a mapped file is).",
            "weights: &'w [u8]",
            ", weights",
        ),
        false => ("A model ready to run.", "", ""),
    };
    writeln!(
        o,
        "{ALLOW}\nimpl{generics} {own} {{\n    /// {doc}\n    pub const fn new({parameter}) -> {own} {{\n        \
         {model} {{ arena: Arena([0; ARENA_BYTES]){given} }}\n    }}\n"
    )?;
    let ways = if p.threads() > 1 { &WAYS[..] } else { &WAYS[..1] };
    if small {
        let result = match outputs.as_slice() {
            [one] => array(one),
            _ => "Outputs".into(),
        };
        for w in ways {
            writeln!(
                o,
                "    /// Runs the model{}.\n    pub fn run{}(&mut self{}{ins}) -> Result<{result}, Status> {{",
                w.what, w.suffix, w.parameter
            )?;
            for f in &outputs {
                writeln!(o, "        let mut {} = {};", f.name, zeros(f))?;
            }
            writeln!(
                o,
                "        self.run_into{}({})?;",
                w.suffix,
                format!("{}{}{}", w.argument, names(&inputs, ""), names(&outputs, "&mut ")).trim_start_matches(", ")
            )?;
            match outputs.as_slice() {
                [one] => writeln!(o, "        Ok({})\n    }}\n", one.name)?,
                many => {
                    let list: Vec<&str> = many.iter().map(|f| f.name.as_str()).collect();
                    writeln!(o, "        Ok(Outputs {{ {} }})\n    }}\n", list.join(", "))?;
                }
            }
        }
    }
    if !p.states.is_empty() {
        writeln!(
            o,
            "    /// Makes what is kept from run to run what a first run finds: zeros.\n    pub fn reset(&mut self) {{\n        \
             self.arena.0[..STATE_BYTES].fill(0);\n    }}\n\n    \
             /// A copy of what is kept from run to run.\n    pub fn snapshot(&self) -> [u8; STATE_BYTES] {{\n        \
             let mut copy = [0; STATE_BYTES];\n        copy.copy_from_slice(&self.arena.0[..STATE_BYTES]);\n        copy\n    }}\n\n    \
             /// Brings back what [`{model}::snapshot`] gave.\n    pub fn restore(&mut self, state: &[u8; STATE_BYTES]) {{\n        \
             self.arena.0[..STATE_BYTES].copy_from_slice(state);\n    }}\n"
        )?;
    }
    for w in ways {
        writeln!(
            o,
            "    /// Runs the model{} and writes to `{}`.\n    pub fn run_into{}(&mut self{}{ins}{outs}) -> Result<(), Status> {{\n        \
             run_in{}({}&mut self.arena.0{}{}{})\n    }}",
            w.what,
            outputs.iter().map(|f| f.name.as_str()).collect::<Vec<_>>().join("`, `"),
            w.suffix,
            w.parameter,
            w.suffix,
            w.leading(),
            if weights { ", self.weights" } else { "" },
            names(&inputs, ""),
            names(&outputs, ""),
        )?;
        writeln!(o, "{}", if w.suffix == ways[ways.len() - 1].suffix { "}\n" } else { "" })?;
    }
    if !weights {
        writeln!(
            o,
            "impl Default for {model} {{\n    fn default() -> {model} {{\n        {model}::new()\n    }}\n}}\n"
        )?;
    }
    let ins = if weights { format!(", weights: &[u8]{ins}") } else { ins };
    run_in(o, name, &inputs, &outputs, &ins, &outs, weights, ways)?;
    interface.selftest_arena.map_or(Ok(()), |bytes| selftest(o, name, bytes, weights))
}

/// What is checked of the weights before the code sees them.
const CHECK_WEIGHTS: &str =
    "    if weights.len() < WEIGHTS_BYTES {\n        return Err(Status::WrongLength);\n    }\n";

fn selftest(o: &mut String, name: &str, bytes: usize, weights: bool) -> std::fmt::Result {
    let (parameter, check, pointer, declared) = match weights {
        true => (", weights: &[u8]", CHECK_WEIGHTS, ", weights.as_ptr()", ", weights: *const u8"),
        false => ("", "", "", ""),
    };
    writeln!(
        o,
        "\n/// Bytes of the arena that [`selftest`] takes.\n{ALLOW}\npub const SELFTEST_ARENA_BYTES: usize = {bytes};\n\n\
         /// Runs the model on known inputs and compares, in `arena`: [`SELFTEST_ARENA_BYTES`] bytes aligned to [`ARENA_ALIGN`].\n\
         {ALLOW}\npub fn selftest(arena: &mut [u8]{parameter}) -> Result<(), Status> {{\n    \
         if arena.len() < SELFTEST_ARENA_BYTES {{\n        return Err(Status::WrongLength);\n    }}\n{check}    \
         // SAFETY: the lengths were checked above, the alignments are checked by the code; the arena is borrowed mutably.\n    \
         Status::check(unsafe {{ {name}_selftest(arena.as_mut_ptr(){pointer}) }})\n}}\n\n\
         unsafe extern \"C\" {{\n    fn {name}_selftest(arena: *mut u8{declared}) -> i32;\n}}"
    )
}

fn zeros(f: &Field) -> String {
    let zero = if matches!(f.dtype, DType::F32 | DType::F64) { "0.0" } else { "0" };
    format!("[{zero}; {}]", f.len)
}

/// A way to run a model: in the calling thread, or on several.
struct Way {
    /// Of the functions' names.
    suffix: &'static str,
    /// For their documentation.
    what: &'static str,
    /// The parameter behind `self`, and the argument.
    parameter: &'static str,
    argument: &'static str,
}

const WAYS: [Way; 2] = [
    Way { suffix: "", what: "", parameter: "", argument: "" },
    Way {
        suffix: "_on",
        what: " on several threads",
        parameter: ", threads: &impl ::tenon_runtime::Parallel",
        argument: ", threads",
    },
];

impl Way {
    /// The argument where it comes first.
    fn leading(&self) -> &'static str {
        if self.argument.is_empty() { "" } else { "threads, " }
    }
}

#[expect(clippy::too_many_arguments, reason = "the parts of one text")]
fn run_in(
    o: &mut String,
    name: &str,
    inputs: &[Field],
    outputs: &[Field],
    ins: &str,
    outs: &str,
    weights: bool,
    ways: &[Way],
) -> std::fmt::Result {
    let pointers = |o: &mut String, list: &[Field], what: &str, kind: &str, cast: &str| -> std::fmt::Result {
        let body: Vec<String> = list.iter().map(|f| format!("{}.{cast}().cast()", f.name)).collect();
        writeln!(o, "    let {what}: [*{kind} u8; {}] = [{}];", list.len(), body.join(", "))
    };
    for w in ways {
        writeln!(
            o,
            "/// Runs the model{} in `arena`: [`ARENA_BYTES`] bytes aligned to [`ARENA_ALIGN`].\n///",
            w.what
        )?;
        for f in inputs.iter().chain(outputs) {
            writeln!(o, "/// - `{}`: {}", f.name, f.what)?;
        }
        let first = w.parameter.trim_start_matches(", ");
        let comma = if first.is_empty() { "" } else { ", " };
        writeln!(
            o,
            "{ALLOW}\npub fn run_in{}({first}{comma}arena: &mut [u8]{ins}{outs}) -> Result<(), Status> {{",
            w.suffix
        )?;
        writeln!(o, "    if arena.len() < ARENA_BYTES {{\n        return Err(Status::WrongLength);\n    }}")?;
        o.push_str(if weights { CHECK_WEIGHTS } else { "" });
        // No tensor's name begins with an underscore.
        pointers(o, inputs, "_inputs", "const", "as_ptr")?;
        pointers(o, outputs, "_outputs", "mut", "as_mut_ptr")?;
        let (env, why) = match w.suffix {
            "" => ("core::ptr::null()", ""),
            _ => {
                writeln!(o, "    let _env = ::tenon_runtime::Parallel::env(threads);")?;
                (
                    "(&raw const _env).cast()",
                    "; the\n    // environment is what its trait promises, and is borrowed meanwhile",
                )
            }
        };
        writeln!(
            o,
            "    // SAFETY: the arrays have the lengths that the code expects, the arena was checked above, its alignment is\n    \
             // checked by the code; outputs and arena are borrowed mutably{why}.\n    \
             let _code = unsafe {{ {name}_run(_inputs.as_ptr(), _outputs.as_ptr(), arena.as_mut_ptr(){}, {env}) }};\n    \
             Status::check(_code)\n}}\n",
            if weights { ", weights.as_ptr()" } else { "" },
        )?;
    }
    writeln!(
        o,
        "unsafe extern \"C\" {{\n    fn {name}_run(\n        inputs: *const *const u8,\n        outputs: *const *mut u8,\n        \
         arena: *mut u8,\n{}        env: *const u8,\n    ) -> i32;\n}}",
        if weights { "        weights: *const u8,\n" } else { "" },
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
