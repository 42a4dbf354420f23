//! Building kernels.

use crate::{Access, Buf, Contract, ContractDim, Expr, Kernel, Stmt, Type, Var};
use tenon_base::DType;

/// Builds one kernel; nested blocks are closures.
///
/// ```
/// use tenon_base::DType;
/// use tenon_kernel::{Access, Expr, KernelBuilder};
/// let mut k = KernelBuilder::new("double");
/// let x = k.buffer("x", DType::F32, 64, Access::In);
/// let y = k.buffer("y", DType::F32, 64, Access::Out);
/// k.parfor("i", 64, |k, i| {
///     let v = Expr::load(x, i.clone());
///     k.store(y, i, v.clone() + v);
/// });
/// assert_eq!(k.finish().body.len(), 1);
/// ```
#[derive(Debug)]
pub struct KernelBuilder {
    kernel: Kernel,
    /// Open blocks, innermost last.
    blocks: Vec<Vec<Stmt>>,
}

impl KernelBuilder {
    /// An empty kernel.
    pub fn new(name: impl Into<String>) -> KernelBuilder {
        KernelBuilder { kernel: Kernel { name: name.into(), ..Kernel::default() }, blocks: vec![vec![]] }
    }

    /// Goes on with `kernel`, which has no statements yet.
    pub fn over(kernel: Kernel) -> KernelBuilder {
        debug_assert!(kernel.body.is_empty(), "statements would be lost");
        KernelBuilder { kernel, blocks: vec![vec![]] }
    }

    /// The kernel.
    pub fn finish(mut self) -> Kernel {
        self.kernel.body = self.blocks.pop().unwrap_or_default();
        debug_assert!(self.blocks.is_empty(), "a block was left open");
        self.kernel
    }

    /// What has been declared so far.
    pub fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// Adds a parameter.
    pub fn buffer(&mut self, name: &str, dtype: DType, len: usize, access: Access) -> Buf {
        self.kernel.new_buffer(name, dtype, len, access)
    }

    /// Allows `input` and `output` to be the same memory (see [`Access`]).
    pub fn allow_in_place(&mut self, input: Buf, output: Buf) {
        self.kernel.in_place.push((input, output));
    }

    /// A variable that is not bound to a statement yet (for [`KernelBuilder::contract`]).
    pub fn fresh(&mut self, name: &str, ty: Type) -> Var {
        self.kernel.new_var(name, ty)
    }

    /// Appends a statement.
    pub fn push(&mut self, s: Stmt) {
        self.blocks.last_mut().expect("an open block").push(s);
    }

    /// `let name = value`; gives the variable as an expression.
    pub fn bind(&mut self, name: &str, value: Expr) -> Expr {
        let var = self.kernel.new_var(name, self.kernel.type_of(&value));
        self.push(Stmt::Let { var, value });
        Expr::Var(var)
    }

    /// `var name = value`
    pub fn declare(&mut self, name: &str, value: Expr) -> Var {
        let var = self.kernel.new_var(name, self.kernel.type_of(&value));
        self.push(Stmt::Declare { var, value });
        var
    }

    /// `var = value`
    pub fn set(&mut self, var: Var, value: Expr) {
        self.push(Stmt::Set { var, value });
    }

    /// `buf[index] = value`
    pub fn store(&mut self, buf: Buf, index: Expr, value: Expr) {
        self.push(Stmt::Store { buf, index, value });
    }

    /// Runs `f` with a new open block and gives its statements.
    pub fn block(&mut self, f: impl FnOnce(&mut Self)) -> Vec<Stmt> {
        self.open();
        f(self);
        self.close()
    }

    /// Opens a block; what is appended goes there until [`KernelBuilder::close`]. For callers that closures do not suit.
    pub fn open(&mut self) {
        self.blocks.push(vec![]);
    }

    /// Closes the innermost open block and gives its statements.
    pub fn close(&mut self) -> Vec<Stmt> {
        self.blocks.pop().expect("a block that was opened")
    }

    /// A loop over `lo..hi` whose iterations run in order.
    pub fn for_range(
        &mut self,
        name: &str,
        lo: impl Into<Expr>,
        hi: impl Into<Expr>,
        f: impl FnOnce(&mut Self, Expr),
    ) {
        self.any_loop(name, lo.into(), hi.into(), 1, false, f);
    }

    /// A loop over `0..n` whose iterations are independent.
    pub fn parfor(&mut self, name: &str, n: impl Into<Expr>, f: impl FnOnce(&mut Self, Expr)) {
        self.any_loop(name, Expr::int(0), n.into(), 1, true, f);
    }

    /// A nest of `parfor`s over `dims`; gives one index a dim.
    pub fn parfor_nest(&mut self, dims: &[usize], f: impl FnOnce(&mut Self, &[Expr])) {
        self.nest(dims, true, f);
    }

    /// A nest of sequential loops over `dims`.
    pub fn for_nest(&mut self, dims: &[usize], f: impl FnOnce(&mut Self, &[Expr])) {
        self.nest(dims, false, f);
    }

    fn nest(&mut self, dims: &[usize], parallel: bool, f: impl FnOnce(&mut Self, &[Expr])) {
        let vars: Vec<Var> = (0..dims.len()).map(|i| self.fresh(&format!("i{i}"), Type::INDEX)).collect();
        let index: Vec<Expr> = vars.iter().map(|v| Expr::Var(*v)).collect();
        let mut body = self.block(|k| f(k, &index));
        for (&var, &n) in vars.iter().zip(dims).rev() {
            body = vec![Stmt::For { var, lo: Expr::int(0), hi: n.into(), step: 1, parallel, body }];
        }
        body.into_iter().for_each(|s| self.push(s));
    }

    /// The general loop.
    pub fn any_loop(
        &mut self,
        name: &str,
        lo: Expr,
        hi: Expr,
        step: i64,
        parallel: bool,
        f: impl FnOnce(&mut Self, Expr),
    ) {
        let var = self.fresh(name, Type::INDEX);
        let body = self.block(|k| f(k, Expr::Var(var)));
        self.push(Stmt::For { var, lo, hi, step, parallel, body });
    }

    /// `if cond { then } else { otherwise }`
    pub fn if_else(&mut self, cond: Expr, then: impl FnOnce(&mut Self), otherwise: impl FnOnce(&mut Self)) {
        let then = self.block(then);
        let otherwise = self.block(otherwise);
        self.push(Stmt::If { cond, then, otherwise });
    }

    /// `while cond { body }`
    pub fn while_loop(&mut self, cond: Expr, body: impl FnOnce(&mut Self)) {
        let body = self.block(body);
        self.push(Stmt::While { cond, body });
    }

    /// A loop dim for [`KernelBuilder::contract`].
    pub fn contract_dim(&mut self, name: &str, extent: usize) -> (ContractDim, Expr) {
        let var = self.fresh(name, Type::INDEX);
        (ContractDim { var, extent }, Expr::Var(var))
    }

    /// A multiply-accumulate nest.
    pub fn contract(&mut self, c: Contract) {
        self.push(Stmt::Contract(Box::new(c)));
    }
}
