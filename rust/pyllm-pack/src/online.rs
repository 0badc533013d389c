//! Best fit over a few open bins, for sequences that are packed as they come.

use std::num::NonZeroU32;

use crate::PackError;
use crate::plan::{Packing, check};
use crate::stacks::Stacks;

/// The open bins.
#[derive(Debug)]
pub(crate) struct Online {
    capacity: u32,
    /// Bins that may be open at once.
    open: usize,
    /// Sequences in each bin that is open.
    bins: Vec<Vec<u32>>,
    /// Their numbers by free tokens.
    stacks: Stacks,
    /// Numbers that no open bin has.
    unused: Vec<u32>,
}

impl Online {
    /// No open bins yet.
    pub(crate) fn new(capacity: NonZeroU32, open: usize) -> Result<Self, PackError> {
        if open == 0 {
            return Err(PackError::NoOpenBins);
        }
        let stacks = Stacks::new(capacity.get());
        Ok(Self { capacity: capacity.get(), open, bins: Vec::new(), stacks, unused: Vec::new() })
    }

    /// Puts a sequence into the fullest open bin that takes it, else into a new one; `closed` gets each bin that is
    /// full, or has to make room: then the fullest goes, and of those equally full the last filled.
    pub(crate) fn place(&mut self, sequence: u32, length: u32, mut closed: impl FnMut(&[u32])) {
        let (bin, free) = self.stacks.take_tightest(length).unwrap_or_else(|| {
            if self.unused.is_empty()
                && self.bins.len() >= self.open
                && let Some((fullest, _)) = self.stacks.take_tightest(1)
            {
                self.close(fullest, &mut closed);
            }
            let bin = self.unused.pop().unwrap_or_else(|| {
                self.bins.push(Vec::new());
                (self.bins.len() - 1) as u32
            });
            (bin, self.capacity)
        });
        self.bins[bin as usize].push(sequence);
        if free == length {
            self.close(bin, &mut closed);
        } else {
            self.stacks.push(bin, free - length);
        }
    }

    /// Closes all bins, fullest first.
    pub(crate) fn finish(&mut self, mut closed: impl FnMut(&[u32])) {
        while let Some((bin, _)) = self.stacks.take_tightest(1) {
            self.close(bin, &mut closed);
        }
    }

    /// Gives the sequences of all open bins other numbers: `rename` is called once for each.
    pub(crate) fn rename(&mut self, mut rename: impl FnMut(u32) -> u32) {
        for sequence in self.bins.iter_mut().flatten() {
            *sequence = rename(*sequence);
        }
    }

    fn close(&mut self, bin: u32, closed: &mut impl FnMut(&[u32])) {
        let sequences = &mut self.bins[bin as usize];
        closed(sequences);
        sequences.clear();
        self.unused.push(bin);
    }
}

/// Packs sequences in the order in which they come, each into the fullest of `open_bins` bins that still takes it.
///
/// Where none does, a new bin is opened; too many open, the fullest is closed for it. Of bins equally full the one
/// that was filled last counts as the fullest. Bins are numbered as they are closed, at the end fullest first.
///
/// # Errors
/// As [`crate::pack_best_fit`], and no open bins.
pub fn pack_online(lengths: &[u32], capacity: NonZeroU32, open_bins: usize) -> Result<Packing, PackError> {
    check(lengths, capacity)?;
    let mut online = Online::new(capacity, open_bins)?;
    let mut packing = Packing { offsets: vec![0], sequences: Vec::with_capacity(lengths.len()) };
    let mut closed = |sequences: &[u32]| packing.push(sequences);
    for (sequence, &length) in (0..).zip(lengths) {
        online.place(sequence, length, &mut closed);
    }
    online.finish(closed);
    Ok(packing)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(lengths: &[u32], capacity: u32, open: usize) -> Vec<Vec<u32>> {
        let packing = pack_online(lengths, NonZeroU32::new(capacity).unwrap(), open).unwrap();
        (0..packing.bins()).map(|bin| packing.bin(bin).to_vec()).collect()
    }

    #[test]
    fn the_fullest_open_bin_makes_room() {
        // 6 and 7 are open; 8 fits neither and sends 7 off; 2 then fills 8, and 6 is left.
        assert_eq!(packed(&[6, 7, 8, 2], 10, 2), [vec![1], vec![2, 3], vec![0]]);
    }

    #[test]
    fn one_open_bin_is_next_fit() {
        assert_eq!(packed(&[6, 5, 4, 3, 9], 10, 1), [vec![0], vec![1, 2], vec![3], vec![4]]);
    }

    #[test]
    fn no_open_bin_is_refused() {
        let error = pack_online(&[1], NonZeroU32::new(10).unwrap(), 0).unwrap_err();
        assert_eq!(error.to_string(), "`open_bins` is 0: at least 1 is wanted");
    }
}
