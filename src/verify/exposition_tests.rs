//! What is valid is read, what is not is refused with its line.

use super::*;

const GOOD: &str = "# HELP a_total Things.\n# TYPE a_total counter\na_total{x=\"1\",y=\"a\\\"b\"} 2\na_total{x=\"2\"} 3 1700000000000\n\
                    # TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 2\nh_sum 3.5\nh_count 2\n";

#[test]
fn values_are_found_by_name_and_labels() {
    let read = Exposition::read(GOOD).unwrap();
    assert_eq!(read.value("a_total", &[]), Some(5.0));
    assert_eq!(read.value("a_total", &[("x", "2")]), Some(3.0));
    assert_eq!(read.value("a_total", &[("y", "a\"b")]), Some(2.0));
    assert_eq!((read.value("a_total", &[("x", "3")]), read.value("b", &[])), (None, None));
    assert_eq!((read.families(), read.labels_of("a_total").count()), (2, 2));
}

#[test]
fn what_a_scraper_would_stumble_over_is_refused_with_its_line() {
    for (text, line, what) in [
        ("a 1\n", 1, "no TYPE"),
        ("# TYPE a counter\na 1", 2, "does not end"),
        ("# TYPE a counter\na -1\n", 2, "is -1"),
        ("# TYPE a counter\na NaN\n", 2, "is NaN"),
        ("# TYPE a count\n", 1, "no type"),
        ("# TYPE a gauge\n# TYPE a gauge\n", 2, "second TYPE"),
        ("# TYPE 1a gauge\n", 1, "no name"),
        ("# TYPE a gauge\na{b=\"1\"} 1\na{b=\"1\"} 2\n", 3, "twice"),
        ("# TYPE a gauge\na{b=\"1\\t\"} 1\n", 2, "escape"),
        ("# TYPE a gauge\na{b=\"1} 1\n", 2, "does not end"),
        ("# TYPE a gauge\na{b=\"1\",b=\"2\"} 1\n", 2, "twice"),
        ("# TYPE a gauge\na\n", 2, "without a value"),
        ("# TYPE a gauge\na one\n", 2, "without a value"),
        ("# TYPE a gauge\na 1 now\n", 2, "no time"),
        ("# TYPE a gauge\na 1\n# TYPE b gauge\nb 1\na{c=\"d\"} 1\n", 5, "apart"),
        ("# TYPE h histogram\nh_bucket{le=\"1\"} 2\nh_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 1\n", 5, "do not agree"),
        ("# TYPE h histogram\nh_bucket{le=\"1\"} 2\nh_sum 1\nh_count 2\n", 4, "do not agree"),
        ("# TYPE h histogram\nh_bucket{le=\"+Inf\"} 2\nh_sum 1\nh_count 3\n", 4, "do not agree"),
    ] {
        let error = Exposition::read(text).unwrap_err();
        assert!(error.line == line && error.message.contains(what), "{text}: {error}");
    }
}
