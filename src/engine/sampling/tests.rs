use super::*;
use proptest::prelude::*;
use std::sync::Arc;

fn draw_of(sampling: Sampling, generated_count: u32) -> Draw {
    Draw { sampling: Arc::new(sampling), generated_count, history: Vec::new(), history_prompt_len: 0 }
}

fn draw_once(logits: &[f32], sampling: &Sampling, generated_count: u32) -> Result<TokenId, DrawError> {
    Sampler::new(logits.len()).draw(logits, &draw_of(sampling.clone(), generated_count))
}

/// How often each token comes in `draws` draws.
fn counts(logits: &[f32], sampling: &Sampling, draws: u32) -> Vec<u32> {
    let mut sampler = Sampler::new(logits.len());
    let mut counts = vec![0; logits.len()];
    for generated_count in 0..draws {
        let token = sampler.draw(logits, &draw_of(sampling.clone(), generated_count)).unwrap();
        counts[token.0 as usize] += 1;
    }
    counts
}

fn softmax(logits: &[f32], temperature: f32) -> Vec<f64> {
    let weights: Vec<f64> = logits.iter().map(|logit| f64::from(logit / temperature).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / total).collect()
}

const WARM: Sampling = Sampling {
    temperature: 1.0,
    top_p: 1.0,
    top_k: 0,
    min_p: 0.0,
    seed: 42,
    repetition_penalty: 1.0,
    presence_penalty: 0.0,
    frequency_penalty: 0.0,
    logit_bias: Vec::new(),
    stop_tokens: Vec::new(),
    min_tokens: 0,
    logprobs: None,
    prompt_logprobs: false,
    masks: None,
};

#[test]
fn draws_follow_the_distribution() {
    let logits = [2.0, 1.0, 0.5, 0.0, -0.5, -1.0, 1.5, -2.0, 0.25, -0.25];
    let draws = 20_000;
    for temperature in [0.5, 1.0, 2.0] {
        let counts = counts(&logits, &Sampling { temperature, ..WARM }, draws);
        let chi_square: f64 = counts
            .iter()
            .zip(softmax(&logits, temperature))
            .map(|(count, probability)| {
                let expected = probability * f64::from(draws);
                (f64::from(*count) - expected).powi(2) / expected
            })
            .sum();
        // 99.9 % quantile of chi-square with 9 degrees of freedom.
        assert!(chi_square < 27.88, "temperature {temperature}: {chi_square}");
    }
}

#[test]
fn seeds_and_counts_give_different_draws_and_repeat() {
    let logits = vec![0.0; 1000];
    let tokens = |seed| -> Vec<TokenId> {
        (0..50).map(|count| draw_once(&logits, &Sampling { seed, ..WARM }, count).unwrap()).collect()
    };
    assert_eq!(tokens(1), tokens(1));
    assert_ne!(tokens(1), tokens(2));
    let distinct: std::collections::BTreeSet<_> = tokens(1).into_iter().collect();
    assert!(distinct.len() > 40);
}

#[test]
fn greedy_takes_the_lowest_of_equals() {
    let greedy = Sampling::default();
    assert_eq!(draw_once(&[1.0, 3.0, 3.0, 2.0], &greedy, 0), Ok(TokenId(1)));
    assert_eq!(draw_once(&[-0.0, 0.0], &greedy, 0), Ok(TokenId(0)));
    assert_eq!(draw_once(&[f32::NEG_INFINITY, -1e38], &greedy, 9), Ok(TokenId(1)));
    // A tiny temperature is as good as greedy and does not overflow.
    assert_eq!(draw_once(&[1.0, 3.0, 2.999], &Sampling { temperature: 1e-30, ..WARM }, 3), Ok(TokenId(1)));
    let flat = counts(&[5.0, -5.0], &Sampling { temperature: f32::MAX, ..WARM }, 2000);
    assert!(flat[0].abs_diff(flat[1]) < 200, "{flat:?}");
}

#[test]
fn the_largest_is_found_and_what_is_broken_is_seen_wherever_it_stands() {
    for len in [1, 15, 16, 17, 255, 256, 257, 1000] {
        for at in [0, len / 2, len - 1] {
            let mut logits = vec![-1.0; len];
            logits[at..].fill(2.0);
            assert_eq!(draw_once(&logits, &Sampling::default(), 0), Ok(TokenId(at as u32)), "{at} of {len}");
            logits[at] = f32::NAN;
            assert_eq!(draw_once(&logits, &Sampling::default(), 0), Err(DrawError::NotFinite), "{at} of {len}");
        }
    }
}

#[test]
fn broken_logits_are_reported() {
    for logits in [vec![1.0, f32::NAN], vec![f32::NAN; 3], vec![1.0, f32::INFINITY], vec![f32::NEG_INFINITY; 4], Vec::new()] {
        for sampling in [Sampling::default(), WARM, Sampling { top_k: 1, top_p: 0.5, ..WARM }] {
            assert_eq!(draw_once(&logits, &sampling, 0), Err(DrawError::NotFinite), "{logits:?}");
        }
    }
    // A mask does not hide NaN.
    let masked = Sampling { logit_bias: vec![(TokenId(1), f32::NEG_INFINITY)], ..WARM };
    assert_eq!(draw_once(&[1.0, f32::NAN], &masked, 0), Err(DrawError::NotFinite));
}

#[test]
fn everything_masked_is_reported() {
    let sampling =
        Sampling { min_tokens: 2, stop_tokens: vec![TokenId(0), TokenId(1)], temperature: 0.7, ..Sampling::default() };
    assert_eq!(draw_once(&[1.0, 2.0], &sampling, 1), Err(DrawError::NotFinite));
    assert!(draw_once(&[1.0, 2.0], &sampling, 2).is_ok());
}

#[test]
fn stop_tokens_are_masked_until_min_tokens() {
    let sampling = Sampling { min_tokens: 3, stop_tokens: vec![TokenId(2), TokenId(77)], ..Sampling::default() };
    let logits = [0.0, 1.0, 9.0];
    for generated in 0..3 {
        assert_eq!(draw_once(&logits, &sampling, generated), Ok(TokenId(1)));
    }
    assert_eq!(draw_once(&logits, &sampling, 3), Ok(TokenId(2)));
    // A bias cannot lift the mask.
    let biased = Sampling { logit_bias: vec![(TokenId(2), 100.0)], ..sampling };
    assert_eq!(draw_once(&logits, &biased, 0), Ok(TokenId(1)));
}

#[test]
fn penalties_count_prompt_and_output_apart() {
    // Prompt 0, 1, 1; output 1, 2, 2.
    let draw = |sampling: Sampling| Draw {
        sampling: Arc::new(sampling),
        generated_count: 3,
        history: [0, 1, 1, 1, 2, 2].map(TokenId).to_vec(),
        history_prompt_len: 3,
    };
    let logits = [4.0, 3.0, -1.0, 2.0];
    let mut sampler = Sampler::new(4);
    sampler.adjust(&logits, &draw(Sampling { repetition_penalty: 2.0, ..WARM }), &Allowed::All);
    assert_eq!(sampler.adjusted, [2.0, 1.5, -2.0, 2.0]);
    sampler.adjust(&logits, &draw(Sampling { presence_penalty: 0.5, ..WARM }), &Allowed::All);
    assert_eq!(sampler.adjusted, [4.0, 2.5, -1.5, 2.0]);
    sampler.adjust(&logits, &draw(Sampling { frequency_penalty: 0.5, ..WARM }), &Allowed::All);
    assert_eq!(sampler.adjusted, [4.0, 2.5, -2.0, 2.0]);
    // Bias before penalty: (3 - 5) * 2 - 0.25 - 0.5.
    let all = Sampling {
        repetition_penalty: 2.0,
        presence_penalty: 0.25,
        frequency_penalty: 0.5,
        logit_bias: vec![(TokenId(1), -5.0), (TokenId(9), 1.0)],
        ..WARM
    };
    sampler.adjust(&logits, &draw(all), &Allowed::All);
    assert_eq!(sampler.adjusted, [2.0, -4.75, -3.25, 2.0]);
    assert!(sampler.marks.iter().all(|mark| *mark == 0), "the marks are clean for the next draw");
}

#[test]
fn bounds_keep_exactly_what_they_say() {
    // Probabilities 0.4, 0.3, 0.2, 0.1.
    let logits = [0.2_f32, 0.4, 0.1, 0.3].map(f32::ln);
    let drawn = |sampling: Sampling| -> Vec<usize> {
        let counts = counts(&logits, &sampling, 2000);
        (0..4).filter(|token| counts[*token] > 0).collect()
    };
    assert_eq!(drawn(WARM), [0, 1, 2, 3]);
    assert_eq!(drawn(Sampling { top_k: 1, ..WARM }), [1]);
    assert_eq!(drawn(Sampling { top_k: 2, ..WARM }), [1, 3]);
    assert_eq!(drawn(Sampling { top_k: 400, ..WARM }), [0, 1, 2, 3]);
    assert_eq!(drawn(Sampling { top_p: 1e-6, ..WARM }), [1]);
    assert_eq!(drawn(Sampling { top_p: 0.39, ..WARM }), [1]);
    assert_eq!(drawn(Sampling { top_p: 0.41, ..WARM }), [1, 3]);
    assert_eq!(drawn(Sampling { top_p: 0.71, ..WARM }), [0, 1, 3]);
    assert_eq!(drawn(Sampling { top_p: 0.91, ..WARM }), [0, 1, 2, 3]);
    // Top-p counts the share of what top-k left: 0.4 / 0.7 is above 0.5.
    assert_eq!(drawn(Sampling { top_k: 2, top_p: 0.5, ..WARM }), [1]);
    assert_eq!(drawn(Sampling { min_p: 0.49, ..WARM }), [0, 1, 3]);
    assert_eq!(drawn(Sampling { min_p: 0.51, ..WARM }), [1, 3]);
    assert_eq!(drawn(Sampling { min_p: 1.0, ..WARM }), [1]);
    assert_eq!(drawn(Sampling { min_p: 0.51, top_k: 3, top_p: 0.99, ..WARM }), [1, 3]);
    // Temperature goes before all of them: at 0.25 the likeliest has 0.72.
    assert_eq!(drawn(Sampling { temperature: 0.25, top_p: 0.7, ..WARM }), [1]);
}

/// What is kept is looked at: draws would have to be many to show a token too much. Weights of one
/// add up without rounding.
#[test]
fn a_share_that_is_reached_exactly_is_enough() {
    let kept = |count: usize, sampling: Sampling| {
        let mut sampler = Sampler::new(count);
        sampler.draw(&vec![0.0; count], &draw_of(sampling, 0)).unwrap();
        sampler.kept.iter().map(|candidate| candidate.token.0).collect::<Vec<_>>()
    };
    assert_eq!(kept(4, Sampling { top_p: 0.5, ..WARM }), [0, 1]);
    assert_eq!(kept(4, Sampling { top_p: 0.75, ..WARM }), [0, 1, 2]);
    assert_eq!(kept(4, Sampling { top_p: 0.76, ..WARM }), [0, 1, 2, 3]);
    assert_eq!(kept(8, Sampling { top_k: 4, top_p: 0.5, ..WARM }), [0, 1]);
    // Where more than the first look must be taken.
    assert_eq!(kept(4096, Sampling { top_p: 0.25, ..WARM }).len(), 1024);
    assert_eq!(kept(4096, Sampling { top_k: 2048, top_p: 0.25, ..WARM }).len(), 512);
}

#[test]
fn equal_logits_at_a_bound_go_by_the_lowest_id() {
    let logits = vec![0.0; 1000];
    let counts_of = |sampling| counts(&logits, &sampling, 500);
    let beyond = |counts: Vec<u32>, bound: usize| counts[bound..].iter().sum::<u32>();
    assert_eq!(beyond(counts_of(Sampling { top_k: 7, ..WARM }), 7), 0);
    assert_eq!(beyond(counts_of(Sampling { top_p: 0.25, ..WARM }), 250), 0);
    assert_eq!(beyond(counts_of(Sampling { top_k: 500, top_p: 0.5, ..WARM }), 250), 0);
}

#[test]
fn logprobs_are_the_models_own() {
    let logits = [1.0, 2.0, 2.0, -1.0, f32::NEG_INFINITY];
    let mut sampler = Sampler::new(5);
    let report = sampler.logprobs(&logits, TokenId(2), 3);
    let expected: Vec<f32> = softmax(&logits, 1.0).iter().map(|probability| probability.ln() as f32).collect();
    assert_eq!((report.chosen.token, report.chosen.rank), (TokenId(2), 2));
    assert!((report.chosen.logprob - expected[2]).abs() < 1e-6);
    let top: Vec<(u32, u32)> = report.top.iter().map(|top| (top.token.0, top.rank)).collect();
    assert_eq!(top, [(1, 1), (2, 2), (0, 3)]);
    assert!((report.top[2].logprob - expected[0]).abs() < 1e-6);
    assert!(sampler.logprobs(&logits, TokenId(4), 0).top.is_empty());
    assert_eq!(sampler.logprobs(&logits, TokenId(4), 9).top.len(), 5);
    assert_eq!(
        sampler.logprobs(&logits, TokenId(4), 0).chosen,
        crate::batch::TokenLogprob { token: TokenId(4), logprob: f32::NEG_INFINITY, rank: 5 }
    );
}

#[test]
fn logprobs_of_a_large_vocabulary_sum_to_one() {
    let logits: Vec<f32> = (0..201_088_u32).map(|token| (philox::uniform(3, token) * 4.0) as f32).collect();
    let report = Sampler::new(logits.len()).logprobs(&logits, TokenId(0), 201_088);
    let total: f64 = report.top.iter().map(|top| f64::from(top.logprob).exp()).sum();
    assert!((total - 1.0).abs() < 1e-5, "{total}");
    assert!(report.top.windows(2).all(|pair| pair[0].logprob >= pair[1].logprob));
}

fn any_sampling() -> impl Strategy<Value = Sampling> {
    let bounds = (prop_oneof![Just(0.0_f32), 0.01_f32..3.0], 0.01_f32..=1.0, 0_u32..40, 0.0_f32..=1.0, any::<u64>());
    let penalties = (0.5_f32..2.0, -1.0_f32..1.0, -1.0_f32..1.0, proptest::collection::vec((0_u32..32, -5.0_f32..5.0), 0..4));
    (bounds, penalties, 0_u32..4).prop_map(|((temperature, top_p, top_k, min_p, seed), penalties, min_tokens)| {
        let (repetition_penalty, presence_penalty, frequency_penalty, bias) = penalties;
        Sampling {
            temperature,
            top_p,
            top_k,
            min_p,
            seed,
            repetition_penalty,
            presence_penalty,
            frequency_penalty,
            logit_bias: bias.into_iter().map(|(token, bias)| (TokenId(token), bias)).collect(),
            stop_tokens: vec![TokenId(3), TokenId(9)],
            min_tokens,
            ..WARM
        }
    })
}

/// The documented order, written with sorts and f64: the slow twin of the sampler.
fn slow_draw(logits: &[f32], draw: &Draw) -> Option<TokenId> {
    let mut sampler = Sampler::new(logits.len());
    sampler.adjust(logits, draw, &Allowed::All);
    let sampling = &draw.sampling;
    let mut order: Vec<(u32, f32)> =
        (0..).zip(sampler.adjusted.iter().copied()).filter(|(_, logit)| logit.is_finite()).collect();
    order.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap().then(a.0.cmp(&b.0)));
    let max = order.first()?.1;
    if sampling.temperature == 0.0 {
        return Some(TokenId(order[0].0));
    }
    let mut weighted: Vec<(u32, f64)> =
        order.iter().map(|(token, logit)| (*token, f64::from(((logit - max) / sampling.temperature).exp()))).collect();
    if sampling.top_k > 0 {
        weighted.truncate(sampling.top_k as usize);
    }
    let total: f64 = weighted.iter().map(|(_, weight)| weight).sum();
    let mut sum = 0.0;
    let reached = weighted.iter().position(|(_, weight)| {
        sum += weight;
        sum >= f64::from(sampling.top_p) * total
    });
    if sampling.top_p < 1.0 {
        weighted.truncate(reached.map_or(weighted.len(), |last| last + 1));
    }
    weighted.retain(|(_, weight)| *weight >= f64::from(sampling.min_p));
    weighted.sort_by_key(|(token, _)| *token);
    let mut left =
        philox::uniform(sampling.seed, draw.generated_count) * weighted.iter().map(|(_, weight)| weight).sum::<f64>();
    for (token, weight) in &weighted {
        left -= weight;
        if left < 0.0 {
            return Some(TokenId(*token));
        }
    }
    weighted.last().map(|(token, _)| TokenId(*token))
}

proptest! {
    #[test]
    fn the_sampler_does_what_the_slow_one_does(
        logits in proptest::collection::vec(-6.0_f32..6.0, 32..900),
        sampling in any_sampling(),
        history in proptest::collection::vec(0_u32..32, 0..12),
        generated_count in 0_u32..6,
    ) {
        let history_prompt_len = history.len() / 2;
        let history = history.into_iter().map(TokenId).collect();
        let draw = Draw { sampling: Arc::new(sampling), generated_count, history, history_prompt_len };
        prop_assert_eq!(Sampler::new(logits.len()).draw(&logits, &draw).ok(), slow_draw(&logits, &draw));
    }

    #[test]
    fn a_draw_does_not_depend_on_the_draws_before_it(
        rows in proptest::collection::vec((proptest::collection::vec(-6.0_f32..6.0, 64), any_sampling()), 1..8),
    ) {
        let draws: Vec<(Vec<f32>, Draw)> = rows
            .into_iter()
            .enumerate()
            .map(|(index, (logits, sampling))| {
                let history = (0..index as u32).map(TokenId).collect();
                let draw = Draw { sampling: Arc::new(sampling), generated_count: index as u32, history, history_prompt_len: 1 };
                (logits, draw)
            })
            .collect();
        let mut shared = Sampler::new(64);
        for (logits, draw) in draws.iter().chain(draws.iter().rev()) {
            prop_assert_eq!(shared.draw(logits, draw), Sampler::new(64).draw(logits, draw));
        }
    }
}

/// Allows the same in every draw.
#[derive(Debug)]
struct Fixed(Allowed);

impl crate::batch::TokenMasks for Fixed {
    fn drawn(&self, _: u32, _: TokenId) {}

    fn allowed(&self, _: u32) -> Allowed {
        self.0.clone()
    }
}

#[test]
fn a_mask_goes_before_everything_that_chooses() {
    // Token 40 is the likeliest of all, 35 of those allowed.
    let logits: Vec<f32> = (0..50).map(|token| if token == 40 { 9.0 } else { -((token as f32) - 35.0).abs() }).collect();
    let masks = |allowed| Some(crate::batch::Masks(Arc::new(Fixed(allowed))));
    let words: Arc<[u32]> = [1 << 7 | 1 << 30, 1 << 3].into();
    let drawn = |sampling: Sampling| {
        let sampling = Sampling { masks: masks(Allowed::Only(Arc::clone(&words))), ..sampling };
        Sampler::new(50).draw(&logits, &draw_of(sampling, 0)).unwrap().0
    };
    assert_eq!(drawn(Sampling::default()), 35);
    for seed in 0..200 {
        assert!([7, 30, 35].contains(&drawn(Sampling { seed, temperature: 2.0, ..WARM })));
        assert!(
            [30, 35].contains(&drawn(Sampling { seed, top_k: 2, temperature: 2.0, ..WARM })),
            "of those allowed the likeliest"
        );
        assert_eq!(drawn(Sampling { seed, top_p: 0.5, ..WARM }), 35);
    }
    // A stop token waits for `min_tokens` as long as something else may be said.
    let least = |stop: &[u32]| Sampling {
        min_tokens: 3,
        stop_tokens: stop.iter().map(|token| TokenId(*token)).collect(),
        ..Sampling::default()
    };
    assert_eq!(drawn(least(&[35])), 30);
    assert_eq!(drawn(least(&[7, 30, 35])), 35, "what is complete can only end");
    // What the model says of its tokens is without the mask.
    let all = Sampler::new(50).logprobs(&logits, TokenId(35), 1);
    assert_eq!((all.top[0].token, all.chosen.rank), (TokenId(40), 2));
    let nothing = Sampling { masks: masks(Allowed::Nothing), ..Sampling::default() };
    assert_eq!(Sampler::new(50).draw(&logits, &draw_of(nothing, 0)), Err(DrawError::NothingAllowed));
}

#[test]
fn what_is_excepted_is_out_of_the_draw_and_nothing_else() {
    let logits: Vec<f32> = (0..50).map(|token| (token % 10) as f32 / 4.0).collect();
    let sampling = |allowed| Sampling { masks: Some(crate::batch::Masks(Arc::new(Fixed(allowed)))), ..Sampling::default() };
    let excepted = Allowed::Except([9, 19, 29, 49, 70].map(TokenId).into());
    assert_eq!(Sampler::new(50).draw(&logits, &draw_of(sampling(excepted.clone()), 0)), Ok(TokenId(39)));
    let words: Vec<u32> = (0..2)
        .map(|word| (0..32).fold(0, |bits, bit| bits | u32::from(excepted.has(TokenId(32 * word + bit))) << bit))
        .collect();
    for seed in 0..200 {
        let warm = |allowed| Sampling { seed, temperature: 1.0, ..sampling(allowed) };
        let drawn = |allowed| Sampler::new(50).draw(&logits, &draw_of(warm(allowed), 3)).unwrap();
        assert_eq!(drawn(excepted.clone()), drawn(Allowed::Only(words.clone().into())), "as with all others allowed");
    }
    // A stop token waits for `min_tokens`: there is always something else.
    let least = Sampling { min_tokens: 3, stop_tokens: vec![TokenId(39)], ..sampling(excepted) };
    assert_eq!(Sampler::new(50).draw(&logits, &draw_of(least, 0)), Ok(TokenId(8)));
}
