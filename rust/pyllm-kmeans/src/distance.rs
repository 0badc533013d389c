//! The distance that decides, and the dot products that save computing it.

/// Lanes of the sums below: fixed, so that the order of additions is.
const LANES: usize = 8;

/// Sum of squared differences, computed directly in `f64`, in a fixed order of additions.
///
/// Direct, because `|a|^2 - 2ab + |b|^2` loses the distance of near points to cancellation. Finite for finite rows.
#[must_use]
pub fn squared_distance(a: &[f32], b: &[f32]) -> f64 {
    let (a_lanes, a_rest) = a.as_chunks::<LANES>();
    let (b_lanes, b_rest) = b.as_chunks::<LANES>();
    let mut sums = [0.0_f64; LANES];
    for (x, y) in a_lanes.iter().zip(b_lanes) {
        for lane in 0..LANES {
            let difference = f64::from(x[lane]) - f64::from(y[lane]);
            sums[lane] += difference * difference;
        }
    }
    for (lane, (&x, &y)) in a_rest.iter().zip(b_rest).enumerate() {
        let difference = f64::from(x) - f64::from(y);
        sums[lane] += difference * difference;
    }
    sums.iter().sum()
}

/// Euclidean norm in `f64`.
pub(crate) fn norm(row: &[f32]) -> f64 {
    row.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>().sqrt()
}

/// Centroids made ready for many rows to be measured against them.
///
/// For a row `x`, [`Scores::of_block`] gives `|c|^2 - 2xc`, its squared distance to each centroid `c` less `|x|^2`,
/// from a dot product in `f32`; [`Prepared::bound`] is how far that may be off.
pub(crate) struct Prepared<'a> {
    centroids: &'a [f32],
    dim: usize,
    squared_norms: Vec<f64>,
    largest_norm: f64,
}

impl<'a> Prepared<'a> {
    pub(crate) fn new(centroids: &'a [f32], dim: usize) -> Self {
        let norms: Vec<f64> = centroids.chunks_exact(dim).map(norm).collect();
        let largest_norm = norms.iter().copied().fold(0.0, f64::max);
        let squared_norms = norms.into_iter().map(|norm| norm * norm).collect();
        Self { centroids, dim, squared_norms, largest_norm }
    }

    pub(crate) fn k(&self) -> usize {
        self.squared_norms.len()
    }

    pub(crate) fn centroid(&self, index: usize) -> &[f32] {
        &self.centroids[index * self.dim..(index + 1) * self.dim]
    }

    /// How far a score may lie from the squared distance (less `|x|^2`) that [`squared_distance`] computes.
    ///
    /// A sum of products of `f32` is off by at most `g |x||c|` with `g = nu / (1 - nu)`, `n` roundings on the longest
    /// path and `u = 2^-24` (Higham, Accuracy and Stability, section 3.1), and by `2^-149` a product where it
    /// underflows; the score takes it twice. What is left is `f64`: a few roundings of numbers up to
    /// `(|x| + |c|)^2`, given the generous `2^-52` each. Infinite where an `f32` sum could overflow.
    pub(crate) fn bound(&self, norm: f64) -> f64 {
        let product = norm * self.largest_norm;
        if product >= f64::from(f32::MAX) / 2.0 {
            return f64::INFINITY;
        }
        let roundings = (self.dim / LANES + LANES + 1) as f64 * (0.5 * f64::from(f32::EPSILON));
        if roundings >= 0.5 {
            return f64::INFINITY;
        }
        let sum = norm + self.largest_norm;
        2.0 * (product * roundings / (1.0 - roundings) + self.dim as f64 * f64::from(f32::from_bits(1)))
            + (self.dim + 8) as f64 * f64::EPSILON * sum * sum
    }

    /// Scores of some rows: `scores[row * k + centroid]`.
    pub(crate) fn scores(&self, rows: &[f32], scores: &mut Vec<f64>) {
        let k = self.k();
        scores.clear();
        scores.resize(rows.len() / self.dim * k, 0.0);
        // Four centroids stay in the cache while the rows of the block pass by.
        for (group, four) in self.centroids.chunks(GROUP * self.dim).enumerate() {
            let first = group * GROUP;
            for (row, row_scores) in rows.chunks_exact(self.dim).zip(scores.chunks_exact_mut(k)) {
                let squared_norms = &self.squared_norms[first..k.min(first + GROUP)];
                let dots = dots(row, four);
                for ((score, squared_norm), dot) in row_scores[first..].iter_mut().zip(squared_norms).zip(dots) {
                    *score = squared_norm - 2.0 * f64::from(dot);
                }
            }
        }
    }
}

/// Centroids that share the loads of a row.
const GROUP: usize = 4;

/// Dot products of a row with up to [`GROUP`] centroids, one after the other in memory; 0 where there are fewer.
fn dots(row: &[f32], centroids: &[f32]) -> [f32; GROUP] {
    let dim = row.len();
    if centroids.len() < GROUP * dim {
        let mut few = [0.0; GROUP];
        for (dot, centroid) in few.iter_mut().zip(centroids.chunks_exact(dim)) {
            [*dot] = dots_of(row, [centroid]);
        }
        return few;
    }
    dots_of(row, std::array::from_fn(|index| &centroids[index * dim..(index + 1) * dim]))
}

fn dots_of<const N: usize>(row: &[f32], centroids: [&[f32]; N]) -> [f32; N] {
    let (row_lanes, row_rest) = row.as_chunks::<LANES>();
    let centroids = centroids.map(<[f32]>::as_chunks::<LANES>);
    let mut sums = [[0.0_f32; LANES]; N];
    let lanes = centroids.map(|(lanes, _)| &lanes[..row_lanes.len()]);
    for (index, x) in row_lanes.iter().enumerate() {
        for (sum, lanes) in sums.iter_mut().zip(lanes) {
            let c = &lanes[index];
            for lane in 0..LANES {
                sum[lane] += x[lane] * c[lane];
            }
        }
    }
    for (sum, (_, rest)) in sums.iter_mut().zip(centroids) {
        for (lane, (&x, &c)) in row_rest.iter().zip(rest).enumerate() {
            sum[lane] += x * c;
        }
    }
    sums.map(|sum| sum.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn near_points_far_out_keep_their_distance() {
        let a = [1.0e6_f32; 11];
        let mut b = a;
        b[10] += 0.5;
        assert_eq!(squared_distance(&a, &b), 0.25);
        assert_eq!(squared_distance(&a, &a), 0.0);
    }

    #[test]
    fn distances_of_the_largest_values_are_finite() {
        assert!(squared_distance(&[f32::MAX; 9], &[f32::MIN; 9]).is_finite());
    }

    /// The proof of `bound`, tried out: no score is ever farther off than it says.
    #[test]
    fn scores_are_off_by_no_more_than_the_bound() {
        let mut random = Random::new(1);
        for dim in [1, 3, 8, 17, 64, 301] {
            for scale in [1e-30, 1e-20, 1.0, 1e15] {
                let mut draw =
                    |count: usize| -> Vec<f32> { (0..count).map(|_| ((random.unit() - 0.3) * scale) as f32).collect() };
                let (rows, centroids) = (draw(5 * dim), draw(7 * dim));
                let prepared = Prepared::new(&centroids, dim);
                let mut scores = Vec::new();
                prepared.scores(&rows, &mut scores);
                for (row, scores) in rows.chunks_exact(dim).zip(scores.chunks_exact(7)) {
                    let bound = prepared.bound(norm(row));
                    assert!(bound.is_finite());
                    for (index, score) in scores.iter().enumerate() {
                        let exact = squared_distance(row, prepared.centroid(index)) - norm(row) * norm(row);
                        assert!((score - exact).abs() <= bound, "dim {dim}, scale {scale}: {score} {exact} {bound}");
                    }
                }
            }
        }
    }

    #[test]
    fn sums_that_could_overflow_have_no_bound() {
        assert_eq!(Prepared::new(&[1e30, 1e30], 2).bound(1e30), f64::INFINITY);
    }
}
