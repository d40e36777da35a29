//! Throughput, lag and memory over time, as SVG.

use std::ops::Range;
use std::path::Path;

use anyhow::Context;
use plotters::coord::Shift;
use plotters::prelude::*;

use super::report::{MIB, Report, Sample, thinned};
use super::table::grouped;

const SIZE: (u32, u32) = (900, 640);
/// More than can be told apart in the width.
const POINTS: f64 = 300.0;
const FONT: &str = "sans-serif";
const GREY: RGBColor = RGBColor(150, 150, 150);
const ORANGE: RGBColor = RGBColor(255, 140, 0);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// A line of a panel: what it is, its colour, its points.
struct Line(&'static str, RGBColor, Vec<(f64, f64)>);

/// Draws a report.
pub(super) fn draw(report: &Report, path: &Path) -> anyhow::Result<()> {
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    let drawn = panels(report, &area).and_then(|()| Ok(area.present()?));
    drawn.with_context(|| format!("drawing {}", path.display()))
}

fn panels(report: &Report, area: &Area<'_>) -> anyhow::Result<()> {
    area.fill(&WHITE)?;
    let end = report.samples.last().map_or(1.0, |last| last.at);
    let samples = thinned(&report.samples, (end / POINTS).max(1.0));
    let values = |value: fn(&Sample) -> f64| {
        let point = |sample: &Sample| (sample.at, value(sample));
        samples.iter().map(point).collect::<Vec<_>>()
    };
    let all = [
        (
            "events a second",
            vec![
                Line(
                    "published",
                    GREY,
                    rates(&samples, |sample| sample.published),
                ),
                Line("durable", BLUE, rates(&samples, |sample| sample.durable)),
            ],
        ),
        (
            "lag, in seconds",
            vec![Line("lag", RED, values(|sample| sample.lag))],
        ),
        (
            "resident memory, in MiB",
            vec![Line(
                "memory",
                GREEN,
                values(|sample| sample.memory as f64 / MIB),
            )],
        ),
    ];
    let moments: Vec<f64> = report.moments.iter().map(|moment| moment.at).collect();
    let parts = area
        .titled(
            &format!("{}: {}", report.scenario, report.about),
            (FONT, 15),
        )?
        .split_evenly((all.len(), 1));
    for (part, (caption, lines)) in parts.iter().zip(&all) {
        panel(part, caption, lines, &moments, 0.0..end)?;
    }
    Ok(())
}

/// How fast a count grows.
fn rates(samples: &[Sample], count: fn(&Sample) -> u64) -> Vec<(f64, f64)> {
    let rate = |pair: &[Sample]| {
        let [before, after] = pair else {
            return None;
        };
        let more = count(after).saturating_sub(count(before)) as f64;
        Some((after.at, more / (after.at - before.at).max(1e-3)))
    };
    samples.windows(2).filter_map(rate).collect()
}

fn panel(
    area: &Area<'_>,
    caption: &str,
    lines: &[Line],
    moments: &[f64],
    time: Range<f64>,
) -> anyhow::Result<()> {
    let values = lines.iter().flat_map(|line| &line.2);
    let top = values.map(|(_, value)| *value).fold(0.1, f64::max) * 1.05;
    let mut chart = ChartBuilder::on(area)
        .caption(caption, (FONT, 13))
        .margin(6)
        .x_label_area_size(22)
        .y_label_area_size(62)
        .build_cartesian_2d(time, 0.0..top)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_labels(10)
        .y_labels(5)
        .x_label_formatter(&|seconds| format!("{seconds:.0} s"))
        .y_label_formatter(&|value| match top < 10.0 {
            true => format!("{value:.1}"),
            false => grouped(*value),
        })
        .label_style((FONT, 11))
        .draw()?;
    let upright = |at: &f64| PathElement::new(vec![(*at, 0.0), (*at, top)], ORANGE.mix(0.5));
    chart.draw_series(moments.iter().map(upright))?;
    for Line(name, colour, points) in lines {
        let colour = *colour;
        chart
            .draw_series(LineSeries::new(
                points.iter().copied(),
                colour.stroke_width(1),
            ))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 14, y)], colour));
    }
    if lines.len() > 1 {
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .label_font((FONT, 11))
            .background_style(WHITE.mix(0.8))
            .draw()?;
    }
    Ok(())
}
