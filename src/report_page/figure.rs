//! A figure: a chart with its heading, its legend and a sentence about it. Also draws bar charts.

use plotters::drawing::IntoDrawingArea;
use plotters::element::{Rectangle, Text};
use plotters::prelude::SVGBackend;

use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, RGBColor};
use serde::Serialize;

use super::format;
use super::palette::{Hue, RULE};
use super::plot::{Drawing, DrawingError, FINE, WIDTH, words};

/// A chart with its texts, as the template takes it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Figure {
    id: &'static str,
    heading: &'static str,
    unit: String,
    view_box: String,
    body: Option<String>,
    legend: Vec<Mark>,
    reading: String,
}

/// Entry of a legend: a colour and what it stands for.
#[derive(Clone, Debug, Serialize)]
struct Mark {
    class: &'static str,
    name: String,
}

impl Figure {
    /// Creates a figure from its id and heading, the unit of the chart, the chart, and a sentence that sums it up.
    pub(super) fn new(
        (id, heading): (&'static str, &'static str),
        unit: impl Into<String>,
        drawing: Drawing,
        reading: impl Into<String>,
    ) -> Figure {
        let (width, height) = drawing.size;
        Figure {
            id,
            heading,
            unit: unit.into(),
            view_box: format!("0 0 {width} {height}"),
            body: Some(drawing.body),
            legend: Vec::new(),
            reading: reading.into(),
        }
    }

    /// Creates a figure without a chart; `reading` is the reason why there is none.
    pub(super) fn empty((id, heading): (&'static str, &'static str), reading: impl Into<String>) -> Figure {
        let (unit, view_box) = (String::new(), String::new());
        Figure { id, heading, unit, view_box, body: None, legend: Vec::new(), reading: reading.into() }
    }

    /// Adds a legend of the colours.
    pub(super) fn with_legend<'a>(mut self, marks: impl IntoIterator<Item = (Hue, &'a str)>) -> Figure {
        let marks =
            marks.into_iter().map(|(hue, name)| Mark { class: hue.class(), name: format::in_line(name, 28) });
        self.legend = marks.collect();
        self
    }
}

const MAX_BARS: usize = 6;
const NAME_CHARACTERS: usize = 40;
const PITCH: i32 = 31;

/// A bar of a bar chart.
#[derive(Clone, Debug)]
pub(super) struct Bar {
    pub(super) name: String,
    pub(super) value: f64,
}

/// Draws bars, the longest first. If there is no room for all, the shortest become one bar together. `say` formats a
/// value.
pub(super) fn draw_bars(bars: Vec<Bar>, say: impl Fn(f64) -> String) -> Result<Drawing, DrawingError> {
    let bars = longest(bars);
    let longest = super::timeline::highest(bars.iter().map(|bar| bar.value));
    let height = i32::try_from(bars.len()).unwrap_or_default() * PITCH + 4;
    let size = (WIDTH * FINE, height.unsigned_abs() * FINE);
    let mut svg = String::new();
    draw_bars_on(&mut svg, size, &bars, longest, &say).map_err(DrawingError::new)?;
    Ok(Drawing::from_svg(&svg, size))
}

fn draw_bars_on(
    svg: &mut String,
    size: (u32, u32),
    bars: &[Bar],
    longest: f64,
    say: &dyn Fn(f64) -> String,
) -> Result<(), impl std::fmt::Display + use<>> {
    let root = SVGBackend::with_string(svg, size).into_drawing_area();
    let fine = FINE.cast_signed();
    let width = WIDTH.cast_signed() * fine;
    let mut top = 0;
    for bar in bars {
        let (text_y, bar_y, foot) = (top + 16 * fine, top + 21 * fine, top + 27 * fine);
        let style = words().pos(Pos::new(HPos::Left, VPos::Bottom));
        root.draw(&Text::new(format::in_line(&bar.name, NAME_CHARACTERS), (0, text_y), style))?;
        let style = words().pos(Pos::new(HPos::Right, VPos::Bottom));
        root.draw(&Text::new(say(bar.value), (width, text_y), style))?;
        let ground = |to, colour: RGBColor| Rectangle::new([(0, bar_y), (to, foot)], colour.filled());
        root.draw(&ground(width, RULE))?;
        root.draw(&ground(along(bar.value, longest, width), Hue::Blue.colour()))?;
        top += PITCH * fine;
    }
    root.present()
}

/// Returns the longest bars in order, then one bar for all others together.
fn longest(mut bars: Vec<Bar>) -> Vec<Bar> {
    bars.sort_by(|a, b| b.value.total_cmp(&a.value));
    if bars.len() > MAX_BARS {
        let others = bars.split_off(MAX_BARS - 1);
        let name = format!("{} others", others.len());
        bars.push(Bar { name, value: others.iter().map(|bar| bar.value).sum() });
    }
    bars
}

/// Returns the length of a bar in units of the drawing. A value above zero always gets a visible bar.
fn along(value: f64, longest: f64, width: i32) -> i32 {
    #[expect(clippy::cast_possible_truncation, reason = "a share of the width")]
    let reach = (value / longest * f64::from(width)).round() as i32;
    reach.clamp(i32::from(value > 0.0) * 2 * FINE.cast_signed(), width)
}
