//! The generator: xoshiro256++ 1.0, its state filled by `SplitMix64` from the seed.
//!
//! Written out here so that a seed means the same draws in every version of every dependency. Source: Blackman and
//! Vigna, "Scrambled linear pseudorandom number generators", 2021; reference code at prng.di.unimi.it (public domain).

/// Seeded draws.
pub(crate) struct Random {
    state: [u64; 4],
}

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        let mut counter = seed;
        Self { state: std::array::from_fn(|_| split_mix(&mut counter)) }
    }

    fn next(&mut self) -> u64 {
        let [a, b, c, d] = self.state;
        let drawn = a.wrapping_add(d).rotate_left(23).wrapping_add(a);
        let (c_mixed, d_mixed) = (c ^ a, d ^ b);
        self.state = [a ^ d_mixed, b ^ c_mixed, c_mixed ^ (b << 17), d_mixed.rotate_left(45)];
        drawn
    }

    /// A multiple of 2^-53 in [0, 1).
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
    }

    /// A number in `0..limit`. The bias is below `limit / 2^64`: far less than any use here could show.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        ((u128::from(self.next()) * limit as u128) >> 64) as usize
    }

    /// `count` distinct numbers of `0..limit`, ascending, every set as likely as any other.
    ///
    /// Selection sampling. Source: Knuth, The Art of Computer Programming, volume 2, algorithm 3.4.2 S.
    pub(crate) fn distinct_ascending(&mut self, limit: usize, count: usize) -> Vec<usize> {
        let mut drawn = Vec::with_capacity(count);
        for number in 0..limit {
            if self.below(limit - number) < count - drawn.len() {
                drawn.push(number);
            }
        }
        drawn
    }
}

fn split_mix(counter: &mut u64) -> u64 {
    *counter = counter.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*counter ^ (*counter >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_mix_gives_the_published_numbers() {
        let mut counter = 1_234_567;
        assert_eq!(split_mix(&mut counter), 6_457_827_717_110_365_317);
        assert_eq!(split_mix(&mut counter), 3_203_168_211_198_807_973);
    }

    #[test]
    fn xoshiro_gives_the_published_numbers() {
        let mut random = Random { state: [1, 2, 3, 4] };
        let drawn: [u64; 4] = std::array::from_fn(|_| random.next());
        assert_eq!(drawn, [41_943_041, 58_720_359, 3_588_806_011_781_223, 3_591_011_842_654_386]);
    }

    #[test]
    fn units_and_limits_hold() {
        let mut random = Random::new(3);
        let mut seen = [0_u32; 5];
        for _ in 0..10_000 {
            assert!((0.0..1.0).contains(&random.unit()));
            seen[random.below(5)] += 1;
        }
        assert!(seen.iter().all(|&times| (1_800..2_200).contains(&times)), "{seen:?}");
    }

    #[test]
    fn a_sample_is_distinct_ascending_and_even() {
        let mut times = [0_u32; 10];
        for seed in 0..5_000 {
            let sample = Random::new(seed).distinct_ascending(10, 3);
            assert_eq!(sample.len(), 3);
            assert!(sample.is_sorted_by(|a, b| a < b));
            for row in sample {
                times[row] += 1;
            }
        }
        assert!(times.iter().all(|&row| (1_350..1_650).contains(&row)), "{times:?}");
        assert_eq!(Random::new(0).distinct_ascending(4, 4), [0, 1, 2, 3]);
    }
}
