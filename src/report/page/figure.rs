//! A chart with its words.

use serde::Serialize;

use super::palette::Hue;
use super::plot::Drawing;
use super::text;

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
            marks.into_iter().map(|(hue, name)| Mark { class: hue.class(), name: text::in_line(name, 28) });
        self.legend = marks.collect();
        self
    }
}
