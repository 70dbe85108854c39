//! The log drops rather than waits, and remembers warnings without their surroundings.

use super::*;

#[test]
fn a_queue_that_nobody_empties_drops_lines_and_counts_them() {
    let watch = LogWatch::default();
    let (jobs, waiting) = sync_channel(2);
    let mut queue = Queue { jobs, watch: watch.clone() };
    for _ in 0..5 {
        queue.write_all(b"line\n").unwrap();
    }
    assert_eq!(watch.dropped_total(), 3);
    drop(waiting);
    queue.write_all(b"line\n").unwrap();
    assert_eq!(watch.dropped_total(), 4);
}

#[test]
fn warnings_are_kept_with_their_fields_and_nothing_else_is() {
    let watch = LogWatch::default();
    let subscriber = tracing_subscriber::registry().with(Warnings(watch.clone()));
    tracing::subscriber::with_default(subscriber, || {
        tracing::info!("all is well");
        tracing::warn!(shard = 3, "the disk is slow");
        for _ in 0..70 {
            tracing::error!(name = "x", "{}", "y".repeat(1000));
        }
    });
    let warnings = watch.warnings();
    assert_eq!(warnings.len(), 64, "the oldest made room");
    assert!(warnings.iter().all(|warning| warning.level == "ERROR" && warning.message.len() == 400));

    let watch = LogWatch::default();
    let subscriber = tracing_subscriber::registry().with(Warnings(watch.clone()));
    tracing::subscriber::with_default(subscriber, || tracing::warn!(shard = 3, "the disk is slow"));
    let [warning] = &watch.warnings()[..] else { panic!("one warning") };
    assert_eq!((warning.level, warning.message.as_str()), ("WARN", "the disk is slow shard=3"));
    assert!(warning.unix_seconds > 1_700_000_000);
}
