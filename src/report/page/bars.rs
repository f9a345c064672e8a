//! Draws level bars as SVG, each below its name and its number.

use plotters::drawing::IntoDrawingArea;
use plotters::element::{Rectangle, Text};
use plotters::prelude::SVGBackend;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, RGBColor};

use super::palette::{Hue, RULE};
use super::plot::{Drawing, DrawingError, FINE, WIDTH, words};
use super::text;

const MOST: usize = 6;
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
pub(super) fn draw(bars: Vec<Bar>, say: impl Fn(f64) -> String) -> Result<Drawing, DrawingError> {
    let bars = longest(bars);
    let longest = super::buckets::highest(bars.iter().map(|bar| bar.value));
    let height = i32::try_from(bars.len()).unwrap_or_default() * PITCH + 4;
    let size = (WIDTH * FINE, height.unsigned_abs() * FINE);
    let mut svg = String::new();
    draw_on(&mut svg, size, &bars, longest, &say).map_err(DrawingError::new)?;
    Ok(Drawing::from_svg(&svg, size))
}

fn draw_on(
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
        root.draw(&Text::new(text::in_line(&bar.name, NAME_CHARACTERS), (0, text_y), style))?;
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
    if bars.len() > MOST {
        let others = bars.split_off(MOST - 1);
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
