//! When requests are meant to be sent.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::options::Arrivals;

/// The intended times of an open loop, in seconds from its start, without end; none of a closed
/// one.
pub fn times(arrivals: Arrivals, seed: u64) -> impl Iterator<Item = f64> + Send + use<> {
    let mut random = SmallRng::seed_from_u64(seed ^ 0x7363_6865_6475_6c65);
    let (mut next, mut index) = (0.0, 0_usize);
    std::iter::from_fn(move || {
        let now = next;
        index += 1;
        match arrivals {
            Arrivals::Closed { .. } => return None,
            // The gap's distribution is exponential; 1 - u is never zero.
            Arrivals::Poisson { rate } => next += -(1.0 - random.random::<f64>()).ln() / rate,
            // Not summed up, so that nothing drifts.
            Arrivals::Constant { rate } => next = index as f64 / rate,
            Arrivals::Bursts { count, every_s } => next = (index / count) as f64 * every_s,
        }
        Some(now)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_keep_their_rate_and_their_seed() {
        let poisson = |seed| times(Arrivals::Poisson { rate: 50.0 }, seed).take(20_001).collect::<Vec<_>>();
        let all = poisson(7);
        assert_eq!(all, poisson(7));
        assert_ne!(all, poisson(8));
        assert!((all[20_000] - 400.0).abs() < 12.0, "20,000 gaps of 20 ms on average: {}", all[20_000]);
        // Of exponential gaps 63 % are shorter than their mean.
        let short = all.windows(2).filter(|pair| pair[1] - pair[0] < 0.02).count();
        assert!((12_300..13_000).contains(&short), "{short}");
        let constant: Vec<f64> = times(Arrivals::Constant { rate: 4.0 }, 1).take(4).collect();
        assert_eq!(constant, [0.0, 0.25, 0.5, 0.75]);
        let bursts: Vec<f64> = times(Arrivals::Bursts { count: 2, every_s: 3.0 }, 1).take(5).collect();
        assert_eq!(bursts, [0.0, 0.0, 3.0, 3.0, 6.0]);
    }
}
