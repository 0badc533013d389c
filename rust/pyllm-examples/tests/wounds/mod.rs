//! Sound files with a few wounds, for the tests of this crate and of those that read files through it.
#![allow(unreachable_pub, missing_docs)]

/// A generator of numbers that needs no more than this: xorshift64*.
pub struct Numbers(pub u64);

impl Numbers {
    /// One of the numbers below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % limit.max(1)
    }

    /// A sound file with a few wounds: bytes changed, cut out, doubled, or put in from a list of telling ones.
    pub fn wound(&mut self, sound: &[u8]) -> Vec<u8> {
        let mut data = sound.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(data.len());
            let end = (at + 1 + self.below(12)).min(data.len());
            match self.below(6) {
                0 if !data.is_empty() => data[at] = self.below(256) as u8,
                1 => drop(data.drain(at..end)),
                2 => {
                    let again = data[at..end].to_vec();
                    data.splice(at..at, again);
                }
                3 => data.truncate(at),
                _ => {
                    let token = TELLING[self.below(TELLING.len())];
                    data.splice(at..at, token.iter().copied());
                }
            }
        }
        data
    }
}

const TELLING: [&[u8]; 22] = [
    b"\"",
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\n",
    b"\r",
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\\ud800",
    b"\\u0000",
    b"1e999",
    b"-",
    b"null",
    b"99999999999999999999",
    b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    b"\"messages\":",
    b"\xe4\xb8",
];
