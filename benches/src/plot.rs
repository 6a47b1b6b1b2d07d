//! A plot of a few lines over powers of two, as SVG.

use std::fmt::Write as _;

/// One line of a plot: its name and a value for each place on the horizontal axis.
#[derive(Debug, Clone)]
pub struct Line {
    /// What the legend says.
    pub name: String,
    /// The values, from left to right.
    pub values: Vec<f64>,
}

/// Draws lines over places, with a logarithmic vertical axis.
#[must_use]
pub fn svg(title: &str, across: &str, places: &[String], lines: &[Line]) -> String {
    const COLOURS: [&str; 4] = ["#0b6e4f", "#c1121f", "#e09f3e", "#335c81"];
    let values = || lines.iter().flat_map(|line| line.values.iter().copied()).filter(|v| *v > 0.0);
    let least = values().fold(f64::INFINITY, f64::min).log10().floor();
    let most = values().fold(1.0, f64::max).log10().ceil().max(least + 1.0);
    let x = |n: usize| 80.0 + 520.0 * n as f64 / places.len().saturating_sub(1).max(1) as f64;
    let y = |value: f64| 360.0 - 300.0 * (value.max(1e-9).log10() - least) / (most - least);
    let mut svg = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 760 420\" font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"760\" height=\"420\" fill=\"#fff\"/>\n",
    );
    // Writing to a String cannot fail.
    let _ = writeln!(svg, "<text x=\"80\" y=\"30\" font-size=\"15\">{title}</text>");
    let mut power = least;
    while power <= most {
        let at = y(10_f64.powf(power));
        let _ = writeln!(
            svg,
            "<line x1=\"80\" x2=\"600\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/><text x=\"72\" y=\"{:.1}\" text-anchor=\"end\">{:.0}</text>",
            at + 4.0,
            10_f64.powf(power)
        );
        power += 1.0;
    }
    for (n, place) in places.iter().enumerate() {
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"380\" text-anchor=\"middle\">{place}</text>",
            x(n)
        );
    }
    let _ = writeln!(svg, "<text x=\"340\" y=\"405\" text-anchor=\"middle\">{across}</text>");
    for (n, line) in lines.iter().enumerate() {
        let colour = COLOURS[n % COLOURS.len()];
        let points: Vec<String> = line
            .values
            .iter()
            .enumerate()
            .map(|(at, value)| format!("{:.1},{:.1}", x(at), y(*value)))
            .collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            points.join(" ")
        );
        let at = line.values.last().map_or(60.0, |value| y(*value));
        let _ = writeln!(
            svg,
            "<text x=\"608\" y=\"{:.1}\" fill=\"{colour}\">{}</text>",
            at + 4.0,
            line.name
        );
    }
    svg.push_str("</svg>\n");
    svg
}
