//! Upper bounds of scores from a few coordinates: most centroids are ruled out without their dot product.
//!
//! With an orthonormal basis of a few directions, a row `x` is `V q + e` and a centroid (less the mean) `V g + h`. Then
//! `x c = q g + e V g + e h`, and `e h` is at most `|e||h|` (Cauchy and Schwarz). So the dot product of `[q, |e|]` with
//! `[g, |h|]`, which the same kernel gives at a fraction of the depth, is never below the true one by more than the
//! roundings and what `V` misses of being orthonormal: [`Shadow::slack`]. What reaches the row's best score so far,
//! less the slack, is scored in full; so pruning changes no result.
//!
//! The basis spans the centroids, not the rows: `|h|` is what has to be small. Coordinates are kept as 16-bit numbers,
//! their rounding being part of `e`.

use rayon::prelude::*;

use crate::centroids::{Centroids, UNIT, largest_magnitude};
use crate::distance::norm;
use crate::error::KmeansError;
use crate::panels::{BLOCK_ROWS, Panels, Visitor};
use crate::points::{Points, rounded_up};
use crate::random::Random;
use crate::simd::Isa;

/// Most directions: with it a row costs some 200 bytes.
pub(crate) const MOST_DIRECTIONS: usize = 95;

/// Centroids that the basis is fitted to.
const FITTED_CENTROIDS: usize = 512;

/// Rounds of subspace iteration. A rough basis prunes a little less, no more.
const FIT_ROUNDS: usize = 4;

/// The largest number that a coordinate is kept as.
const LARGEST_CODE: f32 = 32_767.0;

/// Lengths beyond which single precision could overflow: such rows are measured without bounds.
const LONGEST: f64 = 1e18;

/// Orthonormal directions, those that matter most first.
#[derive(Clone)]
pub(crate) struct Basis {
    /// `rank x dim`.
    vectors: Vec<f32>,
    dim: usize,
    /// How far `V^T V` is from the identity.
    defect: f64,
}

impl Basis {
    /// The principal directions of the centroids, by subspace iteration.
    pub(crate) fn fit(centroids: &Centroids<'_>, rank: usize) -> Self {
        let dim = centroids.dim;
        let stride = centroids.k().div_ceil(FITTED_CENTROIDS);
        let rows: Vec<&[f32]> = centroids.shifted.chunks_exact(dim).step_by(stride).collect();
        let mut random = Random::new(0);
        let mut vectors: Vec<Vec<f64>> = (0..rank).map(|_| (0..dim).map(|_| random.unit() - 0.5).collect()).collect();
        orthonormalize(&mut vectors);
        for _ in 0..FIT_ROUNDS {
            vectors.par_iter_mut().for_each(|vector| {
                let mut image = vec![0.0; dim];
                for row in &rows {
                    let along: f64 = row.iter().zip(vector.iter()).map(|(&a, &b)| f64::from(a) * b).sum();
                    for (sum, &value) in image.iter_mut().zip(*row) {
                        *sum += along * f64::from(value);
                    }
                }
                *vector = image;
            });
            orthonormalize(&mut vectors);
        }
        Self::new(vectors.into_iter().flatten().map(|value| value as f32).collect(), dim)
    }

    fn new(vectors: Vec<f32>, dim: usize) -> Self {
        let mut squares = 0.0;
        for (at, a) in vectors.chunks_exact(dim).enumerate() {
            for (other, b) in vectors.chunks_exact(dim).enumerate() {
                let dot: f64 = a.iter().zip(b).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum();
                squares += (dot - f64::from(u8::from(at == other))).powi(2);
            }
        }
        Self { vectors, dim, defect: squares.sqrt() }
    }

    /// The first directions only.
    pub(crate) fn first(&self, rank: usize) -> Self {
        Self::new(self.vectors[..rank * self.dim].to_vec(), self.dim)
    }

    pub(crate) fn rank(&self) -> usize {
        self.vectors.len() / self.dim
    }

    /// Whether it is what its name says: directions may be missing where centroids span fewer.
    pub(crate) fn is_sound(&self) -> bool {
        self.defect < 1e-3
    }
}

/// Modified Gram-Schmidt, twice; a vector that lies in the span of those before it becomes zero.
fn orthonormalize(vectors: &mut [Vec<f64>]) {
    for at in 0..vectors.len() {
        let (before, rest) = vectors.split_at_mut(at);
        let Some(vector) = rest.first_mut() else { return };
        let length = |vector: &[f64]| vector.iter().map(|value| value * value).sum::<f64>().sqrt();
        let original = length(vector);
        for _ in 0..2 {
            for other in before.iter() {
                let along: f64 = vector.iter().zip(other).map(|(a, b)| a * b).sum();
                for (value, &other) in vector.iter_mut().zip(other) {
                    *value -= along * other;
                }
            }
        }
        let left = length(vector);
        let scale = if left > original * 1e-10 { 1.0 / left } else { 0.0 };
        for value in vector.iter_mut() {
            *value *= scale;
        }
    }
}

/// Rows in the coordinates of a basis.
pub(crate) struct Projection {
    basis: Basis,
    mean: Vec<f32>,
    codes: Vec<i16>,
    rows: Vec<Projected>,
}

/// What is kept of a row beside its coordinates.
#[derive(Clone, Copy, Default)]
struct Projected {
    /// What a code is worth.
    scale: f32,
    /// At least the length of what the coordinates miss.
    residual: f32,
    /// At least the length of the row, the mean taken off.
    length: f32,
}

impl Projection {
    /// Projects all rows, less the present mean of the centroids.
    pub(crate) fn new(
        basis: Basis,
        points: Points<'_>,
        centroids: &Centroids<'_>,
        interrupted: &(dyn Fn() -> bool + Sync),
    ) -> Result<Self, KmeansError> {
        let rank = basis.rank();
        let mut codes = vec![0_i16; points.rows() * rank];
        let mut rows = vec![Projected::default(); points.rows()];
        let panels = Panels::new(centroids.isa, &basis.vectors, basis.dim, &vec![0.0; rank]);
        let relative = panels.roundings() as f64 * UNIT * 1.01;
        let blocks = codes.par_chunks_mut(BLOCK_ROWS * rank).zip(rows.par_chunks_mut(BLOCK_ROWS)).enumerate();
        blocks.try_for_each_init(
            || (Vec::new(), Coordinates::new(centroids.isa, rank)),
            |(buffer, coordinates), (block, (codes, rows))| {
                if interrupted() {
                    return Err(KmeansError::Interrupted);
                }
                let mut shifted = points.block(block * BLOCK_ROWS, BLOCK_ROWS, buffer).to_vec();
                for row in shifted.chunks_exact_mut(basis.dim) {
                    for (value, mean) in row.iter_mut().zip(&centroids.mean) {
                        *value -= mean;
                    }
                }
                panels.score(&shifted, coordinates);
                for (at, (codes, kept)) in codes.chunks_exact_mut(rank).zip(rows).enumerate() {
                    let length = norm(&shifted[at * basis.dim..][..basis.dim]);
                    *kept = keep(coordinates.of(at), length, relative, basis.defect, codes);
                }
                Ok(())
            },
        )?;
        Ok(Self { basis, mean: centroids.mean.clone(), codes, rows })
    }

    pub(crate) fn rank(&self) -> usize {
        self.basis.rank()
    }

    /// Writes the coordinates and residuals of a block of rows: zeros where there are no more.
    pub(crate) fn block(&self, first: usize, block: &mut Vec<f32>) {
        let rank = self.rank();
        block.clear();
        block.resize(BLOCK_ROWS * (rank + 1), 0.0);
        let last = self.rows.len().min(first + BLOCK_ROWS);
        let codes = self.codes[first * rank..last * rank].chunks_exact(rank);
        for ((row, codes), kept) in block.chunks_exact_mut(rank + 1).zip(codes).zip(&self.rows[first..last]) {
            for (value, &code) in row.iter_mut().zip(codes) {
                *value = f32::from(code) * kept.scale;
            }
            row[rank] = kept.residual;
        }
    }

    /// The centroids in these coordinates.
    pub(crate) fn shadow(&self, centroids: &Centroids<'_>) -> Shadow {
        let (rank, dim) = (self.rank(), self.basis.dim);
        let parts: Vec<(Vec<f32>, f32, f64)> = (0..centroids.k())
            .into_par_iter()
            .map(|index| self.shadow_of(centroids.centroid(index), &centroids.mean, centroids.bias[index]))
            .collect();
        let vectors: Vec<f32> = parts.iter().flat_map(|(vector, _, _)| vector.iter().copied()).collect();
        let bias: Vec<f32> = parts.iter().map(|(_, bias, _)| *bias).collect();
        let longest = |width: usize| vectors.chunks_exact(rank + 1).map(|row| norm(&row[..width])).fold(0.0, f64::max);
        let panels = Panels::new(centroids.isa, &vectors, rank + 1, &bias);
        Shadow {
            relative: (panels.roundings() + 3) as f64 * UNIT * 1.01,
            inexact: {
                let basis_roundings =
                    (dim.min(crate::panels::DEPTH_BLOCK) + dim / crate::panels::DEPTH_BLOCK + 3) as f64;
                (rank as f64).sqrt() * basis_roundings * UNIT * 1.1 + self.basis.defect * 1.1
            },
            coded: (rank as f64).sqrt() * 0.51,
            longest_coordinates: longest(rank),
            longest: longest(rank + 1),
            largest_bias: largest_magnitude(&bias),
            tiny: (dim + 8) as f64 * 4.0 * f64::EPSILON * parts.iter().map(|part| part.2).fold(0.0, f64::max),
            panels,
            bias,
        }
    }

    /// A centroid as `[g, |h|]`, its bias, and the square of the longest vector in it.
    fn shadow_of(&self, centroid: &[f32], mean: &[f32], bias: f32) -> (Vec<f32>, f32, f64) {
        let dim = self.basis.dim;
        let shifted: Vec<f64> = centroid.iter().zip(mean).map(|(&c, &m)| f64::from(c) - f64::from(m)).collect();
        let squared: f64 = shifted.iter().map(|value| value * value).sum();
        let (mut vector, mut along, mut kept) = (Vec::with_capacity(self.rank() + 1), 0.0, 0.0);
        for direction in self.basis.vectors.chunks_exact(dim) {
            let exact: f64 = direction.iter().zip(&shifted).map(|(&a, &b)| f64::from(a) * b).sum();
            let coordinate = exact as f32;
            along += exact * f64::from(coordinate);
            kept += f64::from(coordinate) * f64::from(coordinate);
            vector.push(coordinate);
        }
        let rounding = dim as f64 * 4.0 * f64::EPSILON * squared;
        let missed = squared - 2.0 * along + (1.0 + self.basis.defect) * kept + rounding;
        vector.push(rounded_up(missed.max(0.0).sqrt()));
        // Rows stand here with the mean of an earlier round taken off.
        let back: f64 = self.mean.iter().zip(&shifted).map(|(&mean, &value)| f64::from(mean) * value).sum();
        let mean_squared: f64 = self.mean.iter().map(|&mean| f64::from(mean) * f64::from(mean)).sum();
        (vector, (f64::from(bias) + back) as f32, squared + mean_squared + back.abs())
    }

    /// How far an upper bound of this row's scores may lie below the true score; see [`Shadow`].
    pub(crate) fn slack(&self, shadow: &Shadow, row: usize) -> f64 {
        self.slack_with(shadow, row, shadow.largest_bias)
    }

    /// The same where scores begin with other numbers, up to `largest_bias`.
    pub(crate) fn slack_with(&self, shadow: &Shadow, row: usize, largest_bias: f64) -> f64 {
        let kept = &self.rows[row];
        let length = f64::from(kept.length);
        if !(length < LONGEST && shadow.longest < LONGEST && largest_bias < LONGEST) {
            return f64::INFINITY;
        }
        // `|V^T e|`, which the exact basis would make zero.
        let across = length * shadow.inexact + f64::from(kept.scale) * shadow.coded;
        let whole = 1.1 * (length + f64::from(kept.residual)) * shadow.longest + largest_bias;
        whole * shadow.relative
            + across * shadow.longest_coordinates
            + shadow.tiny
            + f64::EPSILON * 1e4 * length * length
            + 1e-37
    }
}

/// Keeps the coordinates of a row as codes.
fn keep(coordinates: &[f32], length: f64, relative: f64, defect: f64, codes: &mut [i16]) -> Projected {
    let scale = (largest_magnitude(coordinates) as f32 / LARGEST_CODE).max(f32::MIN_POSITIVE);
    let mut squared = 0.0;
    for (code, &coordinate) in codes.iter_mut().zip(coordinates) {
        *code = (coordinate / scale).round() as i16;
        let value = f64::from(f32::from(*code) * scale);
        squared += value * value;
    }
    let kept = squared.sqrt();
    let error = (coordinates.len() as f64).sqrt() * (relative * length * (1.0 + defect) + 0.51 * f64::from(scale));
    // Seven digits of the length are known, so the residual is one part in a million of it at least.
    let missed = length * length * (1.0 + 1e-12) - (1.0 - defect) * squared + 2.0 * error * kept;
    Projected { scale, residual: rounded_up(missed.max(0.0).sqrt()), length: rounded_up(length) }
}

/// Centroids in the coordinates of a basis, and what bounds the errors of upper bounds.
pub(crate) struct Shadow {
    pub(crate) panels: Panels,
    pub(crate) bias: Vec<f32>,
    relative: f64,
    inexact: f64,
    coded: f64,
    longest_coordinates: f64,
    longest: f64,
    largest_bias: f64,
    tiny: f64,
}

impl Shadow {
    /// The panels, with other numbers for scores to begin with.
    pub(crate) fn take_panels(&mut self, bias: &[f32]) -> Panels {
        let mut panels = std::mem::take(&mut self.panels);
        panels.set_bias(bias);
        panels
    }
}

/// The coordinates of a block of rows, as the kernel gives them.
struct Coordinates {
    rank: usize,
    width: usize,
    values: Vec<f32>,
}

impl Coordinates {
    fn new(isa: Isa, rank: usize) -> Self {
        let width = rank.next_multiple_of(isa.width());
        Self { rank, width, values: vec![0.0; BLOCK_ROWS * width] }
    }

    fn of(&self, row: usize) -> &[f32] {
        &self.values[row * self.width..][..self.rank]
    }
}

impl Visitor for Coordinates {
    #[inline(always)]
    fn visit<const W: usize>(&mut self, first: usize, scores: &[[f32; W]]) {
        for (row, scores) in self.values.chunks_exact_mut(self.width).zip(scores) {
            row[first..first + W].copy_from_slice(scores);
        }
    }
}
