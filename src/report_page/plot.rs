//! A plot: axes, scales, curves and areas, drawn as SVG.

use plotters::chart::ChartBuilder;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::coord::types::RangedCoordf64;
use plotters::drawing::IntoDrawingArea;
use plotters::element::{PathElement, Polygon};
use plotters::prelude::SVGBackend;
use plotters::style::{Color, IntoFont, TRANSPARENT};
use std::ops::Range;

use super::format;
use super::palette::{AXIS, CUT, Hue, INK, RULE};
use super::timeline::{Buckets, Timeline};

/// Units of the drawing per pixel of the page. The library draws in whole units, and whole pixels would be coarse.
pub(super) const FINE: u32 = 4;
/// Width of a chart in pixels of the page. Narrow, so that a phone need not shrink its text.
pub(super) const WIDTH: u32 = 360;
const HEIGHT: u32 = 196;
const RIGHT: u32 = 14;
/// Approximate width of a character in pixels of the page.
const CHARACTER: u32 = 7;
/// Size of text in pixels of the page.
pub(super) const WORDS: u32 = 12;
/// Maximum number of cuts that are drawn, as vertical lines. If there are more, none is drawn: they would hide the
/// curves.
const MOST_CUTS: usize = 12;

/// A chart over time.
pub(super) struct Plot<'a> {
    /// The horizontal axis.
    pub(super) timeline: &'a Timeline,
    /// The vertical axis.
    pub(super) scale: Scale,
    /// The areas, drawn first.
    pub(super) areas: Vec<Area>,
    /// The curves, drawn over the areas.
    pub(super) curves: Vec<Curve>,
}

/// A drawing to be embedded in the page.
#[derive(Clone, Debug)]
pub(super) struct Drawing {
    /// Width and height, in units of the drawing.
    pub(super) size: (u32, u32),
    /// Content of the element `svg`.
    pub(super) body: String,
}

/// An error of the chart library.
#[derive(Debug, thiserror::Error)]
#[error("a chart could not be drawn: {0}")]
pub struct DrawingError(String);

impl DrawingError {
    /// Wraps an error of the library.
    pub(super) fn new(cause: impl std::fmt::Display) -> Self {
        DrawingError(cause.to_string())
    }
}

impl Drawing {
    /// Extracts the content of the SVG that the library wrote.
    ///
    /// HTML implies the namespace, and the stylesheet sets size and fonts.
    pub(super) fn from_svg(svg: &str, size: (u32, u32)) -> Drawing {
        let body = svg.split_once('>').map_or("", |(_, body)| body).trim_end();
        let body = body.strip_suffix("</svg>").unwrap_or(body).trim();
        let body = body.replace(" font-family=\"sans-serif\"", "").replace(" opacity=\"1\"", "");
        Drawing { size, body }
    }
}

/// Returns the style of text. The chart library scales font sizes, which the factor here reverses.
pub(super) fn words() -> plotters::style::TextStyle<'static> {
    ("sans-serif", f64::from(WORDS * FINE) * 1.24).into_font().color(&INK)
}

impl Plot<'_> {
    /// Draws the plot as SVG.
    pub(super) fn draw(&self) -> Result<Drawing, DrawingError> {
        let size = (WIDTH * FINE, HEIGHT * FINE);
        let mut svg = String::new();
        self.draw_on(&mut svg, size).map_err(DrawingError::new)?;
        Ok(Drawing::from_svg(&svg, size))
    }

    fn draw_on(&self, svg: &mut String, size: (u32, u32)) -> Result<(), impl std::fmt::Display + use<>> {
        let root = SVGBackend::with_string(svg, size).into_drawing_area();
        let (length, top) = (self.timeline.length(), self.scale.top());
        let upright = self.scale.ticks();
        let longest = upright.iter().map(|(_, text)| text.chars().count()).max().unwrap_or_default();
        let room = u32::try_from(longest).unwrap_or(u32::MAX).clamp(2, 9) * CHARACTER + 8;
        let level = within(self.timeline.ticks(), length, room);
        let mut chart = ChartBuilder::on(&root)
            .margin_top(8 * FINE)
            .margin_right(RIGHT * FINE)
            .x_label_area_size(22 * FINE)
            .y_label_area_size(room * FINE)
            .build_cartesian_2d(Axis::new(length, &level), Axis::new(top, upright))?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .bold_line_style(RULE.stroke_width(FINE))
            .light_line_style(TRANSPARENT)
            .axis_style(TRANSPARENT)
            // The marks are invisible; their size sets the distance between labels and axis.
            .set_all_tick_mark_size(2 * FINE)
            .label_style(words())
            .draw()?;
        for area in &self.areas {
            let outline = self.placed(&area.outline);
            chart.draw_series([Polygon::new(outline, area.hue.colour().mix(area.density))])?;
        }
        let cuts: Vec<f64> = self.timeline.cuts().take(MOST_CUTS + 1).collect();
        for cut in cuts.iter().take_while(|_| cuts.len() <= MOST_CUTS) {
            chart.draw_series([PathElement::new([(*cut, 0.0), (*cut, top)], CUT.stroke_width(FINE))])?;
        }
        for curve in &self.curves {
            let style = curve.hue.colour().stroke_width(FINE * 7 / 4);
            let pieces = curve.pieces.iter().map(|piece| PathElement::new(self.placed(piece), style));
            chart.draw_series(pieces)?;
        }
        chart.draw_series([PathElement::new([(0.0, 0.0), (length, 0.0)], AXIS.stroke_width(FINE))])?;
        root.present()
    }

    fn placed(&self, points: &[Point]) -> Vec<Point> {
        points.iter().map(|(along, value)| (*along, self.scale.place(*value))).collect()
    }
}

/// Returns the ticks whose labels, centred below them, lie within the chart. `left` is the number of pixels before the
/// first place.
fn within(mut ticks: Vec<(f64, String)>, length: f64, left: u32) -> Vec<(f64, String)> {
    let (left, right) = (f64::from(left), f64::from(RIGHT));
    let pixels = f64::from(WIDTH) - left - right;
    ticks.retain(|(place, text)| {
        let half = format::float_of(text.chars().count()) * f64::from(CHARACTER) / 2.0;
        let along = place / length * pixels;
        along + left >= half && along + half <= pixels + right
    });
    ticks.dedup_by(|a, b| a.1 == b.1);
    ticks
}

/// An axis from zero that is labelled with the given ticks only.
pub(super) struct Axis {
    range: RangedCoordf64,
    ticks: Vec<(f64, String)>,
}

impl Axis {
    /// Creates an axis from zero to `end`, which must be above zero.
    pub(super) fn new(end: f64, ticks: &[(f64, String)]) -> Axis {
        Axis { range: (0.0..end).into(), ticks: ticks.to_vec() }
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        self.range.map(value, limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, _hint: Hint) -> Vec<f64> {
        self.ticks.iter().map(|(place, _)| *place).collect()
    }

    fn range(&self) -> Range<f64> {
        self.range.range()
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, place: &f64) -> String {
        let tick = self.ticks.iter().find(|(tick, _)| tick.total_cmp(place).is_eq());
        tick.map_or_else(String::new, |(_, text)| text.clone())
    }
}

/// A point of a curve: seconds of work, and a value.
pub(super) type Point = (f64, f64);

/// A line over time.
#[derive(Clone, Debug)]
pub(super) struct Curve {
    pub(super) hue: Hue,
    /// Unbroken parts of the line.
    pub(super) pieces: Vec<Vec<Point>>,
}

/// The area between two lines over time.
#[derive(Clone, Debug)]
pub(super) struct Area {
    pub(super) hue: Hue,
    /// Opacity of the colour, from 0 to 1.
    pub(super) density: f64,
    /// The upper line from left to right, then the lower one back.
    pub(super) outline: Vec<Point>,
}

impl Curve {
    /// Creates a line that is level within each bucket and breaks where there is no value.
    pub(super) fn stepped(hue: Hue, buckets: &Buckets, values: &[Option<f64>]) -> Curve {
        let mut pieces: Vec<Vec<Point>> = Vec::new();
        let mut is_broken = true;
        for (index, value) in values.iter().enumerate() {
            let Some(value) = value.filter(|value| value.is_finite()) else {
                is_broken = true;
                continue;
            };
            if is_broken {
                pieces.push(Vec::new());
                is_broken = false;
            }
            if let Some(piece) = pieces.last_mut() {
                piece.extend(level(buckets, index, value));
            }
        }
        Curve { hue, pieces }
    }
}

impl Area {
    /// Stacks the values of layers, each level within its bucket; the first layer lies at the bottom.
    pub(super) fn stacked(buckets: &Buckets, layers: &[(Hue, Vec<f64>)], density: f64) -> Vec<Area> {
        let mut floor = vec![0.0; buckets.number()];
        let line = |values: &[f64]| -> Vec<Point> {
            values.iter().enumerate().flat_map(|(index, value)| level(buckets, index, *value)).collect()
        };
        let areas = layers.iter().map(|(hue, layer)| {
            let below = line(&floor);
            for (value, floor) in layer.iter().zip(&mut floor) {
                *floor += value;
            }
            let mut outline = line(&floor);
            outline.extend(below.into_iter().rev());
            Area { hue: *hue, density, outline }
        });
        areas.collect()
    }

    /// Stacks the running totals of layers at the end of each bucket, in straight lines from zero.
    pub(super) fn growing(buckets: &Buckets, layers: &[(Hue, Vec<f64>)], density: f64) -> Vec<Area> {
        let mut floor = vec![0.0; buckets.number() + 1];
        let line = |values: &[f64]| -> Vec<Point> {
            let places = (0..).map(|index| format::float(index) * buckets.seconds());
            places.zip(values.iter().copied()).collect()
        };
        let areas = layers.iter().map(|(hue, layer)| {
            let below = line(&floor);
            let mut sum = 0.0;
            for (value, floor) in std::iter::once(&0.0).chain(layer).zip(&mut floor) {
                sum += value;
                *floor += sum;
            }
            let mut outline = line(&floor);
            outline.extend(below.into_iter().rev());
            Area { hue: *hue, density, outline }
        });
        areas.collect()
    }
}

/// Returns the two ends of a bucket, at one value.
fn level(buckets: &Buckets, index: usize, value: f64) -> [Point; 2] {
    let from = format::float_of(index) * buckets.seconds();
    [(from, value), (from + buckets.seconds(), value)]
}

/// Approximate number of ticks on a vertical axis.
const TICKS: f64 = 4.0;

/// A vertical axis.
#[derive(Clone, Debug)]
pub(super) struct Scale {
    kind: ScaleKind,
    ticks: Vec<(f64, String)>,
}

#[derive(Clone, Copy, Debug)]
enum ScaleKind {
    Linear,
    Log { low: f64 },
}

impl Scale {
    /// Creates a scale from zero for values up to `max`; `say` formats them.
    pub(super) fn linear(max: f64, say: impl Fn(f64) -> String) -> Scale {
        let ticks = format::ticks(max, TICKS).into_iter().map(|tick| (tick, say(tick))).collect();
        Scale { kind: ScaleKind::Linear, ticks }
    }

    /// Creates a scale for numbers.
    pub(super) fn numbers(max: f64) -> Scale {
        Scale::linear(max, format::short)
    }

    /// Creates a scale for shares; it exceeds 100% only if a value does.
    pub(super) fn shares(max: f64) -> Scale {
        Scale::linear(max, format::percent)
    }

    /// Creates a scale for milliseconds, from zero, in steps that are round in the unit that is shown.
    pub(super) fn durations(max: f64) -> Scale {
        let unit = match max {
            max if max >= 7.2e6 => 3.6e6,
            max if max >= 1.2e5 => 6e4,
            _ => 1.0,
        };
        let ticks = format::ticks(max / unit, TICKS).into_iter().map(|tick| tick * unit);
        Scale { kind: ScaleKind::Linear, ticks: ticks.map(|tick| (tick, duration(tick))).collect() }
    }

    /// Creates a logarithmic scale for milliseconds; both ends must be above zero.
    pub(super) fn log_durations(min: f64, max: f64) -> Scale {
        let durations = format::duration_ticks(min, max);
        let low = durations.first().copied().unwrap_or(1.0);
        let ticks = durations
            .into_iter()
            .map(|duration| ((duration / low).log10(), format::millis(duration)))
            .collect();
        Scale { kind: ScaleKind::Log { low }, ticks }
    }

    /// Returns the place of a value on the axis, limited to the range from zero to the top.
    pub(super) fn place(&self, value: f64) -> f64 {
        let place = match self.kind {
            ScaleKind::Linear => value,
            ScaleKind::Log { low } => (value / low).log10(),
        };
        if place.is_nan() { 0.0 } else { place.clamp(0.0, self.top()) }
    }

    /// Returns the highest place.
    pub(super) fn top(&self) -> f64 {
        self.ticks.last().map(|(place, _)| *place).filter(|top| *top > 0.0).unwrap_or(1.0)
    }

    /// Returns the labels, with their places.
    pub(super) fn ticks(&self) -> &[(f64, String)] {
        &self.ticks
    }
}

/// Formats milliseconds; zero has no unit.
fn duration(millis: f64) -> String {
    if millis > 0.0 { format::millis(millis) } else { "0".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_places_any_value_within_itself() {
        for scale in [Scale::numbers(97.0), Scale::durations(3e5), Scale::log_durations(80.0, 4e4)] {
            for value in [0.0, -5.0, 50.0, 1e9, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                let place = scale.place(value);
                assert!((0.0..=scale.top()).contains(&place), "{value} at {place}");
            }
        }
    }

    #[test]
    fn durations_step_in_the_unit_that_is_written() {
        let labels = |scale: Scale| scale.ticks().iter().map(|(_, text)| text.clone()).collect::<Vec<_>>();
        assert_eq!(labels(Scale::durations(270_000.0)), ["0", "2 min", "4 min", "6 min"]);
        assert_eq!(labels(Scale::log_durations(120.0, 9_000.0)), ["100 ms", "300 ms", "1 s", "3 s", "10 s"]);
    }
}
