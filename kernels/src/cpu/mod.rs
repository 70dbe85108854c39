//! The forward pass's operations on the CPU, over all tokens of a step.
//!
//! Owns: a thread pool, scratch memory, the choice of instruction set. Promises: the same bits for
//! a token whatever else is in the step, however many threads run, and however its prompt was
//! sliced. The order of operations behind each output element follows from the operation's shape,
//! the token's position and the KV block size alone. Another instruction set may give other last
//! bits. Absent: weights, KV memory, the order of operations in a model.

mod activations;
mod attention;
mod experts;
mod linear;
mod packed;
mod pool;
mod product;
mod router;
mod rows;
mod simd;
mod timing;

pub use packed::{Format, Packed, PackedExperts};
pub use simd::{Ahead, Isa};
pub use timing::OperationTime;
use timing::Timing;

/// How exactly MXFP4 weights are multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Math {
    /// With activations in f32.
    #[default]
    Exact,
    /// With activations rounded to integers of 16 bits, a scale for every 32 of them. Sums within a
    /// block are exact.
    Int16,
    /// With activations rounded to integers of 8 bits where they go into an expert, of 16 between
    /// its projections.
    Fast,
}

impl Math {
    /// Every one, as `--cpu-math` offers them.
    pub const ALL: [Self; 3] = [Self::Exact, Self::Int16, Self::Fast];

    /// Its name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Int16 => "int16",
            Self::Fast => "fast",
        }
    }
}

/// The CPU as a device that computes operations.
#[derive(Debug)]
pub struct Cpu {
    pool: pool::Pool,
    isa: Isa,
    math: Math,
    blocks: activations::Blocks<1>,
    padded: activations::Padded,
    #[cfg(target_arch = "x86_64")]
    tiles: linear::tiles::Tiles,
    logits: Vec<f32>,
    mixture: experts::Mixture,
}

impl Cpu {
    /// Computes with `threads` threads, the caller's among them, and the fastest instructions that
    /// this CPU has.
    ///
    /// # Panics
    /// If `threads` is zero or the system refuses to start so many.
    #[must_use]
    pub fn new(threads: usize) -> Self {
        Self::with_isa(threads, Isa::best())
    }

    /// The same with chosen instructions.
    ///
    /// # Panics
    /// As [`Cpu::new`].
    #[must_use]
    pub fn with_isa(threads: usize, isa: Isa) -> Self {
        Self {
            pool: pool::Pool::new(threads),
            isa,
            math: Math::default(),
            blocks: Default::default(),
            padded: Default::default(),
            #[cfg(target_arch = "x86_64")]
            tiles: Default::default(),
            logits: Vec::new(),
            mixture: Default::default(),
        }
    }

    /// The same with another arithmetic for experts. That of linear maps follows from the format of
    /// their weights.
    #[must_use]
    pub fn with_math(mut self, math: Math) -> Self {
        self.set_math(math);
        self
    }

    /// Computes experts with another arithmetic from now on.
    pub fn set_math(&mut self, math: Math) {
        self.math = math;
    }

    /// How many threads compute, the caller's among them.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Times operations from now on, by a clock of nanoseconds.
    pub fn start_timing(&mut self, clock: fn() -> u64) {
        *self.pool.timing() = Some(Timing::start(clock));
    }

    /// Begins an operation that reads so many bytes of weights, if operations are timed.
    #[inline]
    pub fn begin_operation(&mut self, name: &'static str, bytes: usize) {
        if let Some(timing) = self.pool.timing() {
            timing.begin(name, bytes);
        }
    }

    /// What was timed, in order; from then on nothing is. The first entry, "checks", is
    /// what came before any operation was begun.
    pub fn take_timing(&mut self) -> Vec<OperationTime> {
        self.pool.timing().take().map_or_else(Vec::new, Timing::finish)
    }

    /// The instructions that the kernels use.
    #[must_use]
    pub fn isa(&self) -> Isa {
        self.isa
    }
}

#[cfg(test)]
mod tests;
