//! Tiles that were measured: which contraction is tiled how, by its shape.
//!
//! The schedule chooses tiles by an estimate. It notes for each contraction what else it would have taken
//! ([`Considered`]); whoever measures those can hand the better ones to a later compile ([`Tuning`]).

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Which loops over tiles are inside which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Order {
    /// Of a product: along the columns, then all rows. What is loaded of the columns stays in the first cache.
    RowsInside,
    /// Along the rows, then all columns: rows are read once.
    ColumnsInside,
    /// Where both factors are vectors (depthwise convolutions): one column of tiles after the other.
    ColumnsOutside,
    /// There, too: along the rows, then all columns, then the loops between, which are the lines of an image. What is below each other is
    /// computed one after the other.
    LinesInside,
}

impl Order {
    /// All orders.
    pub const ALL: [Order; 4] = [Order::RowsInside, Order::ColumnsInside, Order::ColumnsOutside, Order::LinesInside];
}

/// How a contraction is tiled. Its text is `6x2 rows-inside`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tile {
    /// Rows of results at most; all tiles of a column are about as high.
    pub rows: usize,
    /// Vector registers of a row.
    pub registers: usize,
    /// The order of tiles.
    pub order: Order,
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Order::RowsInside => "rows-inside",
            Order::ColumnsInside => "columns-inside",
            Order::ColumnsOutside => "columns-outside",
            Order::LinesInside => "lines-inside",
        })
    }
}

impl fmt::Display for Tile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{} {}", self.rows, self.registers, self.order)
    }
}

impl FromStr for Tile {
    type Err = String;

    fn from_str(s: &str) -> Result<Tile, String> {
        let tile = || {
            let (size, order) = s.split_once(' ')?;
            let (rows, registers) = size.split_once('x')?;
            let order = Order::ALL.into_iter().find(|o| o.to_string() == order)?;
            let count = |s: &str| s.parse().ok().filter(|n| (1..=64).contains(n));
            Some(Tile { rows: count(rows)?, registers: count(registers)?, order })
        };
        tile().ok_or_else(|| format!("expected a tile like `6x2 rows-inside`, found `{s}`"))
    }
}

/// Tiles by the shapes of contractions (see [`Considered::shape`]). Empty, every choice is the schedule's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tuning {
    /// What was found best.
    pub tiles: BTreeMap<String, Tile>,
}

impl Tuning {
    /// No choice.
    pub const NONE: &'static Tuning = &Tuning { tiles: BTreeMap::new() };
}

/// What the schedule considered for one contraction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Considered {
    /// The kernel that it is in.
    pub kernel: String,
    /// The contraction: the dtype of its sums, then rows × columns × terms, each by the extents of its loops, such as
    /// `f32 56.56x64x3.192`; behind it `lines` where both factors are vectors.
    pub shape: String,
    /// What it was tiled as.
    pub taken: Tile,
    /// What else would do, the best by estimate first.
    pub others: Vec<Tile>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_read_back() {
        for order in Order::ALL {
            let tile = Tile { rows: 6, registers: 2, order };
            assert_eq!(tile.to_string().parse(), Ok(tile));
        }
        for bad in
            ["", "6x2", "6x2 sideways", "0x2 rows-inside", "6x99 rows-inside", "x rows-inside", "6x2x1 rows-inside"]
        {
            assert!(bad.parse::<Tile>().is_err(), "{bad}");
        }
    }
}
