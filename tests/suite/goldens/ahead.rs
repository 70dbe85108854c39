//! Steps that a CUDA engine is given while it computes the one before: tokens that the host does
//! not know yet.

use super::cuda::{OPTIONS, serve};
use super::driver::{Driver, Sequence, ask_prompt_logprobs};
use super::files::Golden;
use antiphon::batch::{Awaited, Batch, Sampled, Sampling, TokenId};
use antiphon::engine::Engine as _;
use antiphon::engine::cuda::{CudaEngine, CudaOptions};
use antiphon_cuda_shim::{Fault, SCHEDULES};

/// How each of a golden's prompts is drawn from: likeliest, warm, and with this many
/// log-probabilities.
fn sampling(index: usize, top_count: u32) -> Sampling {
    let seed = index as u64;
    match index % 3 {
        0 => Sampling::default(),
        1 => Sampling { temperature: 1.0, seed, logprobs: Some(3), ..Sampling::default() },
        _ => Sampling { temperature: 0.7, seed, logprobs: Some(top_count), ..Sampling::default() },
    }
}

/// A golden's prompts, computed side by side.
struct Chorus<'a> {
    driver: &'a mut Driver<CudaEngine>,
    sequences: Vec<Sequence>,
    top_count: u32,
    /// The first step reports the prompts too.
    echoes: bool,
    reports: Vec<Vec<Sampled>>,
}

impl<'a> Chorus<'a> {
    fn new(driver: &'a mut Driver<CudaEngine>, golden: &Golden, top_count: u32, echoes: bool) -> Self {
        let sequences = golden.cases.iter().map(|case| Sequence::new(&case.prompt)).collect();
        Self { driver, sequences, top_count, echoes, reports: Vec::new() }
    }

    /// The next step of all; `ahead`: of the one that draws the last token of each.
    fn submit(&mut self, ahead: bool) -> Result<(), String> {
        let mut batch = Batch::default();
        for (index, sequence) in self.sequences.iter_mut().enumerate() {
            sequence.seq = index as u64;
            if ahead {
                // Another token than it will be.
                sequence.tokens.push(TokenId(1));
                batch.awaited.push(Awaited { token: batch.tokens.len(), slice: index });
            }
            let len = sequence.left();
            self.driver.add(&mut batch, sequence, len, Some(sampling(index, self.top_count)));
            if self.echoes && !ahead && len > 1 {
                ask_prompt_logprobs(&mut batch, &sequence.tokens[1..], 2);
            }
        }
        self.sequences.iter_mut().for_each(|sequence| self.driver.slide(sequence));
        self.driver.engine.begin(&batch).map_err(|error| error.to_string())
    }

    /// Takes what the oldest step reports; `ahead`: another one was submitted after it.
    fn wait(&mut self, ahead: bool) {
        let mut sampled = Vec::new();
        self.driver.engine.finish(&mut sampled).unwrap();
        for (sequence, sampled) in self.sequences.iter_mut().zip(&sampled) {
            let token = sampled.token.unwrap().unwrap();
            if ahead {
                *sequence.tokens.last_mut().unwrap() = token;
            } else {
                sequence.tokens.push(token);
            }
        }
        self.reports.push(sampled);
    }

    /// `steps` steps, each but the first submitted before the one before it is waited for, or
    /// after.
    fn sing(mut self, steps: usize, ahead: bool) -> Vec<Vec<Sampled>> {
        self.submit(false).unwrap();
        for step in 1..=steps {
            let more = ahead && step < steps;
            if more {
                self.submit(true).unwrap();
            }
            self.wait(more);
            if !ahead && step < steps {
                self.submit(false).unwrap();
            }
        }
        self.reports
    }
}

fn reports(golden: &Golden, options: CudaOptions, (top_count, echoes): (u32, bool), ahead: bool) -> Vec<Vec<Sampled>> {
    let mut served = serve(golden, options);
    assert_eq!(served.driver.engine.limits().steps_max, 2);
    let reports = Chorus::new(&mut served.driver, golden, top_count, echoes).sing(7, ahead);
    assert!(options.graphs == (served.driver.engine.graph_counts().1 > 0) || top_count > 32);
    reports
}

#[test]
fn steps_given_ahead_report_what_steps_in_turn_report() {
    let golden = Golden::open("g1");
    for graphs in [true, false] {
        let options = CudaOptions { graphs, ..OPTIONS };
        // More log-probabilities than a report has room for, and more rows than a round: such a step is
        // over before the next can be given.
        for asked in [(5, false), (40, false), (5, true)] {
            let expected = reports(&golden, options, asked, false);
            assert!(reports(&golden, options, asked, true) == expected, "{options:?}, {asked:?}");
        }
    }
}

#[test]
fn steps_given_ahead_have_the_same_bits_under_every_schedule() {
    let golden = Golden::open("g2");
    let expected = reports(&golden, OPTIONS, (5, false), false);
    for schedule in SCHEDULES {
        let mut served = serve(&golden, OPTIONS);
        served.shim.schedule(schedule);
        assert!(Chorus::new(&mut served.driver, &golden, 5, false).sing(7, true) == expected, "{schedule:?}");
    }
}

#[test]
fn a_step_that_cannot_be_begun_leaves_the_one_before_it() {
    let golden = Golden::open("g2");
    let expected = reports(&golden, OPTIONS, (5, false), false);
    let mut served = serve(&golden, CudaOptions { graphs: false, ..OPTIONS });
    if served.shim.real() {
        return antiphon_cuda_shim::skipped("only the stand-in fails when it is told to");
    }
    let mut chorus = Chorus::new(&mut served.driver, &golden, 5, false);
    chorus.submit(false).unwrap();
    served.shim.fail_launch(9, Fault::Refused);
    let error = chorus.submit(true).unwrap_err();
    assert!(error.contains("launching a kernel"), "{error}");
    chorus.wait(true);
    assert!(chorus.reports[..] == expected[..1]);
}

/// A row of a report is neither a slice's number nor a token's place: not every slice draws, and one that
/// is in the next step is another choice, in another order.
#[test]
fn tokens_are_awaited_of_slices_wherever_their_rows_are() {
    let golden = Golden::open("g2");
    let run = |ahead: bool| {
        let mut served = serve(&golden, OPTIONS);
        let driver = &mut served.driver;
        let mut sequences: Vec<Sequence> = golden.cases[1..5].iter().map(|case| Sequence::new(&case.prompt)).collect();
        let mut first = Batch::default();
        for (index, sequence) in sequences.iter_mut().enumerate() {
            sequence.seq = index as u64;
            // The first slice draws nothing.
            let len = if index == 0 { 1 } else { sequence.left() };
            driver.add(&mut first, sequence, len, (index > 0).then(|| sampling(index, 5)));
        }
        sequences.iter_mut().for_each(|sequence| driver.slide(sequence));
        driver.engine.begin(&first).unwrap();
        let mut sampled = Vec::new();
        if !ahead {
            driver.engine.finish(&mut sampled).unwrap();
        }
        let mut second = Batch::default();
        // The second is not needed any more.
        for index in [3, 0, 2] {
            if index > 0 {
                let known = sampled.get(index - 1).map(|sampled: &Sampled| sampled.token.unwrap().unwrap());
                sequences[index].tokens.push(known.unwrap_or(TokenId(1)));
                second.awaited.extend(ahead.then_some(Awaited { token: second.tokens.len(), slice: index }));
            }
            let len = sequences[index].left();
            driver.add(&mut second, &mut sequences[index], len, Some(sampling(index, 5)));
        }
        driver.engine.begin(&second).unwrap();
        (0..if ahead { 2 } else { 1 }).for_each(|_| driver.engine.finish(&mut sampled).unwrap());
        sampled
    };
    let expected = run(false);
    assert_eq!(expected.len(), 6);
    assert!(run(true) == expected);
}
