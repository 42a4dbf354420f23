//! What is inlined: model-local functions, and `If` where the condition is known. And checking the operators of what is not.

use crate::attr::{Passed, domain};
use crate::body::{Body, Frame, Meaning, Session, Slot};
use crate::import::{op_label, opsets};
use crate::limits::MAX_DEPTH;
use crate::proto::{FunctionProto, NodeProto};
use crate::report::shortened;
use std::rc::Rc;
use tenon_base::DType;
use tenon_ir::{ImportError, ValueId};

impl<'p> Session<'p> {
    /// The branch of an `If` that its condition, which must be known, selects. `None` when something in it has a problem.
    pub(crate) fn inline_if(
        &mut self,
        n: &'p NodeProto,
        attrs: &Passed<'p>,
        operands: &[Option<ValueId>],
        loc: &str,
        body: &Body<'p>,
    ) -> Result<Option<Vec<ValueId>>, ImportError> {
        let condition = operands.first().copied().flatten();
        let condition = condition.ok_or_else(|| ImportError::new("the condition is missing"))?;
        let taken = match self.importer(loc).constant(condition, "cond") {
            Ok(t) if t.dtype() == DType::Bool && t.len() == 1 => t.get(0).as_int() != 0,
            Ok(t) => {
                return Err(ImportError::new(format!("condition: expected one bool, found {}", t.fact())));
            }
            Err(e) => {
                self.scan_node(n, loc, body);
                return Err(ImportError { message: format!("branches are chosen at import: {}", e.message), ..e });
            }
        };
        let name = if taken { "then_branch" } else { "else_branch" };
        let branch = attrs.get(name).and_then(|a| a.g.as_deref());
        let branch = branch.ok_or_else(|| ImportError::new(format!("attribute `{name}` is missing")))?;
        if !branch.input.is_empty() {
            return Err(ImportError::new(format!("`{name}` has inputs: expected none")));
        }
        let inner = Body {
            opsets: body.opsets.clone(),
            passed: body.passed.clone(),
            prefix: format!("{loc}/"),
            depth: enter(body)?,
        };
        self.frames.push(Frame::new(true));
        self.define_initializers(branch);
        self.import_nodes(&branch.node, &inner);
        let result = self.results(branch.output.iter().map(|v| v.name.as_str()), name);
        self.frames.pop();
        result
    }

    /// The body of a function, with `operands` and `attrs` for its parameters.
    pub(crate) fn inline_function(
        &mut self,
        f: &'p FunctionProto,
        attrs: &Passed<'p>,
        operands: &[Option<ValueId>],
        loc: &str,
        body: &Body<'p>,
    ) -> Result<Option<Vec<ValueId>>, ImportError> {
        if operands.len() > f.input.len() {
            return Err(ImportError::new(format!(
                "expected at most {} operands, found {}",
                f.input.len(),
                operands.len()
            )));
        }
        let mut passed: Passed<'p> = f.attribute_proto.iter().map(|a| (a.name.as_str(), a)).collect();
        passed.extend(attrs.iter().map(|(name, a)| (*name, *a)));
        self.charge_inlined(passed.len() + f.opset_import.len() + f.input.len() + f.output.len());
        let own = if f.opset_import.is_empty() { body.opsets.clone() } else { Rc::new(opsets(&f.opset_import)) };
        let inner =
            Body { opsets: own, passed: Some(Rc::new(passed)), prefix: format!("{loc}/"), depth: enter(body)? };
        self.frames.push(Frame::new(false));
        for (i, name) in f.input.iter().enumerate() {
            self.define(name, operands.get(i).copied().flatten().map_or(Slot::Absent, Slot::Value));
        }
        self.import_nodes(&f.node, &inner);
        let result = self.results(f.output.iter().map(String::as_str), &f.name);
        self.frames.pop();
        result
    }

    /// The values of `names`, outputs of `what`; `None` when one has a problem that is already reported.
    fn results<'a>(
        &mut self,
        names: impl Iterator<Item = &'a str>,
        what: &str,
    ) -> Result<Option<Vec<ValueId>>, ImportError> {
        // After a stop nothing is complete, and that is reported already.
        let mut all = (!self.stopped).then(Vec::new);
        for name in names {
            match self.lookup(name) {
                Slot::Value(v) => {
                    if let Some(all) = &mut all {
                        all.push(v);
                    }
                }
                Slot::Missing if !self.stopped => {
                    return Err(ImportError::new(format!("nothing in `{what}` gives its output `{name}`")));
                }
                _ => all = None,
            }
        }
        Ok(all)
    }

    /// Reports the operators that cannot be imported of a node that is not imported, and of its subgraphs and functions.
    pub(crate) fn scan_node(&mut self, n: &'p NodeProto, loc: &str, body: &Body<'p>) {
        if !self.visit(1) {
            return;
        }
        match self.meaning(n, body) {
            Meaning::Unsupported(reason, help) => {
                let op = op_label(domain(&n.domain), &n.op_type, Some(Self::opset(n, body)));
                self.report.unsupported(&op, loc, reason, help);
            }
            // Each function once: calls may fan out exponentially.
            Meaning::Function(f)
                if body.depth < MAX_DEPTH && self.scanned.insert((&f.domain, &f.name, &f.overload)) =>
            {
                let opsets = Rc::new(opsets(&f.opset_import));
                let inner = Body { opsets, passed: None, prefix: String::new(), depth: body.depth + 1 };
                self.scan_nodes(&f.node, loc, &inner);
            }
            _ => {}
        }
        for g in n.attribute.iter().filter_map(|a| a.g.as_deref()) {
            self.scan_nodes(&g.node, loc, body);
        }
    }

    fn scan_nodes(&mut self, nodes: &'p [NodeProto], loc: &str, body: &Body<'p>) {
        for n in nodes {
            let name = if n.name.is_empty() { &n.op_type } else { &n.name };
            self.scan_node(n, &shortened(&format!("{loc}/{name}")), body);
        }
    }
}

fn enter(body: &Body<'_>) -> Result<usize, ImportError> {
    if body.depth >= MAX_DEPTH {
        return Err(ImportError::new(format!("functions and branches are nested more than {MAX_DEPTH} deep"))
            .with_help("a function of the model may call itself, which ONNX does not allow"));
    }
    Ok(body.depth + 1)
}
