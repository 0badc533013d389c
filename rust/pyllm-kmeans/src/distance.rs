//! The distance that decides, and the dot product that saves computing it.

use crate::simd::{Isa, Work, multiply_add};

/// Lanes of the sums of [`squared_distance`]: fixed, so that the order of additions is.
const LANES: usize = 8;

/// Lanes of a [`dot`]: several registers of them, so that one sum need not wait for the other.
const DOT_LANES: usize = 32;

/// Sum of squared differences, computed directly in `f64`, in a fixed order of additions.
///
/// Direct, because `|a|^2 - 2ab + |b|^2` loses the distance of near points to cancellation. Finite for finite rows.
#[must_use]
pub fn squared_distance(a: &[f32], b: &[f32]) -> f64 {
    Isa::best().run(SquaredDistance { a, b })
}

struct SquaredDistance<'a> {
    a: &'a [f32],
    b: &'a [f32],
}

impl Work for SquaredDistance<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<const R: usize, const W: usize, const FMA: bool>(self) -> f64 {
        let (a_lanes, a_rest) = self.a.as_chunks::<LANES>();
        let (b_lanes, b_rest) = self.b.as_chunks::<LANES>();
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
}

/// Euclidean norm in `f64`.
pub(crate) fn norm(row: &[f32]) -> f64 {
    Isa::best().run(SquaredNorm(row)).sqrt()
}

struct SquaredNorm<'a>(&'a [f32]);

impl Work for SquaredNorm<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<const R: usize, const W: usize, const FMA: bool>(self) -> f64 {
        let (lanes, rest) = self.0.as_chunks::<LANES>();
        let mut sums = [0.0_f64; LANES];
        for x in lanes {
            for lane in 0..LANES {
                sums[lane] += f64::from(x[lane]) * f64::from(x[lane]);
            }
        }
        for (lane, &x) in rest.iter().enumerate() {
            sums[lane] += f64::from(x) * f64::from(x);
        }
        sums.iter().sum()
    }
}

/// Dot product in single precision, off by at most [`dot_roundings`] roundings.
pub(crate) fn dot(isa: Isa, a: &[f32], b: &[f32]) -> f32 {
    isa.run(Dot { a, b })
}

/// Most roundings on the way of a coordinate into a [`dot`].
pub(crate) fn dot_roundings(dim: usize) -> usize {
    dim.min(dim / DOT_LANES + DOT_LANES + 6) + 2
}

struct Dot<'a> {
    a: &'a [f32],
    b: &'a [f32],
}

impl Work for Dot<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<const R: usize, const W: usize, const FMA: bool>(self) -> f32 {
        let (a_lanes, a_rest) = self.a.as_chunks::<DOT_LANES>();
        let (b_lanes, b_rest) = self.b.as_chunks::<DOT_LANES>();
        let mut sums = [0.0_f32; DOT_LANES];
        for (x, y) in a_lanes.iter().zip(b_lanes) {
            for lane in 0..DOT_LANES {
                sums[lane] = multiply_add::<FMA>(x[lane], y[lane], sums[lane]);
            }
        }
        let mut rest = 0.0;
        for (&x, &y) in a_rest.iter().zip(b_rest) {
            rest = multiply_add::<FMA>(x, y, rest);
        }
        let sixteen: [f32; 16] = std::array::from_fn(|lane| sums[lane] + sums[lane + 16]);
        let eight: [f32; 8] = std::array::from_fn(|lane| sixteen[lane] + sixteen[lane + 8]);
        let four: [f32; 4] = std::array::from_fn(|lane| eight[lane] + eight[lane + 4]);
        (four[0] + four[1]) + (four[2] + four[3]) + rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn every_instruction_set_gives_the_same_distance() {
        let a: Vec<f32> = (0..301).map(|at| (at as f32 * 0.37).sin()).collect();
        let b: Vec<f32> = (0..301).map(|at| (at as f32 * 0.91).cos()).collect();
        let distances = Isa::all().into_iter().map(|isa| isa.run(SquaredDistance { a: &a, b: &b }).to_bits());
        assert!(distances.clone().all(|bits| bits == squared_distance(&a, &b).to_bits()));
        let exact: f64 = a.iter().zip(&b).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum();
        for isa in Isa::all() {
            assert!((f64::from(dot(isa, &a, &b)) - exact).abs() < 1e-4);
        }
    }
}
