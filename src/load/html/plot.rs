//! A plot as SVG: axes, ticks, lines and bars. Colours come from the page's style, so that both its
//! themes have theirs.

use std::fmt::Write as _;

use super::escape;

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 42.0;

/// How a series is drawn.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Mark {
    Line,
    /// A line with a mark at each point.
    Marks,
    /// Bars up to each x, from the x before.
    Bars,
}

pub(super) struct PlotSeries {
    pub(super) name: &'static str,
    pub(super) form: Mark,
    pub(super) points: Vec<(f64, f64)>,
}

pub(super) struct Plot {
    pub(super) title: String,
    pub(super) x: &'static str,
    pub(super) y: &'static str,
    pub(super) x_log: bool,
    pub(super) y_log: bool,
    pub(super) series: Vec<PlotSeries>,
    /// Places on the x axis that have a name.
    pub(super) marks: Vec<(&'static str, f64)>,
}

/// From values to places.
struct Axis {
    from: f64,
    to: f64,
    log: bool,
    start: f64,
    length: f64,
}

impl Axis {
    fn new(values: &[f64], log: bool, start: f64, length: f64) -> Self {
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let (from, to) = if log { (least.max(1e-6), most.max(2e-6)) } else { (least.min(0.0), most * 1.05) };
        let to = if to > from { to } else { from + 1.0 };
        Self { from, to, log, start, length }
    }

    fn position(&self, value: f64) -> f64 {
        let share = if self.log {
            (value.max(self.from) / self.from).ln() / (self.to / self.from).ln()
        } else {
            (value - self.from) / (self.to - self.from)
        };
        self.start + share * self.length
    }

    /// Round values that lie on the axis.
    fn ticks(&self) -> Vec<f64> {
        if self.log && self.to / self.from >= 2.0 {
            let powers = self.from.log10().floor() as i32..=self.to.log10().ceil() as i32;
            let ticks = |steps: &[f64]| -> Vec<f64> {
                let all = powers.clone().flat_map(|power| steps.iter().map(move |step| step * 10_f64.powi(power)));
                all.filter(|tick| (self.from..=self.to).contains(tick)).collect()
            };
            // As few as can be read from.
            let forms: [&[f64]; 3] = [&[1.0], &[1.0, 2.0, 5.0], &[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0]];
            return forms.iter().map(|steps| ticks(steps)).find(|ticks| ticks.len() >= 4).unwrap_or_else(|| ticks(forms[2]));
        }
        let rough = (self.to - self.from) / 5.0;
        let power = 10_f64.powf(rough.log10().floor());
        // Quarters of hundreds, but no halves of what is counted.
        let steps = [1.0, 2.0, 2.5, 5.0, 10.0].map(|step| step * power);
        let step = steps.into_iter().find(|step| *step >= rough && (power >= 10.0 || *step != 2.5 * power)).unwrap_or(rough);
        let first = (self.from / step).ceil() as i64;
        let last = (self.to / step).floor() as i64;
        (first..=last).map(|index| index as f64 * step).collect()
    }
}

impl Plot {
    /// The plot, or nothing if it has no points.
    pub(super) fn svg(&self) -> String {
        let all = || self.series.iter().flat_map(|series| series.points.iter());
        let xs: Vec<f64> = all().map(|point| point.0).collect();
        if xs.is_empty() {
            return String::new();
        }
        let ys: Vec<f64> = all().map(|point| point.1).collect();
        let x = Axis::new(&xs, self.x_log, LEFT, WIDTH - LEFT - RIGHT);
        let y = Axis::new(&ys, self.y_log, HEIGHT - BOTTOM, -(HEIGHT - TOP - BOTTOM));
        let title = escape(&self.title);
        let mut svg = format!(
            "<figure><figcaption>{title}</figcaption><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\">"
        );
        self.axes(&x, &y, &mut svg);
        for (index, series) in self.series.iter().enumerate() {
            draw(series, index, &x, &y, &mut svg);
        }
        self.name_places(&x, &mut svg);
        svg.push_str("</svg>");
        if self.series.len() > 1 {
            svg.push_str("<p class=\"legend\">");
            for (index, series) in self.series.iter().enumerate().filter(|(_, series)| !series.points.is_empty()) {
                add(&mut svg, format_args!("<span><i class=\"s{index}\"></i>{}</span>", series.name));
            }
            svg.push_str("</p>");
        }
        svg.push_str("</figure>");
        svg
    }

    fn name_places(&self, x: &Axis, svg: &mut String) {
        // A curve that climbs leaves room under it, bars leave it above them.
        let top = if self.series[0].form == Mark::Line { HEIGHT - BOTTOM - 36.0 } else { TOP + 10.0 };
        for (index, (name, value)) in self.marks.iter().enumerate() {
            let (at, low) = (x.position(*value), HEIGHT - BOTTOM);
            add(svg, format_args!("<line class=\"mark\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{low}\"/>"));
            // Below each other, as they may be close; to the right unless there is no room.
            let (side, anchor) = if at > WIDTH * 0.8 { (-4.0, "end") } else { (4.0, "start") };
            let (text, height) = (at + side, top + 14.0 * index as f64);
            let place = format!("x=\"{text:.1}\" y=\"{height:.1}\" text-anchor=\"{anchor}\"");
            add(svg, format_args!("<text class=\"name\" {place}>{name} {}</text>", short(*value)));
        }
    }

    fn axes(&self, x: &Axis, y: &Axis, svg: &mut String) {
        let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        for tick in x.ticks() {
            let at = x.position(tick);
            add(svg, format_args!("<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/>"));
            let label = short(tick);
            add(svg, format_args!("<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>", bottom + 16.0));
        }
        for tick in y.ticks() {
            let at = y.position(tick);
            add(svg, format_args!("<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>"));
            let label = short(tick);
            add(svg, format_args!("<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>", LEFT - 6.0, at + 4.0));
        }
        let (middle, low) = ((LEFT + right) / 2.0, HEIGHT - 6.0);
        add(svg, format_args!("<text x=\"{middle:.1}\" y=\"{low:.1}\" text-anchor=\"middle\">{}</text>", self.x));
        let centre = (TOP + bottom) / 2.0;
        let turned = format_args!("transform=\"rotate(-90 12 {centre})\"").to_string();
        add(svg, format_args!("<text x=\"12\" y=\"{centre}\" text-anchor=\"middle\" {turned}>{}</text>", self.y));
    }
}

fn draw(series: &PlotSeries, index: usize, x: &Axis, y: &Axis, svg: &mut String) {
    if series.form == Mark::Bars {
        let mut from = x.start;
        let floor = HEIGHT - BOTTOM;
        for (edge, value) in &series.points {
            let (to, top) = (x.position(*edge), y.position(*value));
            let (width, height) = ((to - from - 0.5).max(0.5), (floor - top).max(0.0));
            if *value > 0.0 {
                let place = format!("x=\"{from:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"");
                add(svg, format_args!("<rect class=\"b{index}\" {place}><title>to {}: {value}</title></rect>", short(*edge)));
            }
            from = to;
        }
        return;
    }
    let places: Vec<String> =
        series.points.iter().map(|(a, b)| format!("{:.1},{:.1}", x.position(*a), y.position(*b))).collect();
    add(svg, format_args!("<polyline class=\"l{index}\" points=\"{}\"/>", places.join(" ")));
    // A line of one point is none.
    if series.form == Mark::Marks || series.points.len() == 1 {
        for (a, b) in &series.points {
            let place = format!("cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\"", x.position(*a), y.position(*b));
            add(svg, format_args!("<circle class=\"m{index}\" {place}><title>{}: {}</title></circle>", short(*a), short(*b)));
        }
    }
}

fn add(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments).expect("a String takes everything");
}

/// A number as a tick shows it.
pub(super) fn short(value: f64) -> String {
    let size = value.abs();
    if size >= 1e6 {
        format!("{}M", plain(value / 1e6))
    } else if size >= 1e4 {
        format!("{}k", plain(value / 1e3))
    } else {
        plain(value)
    }
}

fn plain(value: f64) -> String {
    let digits = if value.abs() >= 100.0 {
        0
    } else if value.abs() >= 1.0 {
        2
    } else {
        4
    };
    let text = format!("{value:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    text.to_owned()
}

#[cfg(test)]
#[path = "plot_tests.rs"]
mod tests;
