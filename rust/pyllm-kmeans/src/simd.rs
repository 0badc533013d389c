//! One source, compiled for several instruction sets, chosen when the program runs.
//!
//! A [`Work`] is plain Rust, inlined into a function that may use AVX2 with FMA or AVX-512, where the compiler turns its
//! loops into the vectors of that set. No result of the crate depends on the choice: what differs between the sets (a
//! fused multiply-add rounds once, two operations twice) is covered by the bounds that single-precision scores have.
//!
//! The AVX-512 version is the same source with wider blocks. The machines that this was tuned on have AVX2 only, so
//! its shape is chosen by counting registers, not by measuring.

/// Something to compute with vectors of whatever width there is.
pub(crate) trait Work {
    /// What it gives.
    type Output;

    /// Computes with blocks of `R` rows by `W` centroids; `FMA` tells whether multiply-add is one operation.
    ///
    /// Implementations are `#[inline(always)]`, with all that they call in their loops: only so are they compiled for
    /// the instruction set.
    fn run<const R: usize, const W: usize, const FMA: bool>(self) -> Self::Output;
}

/// An instruction set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Isa {
    /// What every machine has.
    #[default]
    Plain,
    /// AVX2 and FMA: 16 registers of 8 numbers.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512F: 32 registers of 16 numbers.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Isa {
    /// Every set that this machine has, the best last.
    pub(crate) fn all() -> Vec<Self> {
        #[cfg_attr(not(target_arch = "x86_64"), expect(unused_mut, reason = "other machines have one set"))]
        let mut all = vec![Self::Plain];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                all.push(Self::Avx2);
                if is_x86_feature_detected!("avx512f") {
                    all.push(Self::Avx512);
                }
            }
        }
        all
    }

    /// The best set of this machine.
    pub(crate) fn best() -> Self {
        static BEST: std::sync::OnceLock<Isa> = std::sync::OnceLock::new();
        *BEST.get_or_init(|| Self::all().pop().unwrap_or(Self::Plain))
    }

    /// Centroids in a panel.
    pub(crate) fn width(self) -> usize {
        match self {
            Self::Plain => 8,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => 16,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => 32,
        }
    }

    /// Does the work. A block and what it needs beside it fill the registers: 12 + 3 of 16, 24 + 3 of 32.
    #[inline]
    #[cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "code for instructions that not every CPU has"))]
    pub(crate) fn run<T: Work>(self, work: T) -> T::Output {
        match self {
            Self::Plain => work.run::<6, 8, false>(),
            // SAFETY: the crate makes these values only in `all`, after asking the CPU for their features.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { avx2(work) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => unsafe { avx512(work) },
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2<T: Work>(work: T) -> T::Output {
    work.run::<6, 16, true>()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,avx512f")]
fn avx512<T: Work>(work: T) -> T::Output {
    work.run::<12, 32, true>()
}

/// `a * b + c`, rounded once or twice.
#[inline(always)]
pub(crate) fn multiply_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    // Without the instruction `mul_add` is a call into the mathematics library.
    if FMA { a.mul_add(b, c) } else { c + a * b }
}
