//! Scores of rows against packed vectors: the matrix product whose result is looked at where it arises.
//!
//! Vectors stand in panels, coordinate by coordinate, the same coordinate of all vectors of a panel side by side. A
//! block of the product stays in registers while it is summed: lanes run over vectors, so every sum is taken in the
//! order of coordinates, whatever the width. The product as a whole is never stored.

use crate::simd::{Isa, Work, multiply_add};

/// Coordinates that are summed from zero before they are added to the score: a panel of so many stays in the first
/// cache, and rounding errors grow with this number and not with the dimension.
pub(crate) const DEPTH_BLOCK: usize = 256;

/// Rows of a block that is scored at a time: a multiple of the rows of every kernel shape.
pub(crate) const BLOCK_ROWS: usize = 96;

/// Vectors packed for scoring, each with a number that its scores begin with.
#[derive(Default)]
pub(crate) struct Panels {
    isa: Isa,
    depth: usize,
    values: Vec<f32>,
    bias: Vec<f32>,
}

/// Takes the scores of one panel after another.
pub(crate) trait Visitor {
    /// Looks at the scores of a block of rows with the vectors from `first` on; rows of width `W` follow each other.
    /// Lanes beyond the last vector hold minus infinity.
    fn visit<const W: usize>(&mut self, first: usize, scores: &[[f32; W]]);
}

impl Panels {
    /// Packs vectors of `depth` coordinates, one after the other in `vectors`.
    pub(crate) fn new(isa: Isa, vectors: &[f32], depth: usize, bias: &[f32]) -> Self {
        let width = isa.width();
        let count = bias.len();
        let mut values = Vec::with_capacity(count.next_multiple_of(width) * depth);
        for panel in vectors.chunks(width * depth) {
            for coordinate in 0..depth {
                for lane in 0..width {
                    values.push(panel.get(lane * depth + coordinate).copied().unwrap_or(0.0));
                }
            }
        }
        let mut panels = Self { isa, depth, values, bias: Vec::new() };
        panels.set_bias(bias);
        panels
    }

    /// Changes the numbers that scores begin with.
    pub(crate) fn set_bias(&mut self, bias: &[f32]) {
        self.bias.clear();
        self.bias.extend_from_slice(bias);
        self.bias.resize(bias.len().next_multiple_of(self.isa.width()), f32::NEG_INFINITY);
    }

    /// Most roundings on the way of a coordinate into a score, the products and the bias included.
    pub(crate) fn roundings(&self) -> usize {
        self.depth.min(DEPTH_BLOCK) + self.depth.div_ceil(DEPTH_BLOCK) + 2
    }

    /// Scores a block of [`BLOCK_ROWS`] rows, one after the other in `rows`, with every vector.
    pub(crate) fn score<V: Visitor>(&self, rows: &[f32], visitor: &mut V) {
        self.isa.run(Scoring { panels: self, rows, visitor });
    }
}

struct Scoring<'a, V> {
    panels: &'a Panels,
    rows: &'a [f32],
    visitor: &'a mut V,
}

impl<V: Visitor> Work for Scoring<'_, V> {
    type Output = ();

    #[inline(always)]
    fn run<const R: usize, const W: usize, const FMA: bool>(self) {
        let depth = self.panels.depth;
        let mut scores = [[0.0_f32; W]; BLOCK_ROWS];
        let (bias, _) = self.panels.bias.as_chunks::<W>();
        for (index, (panel, bias)) in self.panels.values.chunks_exact(depth * W).zip(bias).enumerate() {
            scores.fill(*bias);
            let (panel, _) = panel.as_chunks::<W>();
            for (block, panel) in panel.chunks(DEPTH_BLOCK).enumerate() {
                let first = block * DEPTH_BLOCK;
                for (group, scores) in scores.chunks_exact_mut(R).enumerate() {
                    let rows: [&[f32]; R] =
                        std::array::from_fn(|row| &self.rows[(group * R + row) * depth + first..][..panel.len()]);
                    let sums = products::<R, W, FMA>(rows, panel);
                    for (scores, sums) in scores.iter_mut().zip(&sums) {
                        for lane in 0..W {
                            scores[lane] += sums[lane];
                        }
                    }
                }
            }
            self.visitor.visit(index * W, &scores);
        }
    }
}

/// Dot products of `R` rows with `W` vectors: the innermost loop of the crate, all of whose sums stay in registers.
#[inline(always)]
fn products<const R: usize, const W: usize, const FMA: bool>(rows: [&[f32]; R], panel: &[[f32; W]]) -> [[f32; W]; R] {
    let mut sums = [[0.0_f32; W]; R];
    for (coordinate, vectors) in panel.iter().enumerate() {
        for row in 0..R {
            let value = rows[row][coordinate];
            for lane in 0..W {
                sums[row][lane] = multiply_add::<FMA>(value, vectors[lane], sums[row][lane]);
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    struct Keep(Vec<Vec<f32>>);

    impl Visitor for Keep {
        fn visit<const W: usize>(&mut self, _first: usize, scores: &[[f32; W]]) {
            for (kept, scores) in self.0.iter_mut().zip(scores) {
                kept.extend_from_slice(scores);
            }
        }
    }

    /// Every instruction set of this machine sums exactly where sums are exact, at any shape.
    #[test]
    fn scores_are_dot_products_on_every_instruction_set() {
        let mut random = Random::new(4);
        for isa in Isa::all() {
            for (depth, count) in [(1, 1), (3, 16), (17, 33), (256, 5), (600, 40)] {
                let mut draw =
                    |count: usize| -> Vec<f32> { (0..count).map(|_| random.below(9) as f32 - 4.0).collect() };
                let (rows, vectors, bias) = (draw(BLOCK_ROWS * depth), draw(count * depth), draw(count));
                let mut kept = Keep(vec![Vec::new(); BLOCK_ROWS]);
                Panels::new(isa, &vectors, depth, &bias).score(&rows, &mut kept);
                for (row, kept) in rows.chunks_exact(depth).zip(&kept.0) {
                    for (at, vector) in vectors.chunks_exact(depth).enumerate() {
                        let dot: f32 = row.iter().zip(vector).map(|(a, b)| a * b).sum();
                        assert_eq!(kept[at], dot + bias[at], "{isa:?}, depth {depth}, vector {at}");
                    }
                    assert!(kept[count..].iter().all(|&score| score == f32::NEG_INFINITY));
                }
            }
        }
    }
}
