use super::*;

/// Runs a function of vectors on all lanes of `inputs`, at most 16 values.
struct Apply<'a, F>(F, &'a [f32]);

trait OnVector {
    fn apply<S: Simd>(&self, s: S, v: S::V) -> S::V;
}

impl<F: OnVector> Kernel for Apply<'_, F> {
    type Out = Vec<f32>;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Vec<f32> {
        let mut out = vec![0.0; self.1.len()];
        for (from, to) in self.1.chunks(S::LANES).zip(out.chunks_mut(S::LANES)) {
            let v = load_part(s, from, 0.0);
            store_part(s, self.0.apply(s, v), to);
        }
        out
    }
}

struct Exp;

impl OnVector for Exp {
    #[inline(always)]
    fn apply<S: Simd>(&self, s: S, v: S::V) -> S::V {
        exp(s, v)
    }
}

#[test]
fn every_cpu_has_a_path() {
    let names: Vec<_> = Isa::available().into_iter().map(Isa::name).collect();
    eprintln!("this CPU's: {}", names.join(", "));
    assert_eq!(names[0], "portable");
    assert_eq!(Isa::best().name(), *names.last().unwrap());
}

#[test]
fn exp_is_exact_to_two_bits_and_sane_at_the_ends() {
    let inputs: Vec<f32> = (-87_000..88_000).map(|milli| milli as f32 / 1000.0 + 0.000_3).collect();
    for isa in Isa::available() {
        for (x, got) in inputs.iter().zip(isa.run(Apply(Exp, &inputs))) {
            let expected = f64::from(*x).exp();
            let error = (f64::from(got) - expected).abs() / expected;
            assert!(error < 2.5e-7, "{isa:?}: exp({x}) is {got}, off by {error}");
        }
        let ends = [0.0, -0.0, f32::NEG_INFINITY, -88.0, -1e30, 89.0, f32::INFINITY];
        assert_eq!(isa.run(Apply(Exp, &ends)), [1.0, 1.0, 0.0, 0.0, 0.0, f32::INFINITY, f32::INFINITY], "{isa:?}");
        assert!(isa.run(Apply(Exp, &[f32::NAN]))[0].is_nan(), "{isa:?}");
    }
}

struct Arithmetic;

impl Kernel for Arithmetic {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let numbers: Vec<f32> = (0..S::LANES).map(|lane| lane as f32 + 1.0).collect();
        let v = s.load(&numbers);
        let lanes = |v: S::V| {
            let mut lanes = vec![0.0; S::LANES];
            s.store(v, &mut lanes);
            lanes
        };
        let each = |f: fn(f32) -> f32| numbers.iter().copied().map(f).collect::<Vec<_>>();
        assert_eq!(lanes(s.add(v, s.splat(2.0))), each(|x| x + 2.0));
        assert_eq!(lanes(s.sub(v, s.splat(2.0))), each(|x| x - 2.0));
        assert_eq!(lanes(s.mul(v, s.splat(3.0))), each(|x| x * 3.0));
        assert_eq!(lanes(s.div(s.splat(3.0), v)), each(|x| 3.0 / x));
        assert_eq!(lanes(s.fma(v, v, s.splat(1.0))), each(|x| x * x + 1.0));
        assert_eq!(lanes(s.max(v, s.splat(3.0))), each(|x| x.max(3.0)));
        assert_eq!(lanes(s.min(v, s.splat(3.0))), each(|x| x.min(3.0)));
        assert_eq!(s.sum(v), numbers.iter().sum::<f32>());
        let nan = s.splat(f32::NAN);
        for (kept, lost) in [(s.max(v, nan), s.max(nan, v)), (s.min(v, nan), s.min(nan, v))] {
            assert!(lanes(kept).iter().all(|value| value.is_nan()));
            assert_eq!(lanes(lost), numbers);
        }
    }
}

struct Widen<'a>(&'a [f16]);

impl Kernel for Widen<'_> {
    type Out = Vec<f32>;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Vec<f32> {
        let mut wide = vec![0.0; self.0.len()];
        for (to, from) in wide.chunks_exact_mut(S::LANES).zip(self.0.chunks_exact(S::LANES)) {
            s.store(s.load_half(from), to);
        }
        wide
    }
}

#[test]
fn every_f16_is_widened_exactly() {
    let halves: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
    for isa in Isa::available() {
        for (half, wide) in halves.iter().zip(isa.run(Widen(&halves))) {
            let same = wide.to_bits() == half.to_f32().to_bits() || (wide.is_nan() && half.is_nan());
            assert!(same, "{isa:?}: {:#06x} is {}, not {wide}", half.to_bits(), half.to_f32());
        }
    }
}

#[test]
fn arithmetic_on_lanes() {
    Isa::available().into_iter().for_each(|isa| isa.run(Arithmetic));
}
