//! Printing kernels and programs.

use super::PRIMARY;
use super::print_expr::{ExprPrinter, ty};
use crate::stmt::visit_stmts;
use crate::{
    Access, BufferId, BufferKind, Call, Contract, ContractDim, Expr, Kernel, Program, ProgramBuffer, Step, Stmt,
    Tiles, Var,
};
use std::fmt::{self, Write};
use tenon_base::text::{name, quoted, word, write_data};
use tenon_base::{Loc, Tensor};

/// What to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrintOptions {
    /// Constants of more elements are left out: `const <2359296 values>`. Such text is for reading only.
    pub longest_const: Option<usize>,
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&print_kernel(self).0)
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&print_program(self, &PrintOptions::default()))
    }
}

/// The variables of `kernel` in the order of their first definitions.
fn definition_order(kernel: &Kernel) -> Vec<Var> {
    let mut order = vec![];
    let mut seen = vec![false; kernel.vars.len()];
    let mut define = |v: Var| {
        if let Some(seen @ false) = seen.get_mut(v.0 as usize) {
            *seen = true;
            order.push(v);
        }
    };
    kernel.parts.iter().for_each(|p| define(p.var));
    visit_stmts(&kernel.body, &mut |s| match s {
        Stmt::Let { var, .. } | Stmt::Declare { var, .. } | Stmt::For { var, .. } => define(*var),
        Stmt::Contract(c) => {
            c.dims.iter().chain(&c.reduce).for_each(|d| define(d.var));
            define(c.acc);
        }
        _ => {}
    });
    order
}

/// The text of `kernel`, and the line (from 0) on which each of its statements begins, in the order in which
/// [`visit_stmts`] visits them.
pub(crate) fn print_kernel(kernel: &Kernel) -> (String, Vec<usize>) {
    let mut p = Printer { out: String::new(), indent: 0, line: 0, lines: vec![] };
    p.kernel(kernel);
    (p.out, p.lines)
}

/// The text of `program`.
pub fn print_program(program: &Program, options: &PrintOptions) -> String {
    let mut p = Printer { out: String::new(), indent: 0, line: 0, lines: vec![] };
    p.program(program, options);
    p.out
}

struct Printer {
    out: String,
    indent: usize,
    line: usize,
    lines: Vec<usize>,
}

impl Printer {
    fn begin(&mut self) {
        for _ in 0..self.indent {
            self.out.push_str("  ");
        }
    }

    fn end(&mut self) {
        self.out.push('\n');
        self.line += 1;
    }

    fn close(&mut self) {
        self.indent -= 1;
        self.begin();
        self.out.push('}');
        self.end();
    }

    /// `} @ "loc"`
    fn close_at(&mut self, loc: &Loc) {
        self.indent -= 1;
        self.begin();
        self.out.push('}');
        self.loc(loc);
        self.end();
    }

    fn open(&mut self) {
        self.out.push_str(" {");
        self.end();
        self.indent += 1;
    }

    fn kernel(&mut self, k: &Kernel) {
        self.begin();
        self.out.push_str("kernel ");
        word(&mut self.out, &k.name);
        self.out.push('(');
        for (i, b) in k.buffers.iter().enumerate() {
            self.out.push_str(if i > 0 { ", " } else { "" });
            self.out.push_str(match b.access {
                Access::In => "in ",
                Access::Out => "out ",
                Access::InOut => "inout ",
                Access::Scratch => "scratch ",
            });
            name(&mut self.out, &b.name);
            let _ = write!(self.out, ": {}[{}]", b.dtype, b.len);
        }
        self.out.push(')');
        let e = ExprPrinter { kernel: k };
        for &(input, output) in &k.in_place {
            self.out.push_str(" inplace(");
            e.buf(&mut self.out, input);
            self.out.push_str(", ");
            e.buf(&mut self.out, output);
            self.out.push(')');
        }
        if let Some(p) = k.parts {
            self.out.push_str(" part ");
            e.var(&mut self.out, p.var);
            let _ = write!(self.out, " of {}", p.count);
        }
        self.open();
        let order = definition_order(k);
        if order.len() != k.vars.len() || order.iter().enumerate().any(|(i, v)| v.0 as usize != i) {
            self.begin();
            self.out.push_str("vars ");
            for (i, v) in k.vars.iter().enumerate() {
                self.out.push_str(if i > 0 { ", " } else { "" });
                name(&mut self.out, &v.name);
                self.out.push_str(": ");
                ty(&mut self.out, v.ty);
            }
            self.end();
        }
        self.block(&e, &k.body);
        self.close();
    }

    fn block(&mut self, e: &ExprPrinter, body: &[Stmt]) {
        body.iter().for_each(|s| self.stmt(e, s));
    }

    /// `before`, a variable, ` = `, a value and the end of the line.
    fn assign(&mut self, e: &ExprPrinter, before: &str, var: Var, value: &Expr) {
        self.out.push_str(before);
        e.var(&mut self.out, var);
        self.out.push_str(" = ");
        e.expr(&mut self.out, value, 0);
        self.end();
    }

    fn stmt(&mut self, e: &ExprPrinter, s: &Stmt) {
        self.lines.push(self.line);
        self.begin();
        match s {
            Stmt::Let { var, value } => self.assign(e, "let ", *var, value),
            Stmt::Declare { var, value } => self.assign(e, "var ", *var, value),
            Stmt::Set { var, value } => self.assign(e, "", *var, value),
            Stmt::Store { buf, index, value } => self.store(e, *buf, index, value),
            Stmt::Prefetch { buf, index } => {
                self.out.push_str("prefetch ");
                e.buf(&mut self.out, *buf);
                self.out.push('[');
                e.expr(&mut self.out, index, 0);
                self.out.push(']');
                self.end();
            }
            Stmt::For { var, lo, hi, step, parallel, body } => {
                self.out.push_str(if *parallel { "parfor " } else { "for " });
                e.var(&mut self.out, *var);
                self.out.push_str(" in ");
                e.expr(&mut self.out, lo, 0);
                self.out.push_str("..");
                e.expr(&mut self.out, hi, 0);
                if *step != 1 {
                    let _ = write!(self.out, " step {step}");
                }
                self.open();
                self.block(e, body);
                self.close();
            }
            Stmt::If { cond, then, otherwise } => {
                self.out.push_str("if ");
                e.expr(&mut self.out, cond, 0);
                self.open();
                self.block(e, then);
                if !otherwise.is_empty() {
                    self.indent -= 1;
                    self.begin();
                    self.out.push_str("} else");
                    self.open();
                    self.block(e, otherwise);
                }
                self.close();
            }
            Stmt::While { cond, body } => {
                self.out.push_str("while ");
                e.expr(&mut self.out, cond, 0);
                self.open();
                self.block(e, body);
                self.close();
            }
            Stmt::Contract(c) => self.contract(e, c),
            Stmt::Tiles(t) => self.tiles(e, t),
        }
    }

    fn store(&mut self, e: &ExprPrinter, buf: crate::Buf, index: &Expr, value: &Expr) {
        self.out.push_str("store ");
        e.buf(&mut self.out, buf);
        self.out.push('[');
        e.expr(&mut self.out, index, 0);
        self.out.push_str("] = ");
        e.expr(&mut self.out, value, 0);
        self.end();
    }

    fn dims(&mut self, e: &ExprPrinter, dims: &[ContractDim]) {
        for (i, d) in dims.iter().enumerate() {
            self.out.push_str(if i > 0 { ", " } else { " " });
            e.var(&mut self.out, d.var);
            let _ = write!(self.out, " in 0..{}", d.extent);
        }
    }

    fn reduce(&mut self, e: &ExprPrinter, dims: &[ContractDim]) {
        if !dims.is_empty() {
            self.out.push_str(" reduce");
            self.dims(e, dims);
        }
    }

    fn tiles(&mut self, e: &ExprPrinter, t: &Tiles) {
        self.out.push_str("tiles ");
        e.buf(&mut self.out, t.out);
        self.out.push('[');
        e.expr(&mut self.out, &t.out_index, 0);
        let _ = write!(
            self.out,
            "] = {} * {} rows, {} * {} columns, {} groups",
            t.blocks,
            t.rows,
            t.panels,
            Tiles::LANES,
            t.groups
        );
        self.reduce(e, &t.reduce);
        self.open();
        self.begin();
        e.expr(&mut self.out, &t.x, PRIMARY);
        let _ = write!(self.out, ", {}, {}", t.row, t.below);
        self.end();
        self.begin();
        e.expr(&mut self.out, &t.w, PRIMARY);
        let _ = write!(self.out, ", {}", t.beside);
        if let Some(f) = &t.fetch {
            self.out.push_str(" fetch ");
            e.expr(&mut self.out, &f.first, PRIMARY);
            let _ = write!(self.out, ", {}", f.lines);
        }
        self.end();
        self.close();
    }

    fn contract(&mut self, e: &ExprPrinter, c: &Contract) {
        self.out.push_str("contract");
        self.dims(e, &c.dims);
        self.reduce(e, &c.reduce);
        self.open();
        self.begin();
        e.var(&mut self.out, c.acc);
        self.out.push_str(": ");
        match e.kernel.vars.get(c.acc.0 as usize) {
            Some(v) => ty(&mut self.out, v.ty),
            None => self.out.push('?'),
        }
        self.out.push_str(" = ");
        e.expr(&mut self.out, &c.init, 0);
        self.end();
        self.begin();
        e.var(&mut self.out, c.acc);
        self.out.push_str(" += ");
        e.expr(&mut self.out, &c.a, PRIMARY);
        self.out.push_str(" * ");
        e.expr(&mut self.out, &c.b, PRIMARY);
        self.end();
        self.begin();
        self.store(e, c.out, &c.out_index, &c.value);
        self.close();
    }

    fn program(&mut self, p: &Program, options: &PrintOptions) {
        self.out.push_str("program ");
        word(&mut self.out, &p.name);
        self.open();
        if p.fused_multiply_add {
            self.begin();
            self.out.push_str("fma");
            self.end();
        }
        if p.flush_to_zero {
            self.begin();
            self.out.push_str("flush");
            self.end();
        }
        if p.arena_bytes > 0 {
            self.begin();
            let _ = write!(self.out, "arena {}", p.arena_bytes);
            self.end();
        }
        for (k, i) in p.inputs.iter().enumerate() {
            self.begin();
            self.out.push_str("input ");
            quoted(&mut self.out, &i.name);
            let _ = write!(self.out, ": {}", i.fact);
            if let Some((least, most)) = p.bounded.get(&k) {
                let _ = write!(self.out, " bounded {least} {most}");
            }
            self.end();
        }
        for (k, o) in p.outputs.iter().enumerate() {
            self.begin();
            self.out.push_str("output ");
            quoted(&mut self.out, &o.name);
            let _ = write!(self.out, ": {}", o.fact);
            if let Some(by) = p.sized.get(&k).and_then(|by| p.outputs.get(*by)) {
                self.out.push_str(" sized ");
                quoted(&mut self.out, &by.name);
            }
            self.end();
        }
        p.buffers.iter().for_each(|b| self.buffer(b, options));
        for s in &p.states {
            self.begin();
            self.out.push_str("state ");
            quoted(&mut self.out, &s.name);
            let _ = write!(self.out, ": {} = ", s.fact);
            self.program_buffer(p, s.buffer);
            self.end();
        }
        for k in &p.kernels {
            self.end();
            self.kernel(k);
        }
        if !p.steps.is_empty() {
            self.end();
        }
        self.steps(p, &p.steps);
        self.close();
    }

    fn steps(&mut self, p: &Program, steps: &[Step]) {
        for s in steps {
            self.begin();
            match s {
                Step::Call(call) => {
                    self.call(p, call);
                    self.loc(&call.loc);
                    self.end();
                }
                Step::If(s) => {
                    self.out.push_str("if ");
                    self.program_buffer(p, s.cond);
                    self.open();
                    self.steps(p, &s.then);
                    if !s.otherwise.is_empty() {
                        self.indent -= 1;
                        self.begin();
                        self.out.push_str("} else");
                        self.open();
                        self.steps(p, &s.otherwise);
                    }
                    self.close_at(&s.loc);
                }
                Step::Loop(s) => {
                    self.out.push_str("loop");
                    for (word, id) in [("", s.iter), ("to ", s.trip), ("while ", s.cond)] {
                        let Some(id) = id else { continue };
                        self.out.push(' ');
                        self.out.push_str(word);
                        self.program_buffer(p, id);
                    }
                    self.open();
                    self.steps(p, &s.body);
                    self.close_at(&s.loc);
                }
            }
        }
    }

    fn loc(&mut self, loc: &Loc) {
        if let Some(loc) = loc.name() {
            self.out.push_str(" @ ");
            quoted(&mut self.out, loc);
        }
    }

    fn call(&mut self, p: &Program, call: &Call) {
        self.out.push_str("call ");
        match p.kernels.get(call.kernel) {
            Some(k) => word(&mut self.out, &k.name),
            None => {
                let _ = write!(self.out, "<no kernel {}>", call.kernel);
            }
        }
        self.out.push('(');
        for (i, id) in call.args.iter().enumerate() {
            self.out.push_str(if i > 0 { ", " } else { "" });
            self.program_buffer(p, *id);
        }
        self.out.push(')');
    }

    fn program_buffer(&mut self, p: &Program, id: BufferId) {
        match p.buffers.get(id.0 as usize) {
            Some(b) => name(&mut self.out, &b.name),
            None => {
                let _ = write!(self.out, "%<no buffer {}>", id.0);
            }
        }
    }

    fn buffer(&mut self, b: &ProgramBuffer, options: &PrintOptions) {
        self.begin();
        self.out.push_str("buffer ");
        name(&mut self.out, &b.name);
        let _ = write!(self.out, ": {}[{}] = ", b.dtype, b.len);
        let _ = match &b.kind {
            BufferKind::Input(k) => write!(self.out, "input {k}"),
            BufferKind::Output(k) => write!(self.out, "output {k}"),
            BufferKind::Arena(None) => write!(self.out, "arena"),
            BufferKind::Arena(Some(at)) => write!(self.out, "arena@{at}"),
            BufferKind::Const(t) => {
                tensor(&mut self.out, t, options);
                Ok(())
            }
        };
        self.end();
    }
}

fn tensor(out: &mut String, t: &Tensor, options: &PrintOptions) {
    out.push_str("const ");
    if t.shape().len() != 1 {
        out.push('(');
        for (i, d) in t.shape().iter().enumerate() {
            let _ = write!(out, "{}{d}", if i > 0 { ", " } else { "" });
        }
        out.push_str(") ");
    }
    if options.longest_const.is_some_and(|n| t.len() > n) {
        let _ = write!(out, "<{} values>", t.len());
    } else {
        write_data(out, t);
    }
}
