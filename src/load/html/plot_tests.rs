//! A plot's parts are where their values are.

use std::collections::BTreeMap;

use super::*;

#[test]
fn ticks_are_round_and_lie_on_the_axis() {
    let axis = |values: &[f64], log| Axis::new(values, log, 0.0, 100.0);
    assert_eq!(axis(&[0.0, 9.0], false).ticks(), [0.0, 2.0, 4.0, 6.0, 8.0]);
    assert_eq!(axis(&[0.5, 60.0], true).ticks(), [0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0]);
    assert_eq!(axis(&[0.003, 90.0], true).ticks(), [0.01, 0.1, 1.0, 10.0]);
    assert_eq!(axis(&[130.0, 560.0], true).ticks(), [150.0, 200.0, 300.0, 400.0, 500.0]);
    assert_eq!(axis(&[0.0, 100.0], false).ticks(), [0.0, 25.0, 50.0, 75.0, 100.0]);
    assert_eq!(axis(&[0.0, 11.0], false).ticks(), [0.0, 5.0, 10.0]);
    assert!(!axis(&[3.0, 3.1], true).ticks().is_empty(), "a narrow axis has ticks too");
    let axis = axis(&[1.0, 100.0], true);
    assert!((axis.position(10.0) - 50.0).abs() < 1e-9);
}

#[test]
fn a_plot_of_nothing_is_nothing_and_numbers_are_short() {
    let plot = |points| Plot {
        title: "a<b".to_owned(),
        x: "x",
        y: "y",
        x_log: true,
        y_log: false,
        series: vec![PlotSeries { name: "s", form: Mark::Bars, points }],
        marks: vec![("p50", 1.5)],
    };
    assert_eq!(plot(Vec::new()).svg(), "");
    let svg = plot(vec![(1.0, 0.0), (2.0, 5.0)]).svg();
    assert!(svg.contains(">p50 1.5</text>"), "{svg}");
    assert!(svg.contains("a&lt;b") && svg.matches("<rect").count() == 1 && !svg.contains("NaN"), "{svg}");
    assert_eq!([short(0.05), short(12.5), short(1234.0), short(25_000.0)], ["0.05", "12.5", "1234", "25k"]);
}

/// The attributes of each tag that begins so, and the text behind it.
fn tags(svg: &str, begin: &str) -> Vec<(BTreeMap<String, String>, String)> {
    let read = |tag: &str| {
        let (inside, behind) = tag.split_once('>').expect("a tag ends");
        let attributes = inside.trim_end_matches('/').split("\" ").filter_map(|pair| pair.trim().split_once("=\""));
        let attributes = attributes.map(|(name, value)| (name.to_owned(), value.trim_end_matches('"').to_owned()));
        (attributes.collect(), behind.split('<').next().unwrap_or_default().to_owned())
    };
    svg.split(&format!("<{begin}")).skip(1).map(read).collect()
}

fn number(tag: &(BTreeMap<String, String>, String), name: &str) -> f64 {
    tag.0[name].parse().expect("a number")
}

fn plot(x_log: bool, series: Vec<PlotSeries>, marks: Vec<(&'static str, f64)>) -> String {
    Plot { title: "t".to_owned(), x: "below", y: "beside", x_log, y_log: false, series, marks }.svg()
}

fn series(form: Mark, points: &[(f64, f64)]) -> PlotSeries {
    PlotSeries { name: "s", form, points: points.to_vec() }
}

/// The field is 488 wide, from 58 on, and 204 high, above 218; the axes end a twentieth above the
/// largest values.
#[test]
fn a_line_and_the_grid_are_where_their_values_are() {
    let svg = plot(false, vec![series(Mark::Line, &[(0.0, 0.0), (5.0, 21.0), (10.0, 100.0)])], Vec::new());
    let (x, y) = (|value: f64| 58.0 + value / 10.5 * 488.0, |value: f64| 218.0 - value / 105.0 * 204.0);
    let points = [(0.0, 0.0), (5.0, 21.0), (10.0, 100.0)].map(|(a, b)| format!("{:.1},{:.1}", x(a), y(b))).join(" ");
    assert!(svg.contains(&format!("<polyline class=\"l0\" points=\"{points}\"/>")), "{points} in {svg}");
    assert!(!svg.contains("<circle") && !svg.contains("legend"), "{svg}");
    let lines = tags(&svg, "line class=\"grid\"");
    let texts = tags(&svg, "text");
    let grid = |ticks: &[f64], place: &dyn Fn(f64) -> [f64; 4]| ticks.iter().map(|tick| place(*tick)).collect::<Vec<_>>();
    let found: Vec<[f64; 4]> = lines.iter().map(|line| ["x1", "x2", "y1", "y2"].map(|name| number(line, name))).collect();
    let near = |found: &[[f64; 4]], right: &[[f64; 4]]| {
        found.len() == right.len() && found.iter().flatten().zip(right.iter().flatten()).all(|(a, b)| (a - b).abs() < 0.06)
    };
    let along = grid(&[0.0, 5.0, 10.0], &|tick| [x(tick), x(tick), 14.0, 218.0]);
    let across = grid(&[0.0, 25.0, 50.0, 75.0, 100.0], &|tick| [58.0, 546.0, y(tick), y(tick)]);
    assert!(near(&found, &[along.clone(), across.clone()].concat()), "{found:?}");
    for (index, (label, right)) in ["0", "5", "10"].iter().zip(&along).enumerate() {
        let text = &texts[index];
        assert_eq!((text.1.as_str(), text.0["text-anchor"].as_str(), number(text, "y")), (*label, "middle", 234.0));
        assert!((number(text, "x") - right[0]).abs() < 0.06, "{text:?}");
    }
    for (index, (label, right)) in ["0", "25", "50", "75", "100"].iter().zip(&across).enumerate() {
        let text = &texts[3 + index];
        assert_eq!((text.1.as_str(), text.0["text-anchor"].as_str(), number(text, "x")), (*label, "end", 52.0));
        assert!((number(text, "y") - right[2] - 4.0).abs() < 0.06, "{text:?}");
    }
    let names = &texts[8..];
    assert_eq!((names[0].1.as_str(), number(&names[0], "x"), number(&names[0], "y")), ("below", 302.0, 254.0));
    assert_eq!((names[1].1.as_str(), number(&names[1], "x"), number(&names[1], "y")), ("beside", 12.0, 116.0));
    assert_eq!(names[1].0["transform"], "rotate(-90 12 116)");
}

#[test]
fn a_bar_goes_from_the_edge_before_it_and_from_the_floor_up() {
    let svg = plot(true, vec![series(Mark::Bars, &[(1.0, 0.0), (2.0, 5.0), (4.0, 0.0), (8.0, 20.0)])], Vec::new());
    let bars = tags(&svg, "rect");
    let third = 488.0 / 3.0;
    let right = [[58.0, 218.0 - 204.0 * 5.0 / 21.0, third], [58.0 + 2.0 * third, 218.0 - 204.0 * 20.0 / 21.0, third]];
    assert_eq!(bars.len(), 2, "none of nothing: {svg}");
    for (bar, [from, top, width]) in bars.iter().zip(right) {
        let places = [("x", from), ("y", top), ("width", width - 0.5), ("height", 218.0 - top)];
        assert!(places.iter().all(|(name, right)| (number(bar, name) - right).abs() < 0.06), "{bar:?}, by hand {places:?}");
    }
    assert!(svg.contains("<title>to 2: 5</title>") && svg.contains("<title>to 8: 20</title>"), "{svg}");
    // Edges that are closer than a bar is wide at least.
    let svg = plot(false, vec![series(Mark::Bars, &[(1_000.0, 1.0), (1_000.1, 1.0)])], Vec::new());
    assert_eq!(number(&tags(&svg, "rect")[1], "width"), 0.5);
}

#[test]
fn places_are_named_below_each_other_and_beside_where_there_is_room() {
    let names = |form| {
        let marks = vec![("first", 2.0), ("second", 8.0), ("third", 10.0)];
        tags(&plot(false, vec![series(form, &[(0.0, 1.0), (10.0, 1.0)])], marks), "text class=\"name\"")
    };
    let x = |value: f64| 58.0 + value / 10.5 * 488.0;
    for (form, top) in [(Mark::Line, 182.0), (Mark::Bars, 24.0), (Mark::Marks, 24.0)] {
        let found = names(form);
        let right =
            [("first 2", x(2.0) + 4.0, "start"), ("second 8", x(8.0) + 4.0, "start"), ("third 10", x(10.0) - 4.0, "end")];
        assert_eq!(found.len(), 3);
        for (index, (name, at, anchor)) in right.into_iter().enumerate() {
            let text = &found[index];
            assert_eq!((text.1.as_str(), text.0["text-anchor"].as_str()), (name, anchor));
            assert!((number(text, "x") - at).abs() < 0.06 && number(text, "y") == top + 14.0 * index as f64, "{text:?}");
        }
    }
    let svg = plot(false, vec![series(Mark::Line, &[(0.0, 1.0), (10.0, 1.0)])], vec![("m", 5.0)]);
    let line = &tags(&svg, "line class=\"mark\"")[0];
    assert_eq!(["x1", "x2", "y1", "y2"].map(|name| number(line, name)), [290.4, 290.4, 14.0, 218.0]);
}

#[test]
fn several_series_have_a_legend_and_points_have_circles() {
    let (one, two) = ([(1.0, 2.0), (2.0, 4.0)], [(1.0, 1.0)]);
    let of = |name, form, points: &[(f64, f64)]| PlotSeries { name, form, points: points.to_vec() };
    let all = vec![of("a", Mark::Marks, &one), of("b", Mark::Line, &[]), of("c", Mark::Line, &two)];
    let svg = plot(false, all, Vec::new());
    let legend = "<p class=\"legend\"><span><i class=\"s0\"></i>a</span><span><i class=\"s2\"></i>c</span></p>";
    assert!(svg.contains(legend), "{svg}");
    let circles = |index| tags(&svg, &format!("circle class=\"m{index}\""));
    assert_eq!([0, 1, 2].map(|index| circles(index).len()), [2, 0, 1], "a line of one point is drawn as one");
    let second = &circles(0)[1];
    let right = (58.0 + 2.0 / 2.1 * 488.0, 218.0 - 4.0 / 4.2 * 204.0);
    assert!((number(second, "cx") - right.0).abs() < 0.06 && (number(second, "cy") - right.1).abs() < 0.06, "{second:?}");
    assert!(svg.contains("<title>2: 4</title>"), "{svg}");
}

#[test]
fn an_axis_holds_what_it_shows() {
    let axis = |values: &[f64], log| Axis::new(values, log, 10.0, 100.0);
    let places = |axis: Axis, values: [f64; 3]| values.map(|value| (axis.position(value) * 1e6).round() / 1e6);
    assert_eq!(places(axis(&[20.0, 100.0], false), [0.0, 52.5, 105.0]), [10.0, 60.0, 110.0], "from zero on");
    assert_eq!(places(axis(&[-5.0, 100.0], false), [-5.0, 50.0, 105.0]), [10.0, 60.0, 110.0], "or from below it");
    assert_eq!(
        places(axis(&[1.0, 10_000.0], true), [0.5, 100.0, 10_000.0]),
        [10.0, 60.0, 110.0],
        "what is below is at the edge"
    );
    assert_eq!(places(axis(&[0.0, 0.0], false), [0.0, 0.5, 1.0]), [10.0, 60.0, 110.0], "one value has an axis too");
    let even = [100.0, 110.0, 120.0, 130.0, 140.0, 150.0];
    assert_eq!(axis(&[100.0, 150.0], true).ticks(), even, "less than a doubling has even steps");
    assert_eq!(axis(&[50.0, 100.0], true).ticks(), [50.0, 70.0, 100.0]);
}

#[test]
fn numbers_have_the_digits_that_are_read() {
    let texts =
        [0.0, 0.000_04, 0.012_34, -0.5, 1.0, 1.234, 99.996, 100.4, 9_999.0, 10_000.0, 12_340.0, 1e6, 2.5e6, -3e6].map(short);
    let right = ["0", "0", "0.0123", "-0.5", "1", "1.23", "100", "100", "9999", "10k", "12.34k", "1M", "2.5M", "-3M"];
    assert_eq!(texts, right);
}
