//! Algorithms of convolutions: the direct sum, or minimal filtering (Winograd) where that is cheaper on the target.
//!
//! The choice is by an estimate of cycles. Where factors are rounded to `bf16` sums are direct: the transforms would make the rounding of
//! their results several times larger, and save less than pairs of products do.
//!
//! Minimal filtering saves multiplications and pays with transforms, with weights that
//! are several times larger, and with results that are thrown away where tiles reach beyond the image.
//!
//! Bytes are filtered in integers of 16 bits. That is exact, so it is allowed whatever may be rounded; it pays where the direct sum
//! multiplies 16 bits, too. Machines that add products of bytes in one instruction, four a lane, sum directly.

use crate::PassError;
use crate::pipeline::{Math, Settings};
use std::cmp::Ordering::Equal;
use tenon_base::{DType, Fact};
use tenon_ir::ops::conv::{Conv, Layout};
use tenon_ir::ops::winograd_conv::WinogradConv;
use tenon_ir::ops::winograd_weight::WinogradWeight;
use tenon_ir::{Graph, NodeId, Op, Operator, ValueId};
use tenon_target::Target;

/// How much cheaper the estimate must be before an algorithm with larger rounding errors is taken.
const GAIN: f64 = 1.25;

/// The same for integers, which are exact: for weights that take more room.
const EXACT_GAIN: f64 = 1.1;

/// Bytes a cycle that one core reads from memory while it computes.
const FROM_MEMORY: f64 = 3.0;

/// The same from its second cache.
const FROM_L2: f64 = 32.0;

/// Instructions that filtering takes more than a direct sum.
const CODE: f64 = 1000.0;

/// Rows of a register tile of the product.
const ROWS: usize = 6;

/// Rows that take as long as beginning and ending a register tile.
const TILE_ROW: f64 = 0.5;

/// How much dearer than the cheapest a block may be whose like threads can share, and how often at most.
const NEAR: f64 = 1.02;
const MOST_HALVES: u32 = 3;

/// Output tiles that are tried, by the extent of the kernel along an axis.
const TILES: &[(usize, &[usize])] = &[(3, &[4, 2]), (5, &[2]), (2, &[4])];

/// Replaces direct convolutions of integers, and others where `settings` allow another order of sums; gives how many.
pub fn choose(graph: &mut Graph, settings: &Settings) -> Result<usize, PassError> {
    let floats = settings.math > Math::Strict && !settings.rounds_factors();
    let integers = !settings.target.has_dot_product();
    let internal = |message: String| PassError::Internal { pass: "algorithms".into(), message };
    let mut changed = 0;
    let order = graph.topological().map_err(|e| internal(e.to_string()))?;
    // Filtered weights are larger; and what is computed needs room, too.
    let stay = 4 * weight_bytes(graph, &order) <= settings.target.caches.l2;
    for id in order {
        let Some(conv) = Conv2::of(graph, id, stay) else { continue };
        if !(if conv.bytes.is_some() { integers } else { floats }) {
            continue;
        }
        let mut operands = graph.operands(id);
        let Some(w) = graph.weight(operands[1]).cloned() else { continue };
        let exact = |tile: &[usize]| match conv.bytes {
            Some(x) => WinogradWeight { tile: tile.to_vec() }.fits(&w, x),
            None => true,
        };
        let code = settings.effort.price().instruction * CODE;
        let Some(op) = conv.best(&settings.target, code, &exact) else { continue };
        operands[0] = bytes(graph, operands[0]);
        let u = WinogradWeight { tile: op.tile.clone() }.eval(&[w]).map_err(internal)?.swap_remove(0);
        let u = graph.add_weight("", u);
        let mut ins = operands;
        ins[1] = u;
        let loc = graph.node(id).loc.clone();
        graph.set_loc(u.node, loc.clone());
        let y = graph.add_op(op, &ins, loc).map_err(|e| internal(e.to_string()))?;
        graph.replace(ValueId { node: id, port: 0 }, y[0]).map_err(|e| internal(e.to_string()))?;
        changed += 1;
    }
    graph.remove_dead();
    Ok(changed)
}

/// Bytes of all weights of the model.
fn weight_bytes(graph: &Graph, nodes: &[NodeId]) -> usize {
    let bytes = |id: &NodeId| graph.weight(ValueId { node: *id, port: 0 }).map_or(0, |t| t.bytes().len());
    nodes.iter().map(bytes).fold(0, usize::saturating_add)
}

/// A convolution to which minimal filtering applies, with its extents.
struct Conv2 {
    kernel: Vec<usize>,
    dilations: Vec<usize>,
    pads: Vec<usize>,
    fill: Option<i64>,
    images: usize,
    /// Spatial extents of the result.
    out: Vec<usize>,
    c: usize,
    o: usize,
    /// The part of the taps that the direct sum computes.
    inside: f64,
    /// For integers, the least and the largest value of the activations, which are bytes.
    bytes: Option<(i128, i128)>,
    /// All weights of the model stay in the second cache from run to run.
    stay: bool,
}

/// The bytes that `v` holds in 16 bits, or `v`.
fn bytes(graph: &Graph, v: ValueId) -> ValueId {
    match graph.op(v.node) {
        Some(Op::Cast(c)) if c.to == DType::I16 => {
            let from = graph.operands(v.node)[0];
            if is_byte(graph.fact(from).dtype) { from } else { v }
        }
        _ => v,
    }
}

fn is_byte(d: DType) -> bool {
    matches!(d, DType::U8 | DType::I8)
}

impl Conv2 {
    fn of(graph: &Graph, id: NodeId, stay: bool) -> Option<Conv2> {
        let Some(Op::Conv(conv)) = graph.op(id) else { return None };
        let fact = &graph.node(id).facts[0];
        let plain = conv.group == 1 && conv.layout == Layout::ChannelsLast;
        let steps_of_one = conv.strides.iter().all(|s| *s == 1);
        let data = graph.fact(bytes(graph, graph.operands(id)[0])).dtype;
        let integers = fact.dtype == DType::I32 && is_byte(data);
        if !plain || !steps_of_one || conv.kernel.len() > 2 || fact.dtype != DType::F32 && !integers {
            return None;
        }
        let ins: Vec<Fact> = graph.operands(id).iter().map(|v| graph.fact(*v).clone()).collect();
        let (x, y) = (ins[0].dims()?, fact.dims()?);
        let (c, o) = (*x.last()?, *y.last()?);
        // Integers are multiplied in pairs along the channels.
        if y.contains(&0) || c == 0 || integers && c % 2 != 0 {
            return None;
        }
        let (from, out) = (conv.layout.spatial(&x), conv.layout.spatial(&y));
        let inside = if conv.by_taps(&ins, fact) { conv.inside(&from, &out) } else { 1.0 };
        let Conv { kernel, dilations, pads, fill, .. } = conv.clone();
        let bytes = if integers { Some(data.int_range()?) } else { None };
        Some(Conv2 { kernel, dilations, pads, fill, images: y[0], out, c, o, inside, bytes, stay })
    }

    /// The cheapest form of minimal filtering with tiles that are `exact`, if it is worth while, whose code costs `code` cycles.
    fn best(&self, target: &Target, code: f64, exact: &dyn Fn(&[usize]) -> bool) -> Option<WinogradConv> {
        let tiles = self.tiles();
        let exact = tiles.iter().filter(|t| exact(t));
        let all: Vec<_> = exact
            .flat_map(|tile| self.blocks(tile).into_iter().map(move |b| (self.filtered(tile, b, target), tile, b)))
            .collect();
        let &(least, tile, _) = all.iter().min_by(|a, b| a.0.total_cmp(&b.0))?;
        // Of those that cost about the same, one whose blocks threads can share evenly. How many threads there are must not matter: results
        // are to be the same.
        let near = all.iter().filter(|c| c.1 == tile && c.0 <= NEAR * least);
        let &(cost, tile, block) = near.max_by(|a, b| {
            (self.halves(tile, a.2), b.0).partial_cmp(&(self.halves(tile, b.2), a.0)).unwrap_or(Equal)
        })?;
        let tile = tile.clone();
        let (kernel, dilations, pads) = (self.kernel.clone(), self.dilations.clone(), self.pads.clone());
        let op = || WinogradConv { kernel, dilations, tile, pads, fill: self.fill, block };
        let gain = if self.bytes.is_some() { EXACT_GAIN } else { GAIN };
        (cost * gain + code < self.direct(target)).then(op)
    }

    /// The tiles that can be made: along every axis longer than one element the same choice.
    fn tiles(&self) -> Vec<Vec<usize>> {
        let options = |r: usize| TILES.iter().find(|(k, _)| *k == r).map_or(&[][..], |(_, t)| *t);
        let longest = self.kernel.iter().copied().max().unwrap_or(1);
        let all_known = self.kernel.iter().all(|&r| r == 1 || r == longest);
        let tile = |m: usize| self.kernel.iter().map(|&r| if r == 1 { 1 } else { m }).collect();
        if all_known { options(longest).iter().map(|&m| tile(m)).collect() } else { vec![] }
    }

    fn count(&self, tile: &[usize]) -> usize {
        let along = |i: usize| WinogradConv::tiles(self.out[i], tile[i], self.dilations[i]);
        self.images * (0..tile.len()).map(along).product::<usize>()
    }

    fn places(&self, tile: &[usize]) -> usize {
        self.kernel.iter().zip(tile).map(|(r, m)| r + m - 1).product()
    }

    /// How many tiles may go through all steps together: all of them cut into ever more blocks of nearly equal size, and
    /// whole register tiles of rows where that does not make more of them.
    fn blocks(&self, tile: &[usize]) -> Vec<usize> {
        let count = self.count(tile);
        let mut all = vec![];
        for blocks in 1..=64 {
            let even = count.div_ceil(blocks);
            let rows = even.next_multiple_of(ROWS);
            all.push(even);
            all.extend((count.div_ceil(rows) == count.div_ceil(even)).then_some(rows.min(count)));
        }
        all.dedup();
        all
    }

    /// How often the blocks of `block` tiles can be halved: never if the last is smaller.
    fn halves(&self, tile: &[usize], block: usize) -> u32 {
        let count = self.count(tile);
        if count.is_multiple_of(block) { (count / block).trailing_zeros().min(MOST_HALVES) } else { 0 }
    }

    /// The dtypes of direct weights, of what filtering multiplies, and of sums.
    fn dtypes(&self) -> [DType; 3] {
        if self.bytes.is_some() { [DType::I8, DType::I16, DType::I32] } else { [DType::F32; 3] }
    }

    /// Cycles of `macs` multiply-adds on full vectors, in tiles as they come out.
    fn multiply(&self, macs: f64, target: &Target) -> f64 {
        // The additions of pairs take their part of the units that multiply.
        let [_, factors, _] = self.dtypes();
        let of_peak = if factors == DType::F32 { 0.9 } else { 0.75 };
        2.0 * macs / (of_peak * target.peak_ops_per_cycle(factors))
    }

    /// Cycles to read `bytes` of weights for the first time in a run: the rest of the model has passed through the caches since, if it
    /// is large.
    fn first_read(&self, bytes: f64) -> f64 {
        bytes / if self.stay { FROM_L2 } else { FROM_MEMORY }
    }

    /// Cycles to read `bytes` that are used again after `between` bytes of other data, which says where they are then. What leaves the second
    /// cache goes to the third, which has room of its own.
    fn read(bytes: f64, between: f64, target: &Target) -> f64 {
        const FROM_L3: f64 = 12.0;
        let caches = &target.caches;
        let per_cycle = if between * 1.5 < caches.l2 as f64 {
            FROM_L2
        } else if between * 1.5 < (caches.l2 + caches.l3) as f64 {
            FROM_L3
        } else {
            FROM_MEMORY
        };
        bytes / per_cycle
    }

    /// Cycles of the direct sum.
    fn direct(&self, target: &Target) -> f64 {
        let taps: usize = self.kernel.iter().product();
        let weights = (taps * self.c * self.o) as f64;
        let points = (self.images * self.out.iter().product::<usize>()) as f64;
        let bytes = self.dtypes()[0].size() as f64;
        self.multiply(self.inside * points * weights, target).max(self.first_read(bytes * weights))
    }

    /// Cycles of minimal filtering with `tile`, in blocks of `block` tiles.
    fn filtered(&self, tile: &[usize], block: usize, target: &Target) -> f64 {
        // Instructions a transformed vector: its load, its store, and the sums along both axes, two of them a cycle.
        const STEPS: f64 = 5.0;
        let (places, count, block) = (self.places(tile) as f64, self.count(tile) as f64, block as f64);
        let blocks = (count / block).ceil();
        // Few rows in a product leave accumulators idle. Many are cut into tiles of nearly the same height.
        let rows = ROWS as f64;
        let rows = if block <= rows {
            rows / block
        } else {
            (1.0 + TILE_ROW * (block / rows).ceil() / block) / (1.0 + TILE_ROW / rows)
        };
        let weights = places * (self.c * self.o) as f64;
        let product = self.multiply(count * rows * weights, target);
        let [_, factors, sums] = self.dtypes().map(|d| d.size() as f64);
        // What lies between the steps of a block, written and read once each.
        let between = block * places * (factors * self.c as f64 + sums * self.o as f64);
        let bytes = factors * weights;
        // A smaller block at the end has tiles of another shape, and weights packed for them.
        let copies = if count % block == 0.0 || blocks < 2.0 { 1.0 } else { 2.0 };
        let loads = copies * self.first_read(bytes) + (blocks - copies) * Self::read(bytes, bytes + between, target);
        let passing = blocks * Self::read(between, between, target);
        let vector = target.vector_bytes.max(4) as f64;
        let transformed = count * places * (factors * self.c as f64 + sums * self.o as f64) / vector;
        let transforms = transformed * STEPS / 2.0;
        // Reading ahead hides most of the shorter of the two.
        product.max(loads) + product.min(loads) / 8.0 + passing + transforms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conv(side: usize, c: usize, o: usize, kernel: usize) -> Conv2 {
        Conv2 {
            kernel: vec![kernel; 2],
            dilations: vec![1; 2],
            pads: vec![kernel / 2; 4],
            fill: None,
            images: 1,
            out: vec![side; 2],
            c,
            o,
            inside: 1.0,
            bytes: None,
            stay: false,
        }
    }

    fn best(c: Conv2, target: &str) -> Option<WinogradConv> {
        c.best(&Target::parse(target).expect("a known target"), 0.0, &|_| true)
    }

    #[test]
    fn large_layers_are_filtered_and_thin_ones_are_not() {
        let tile = |c: Conv2| best(c, "x86_64-linux/x86-64-v3").map(|op| op.tile);
        assert_eq!(tile(conv(56, 64, 64, 3)), Some(vec![4, 4]));
        assert_eq!(tile(conv(28, 128, 128, 3)), Some(vec![4, 4]));
        assert_eq!(tile(conv(224, 3, 32, 3)), None, "the transforms cost more than they save");
        assert_eq!(tile(conv(56, 64, 64, 1)), None);
    }

    #[test]
    fn bytes_are_filtered_too_with_the_tiles_that_are_exact() {
        let bytes = |side, c| Conv2 { bytes: Some((0, 255)), ..conv(side, c, c, 3) };
        let tile = |c: Conv2| best(c, "x86_64-linux/x86-64-v3").map(|op| op.tile);
        assert_eq!(tile(bytes(56, 32)), Some(vec![4, 4]));
        assert_eq!(tile(bytes(7, 256)), Some(vec![2, 2]), "the weights of larger tiles take too long to read");
        assert_eq!(tile(bytes(112, 4)), None, "the transforms cost more than they save");
        let target = Target::parse("x86_64-linux/x86-64-v3").expect("a known target");
        let small = bytes(56, 64).best(&target, 0.0, &|tile| tile == [2, 2]);
        assert_eq!(small.map(|op| op.tile), Some(vec![2, 2]));
        assert_eq!(bytes(56, 64).best(&target, 0.0, &|_| false), None);
    }

    #[test]
    fn weights_that_stay_in_the_cache_cost_little() {
        let layer = |stay| Conv2 { stay, ..conv(8, 32, 64, 3) };
        assert_eq!(best(layer(false), "sapphire-rapids").map(|op| op.tile), None);
        assert!(best(layer(true), "sapphire-rapids").is_some());
    }

    #[test]
    fn few_tiles_share_one_pass_over_the_weights() {
        let block = |c: Conv2| best(c, "x86_64-linux/x86-64-v3").map_or(0, |op| op.block);
        assert_eq!(block(conv(14, 256, 256, 3)), 16);
        let block = block(conv(56, 64, 64, 3));
        assert!((12..=48).contains(&block), "what lies between the steps stays in the cache: {block}");
    }
}
