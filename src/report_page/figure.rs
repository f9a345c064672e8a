//! A figure: a chart with its heading, its legend and a sentence about it; and bar charts.
//!
//! A chart is drawn once, in the light colours. The stylesheet finds these values by attribute and puts the colours
//! of light, dark or print in their place, so each stands in `page.css` too. The hues are those of Okabe and Ito
//! (2008), which people with any common colour blindness can distinguish.

use plotters::drawing::IntoDrawingArea;
use plotters::element::{Rectangle, Text};
use plotters::prelude::SVGBackend;

use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, RGBColor};
use serde::Serialize;

use super::format;
use super::plot::{Drawing, DrawingError, FINE, WIDTH, words};

/// A chart with its words, as the template takes it.
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

/// What a colour stands for.
#[derive(Clone, Debug, Serialize)]
struct Mark {
    class: &'static str,
    name: String,
}

impl Figure {
    /// A chart with what it shows, in what unit, and how it reads.
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

    /// No chart, but the reason why there is none.
    pub(super) fn empty((id, heading): (&'static str, &'static str), reading: impl Into<String>) -> Figure {
        let (unit, view_box) = (String::new(), String::new());
        Figure { id, heading, unit, view_box, body: None, legend: Vec::new(), reading: reading.into() }
    }

    /// Adds what the colours stand for.
    pub(super) fn with_legend<'a>(mut self, marks: impl IntoIterator<Item = (Hue, &'a str)>) -> Figure {
        let marks =
            marks.into_iter().map(|(hue, name)| Mark { class: hue.class(), name: format::in_line(name, 28) });
        self.legend = marks.collect();
        self
    }
}

/// Words on a chart.
pub(super) const INK: RGBColor = RGBColor(0x3A, 0x3F, 0x45);
/// The line at the foot of a chart.
pub(super) const AXIS: RGBColor = RGBColor(0x8A, 0x90, 0x99);
/// Lines across a chart, and the ground of bars.
pub(super) const RULE: RGBColor = RGBColor(0xE3, 0xE6, 0xE9);
/// Where idle time is cut out.
pub(super) const CUT: RGBColor = RGBColor(0xB4, 0xB9, 0xBF);

/// The colour of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hue {
    /// The first, or the only one.
    Blue,
    /// The second.
    Vermilion,
    /// The third.
    Green,
    /// The fourth.
    Purple,
    /// All the others.
    Grey,
}

impl Hue {
    /// Those with a name of their own, in the order of use.
    pub(super) const NAMED: [Hue; 4] = [Hue::Blue, Hue::Vermilion, Hue::Green, Hue::Purple];

    /// As it is drawn.
    pub(super) const fn colour(self) -> RGBColor {
        match self {
            Hue::Blue => RGBColor(0x00, 0x72, 0xB2),
            Hue::Vermilion => RGBColor(0xD5, 0x5E, 0x00),
            Hue::Green => RGBColor(0x00, 0x9E, 0x73),
            Hue::Purple => RGBColor(0xB0, 0x5C, 0x8B),
            Hue::Grey => RGBColor(0x77, 0x7B, 0x80),
        }
    }

    /// The class of its mark in a legend.
    pub(super) const fn class(self) -> &'static str {
        match self {
            Hue::Blue => "s1",
            Hue::Vermilion => "s2",
            Hue::Green => "s3",
            Hue::Purple => "s4",
            Hue::Grey => "s5",
        }
    }
}

const MAX_BARS: usize = 6;
const NAME_CHARACTERS: usize = 40;
const PITCH: i32 = 31;

/// One bar.
#[derive(Clone, Debug)]
pub(super) struct Bar {
    /// What it is.
    pub(super) name: String,
    /// How long it is.
    pub(super) value: f64,
}

/// Draws these bars, the longest first; those of which there is no room are one bar together. `say` writes a value.
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

/// The longest ones in order, then the others together.
fn longest(mut bars: Vec<Bar>) -> Vec<Bar> {
    bars.sort_by(|a, b| b.value.total_cmp(&a.value));
    if bars.len() > MAX_BARS {
        let others = bars.split_off(MAX_BARS - 1);
        let name = format!("{} others", others.len());
        bars.push(Bar { name, value: others.iter().map(|bar| bar.value).sum() });
    }
    bars
}

/// How far a bar reaches; what is not nothing is seen.
fn along(value: f64, longest: f64, width: i32) -> i32 {
    #[expect(clippy::cast_possible_truncation, reason = "a share of the width")]
    let reach = (value / longest * f64::from(width)).round() as i32;
    reach.clamp(i32::from(value > 0.0) * 2 * FINE.cast_signed(), width)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stylesheet_knows_every_colour() {
        let css = include_str!("page.css");
        let hues = Hue::NAMED.into_iter().chain([Hue::Grey]).map(Hue::colour);
        for RGBColor(red, green, blue) in hues.chain([INK, AXIS, RULE, CUT]) {
            let attribute = format!("=\"#{red:02X}{green:02X}{blue:02X}\"]");
            assert!(css.contains(&attribute), "{attribute}");
        }
    }
}
