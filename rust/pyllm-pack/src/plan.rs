//! Which sequence goes into which bin: best-fit decreasing, exactly, in `O(sequences + capacity)`.
//!
//! Lengths are small numbers, so nothing is compared. A counting sort puts the longest first; open bins stand in one
//! stack for each number of free tokens; and the tightest bin that takes a sequence is the next non-empty stack, found
//! in a bitmap of two levels. Sequences of one length are placed together: all bins with the same room in one go.

use std::num::NonZeroU32;

use crate::PackError;
use crate::stacks::Stacks;

/// Sequences by bin.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Packing {
    /// Where each bin begins in `sequences`, and at last where all end.
    pub offsets: Vec<u32>,
    /// Places of the sequences, bin after bin, each bin in the order in which it was filled.
    pub sequences: Vec<u32>,
}

impl Packing {
    /// How many bins there are.
    #[must_use]
    pub fn bins(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// The sequences of one bin.
    #[must_use]
    pub fn bin(&self, bin: usize) -> &[u32] {
        &self.sequences[self.offsets[bin] as usize..self.offsets[bin + 1] as usize]
    }

    /// The ids of all sequences, bin after bin, from those in their own order; `ends` says where each ends.
    ///
    /// # Errors
    /// `ends` are not those of these sequences in these ids.
    pub fn gather(&self, ids: &[u32], ends: &[u64]) -> Result<Vec<u32>, PackError> {
        let fits = ends.len() == self.sequences.len()
            && ends.is_sorted()
            && ends.last().copied().unwrap_or(0) == ids.len() as u64;
        if !fits {
            let reason =
                format!("{} ends do not fit {} sequences and {} ids", ends.len(), self.sequences.len(), ids.len());
            return Err(PackError::Arrays { reason });
        }
        let mut moved = Vec::with_capacity(ids.len());
        for &sequence in &self.sequences {
            let sequence = sequence as usize;
            let start = sequence.checked_sub(1).map_or(0, |before| ends[before] as usize);
            moved.extend_from_slice(&ids[start..ends[sequence] as usize]);
        }
        Ok(moved)
    }

    /// Adds a bin.
    pub(crate) fn push(&mut self, sequences: &[u32]) {
        self.sequences.extend_from_slice(sequences);
        self.offsets.push(self.sequences.len() as u32);
    }

    /// Bins from the bin of each sequence, sequences given in the order in which they were put there.
    fn from_bins(sizes: &[u32], order: &[u32], bin_of: &[u32]) -> Self {
        let mut offsets = Vec::with_capacity(sizes.len() + 1);
        let mut end = 0;
        offsets.push(end);
        offsets.extend(sizes.iter().map(|size| {
            end += size;
            end
        }));
        let mut next = offsets.clone();
        let mut sequences = vec![0; order.len()];
        for (&sequence, &bin) in order.iter().zip(bin_of) {
            let place = &mut next[bin as usize];
            sequences[*place as usize] = sequence;
            *place += 1;
        }
        Self { offsets, sequences }
    }
}

/// Packs sequences into bins of `capacity` tokens: longest first, each into the fullest bin that still takes it.
///
/// Sequences of one length keep their order. Of bins equally full, the one that was filled last is taken. Bins are
/// numbered as they are opened. The number of bins does not depend on either rule, and is that of any best-fit
/// decreasing.
///
/// # Errors
/// A length of 0 or above the capacity, a capacity above [`crate::MOST_TOKENS`], or 2^32 sequences.
pub fn pack_best_fit(lengths: &[u32], capacity: NonZeroU32) -> Result<Packing, PackError> {
    check(lengths, capacity)?;
    let (order, counts) = longest_first(lengths, capacity);
    let mut bins = Filling::new(capacity.get(), lengths.len());
    for (length, &count) in counts.iter().enumerate().rev().filter(|(_, count)| **count > 0) {
        bins.place(length as u32, count);
    }
    Ok(Packing::from_bins(&bins.sizes, &order, &bins.bin_of))
}

/// Bins while they are filled.
struct Filling {
    capacity: u32,
    stacks: Stacks,
    /// Sequences in each bin.
    sizes: Vec<u32>,
    /// The bin of each sequence, in the order in which they were placed.
    bin_of: Vec<u32>,
}

impl Filling {
    fn new(capacity: u32, sequences: usize) -> Self {
        Self { capacity, stacks: Stacks::new(capacity), sizes: Vec::new(), bin_of: Vec::with_capacity(sequences) }
    }

    /// Places sequences of one length, all that there are of it, as if one by one.
    ///
    /// A bin that takes one and has room for another is the tightest that has: so it takes all it can, and then none.
    fn place(&mut self, length: u32, count: u32) {
        let mut left = count;
        while left > 0 {
            let Some(free) = self.stacks.tightest(length) else { return self.open(length, left) };
            let each = (free / length).min(left);
            let Self { stacks, sizes, bin_of, .. } = self;
            left -= each
                * stacks.move_bins(free, free - each * length, left / each, |bin| {
                    sizes[bin as usize] += each;
                    bin_of.extend(std::iter::repeat_n(bin, each as usize));
                });
        }
    }

    /// Places sequences of one length into new bins.
    fn open(&mut self, length: u32, count: u32) {
        let mut left = count;
        while left > 0 {
            let (bin, size) = (self.sizes.len() as u32, left.min(self.capacity / length));
            self.sizes.push(size);
            self.bin_of.extend(std::iter::repeat_n(bin, size as usize));
            self.stacks.push(bin, self.capacity - size * length);
            left -= size;
        }
    }
}

/// Places of the sequences, longest first and else in their order, and how many there are of each length.
fn longest_first(lengths: &[u32], capacity: NonZeroU32) -> (Vec<u32>, Vec<u32>) {
    let mut counts = vec![0u32; capacity.get() as usize + 1];
    for &length in lengths {
        counts[length as usize] += 1;
    }
    let mut next = vec![0u32; counts.len()];
    let mut before = 0;
    for (place, count) in next.iter_mut().zip(&counts).rev() {
        *place = before;
        before += count;
    }
    let mut order = vec![0u32; lengths.len()];
    for (sequence, &length) in (0..).zip(lengths) {
        let place = &mut next[length as usize];
        order[*place as usize] = sequence;
        *place += 1;
    }
    (order, counts)
}

/// Refuses lengths that fit nowhere.
pub(crate) fn check(lengths: &[u32], capacity: NonZeroU32) -> Result<(), PackError> {
    let capacity = capacity.get();
    if capacity > crate::MOST_TOKENS {
        return Err(PackError::Length { length: capacity });
    }
    if u32::try_from(lengths.len()).is_err() {
        return Err(PackError::TooManySequences { sequences: lengths.len() });
    }
    // One pass without a branch for each length: wrapping makes 0 the largest.
    if lengths.iter().any(|length| length.wrapping_sub(1) >= capacity) {
        let sequence = lengths.iter().position(|length| length.wrapping_sub(1) >= capacity).unwrap_or_default();
        return Err(PackError::Sequence { sequence, tokens: lengths[sequence], capacity });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(lengths: &[u32], capacity: u32) -> Vec<Vec<u32>> {
        let packing = pack_best_fit(lengths, NonZeroU32::new(capacity).unwrap()).unwrap();
        (0..packing.bins()).map(|bin| packing.bin(bin).to_vec()).collect()
    }

    #[test]
    fn the_fullest_bin_that_takes_it_is_chosen() {
        // 7 and 6 open bins with 3 and 4 free; 4 fits the second only, 3 fits the first exactly.
        assert_eq!(packed(&[3, 7, 4, 6], 10), [vec![1, 0], vec![3, 2]]);
    }

    #[test]
    fn of_bins_equally_full_the_last_filled_is_taken() {
        assert_eq!(packed(&[6, 6, 6, 3], 10), [vec![0], vec![1], vec![2, 3]]);
    }

    #[test]
    fn equal_lengths_keep_their_order() {
        assert_eq!(packed(&[5, 5, 5, 5, 5], 10), [vec![0, 1], vec![2, 3], vec![4]]);
    }

    #[test]
    fn nothing_makes_no_bin() {
        assert_eq!(packed(&[], 10), Vec::<Vec<u32>>::new());
    }

    #[test]
    fn what_fits_no_bin_is_named() {
        let capacity = NonZeroU32::new(10).unwrap();
        for bad in [0, 11, u32::MAX] {
            let error = pack_best_fit(&[3, bad, 0], capacity).unwrap_err();
            assert_eq!(error.to_string(), format!("sequence 1 has {bad} tokens, not between 1 and 10"));
        }
        let error = pack_best_fit(&[3], NonZeroU32::new(1 << 17).unwrap()).unwrap_err();
        assert!(matches!(error, PackError::Length { length: 131_072 }));
    }
}
