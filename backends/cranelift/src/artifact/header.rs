//! The C header.

use super::names::{KEYWORDS, Names};
use super::{Field, Interface, comment, fields};
use std::fmt::Write;
use tenon_abi::{ABI_VERSION, ARENA_ALIGN, Status};
use tenon_base::DType;
use tenon_kernel::Program;
use tenon_target::Target;

/// The header of `program`'s artifact: C99 and C++, nothing but `<stddef.h>` and `<stdint.h>`.
///
/// `half` and `bf16` floats are `uint16_t` bits, smaller ones `uint8_t`, `bool`s are `uint8_t` 0 or 1.
pub fn c_header(program: &Program, target: &Target) -> String {
    c_header_of(program, target, &Interface::default())
}

/// The same, for an object made with options.
pub fn c_header_of(program: &Program, target: &Target, interface: &Interface) -> String {
    let mut out = String::new();
    // Writing to a `String` does not fail.
    let _ = write(&mut out, program, target, interface);
    out
}

fn c_type(d: DType) -> &'static str {
    match d {
        DType::F32 => "float",
        DType::F64 => "double",
        DType::F16 | DType::U16 => "uint16_t",
        DType::I8 => "int8_t",
        DType::I16 => "int16_t",
        DType::I32 => "int32_t",
        DType::I64 => "int64_t",
        DType::U8 | DType::Bool => "uint8_t",
        DType::U32 => "uint32_t",
        DType::U64 => "uint64_t",
        // Less than a byte: one element a byte, sign-extended where there is a sign.
        DType::U4 | DType::U2 => "uint8_t",
        stored => c_type(stored.carrier()),
    }
}

/// A size as a constant that the preprocessor understands.
fn number(n: usize) -> String {
    if u32::try_from(n).is_ok() { format!("{n}u") } else { format!("{n}ull") }
}

fn write(o: &mut String, p: &Program, target: &Target, interface: &Interface) -> std::fmt::Result {
    let name = &p.name;
    let upper = name.to_ascii_uppercase();
    let (inputs, outputs) = fields(p, KEYWORDS, &interface.shapes);
    writeln!(
        o,
        "/* {}: compiled by tenon {} for {}. */\n#ifndef TENON_MODEL_{upper}_H\n#define TENON_MODEL_{upper}_H\n\n\
         #include <stddef.h>\n#include <stdint.h>\n\n#ifdef __cplusplus\nextern \"C\" {{\n#endif\n",
        comment(name),
        env!("CARGO_PKG_VERSION"),
        comment(&target.name),
    )?;
    shared(o)?;

    writeln!(
        o,
        "/* Memory for intermediate results: this many bytes, aligned. Contents need no preparation{}. */",
        if p.states.is_empty() { "" } else { " beyond the state" }
    )?;
    writeln!(o, "#define {upper}_ARENA_BYTES {}", number(p.arena_bytes))?;
    writeln!(o, "#define {upper}_ARENA_ALIGN {ARENA_ALIGN}u\n")?;
    if p.threads() > 1 {
        writeln!(
            o,
            "/* Threads that a run can use: env->parallel_for is called with counts up to this. */\n\
             #define {upper}_THREADS {}u\n",
            p.threads()
        )?;
    }
    if let Some(stack) = interface.stack {
        writeln!(o, "/* The stack that a run takes at most. */\n#define {upper}_STACK_BYTES {}\n", number(stack))?;
    }
    if let Some(bytes) = interface.weights_file {
        writeln!(
            o,
            "/* The constant data are in {}.weights.bin: this many bytes, mapped or read to an aligned address. */\n\
             #define {upper}_WEIGHTS_BYTES {}\n#define {upper}_WEIGHTS_ALIGN {ARENA_ALIGN}u\n",
            comment(name),
            number(bytes)
        )?;
    }
    states(o, p, &upper)?;
    for (list, what) in [(&inputs, "INPUT"), (&outputs, "OUTPUT")] {
        for f in list {
            let field = f.name.to_ascii_uppercase();
            writeln!(o, "#define {upper}_{what}_{field}_LEN {}", number(f.len))?;
            writeln!(o, "#define {upper}_{what}_{field}_BYTES {}", number(f.bytes()))?;
        }
    }
    if !p.bounded.is_empty() {
        writeln!(
            o,
            "\n/* This model runs any size up to a bound: the inputs below that are sizes tell those of a run. Buffers have the length for\n   \
             the largest size, and an element lies where it would in an array of that size: [i][j] of f32[4,512] at 512*i + j, however\n   \
             small the run. No result depends on what lies behind the end that a run has along an axis; outputs hold anything there. */"
        )?;
    }
    structure(o, &inputs, &format!("{name}_inputs"), "const ")?;
    structure(o, &outputs, &format!("{name}_outputs"), "")?;
    writeln!(
        o,
        "\n/* Runs the model. Every pointer is aligned to its element and not null; buffers do not overlap. Returns a \
         tenon_status.\n   Calls with different arenas may run at once. env may be null. */\n\
         int32_t {name}_run(const {name}_inputs *in, const {name}_outputs *out, void *arena, {}const tenon_env *env);\n\n\
         /* What this is: version, target, signature. */\nextern const char {name}_info[];\n",
        if interface.weights_file.is_some() { "const void *weights, " } else { "" },
    )?;
    if let Some(bytes) = interface.selftest_arena {
        writeln!(
            o,
            "/* Runs the model on known inputs and compares: TENON_OK, or TENON_SELFTEST_FAILED. Its arena is larger. */\n\
             #define {upper}_SELFTEST_ARENA_BYTES {}\nint32_t {name}_selftest(void *arena{});\n",
            number(bytes),
            if interface.weights_file.is_some() { ", const void *weights" } else { "" },
        )?;
    }
    writeln!(
        o,
        "/* The machine this was compiled for has 64-bit pointers. */\n\
         typedef char {name}_assert_pointers[sizeof(void *) == 8 ? 1 : -1];\n\
         typedef char {name}_assert_inputs[sizeof({name}_inputs) == 8 * {} ? 1 : -1];\n\
         typedef char {name}_assert_outputs[sizeof({name}_outputs) == 8 * {} ? 1 : -1];\n",
        inputs.len().max(1),
        outputs.len().max(1),
    )?;
    writeln!(o, "#ifdef __cplusplus\n}}\n#endif\n\n#endif")
}

/// What is kept in the arena from run to run, and how to set, save and bring it back.
fn states(o: &mut String, p: &Program, upper: &str) -> std::fmt::Result {
    if p.states.is_empty() {
        return Ok(());
    }
    let name = &p.name;
    writeln!(
        o,
        "/* State: the first bytes of the arena are kept from one run to the next. Set them with {name}_state_init \n   before the first run. */"
    )?;
    writeln!(o, "#define {upper}_STATE_BYTES {}", number(p.state_bytes()))?;
    let mut names = Names::new(KEYWORDS);
    for (s, at) in p.states.iter().zip(p.state_offsets()) {
        let field = names.fresh(&s.name).to_ascii_uppercase();
        writeln!(
            o,
            "#define {upper}_STATE_{field}_OFFSET {} /* {} */",
            number(at),
            comment(&format!("{}, `{}`", s.fact, s.name))
        )?;
    }
    writeln!(
        o,
        "\n/* What a first run finds: zeros. */\n\
         static inline void {name}_state_init(void *arena) {{\n    size_t i;\n    \
         for (i = 0; i < {upper}_STATE_BYTES; i++) ((unsigned char *)arena)[i] = 0;\n}}\n\
         /* Copies the state out: {upper}_STATE_BYTES bytes. */\n\
         static inline void {name}_state_save(const void *arena, void *to) {{\n    size_t i;\n    \
         for (i = 0; i < {upper}_STATE_BYTES; i++) ((unsigned char *)to)[i] = ((const unsigned char *)arena)[i];\n}}\n\
         /* Brings back what {name}_state_save has written. */\n\
         static inline void {name}_state_load(void *arena, const void *from) {{\n    size_t i;\n    \
         for (i = 0; i < {upper}_STATE_BYTES; i++) ((unsigned char *)arena)[i] = ((const unsigned char *)from)[i];\n}}\n"
    )
}

/// What the headers of all models share.
fn shared(o: &mut String) -> std::fmt::Result {
    writeln!(o, "#ifndef TENON_ABI_VERSION\n#define TENON_ABI_VERSION {ABI_VERSION}\nenum tenon_status {{")?;
    for s in Status::ALL {
        writeln!(o, "    TENON_{} = {}, /* {} */", s.name(), s as i32, s.what())?;
    }
    // No comma after the last: C89 and C++98 do not know it.
    if let Some(at) = o.rfind(',') {
        o.remove(at);
    }
    writeln!(
        o,
        "}};\n/* Optional hooks. Set size to sizeof(tenon_env) and the rest to 0 or to what it says:\n   \
         - parallel_for calls work(data, k) once for every k below count, in any order and on any threads, and returns when\n     \
         all calls have; context is its own. Without it a model runs in the calling thread alone. Results are the same. */\n\
         typedef struct tenon_env {{\n    size_t size;\n    \
         void (*parallel_for)(void *context, size_t count, void (*work)(void *data, size_t index), void *data);\n    \
         void *context;\n}} tenon_env;\n\
         #elif TENON_ABI_VERSION != {ABI_VERSION}\n\
         #error \"models compiled by versions of tenon that do not fit together\"\n#endif\n"
    )
}

fn structure(o: &mut String, fields: &[Field], name: &str, qualifier: &str) -> std::fmt::Result {
    writeln!(o, "\ntypedef struct {name} {{")?;
    for f in fields {
        writeln!(o, "    {qualifier}{} *{}; /* {} */", c_type(f.dtype), f.name, f.what)?;
    }
    if fields.is_empty() {
        // C has no empty structs.
        writeln!(o, "    const void *unused;")?;
    }
    writeln!(o, "}} {name};")
}
