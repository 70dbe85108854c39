use super::*;

const SECOND: u64 = 1_000_000;
const LIMITS: EngineLimits = EngineLimits {
    block_tokens: 16,
    global_blocks: 8,
    sliding_blocks: 8,
    sliding_window_tokens: 32,
    step_tokens_max: 64,
    step_slices_max: 8,
    context_tokens_max: 128,
    vocab_size: 100,
    slice_drafts_max: 0,
    copies_blocks: false,
    steps_max: 1,
    global_block_bytes: 1,
    sliding_block_bytes: 1,
};

fn idle() -> EngineSeat {
    let mut seat = EngineSeat::new();
    assert_eq!(seat.built(LIMITS), SeatCommand::Start(LIMITS));
    seat
}

fn computing() -> EngineSeat {
    let mut seat = idle();
    seat.step_begun(Micros(7), false);
    seat
}

fn given_up(command: SeatCommand) -> String {
    match command {
        SeatCommand::GiveUp(message) => message,
        other => panic!("{other:?} instead of the end"),
    }
}

#[test]
fn a_step_goes_from_idle_to_computing_and_back() {
    let mut seat = EngineSeat::new();
    assert!(!seat.is_idle() && !seat.is_awaited(), "the first engine may take as long as it likes");
    assert_eq!(seat.built(LIMITS), SeatCommand::Start(LIMITS));
    assert!(seat.is_idle() && !seat.is_awaited());
    seat.step_begun(Micros(7), true);
    assert!(!seat.is_idle() && seat.is_awaited());
    assert_eq!(seat.step_done(), Some(ComputedStep { began: Micros(7), ahead: true }));
    assert!(seat.is_idle());
}

#[test]
#[should_panic = "an engine that waits for one"]
fn an_engine_that_computes_is_given_no_other_step() {
    computing().step_begun(Micros(8), false);
}

#[test]
#[should_panic = "only while one computes"]
fn a_step_that_was_not_begun_is_not_reported() {
    let _ = idle().step_done();
}

#[test]
fn two_steps_at_once_are_for_engines_that_take_them() {
    assert!(!EngineSeat::new().takes_two_steps() && !idle().takes_two_steps());
    let mut seat = EngineSeat::new();
    let _ = seat.built(EngineLimits { steps_max: 2, ..LIMITS });
    assert!(seat.takes_two_steps());
}

#[test]
fn an_engine_that_dies_is_built_again() {
    let mut seat = computing();
    assert_eq!(seat.step_lost().map(|step| step.began), Some(Micros(7)));
    assert_eq!(seat.engine_died("broken".to_owned(), 0, Micros(SECOND)), SeatCommand::Rebuild("broken".to_owned()));
    assert!(!seat.is_idle() && seat.is_awaited() && !seat.is_over());
    assert_eq!(seat.built(LIMITS), SeatCommand::Resume);
    assert!(seat.is_idle());
}

#[test]
fn a_first_engine_that_cannot_be_built_is_the_end_and_a_later_one_a_strike() {
    let mut first = EngineSeat::new();
    assert_eq!(given_up(first.not_built("no weights".to_owned(), Micros(0))), "no weights");
    assert!(first.is_over());
    let mut later = computing();
    let _ = later.step_lost();
    let _ = later.engine_died("broken".to_owned(), 0, Micros(0));
    assert_eq!(later.not_built("again".to_owned(), Micros(1)), SeatCommand::Rebuild("again".to_owned()));
    assert_eq!(later.not_built("again".to_owned(), Micros(2)), SeatCommand::Rebuild("again".to_owned()));
    let message = given_up(later.not_built("and again".to_owned(), Micros(3)));
    assert_eq!(message, "the engine died again and again: and again");
}

#[test]
fn each_sequence_given_up_is_a_strike_and_a_successful_step_forgives_them() {
    for (forgiven, expected_over) in [(false, true), (true, false)] {
        let mut seat = computing();
        let _ = seat.step_lost();
        let _ = seat.engine_died("poison".to_owned(), 2, Micros(0));
        let _ = seat.built(LIMITS);
        if forgiven {
            seat.step_begun(Micros(1), false);
            let _ = seat.step_done();
        }
        seat.step_begun(Micros(2), false);
        let _ = seat.step_lost();
        let _ = seat.engine_died("poison".to_owned(), 1, Micros(3));
        assert_eq!(seat.is_over(), expected_over, "forgiven: {forgiven}");
    }
}

#[test]
fn a_rebuilt_engine_with_other_limits_is_the_end() {
    let mut seat = computing();
    let _ = seat.step_lost();
    let _ = seat.engine_died("broken".to_owned(), 0, Micros(0));
    let message = given_up(seat.built(EngineLimits { global_blocks: 9, ..LIMITS }));
    assert!(message.contains("other limits") && message.contains("global_blocks: 9"), "{message}");
}

/// While the engine computes, and while it is built again; never while it is idle or loads.
#[test]
fn silence_past_the_watchdog_is_the_end() {
    let mut restarting = computing();
    let _ = restarting.step_lost();
    let _ = restarting.engine_died("broken".to_owned(), 0, Micros(0));
    for mut seat in [computing(), restarting] {
        assert_eq!((0..3).map(|_| seat.beat(3 * SECOND)).collect::<Vec<_>>(), vec![SeatCommand::Nothing; 3]);
        assert_eq!(given_up(seat.beat(3 * SECOND)), "the engine has not answered for 4 seconds");
    }
    for mut seat in [EngineSeat::new(), idle()] {
        assert!((0..100).all(|_| seat.beat(0) == SeatCommand::Nothing));
    }
}

/// A report, a step and a rebuilding each start the count anew.
#[test]
fn silence_counts_from_the_last_report_or_job() {
    let mut seat = computing();
    for round in 0..5 {
        assert_eq!((seat.beat(2 * SECOND), seat.beat(2 * SECOND)), (SeatCommand::Nothing, SeatCommand::Nothing));
        if round % 2 == 0 {
            let _ = seat.step_done();
            seat.step_begun(Micros(round), false);
        } else {
            let _ = seat.step_lost();
            let _ = seat.engine_died("broken".to_owned(), 0, Micros(round));
            assert_eq!((seat.beat(2 * SECOND), seat.beat(2 * SECOND)), (SeatCommand::Nothing, SeatCommand::Nothing));
            assert_eq!(seat.built(LIMITS), SeatCommand::Resume);
            seat.step_begun(Micros(round), false);
        }
    }
}

/// Reports that were on their way when the engine was given up, or the actor stopped, change
/// nothing.
#[test]
fn what_comes_after_the_end_is_not_taken() {
    let mut dead = computing();
    let _ = dead.give_up("the core panicked".to_owned());
    let mut stopped = computing();
    stopped.stop();
    for mut seat in [dead, stopped] {
        assert_eq!((seat.step_done(), seat.step_lost()), (None, None));
        assert_eq!(seat.built(LIMITS), SeatCommand::Nothing);
        assert_eq!(seat.not_built("late".to_owned(), Micros(0)), SeatCommand::Nothing);
        assert_eq!(seat.engine_died("late".to_owned(), 9, Micros(0)), SeatCommand::Nothing);
        assert_eq!((seat.beat(0), seat.thread_ended()), (SeatCommand::Nothing, SeatCommand::Nothing));
        assert!(seat.is_over() && !seat.is_idle() && !seat.is_awaited());
    }
}

#[test]
fn a_thread_that_ends_by_itself_is_the_end() {
    for mut seat in [EngineSeat::new(), idle(), computing()] {
        assert_eq!(given_up(seat.thread_ended()), "the engine's thread ended");
        assert!(seat.is_over());
    }
}
