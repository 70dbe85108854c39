//! `antiphon simulate` without a load: the scheduler core through seeded worlds, as the tests do,
//! for as many seeds as one likes.

use clap::{Arg, ArgAction, ArgMatches, value_parser};

use crate::cli::failure::{CommandFailure, print};
use crate::simulate::{self, Options, WorldReport};

/// The options.
pub(super) fn arguments() -> [Arg; 3] {
    let number = |name: &'static str, default: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name("NUMBER").default_value(default).value_parser(value_parser!(u64)).help(help)
    };
    [
        number("worlds", "200", "how many seeds, one after another"),
        number("turns", "80", "how long the eventful part of a world lasts"),
        Arg::new("every-feature")
            .long("every-feature")
            .action(ArgAction::SetTrue)
            .help("have every feature of the scheduler on in every world; else each is off in some"),
    ]
}

/// Lives through the worlds; a world that goes wrong is a failure that names its seed.
pub(super) fn run(matches: &ArgMatches) -> Result<(), CommandFailure> {
    let number = |name: &str| *matches.get_one::<u64>(name).expect("it has a default");
    let turns = usize::try_from(number("turns")).unwrap_or(usize::MAX);
    let (first, count) = (number("seed"), number("worlds"));
    let options = Options { turns, every_feature: matches.get_flag("every-feature") };
    // A world that panics is caught and reported with its seed; the panic itself needs no message.
    std::panic::set_hook(Box::new(|_| ()));
    let mut sum = WorldReport::default();
    for seed in first..first.saturating_add(count) {
        let report = simulate::run(seed, &options);
        if let Some(wrong) = &report.failure {
            let again = format!(
                "antiphon simulate --seed {seed} --worlds 1 --turns {turns}{}",
                if options.every_feature { " --every-feature" } else { "" }
            );
            return Err(anyhow::anyhow!("seed {seed}: {wrong}; expected a sound world; see it again with `{again}`").into());
        }
        sum.add(&report);
    }
    print(&format!(
        "{count} worlds are sound: {} steps of {} slices, {} tokens; sequences: {} taken, {} finished, {} cancelled, {} \
         preempted, {} found {} tokens computed, {} resumed so; {} requests rejected, {} steps lost, {} held, {} planned ahead; \
         {} of {} guessed tokens right\n",
        sum.steps_total,
        sum.slices_total,
        sum.tokens_total,
        sum.taken_total,
        sum.finished_total,
        sum.cancelled_total,
        sum.preemptions_total,
        sum.hits_total,
        sum.hit_tokens_total,
        sum.resumed_total,
        sum.rejected_total,
        sum.lost_total,
        sum.held_total,
        sum.ahead_total,
        sum.accepted_tokens_total,
        sum.draft_tokens_total
    ))
}
