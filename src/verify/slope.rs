//! Whether something grows: the slope of a line through samples, and how sure it is.

/// A line through samples of time and size.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Slope {
    /// Growth a unit of time.
    pub slope: f64,
    /// Half the width of the 95 % confidence interval.
    pub half_width: f64,
    /// Samples that the line goes through.
    pub samples: usize,
}

impl Slope {
    /// The lower bound of the 95 % confidence interval.
    #[must_use]
    pub fn lower(&self) -> f64 {
        self.slope - self.half_width
    }

    /// The upper bound of the 95 % confidence interval.
    #[must_use]
    pub fn upper(&self) -> f64 {
        self.slope + self.half_width
    }
}

/// Least squares through `(time, size)`, with a standard error that allows for neighbours that are
/// alike.
///
/// A process's memory moves in steps: what it is now says much about what it is a second later. The
/// usual standard error takes samples for independent and calls such steps growth. Newey and West
/// 1987 (Econometrica 55:703, eq. 5) weigh the products of neighbouring residuals in; the lag is
/// theirs of 1994, `4 (n/100)^(2/9)`, doubled for strong likeness. Student's t for the
/// interval. `None` for fewer than 8 samples, or if all have the same time.
#[must_use]
pub fn slope(samples: &[(f64, f64)]) -> Option<Slope> {
    let n = samples.len();
    if n < 8 {
        return None;
    }
    let count = n as f64;
    let mean = |pick: fn(&(f64, f64)) -> f64| samples.iter().map(pick).sum::<f64>() / count;
    let (time, size) = (mean(|sample| sample.0), mean(|sample| sample.1));
    let spread: f64 = samples.iter().map(|(x, _)| (x - time).powi(2)).sum();
    if spread <= 0.0 {
        return None;
    }
    let slope = samples.iter().map(|(x, y)| (x - time) * (y - size)).sum::<f64>() / spread;
    let moments: Vec<f64> = samples.iter().map(|(x, y)| (x - time) * (y - size - slope * (x - time))).collect();
    let lag = ((8.0 * (count / 100.0).powf(2.0 / 9.0)).ceil() as usize).min(n / 4);
    let mut sum: f64 = moments.iter().map(|moment| moment * moment).sum();
    for distance in 1..=lag {
        let weight = 1.0 - distance as f64 / (lag as f64 + 1.0);
        let products: f64 = moments.iter().zip(&moments[distance..]).map(|(a, b)| a * b).sum();
        sum += 2.0 * weight * products;
    }
    let variance = sum.max(0.0) / (spread * spread) * count / (count - 2.0);
    Some(Slope { slope, half_width: student_95(n - 2) * variance.sqrt(), samples: n })
}

/// The two-sided 95 % quantile of Student's t, within 1 % from 3 degrees of freedom on.
///
/// Source: the Cornish-Fisher expansion, Abramowitz and Stegun 26.7.5.
fn student_95(freedom: usize) -> f64 {
    let (z, v) = (1.959_964_f64, freedom as f64);
    let (z3, z5, z7) = (z.powi(3), z.powi(5), z.powi(7));
    z + (z3 + z) / (4.0 * v)
        + (5.0 * z5 + 16.0 * z3 + 3.0 * z) / (96.0 * v * v)
        + (3.0 * z7 + 19.0 * z5 + 17.0 * z3 - 15.0 * z) / (384.0 * v.powi(3))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that look random, the same ones each time.
    fn noise(seed: u64, n: usize) -> Vec<f64> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as f64 / (1_u64 << 53) as f64 - 0.5
        };
        (0..n).map(|_| (0..12).map(|_| next()).sum()).collect()
    }

    #[test]
    fn quantiles_are_those_of_the_tables() {
        for (freedom, table, off_max) in [
            (3, 3.182_446, 8e-3),
            (5, 2.570_582, 1.2e-3),
            (6, 2.446_912, 6e-4),
            (10, 2.228_139, 1e-4),
            (30, 2.042_272, 1e-6),
            (120, 1.979_930, 1e-6),
        ] {
            assert!((student_95(freedom) / table - 1.0).abs() < off_max, "{freedom}: {}", student_95(freedom));
        }
    }

    /// The slow twin: the sum over all pairs of samples, those farther apart than the lag left out.
    #[test]
    fn the_interval_is_what_the_sum_over_all_pairs_gives() {
        for (n, lag) in [(8_i32, 2), (20, 5), (150, 9)] {
            let samples: Vec<(f64, f64)> =
                (0..n).map(|i| (0.5 * f64::from(i), f64::from(i * i * 7 % 11) + 0.3 * f64::from(i))).collect();
            let count = f64::from(n);
            let time = samples.iter().map(|sample| sample.0).sum::<f64>() / count;
            let size = samples.iter().map(|sample| sample.1).sum::<f64>() / count;
            let spread: f64 = samples.iter().map(|(x, _)| (x - time) * (x - time)).sum();
            let line = samples.iter().map(|(x, y)| (x - time) * (y - size)).sum::<f64>() / spread;
            let moment = |(x, y): &(f64, f64)| (x - time) * (y - size - line * (x - time));
            let mut sum = 0.0;
            for (i, one) in (0..n).zip(&samples) {
                for (j, other) in (0..n).zip(&samples).filter(|(j, _)| i.abs_diff(*j) <= lag) {
                    sum += (1.0 - f64::from(i.abs_diff(j)) / (f64::from(lag) + 1.0)) * moment(one) * moment(other);
                }
            }
            let error = (sum * count / (count - 2.0)).sqrt() / spread;
            let (found, half_width) = (slope(&samples).unwrap(), student_95(samples.len() - 2) * error);
            assert!((found.slope - line).abs() < 1e-9 * line.abs() && found.samples == samples.len(), "{found:?}");
            assert!((found.half_width / half_width - 1.0).abs() < 1e-9, "{n}: {found:?}, {half_width} by hand");
            assert_eq!((found.lower(), found.upper()), (found.slope - found.half_width, found.slope + found.half_width));
        }
    }

    #[test]
    fn a_line_is_found_exactly() {
        let line: Vec<(f64, f64)> = (0..20).map(|i| (f64::from(i), 3.0 + 0.5 * f64::from(i))).collect();
        let found = slope(&line).unwrap();
        assert!((found.slope - 0.5).abs() < 1e-12 && found.half_width < 1e-9, "{found:?}");
        assert_eq!((slope(&line[..7]), slope(&[(1.0, 2.0); 9])), (None, None));
    }

    /// Independent noise: about 19 of 20 intervals hold the truth.
    #[test]
    fn the_interval_holds_the_truth_as_often_as_it_says() {
        let held = (1..=200).filter(|seed| {
            let samples: Vec<(f64, f64)> =
                noise(*seed, 120).into_iter().enumerate().map(|(i, y)| (i as f64, y + 0.01 * i as f64)).collect();
            let found = slope(&samples).unwrap();
            found.lower() <= 0.01 && 0.01 <= found.upper()
        });
        let held = held.count();
        assert!((176..=199).contains(&held), "{held} of 200");
    }

    /// Noise whose neighbours are alike (0.7 of the last value stays): the usual error would hold
    /// the truth in 6 of 10 cases.
    #[test]
    fn neighbours_that_are_alike_do_not_pass_for_growth() {
        let held = (1..=200).filter(|seed| {
            let mut last = 0.0;
            let samples: Vec<(f64, f64)> = noise(*seed, 300)
                .into_iter()
                .enumerate()
                .map(|(i, y)| {
                    last = 0.7 * last + y;
                    (i as f64, last)
                })
                .collect();
            let found = slope(&samples).unwrap();
            found.lower() <= 0.0 && 0.0 <= found.upper()
        });
        let held = held.count();
        assert!(held >= 165, "{held} of 200");
    }

    /// A leak of a tenth of the noise a sample is found.
    #[test]
    fn a_leak_is_found() {
        for seed in 1..=50 {
            let samples: Vec<(f64, f64)> =
                noise(seed, 300).into_iter().enumerate().map(|(i, y)| (i as f64, y + 0.1 * i as f64)).collect();
            assert!(slope(&samples).unwrap().lower() > 0.09, "seed {seed}");
        }
    }
}
