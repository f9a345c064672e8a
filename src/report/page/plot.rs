//! Draws a chart over time as SVG.

use plotters::chart::ChartBuilder;
use plotters::drawing::IntoDrawingArea;
use plotters::element::{PathElement, Polygon};
use plotters::prelude::SVGBackend;
use plotters::style::{Color, IntoFont, TRANSPARENT};

use super::axis::Axis;
use super::curve::{Area, Curve, Point};
use super::number;
use super::palette::{AXIS, CUT, INK, RULE};
use super::scale::Scale;
use super::timeline::Timeline;

/// Units of the drawing in one of the page's pixels: the library draws in whole units, which alone would be coarse.
pub(super) const FINE: u32 = 4;
/// Width of a chart in pixels of the page. Narrow, so that a phone need not shrink its words.
pub(super) const WIDTH: u32 = 360;
const HEIGHT: u32 = 196;
const RIGHT: u32 = 14;
/// A character is about so many pixels of the page wide.
const CHARACTER: u32 = 7;
/// Size of words in pixels of the page.
pub(super) const WORDS: u32 = 12;
/// More cuts than this would hide the curves.
const MOST_CUTS: usize = 12;

/// A chart over time.
pub(super) struct Plot<'a> {
    /// The level axis.
    pub(super) timeline: &'a Timeline,
    /// The upright axis.
    pub(super) scale: Scale,
    /// Drawn first.
    pub(super) areas: Vec<Area>,
    /// Drawn upon the areas.
    pub(super) curves: Vec<Curve>,
}

/// A drawing that stands in the page.
#[derive(Clone, Debug)]
pub(super) struct Drawing {
    /// Its width and height, in its own units.
    pub(super) size: (u32, u32),
    /// What is within the element `svg`.
    pub(super) body: String,
}

/// A drawing that the library could not make.
#[derive(Debug, thiserror::Error)]
#[error("a chart could not be drawn: {0}")]
pub struct DrawingError(String);

impl DrawingError {
    /// From whatever the library says.
    pub(super) fn new(cause: impl std::fmt::Display) -> Self {
        DrawingError(cause.to_string())
    }
}

impl Drawing {
    /// Takes what the library wrote apart.
    ///
    /// The namespace is known within HTML; the size and the fonts are the stylesheet's.
    pub(super) fn from_svg(svg: &str, size: (u32, u32)) -> Drawing {
        let body = svg.split_once('>').map_or("", |(_, body)| body).trim_end();
        let body = body.strip_suffix("</svg>").unwrap_or(body).trim();
        let body = body.replace(" font-family=\"sans-serif\"", "").replace(" opacity=\"1\"", "");
        Drawing { size, body }
    }
}

/// The style of words, at a size that the library's own factor leaves as it is here.
pub(super) fn words() -> plotters::style::TextStyle<'static> {
    ("sans-serif", f64::from(WORDS * FINE) * 1.24).into_font().color(&INK)
}

impl Plot<'_> {
    /// Draws it.
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
            // The marks are not seen: their size sets words apart from the axis.
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

/// The ticks whose words, centred below them, stand within the chart; `left` pixels lie before the first place.
fn within(mut ticks: Vec<(f64, String)>, length: f64, left: u32) -> Vec<(f64, String)> {
    let (left, right) = (f64::from(left), f64::from(RIGHT));
    let pixels = f64::from(WIDTH) - left - right;
    ticks.retain(|(place, text)| {
        let half = number::float_of(text.chars().count()) * f64::from(CHARACTER) / 2.0;
        let along = place / length * pixels;
        along + left >= half && along + half <= pixels + right
    });
    ticks.dedup_by(|a, b| a.1 == b.1);
    ticks
}
