//! A figure of values over time, as SVG.

use std::fmt::Write;

/// Size of the area in which the lines are, pixels.
const WIDTH: f64 = 900.0;
/// The same, downwards.
const HEIGHT: f64 = 400.0;
/// Room around it.
const MARGIN: f64 = 60.0;
/// One for each line.
const COLOURS: [&str; 4] = ["#1f6fb4", "#d9822b", "#3a9a4c", "#8a4fa3"];

/// Draws a line for each of the series, which have a value for each second; `mark` is the second at which something begins.
/// Names are the program's own: nothing in them has to be escaped.
pub fn svg(title: &str, unit: &str, series: &[(&str, &Vec<u32>)], mark: usize) -> String {
    let seconds = series.iter().map(|(_, values)| values.len()).max().unwrap_or(0).max(2);
    let most = series.iter().flat_map(|(_, values)| values.iter()).max().copied().unwrap_or(0).max(1);
    let x = |second: usize| MARGIN + second as f64 / (seconds - 1) as f64 * WIDTH;
    let y = |value: u32| MARGIN + HEIGHT - f64::from(value) / f64::from(most) * HEIGHT;
    let (width, height) = (WIDTH + 2.0 * MARGIN, HEIGHT + 2.0 * MARGIN);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{MARGIN}\" y=\"24\" font-size=\"16\">{title}</text>\n<text x=\"{MARGIN}\" y=\"44\">{unit}</text>\n"
    );
    let mut line = |x1: f64, y1: f64, x2: f64, y2: f64, style: &str| {
        let _ = writeln!(svg, "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" {style}/>");
    };
    for share in 0..=4 {
        line(MARGIN, y(most * share / 4), MARGIN + WIDTH, y(most * share / 4), "stroke=\"#ddd\"");
    }
    line(x(mark), MARGIN, x(mark), MARGIN + HEIGHT, "stroke=\"#999\" stroke-dasharray=\"3 3\"");
    let mut text = |x: f64, y: f64, anchor: &str, colour: &str, words: &str| {
        let _ =
            writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{colour}\">{words}</text>");
    };
    for share in 0..=4 {
        let value = most * share / 4;
        text(MARGIN - 6.0, y(value) + 4.0, "end", "#666", &value.to_string());
    }
    let step = seconds.div_ceil(10).next_multiple_of(10);
    for second in (0..seconds).step_by(step) {
        text(x(second), MARGIN + HEIGHT + 18.0, "middle", "#666", &format!("{second} s"));
    }
    for ((name, _), (n, colour)) in series.iter().zip(COLOURS.iter().enumerate()) {
        text(MARGIN + 12.0 + n as f64 * 180.0, height - 14.0, "start", colour, name);
    }
    for ((_, values), colour) in series.iter().zip(COLOURS) {
        let points: Vec<_> = values.iter().enumerate().map(|(s, v)| format!("{:.1},{:.1}", x(s), y(*v))).collect();
        let points = points.join(" ");
        let _ = writeln!(svg, "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>");
    }
    svg + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_each_and_no_value_outside() {
        let drawn = svg("t", "u", &[("a", &vec![0, 10, 40]), ("b", &vec![7])], 1);
        assert_eq!(drawn.matches("<polyline").count(), 2);
        assert!(drawn.contains("points=\"60.0,460.0 510.0,360.0 960.0,60.0\""), "{drawn}");
        assert!(svg("t", "u", &[], 0).ends_with("</svg>\n"));
    }
}
