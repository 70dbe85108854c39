//! Many streams at once, and more than the system allows.

use super::antiphon;
use super::responder::{Manner, Responder};

#[test]
fn a_thousand_streams_are_under_way_at_once() {
    // The responder's ends are in this process.
    rlimit::increase_nofile_limit(4096).expect("the limit can be read");
    // No answer goes on until all have begun: one user fewer, and none would end.
    let responder = Responder::start(Manner { together: 1000, ..Manner::default() });
    let users = ["--concurrency", "1000", "--requests", "1000", "--output-tokens", "4", "--answer-max", "120"];
    let (code, output, error) = antiphon(&[&["load", "--url", &responder.url()][..], &users].concat());
    assert_eq!((code, error.as_str()), (0, ""), "{output}");
    assert!(output.contains("1000 sent, 1000 completed"), "{output}");
}

#[test]
fn more_streams_than_descriptors_are_refused_before_anything_is_sent() {
    let responder = Responder::start(Manner::default());
    // More than any process may have, root's too.
    let users = ["--concurrency", "5000000", "--requests", "5000000"];
    let (code, output, error) = antiphon(&[&["load", "--url", &responder.url()][..], &users].concat());
    assert_eq!((code, output.as_str(), error.lines().count()), (1, "", 1));
    assert!(error.contains("--concurrency 5000000 needs 5000100 open files and this process may have "), "{error}");
    assert!(responder.bodies().is_empty());
}
