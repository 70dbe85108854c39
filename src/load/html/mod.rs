//! The report as one page of HTML: no script, nothing fetched, light or dark as the reader's system
//! is.

mod plot;

use std::fmt::Write as _;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::compare::Comparison;
use super::report::{LoadReport, LoadRun, Quantiles, RunSample};
use super::table::rows;
use plot::{Mark, Plot, PlotSeries, short};

const STYLE: &str = include_str!("style.css");

/// The page of a report, with a comparison if there is one.
#[must_use]
pub fn html(report: &LoadReport, comparison: Option<&Comparison>) -> String {
    let mut page = String::new();
    let title = escape(&format!("Load on {}", report.model));
    add(&mut page, format_args!("<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>"));
    page.push_str("<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><style>");
    page.push_str(STYLE);
    add(&mut page, format_args!("</style></head><body><h1>{title}</h1><p class=\"soft\">{}</p>", escape(&report.load)));
    let (api, seed, version) = (escape(&report.api), report.seed, escape(&report.version));
    let made = i64::try_from(report.created_s).ok().and_then(|at| OffsetDateTime::from_unix_timestamp(at).ok());
    let made = made.and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_default();
    add(&mut page, format_args!("<p class=\"soft\">route {api}, seed {seed}, antiphon {version}, {made}</p>"));
    for note in &report.notes {
        add(&mut page, format_args!("<p class=\"soft\">Note: {}</p>", escape(note)));
    }
    if let Some(comparison) = comparison {
        compared(comparison, &mut page);
    }
    if let Some(found) = report.sweep {
        let rate = |rate: Option<f64>| rate.map_or_else(|| "none".to_owned(), |rate| format!("{rate:.2}/s"));
        page.push_str("<div class=\"tiles\">");
        tile("highest rate that met the targets", &rate(found.met_rate), &mut page);
        tile("knee: highest rate kept up with", &rate(found.knee_rate), &mut page);
        page.push_str("</div>");
    }
    // Rounds at one rate, or of users that set their own, have no curve.
    let rates = || report.runs.iter().filter_map(|run| run.arrivals.rate());
    if rates().any(|rate| Some(rate) != rates().next()) {
        against_rate(&report.runs, &mut page);
    }
    for (index, run) in report.runs.iter().enumerate() {
        let open = if report.runs.len() == 1 || index == 0 { " open" } else { "" };
        let head = escape(&format!("{}, {}", run.url, run.arrivals));
        add(&mut page, format_args!("<details{open}><summary>{head}</summary>"));
        one(run, &mut page);
        page.push_str("</details>");
    }
    page.push_str("</body></html>\n");
    page
}

fn add(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments).expect("a String takes everything");
}

/// Text that stands in a page as it is.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn tile(name: &str, value: &str, page: &mut String) {
    add(page, format_args!("<div class=\"tile\"><b>{}</b><span>{}</span></div>", escape(value), escape(name)));
}

fn compared(comparison: &Comparison, page: &mut String) {
    add(page, format_args!("<h2>A against B</h2><p>A: {}<br>B: {}</p>", escape(&comparison.a), escape(&comparison.b)));
    page.push_str(
        "<div class=\"wide\"><table><tr><th></th><th>A</th><th>B</th><th>B/A</th><th>from</th><th>to</th><th>pairs</th></tr>",
    );
    for ratio in &comparison.ratios {
        let [least, middle, most] = ratio.ratio;
        let values =
            format!("<td>{:.2}</td><td>{:.2}</td><td>{middle:.3}</td><td>{least:.3}</td><td>{most:.3}</td>", ratio.a, ratio.b);
        add(page, format_args!("<tr><td>{}</td>{values}<td>{}</td></tr>", ratio.name, ratio.pairs));
    }
    page.push_str("</table></div>");
}

/// Latency and throughput of each run against its rate.
fn against_rate(runs: &[LoadRun], page: &mut String) {
    let points = |figure: fn(&LoadRun) -> Option<f64>| {
        let mut points: Vec<(f64, f64)> = runs.iter().filter_map(|run| Some((run.arrivals.rate()?, figure(run)?))).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        points
    };
    let series = |name, figure: fn(&LoadRun) -> Option<f64>| PlotSeries { name, form: Mark::Marks, points: points(figure) };
    let latency = |title: &str, series| Plot {
        title: title.to_owned(),
        x: "requests/s",
        y: "milliseconds",
        x_log: true,
        y_log: true,
        series,
        marks: Vec::new(),
    };
    page.push_str("<h2>Against the rate</h2><div class=\"plots\">");
    let ttft = vec![
        series("p50", |run| Some(run.latencies.ttft?.p50)),
        series("p95", |run| Some(run.latencies.ttft?.p95)),
        series("p99", |run| Some(run.latencies.ttft?.p99)),
    ];
    page.push_str(&latency("Time to the first token", ttft).svg());
    let e2e = vec![
        series("p50", |run| Some(run.latencies.e2e?.p50)),
        series("p95", |run| Some(run.latencies.e2e?.p95)),
        series("p99", |run| Some(run.latencies.e2e?.p99)),
    ];
    page.push_str(&latency("Time to the end of the answer", e2e).svg());
    let itl = vec![series("p50", |run| Some(run.latencies.itl?.p50)), series("p99", |run| Some(run.latencies.itl?.p99))];
    page.push_str(&latency("Gap between pieces", itl).svg());
    let completed = vec![
        series("completed requests/s", |run| Some(run.requests_per_s)),
        series("met the targets, requests/s", |run| run.goodput_per_s),
    ];
    page.push_str(&Plot { y: "requests/s", x_log: false, y_log: false, ..latency("Throughput", completed) }.svg());
    page.push_str("</div>");
}

fn one(run: &LoadRun, page: &mut String) {
    if let Some(reason) = &run.partial {
        add(page, format_args!("<p class=\"bad\">Partial: {}</p>", escape(reason)));
    }
    page.push_str("<div class=\"tiles\">");
    tile("output tokens/s", &short(run.output_tokens_per_s), page);
    tile("requests/s", &short(run.requests_per_s), page);
    if let Some(ttft) = run.latencies.ttft {
        tile("TTFT p50 / p95, ms", &format!("{} / {}", short(ttft.p50), short(ttft.p95)), page);
    }
    if let Some(itl) = run.latencies.itl {
        tile("ITL p50 / p99, ms", &format!("{} / {}", short(itl.p50), short(itl.p99)), page);
    }
    if let Some(goodput) = run.goodput_per_s {
        tile("goodput, requests/s", &short(goodput), page);
    }
    let counts = &run.counts;
    tile("completed of sent", &format!("{} / {}", counts.completed, counts.sent), page);
    page.push_str("</div>");
    add(
        page,
        format_args!(
            "<p>{} left, {} cancelled, {} refused (429), {} failed; {:.1} s</p>",
            counts.left, counts.cancelled, counts.refused, counts.failed, run.wall_s
        ),
    );
    let targets = [("TTFT", run.targets.ttft_ms), ("TPOT", run.targets.tpot_ms), ("E2E", run.targets.e2e_ms)];
    let targets = targets.into_iter().filter_map(|(name, most)| Some(format!("{name} at most {} ms", short(most?))));
    let targets: Vec<String> = targets.collect();
    if let Some(share) = run.good_share {
        let percent = share * 100.0;
        add(page, format_args!("<p>Targets: {}; met by {percent:.1} % of the requests</p>", targets.join(", ")));
    }
    for (kind, error) in &run.errors {
        let example = escape(&error.example);
        add(page, format_args!("<p><span class=\"bad\">{}: {}</span> such as: {example}</p>", escape(kind), error.count));
    }
    page.push_str("<div class=\"wide\"><table><tr><th>milliseconds</th><th>count</th><th>mean</th><th>p50</th><th>p90</th><th>p95</th><th>p99</th><th>max</th></tr>");
    for (name, quantiles) in rows(run) {
        let Some(q) = quantiles else { continue };
        add(page, format_args!("<tr><td>{name}</td><td>{}</td>", q.count));
        for value in [q.mean, q.p50, q.p90, q.p95, q.p99, q.max] {
            add(page, format_args!("<td>{value:.2}</td>"));
        }
        page.push_str("</tr>");
    }
    page.push_str("</table></div>");
    let latencies = &run.latencies;
    if latencies.ttft.is_none() {
        page.push_str("<p>No answer had a token: there are no latencies to draw.</p>");
    } else {
        page.push_str("<h2>Latencies</h2><div class=\"plots\">");
        page.push_str(&distribution("Time to the first token", "answers", &run.ttft_bins, latencies.ttft));
        page.push_str(&distribution("Gap between pieces (ITL)", "gaps", &run.itl_bins, latencies.itl));
        page.push_str("</div>");
    }
    over_time(&run.samples, page);
}

/// A histogram and its sum.
fn distribution(name: &str, what: &'static str, bins: &[(f64, u64)], quantiles: Option<Quantiles>) -> String {
    let marks = quantiles.map_or_else(Vec::new, |q| vec![("p50", q.p50), ("p95", q.p95), ("p99", q.p99)]);
    let total = bins.iter().map(|(_, count)| count).sum::<u64>().max(1) as f64;
    // Bins have upper edges: where the first begins follows from their even proportion.
    let begins = if let [(first, _), (second, _), ..] = bins { Some((first * first / second, 0)) } else { None };
    let bins: Vec<(f64, u64)> = begins.into_iter().chain(bins.iter().copied()).collect();
    let mut sum = 0;
    let shares = bins.iter().map(|(edge, count)| {
        sum += count;
        (*edge, sum as f64 / total * 100.0)
    });
    let plot = |title: String, y, form, points| {
        let series = vec![PlotSeries { name: "", form, points }];
        Plot { title, x: "milliseconds", y, x_log: true, y_log: false, series, marks: marks.clone() }.svg()
    };
    let counts = bins.iter().map(|(edge, count)| (*edge, *count as f64)).collect();
    let cumulated = shares.collect();
    plot(format!("{name}: histogram"), what, Mark::Bars, counts)
        + &plot(format!("{name}: cumulative"), "% not above", Mark::Line, cumulated)
}

fn over_time(samples: &[RunSample], page: &mut String) {
    let points = |figure: fn(&RunSample) -> Option<f64>| {
        samples.iter().filter_map(|sample| Some((sample.at_s, figure(sample)?))).collect::<Vec<_>>()
    };
    let line = |name, figure: fn(&RunSample) -> Option<f64>| PlotSeries { name, form: Mark::Line, points: points(figure) };
    let plot = |title: &str, y, series| {
        Plot { title: title.to_owned(), x: "seconds", y, x_log: false, y_log: false, series, marks: Vec::new() }.svg()
    };
    page.push_str("<h2>Over time</h2><div class=\"plots\">");
    if samples.iter().any(|sample| sample.pieces_per_s > 0.0) {
        page.push_str(&plot("Pieces of answers", "pieces/s", vec![line("", |sample| Some(sample.pieces_per_s))]));
    }
    let concurrency = vec![
        line("under way, seen by the client", |sample| Some(sample.in_flight as f64)),
        line("server's batch", |sample| sample.running),
        line("server's queue", |sample| sample.waiting),
    ];
    page.push_str(&plot("Concurrency, batch and queue", "requests", concurrency));
    let kv = vec![line("", |sample| sample.kv.map(|share| share * 100.0))];
    page.push_str(&plot("KV memory in use", "% of blocks, of the fuller group", kv));
    page.push_str("</div>");
}

#[cfg(test)]
mod tests {
    use super::super::compare::{Comparison, Ratio};
    use super::{compared, distribution};

    #[test]
    fn a_comparison_has_a_before_b_and_b_over_a() {
        let ratio = Ratio { name: "TTFT p50", a: 100.0, b: 250.0, ratio: [2.0, 2.5, 3.0], pairs: 4 };
        let comparison = Comparison { a: "old <a>".to_owned(), b: "new".to_owned(), ratios: vec![ratio] };
        let mut page = String::new();
        compared(&comparison, &mut page);
        assert!(page.contains("A: old &lt;a&gt;<br>B: new"), "{page}");
        assert!(page.contains("<th>A</th><th>B</th><th>B/A</th><th>from</th><th>to</th><th>pairs</th>"), "{page}");
        let row = "<td>TTFT p50</td><td>100.00</td><td>250.00</td><td>2.500</td><td>2.000</td><td>3.000</td><td>4</td>";
        assert!(page.contains(row), "{page}");
    }

    #[test]
    fn the_first_bar_is_as_wide_as_the_others() {
        let svg = distribution("x", "answers", &[(2.0, 5), (4.0, 1), (8.0, 3)], None);
        let widths = svg.split("<rect").skip(1).filter_map(|bar| bar.split_once("width=\"")?.1.split('"').next()?.parse().ok());
        let widths: Vec<f64> = widths.collect();
        assert!(widths.len() == 3 && widths.iter().all(|width| (width - widths[0]).abs() < 0.2), "{widths:?}");
    }
}
