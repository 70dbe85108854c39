//! When requests are sent and what they hold, as the command line says it.

use super::*;

fn read(args: &[&str]) -> Result<Arrivals, CommandFailure> {
    let matches = command().try_get_matches_from([&["load"], args].concat()).expect("the options are known");
    arrivals(&Asked::new(&matches)?)
}

#[test]
fn the_arrivals_are_those_that_are_asked_for() {
    let said = |args: &[&str]| read(args).expect("they fit together");
    assert_eq!(said(&[]), Arrivals::Closed { concurrency: 8 });
    assert_eq!(said(&["--concurrency", "3"]), Arrivals::Closed { concurrency: 3 });
    assert_eq!(said(&["--rate", "2.5"]), Arrivals::Poisson { rate: 2.5 });
    assert_eq!(said(&["--rate", "2.5", "--arrivals", "constant"]), Arrivals::Constant { rate: 2.5 });
    assert_eq!(said(&["--rate", "2.5", "--arrivals", "poisson"]), Arrivals::Poisson { rate: 2.5 });
    assert_eq!(said(&["--burst", "4"]), Arrivals::Bursts { count: 4, every_s: 5.0 });
    assert_eq!(said(&["--burst", "4", "--burst-every", "0.5"]), Arrivals::Bursts { count: 4, every_s: 0.5 });
    // A sweep sets the rate.
    assert_eq!(said(&["--sweep", "--arrivals", "constant"]), Arrivals::Constant { rate: 1.0 });
}

#[test]
fn arrivals_that_contradict_each_other_are_refused() {
    let all = ["--concurrency", "3", "--rate", "1", "--burst", "2"];
    for pair in [&all[..4], &all[2..], &[all[0], all[1], all[4], all[5]]] {
        assert!(matches!(read(pair), Err(CommandFailure::Usage(said)) if said.contains("expected one of")), "{pair:?}");
    }
    assert!(matches!(read(&["--arrivals", "often"]), Err(CommandFailure::Usage(said)) if said.contains("`often`")));
    assert!(matches!(read(&["--concurrency", "0"]), Err(CommandFailure::Usage(_))));
}

#[test]
fn fields_of_a_body_are_an_object_without_those_that_the_load_writes() {
    let read = |text: &str| {
        let matches = command().try_get_matches_from(["load", "--extra-body", text]).expect("the option is known");
        extra_body(&Asked::new(&matches)?)
    };
    assert_eq!(read(r#"{"top_p": 0.5}"#).expect("an object")["top_p"], 0.5);
    for (text, part) in [
        ("[1]", "expected an object of JSON"),
        ("{", "expected an object of JSON"),
        (r#"{"top_p": 1, "stream": false}"#, "has `stream`, which the load writes itself"),
        (r#"{"messages": []}"#, "has `messages`"),
    ] {
        assert!(matches!(read(text), Err(CommandFailure::Usage(said)) if said.contains(part)), "{text}");
    }
}
