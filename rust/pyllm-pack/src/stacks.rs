//! Open bins by how much is free in them.

/// Ends a stack.
const NONE: u32 = u32::MAX;

/// One stack of bins for each number of free tokens, and a bitmap of the stacks that are not empty.
#[derive(Debug, Clone)]
pub(crate) struct Stacks {
    /// The uppermost bin of each stack.
    heads: Vec<u32>,
    /// The bin below each bin.
    below: Vec<u32>,
    /// One bit for each stack that holds a bin.
    filled: Vec<u64>,
    /// One bit for each word of `filled` that is not 0.
    summary: Vec<u64>,
}

impl Stacks {
    /// No bins; none will ever have more than `capacity` tokens free.
    pub(crate) fn new(capacity: u32) -> Self {
        let stacks = capacity as usize + 1;
        let words = stacks.div_ceil(64);
        Self {
            heads: vec![NONE; stacks],
            below: Vec::new(),
            filled: vec![0; words],
            summary: vec![0; words.div_ceil(64)],
        }
    }

    /// Puts a bin on the stack of those with `free` tokens; full bins are forgotten.
    pub(crate) fn push(&mut self, bin: u32, free: u32) {
        if free == 0 {
            return;
        }
        let (bin_place, stack) = (bin as usize, free as usize);
        if bin_place >= self.below.len() {
            self.below.resize(bin_place + 1, NONE);
        }
        self.below[bin_place] = self.heads[stack];
        self.set_head(stack, bin);
    }

    /// Takes the bin with the fewest free tokens, but at least `length`, and says how many it has.
    pub(crate) fn take_tightest(&mut self, length: u32) -> Option<(u32, u32)> {
        let stack = self.first_filled(length as usize)?;
        let bin = self.heads[stack];
        self.set_head(stack, self.below[bin as usize]);
        Some((bin, stack as u32))
    }

    /// The fewest free tokens, but at least `length`, that a bin has.
    pub(crate) fn tightest(&self, length: u32) -> Option<u32> {
        self.first_filled(length as usize).map(|stack| stack as u32)
    }

    /// Moves bins with `free` tokens, the last filled first, to those with fewer: at most `most`; says how many.
    pub(crate) fn move_bins(&mut self, free: u32, fewer: u32, most: u32, mut moved: impl FnMut(u32)) -> u32 {
        let (from, to) = (free as usize, fewer as usize);
        let (mut bin, mut uppermost, mut count) = (self.heads[from], self.heads[to], 0);
        while bin != NONE && count < most {
            moved(bin);
            let below = &mut self.below[bin as usize];
            uppermost = std::mem::replace(&mut bin, std::mem::replace(below, uppermost));
            count += 1;
        }
        self.set_head(from, bin);
        if fewer > 0 {
            self.set_head(to, uppermost);
        }
        count
    }

    /// Makes a bin the uppermost of a stack, or the stack empty.
    fn set_head(&mut self, stack: usize, bin: u32) {
        self.heads[stack] = bin;
        let (word, bit) = (&mut self.filled[stack / 64], 1 << (stack % 64));
        *word = if bin == NONE { *word & !bit } else { *word | bit };
        let (summary, bit) = (&mut self.summary[stack / 4096], 1 << (stack / 64 % 64));
        *summary = if *word == 0 { *summary & !bit } else { *summary | bit };
    }

    /// The first stack from `from` on that holds a bin.
    fn first_filled(&self, from: usize) -> Option<usize> {
        let word = from / 64;
        let rest = self.filled.get(word)? & (u64::MAX << (from % 64));
        if rest != 0 {
            return Some(word * 64 + rest.trailing_zeros() as usize);
        }
        let after = word + 1;
        let mut block = after / 64;
        let mut words = self.summary.get(block)? & (u64::MAX << (after % 64));
        while words == 0 {
            block += 1;
            words = *self.summary.get(block)?;
        }
        let word = block * 64 + words.trailing_zeros() as usize;
        Some(word * 64 + self.filled[word].trailing_zeros() as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_is_found_across_words_and_blocks() {
        let mut stacks = Stacks::new(65_536);
        for (bin, free) in [(0, 65_536), (1, 5000), (2, 63), (3, 64), (4, 63)] {
            stacks.push(bin, free);
        }
        assert_eq!(stacks.take_tightest(64), Some((3, 64)));
        assert_eq!(stacks.take_tightest(64), Some((1, 5000)));
        assert_eq!(stacks.take_tightest(1), Some((4, 63)));
        assert_eq!(stacks.take_tightest(1), Some((2, 63)));
        assert_eq!(stacks.take_tightest(65_536), Some((0, 65_536)));
        assert_eq!(stacks.take_tightest(1), None);
    }

    #[test]
    fn bins_move_from_the_top_and_full_ones_are_forgotten() {
        let mut stacks = Stacks::new(10);
        (0..4).for_each(|bin| stacks.push(bin, 8));
        let mut seen = Vec::new();
        assert_eq!(stacks.move_bins(8, 3, 3, |bin| seen.push(bin)), 3);
        assert_eq!((seen, stacks.tightest(4)), (vec![3, 2, 1], Some(8)));
        assert_eq!(stacks.move_bins(8, 0, 9, |_| ()), 1);
        assert_eq!(stacks.tightest(4), None);
        assert_eq!([(); 4].map(|()| stacks.take_tightest(1)), [Some((1, 3)), Some((2, 3)), Some((3, 3)), None]);
    }
}
