//! Rotary position embedding: frequencies, once at load, and the angles of a step's tokens, once a
//! step.
//!
//! Both are so small beside the rest that they have no fast twin. Arithmetic is f32 in the order of
//! Hugging Face's `modeling_rope_utils.py`, because an angle at position 100,000 shows the last bit
//! of its frequency.
//!
//! What: `angle[t][i] = position[t] * frequency[i]`; a head's values `i` and `i + head_dim / 2` are
//! turned by it, and scaled by the concentration. Shapes: frequencies `[head_dim / 2]`, angles `[T,
//! head_dim / 2]`. Source: Su et al. 2021, arXiv:2104.09864; YaRN: Peng et al. 2023,
//! arXiv:2309.00071, section 3; the variants' formulas as `transformers` 5.23 computes them, from
//! which the tests' numbers come.

use std::f64::consts::PI;

/// How the frequencies of a model trained on short contexts are stretched.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum RopeScaling {
    /// As trained.
    #[default]
    Default,
    /// Every frequency divided by `factor`.
    Linear {
        /// How much longer the context becomes.
        factor: f64,
    },
    /// Fast frequencies kept, slow ones divided by `factor`, a ramp between them.
    Yarn(Yarn),
    /// Short wavelengths kept, long ones stretched by `factor`, a smooth passage between them.
    Llama3 {
        /// How much longer the context becomes.
        factor: f64,
        /// Wavelengths above `original_context_tokens / low_freq_factor` are stretched.
        low_freq_factor: f64,
        /// Wavelengths below `original_context_tokens / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Longest context of the training.
        original_context_tokens: usize,
    },
}

/// The parameters of YaRN, named as config.json names them, with its defaults in [`Yarn::new`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Yarn {
    /// How much longer the context becomes. Where config.json says `null`, the ratio of longest to
    /// original context.
    pub factor: f64,
    /// Frequencies that turn more often than this in the original context are kept; 32 by default.
    pub beta_fast: f64,
    /// Frequencies that turn less often than this are divided by `factor`; 1 by default.
    pub beta_slow: f64,
    /// Longest context of the training.
    pub original_context_tokens: usize,
    /// Whether the ramp's ends are rounded outwards to whole dimensions; true by default, false in
    /// gpt-oss.
    pub truncate: bool,
    /// The concentration, if config.json states it; otherwise it follows from `factor` and the two
    /// below.
    pub attention_factor: Option<f64>,
    /// Weight of `ln(factor)` in the concentration's numerator; counts only beside
    /// `mscale_all_dim`.
    pub mscale: Option<f64>,
    /// Weight of `ln(factor)` in the concentration's denominator; counts only beside `mscale`.
    pub mscale_all_dim: Option<f64>,
}

impl Yarn {
    /// YaRN with config.json's defaults for everything that may be left out.
    #[must_use]
    pub fn new(factor: f64, original_context_tokens: usize) -> Self {
        Self {
            factor,
            beta_fast: 32.0,
            beta_slow: 1.0,
            original_context_tokens,
            truncate: true,
            attention_factor: None,
            mscale: None,
            mscale_all_dim: None,
        }
    }

    /// The factor on cos and sin: `0.1 ln(factor) + 1` unless config.json says otherwise.
    fn concentration(&self) -> f64 {
        let of = |mscale: f64| if self.factor <= 1.0 { 1.0 } else { 0.1 * mscale * self.factor.ln() + 1.0 };
        let inferred = match (self.mscale, self.mscale_all_dim) {
            (Some(above), Some(below)) if above != 0.0 && below != 0.0 => of(above) / of(below),
            _ => of(1.0),
        };
        self.attention_factor.unwrap_or(inferred)
    }

    /// Between which dimension pairs the ramp from kept to divided frequencies runs.
    fn ramp(&self, theta: f64, head_dim: usize) -> (f32, f32) {
        let dim = head_dim as f64;
        let pair_turning =
            |turns: f64| dim * (self.original_context_tokens as f64 / (turns * 2.0 * PI)).ln() / (2.0 * theta.ln());
        let (mut low, mut high) = (pair_turning(self.beta_fast), pair_turning(self.beta_slow));
        if self.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(dim - 1.0));
        if low == high {
            high += 0.001;
        }
        (low as f32, (high - low) as f32)
    }
}

/// The frequencies of a model's rotary embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Radians a position, `[head_dim / 2]`.
    pub frequencies: Vec<f32>,
    /// Factor on cos and sin.
    pub concentration: f32,
}

impl Rope {
    /// The frequencies `theta^(-2 i / head_dim)`, stretched as `scaling` says. `theta` is above 1,
    /// `head_dim` even.
    ///
    /// # Panics
    /// If `head_dim` is odd.
    #[must_use]
    pub fn new(theta: f64, head_dim: usize, scaling: &RopeScaling) -> Self {
        assert!(head_dim.is_multiple_of(2), "rotary embedding turns pairs, head_dim {head_dim} is odd");
        let periods = (0..head_dim).step_by(2).map(|dim| (theta as f32).powf(dim as f32 / head_dim as f32));
        let plain: Vec<f32> = periods.clone().map(|period| 1.0 / period).collect();
        match *scaling {
            RopeScaling::Default => Self { frequencies: plain, concentration: 1.0 },
            RopeScaling::Linear { factor } => {
                Self { frequencies: plain.iter().map(|frequency| frequency / factor as f32).collect(), concentration: 1.0 }
            }
            RopeScaling::Yarn(yarn) => {
                let (low, width) = yarn.ramp(theta, head_dim);
                let stretched = periods.zip(&plain).enumerate().map(|(pair, (period, &kept))| {
                    let keep = 1.0 - ((pair as f32 - low) / width).clamp(0.0, 1.0);
                    1.0 / (yarn.factor as f32 * period) * (1.0 - keep) + kept * keep
                });
                Self { frequencies: stretched.collect(), concentration: yarn.concentration() as f32 }
            }
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context_tokens } => {
                let original = original_context_tokens as f32;
                let (low, high) = (low_freq_factor as f32, high_freq_factor as f32);
                let stretch = |frequency: &f32| {
                    let wavelength = 2.0 * PI as f32 / frequency;
                    if wavelength < original / high {
                        *frequency
                    } else if wavelength > original / low {
                        frequency / factor as f32
                    } else {
                        let smooth = (original / wavelength - low) / (high - low);
                        (1.0 - smooth) * frequency / factor as f32 + smooth * frequency
                    }
                };
                Self { frequencies: plain.iter().map(stretch).collect(), concentration: 1.0 }
            }
        }
    }
}

/// Cosine and sine of each token's angles, times the concentration; the same for every layer and
/// head.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Angles {
    /// `[T, head_dim / 2]`.
    pub cos: Vec<f32>,
    /// `[T, head_dim / 2]`.
    pub sin: Vec<f32>,
}

impl Angles {
    /// The angles of tokens at `positions`.
    #[must_use]
    pub fn new(rope: &Rope, positions: &[usize]) -> Self {
        let mut angles = Self::default();
        angles.fill(rope, positions);
        angles
    }

    /// The angles of tokens at `positions`, in memory used before.
    pub fn fill(&mut self, rope: &Rope, positions: &[usize]) {
        self.cos.clear();
        self.sin.clear();
        for &position in positions {
            for &frequency in &rope.frequencies {
                // The product is rounded to f32 as Hugging Face rounds it; the functions of it are
                // exact to the last bit.
                let angle = f64::from(position as f32 * frequency);
                self.cos.push(angle.cos() as f32 * rope.concentration);
                self.sin.push(angle.sin() as f32 * rope.concentration);
            }
        }
    }
}

#[cfg(test)]
#[path = "rope_tests.rs"]
mod tests;
