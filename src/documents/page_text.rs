//! Text of the glyphs that a page draws, in the order in which it draws them: where a glyph stands decides about the
//! spaces and line breaks before it.

use hayro_interpret::font::{Glyph, GlyphRun};
use hayro_interpret::hayro_cmap::{BfString, WritingMode};
use hayro_interpret::kurbo::{Affine, BezPath, Point, Vec2};
use hayro_interpret::{BlendMode, ClipPath, Device, DrawMode, DrawProps, Image, ImageDrawProps, SoftMask};

/// Glyphs are in thousandths of the font's size.
const EM: f64 = 1000.0;
/// Distance in font sizes, along the line, from which a space stands between two glyphs.
const SPACE: f64 = 0.15;
/// Distance in font sizes, back along the line, from which a glyph begins another line.
const BACK: f64 = 1.0;
/// Distances in font sizes, across the line, from which a glyph begins another line and another paragraph.
const LINE: f64 = 0.5;
const PARAGRAPH: f64 = 2.0;
/// Distance in font sizes within which the same text, drawn again, is bold and not a repetition.
const BOLD: f64 = 0.15;

/// A device that collects text.
#[derive(Debug)]
pub(super) struct TextDevice {
    text: String,
    max_bytes: usize,
    is_full: bool,
    /// The last glyph.
    pen: Option<GlyphPlace>,
    /// Where the last run of glyphs began, and its text.
    last_run: Option<(Point, String)>,
}

/// Where a glyph begins and ends.
#[derive(Clone, Copy, Debug)]
struct GlyphPlace {
    start: Point,
    end: Point,
    /// Direction of the line, of length 1.
    along: Vec2,
    size: f64,
}

impl TextDevice {
    pub(super) fn new(max_bytes: usize) -> Self {
        TextDevice { text: String::new(), max_bytes, is_full: false, pen: None, last_run: None }
    }

    /// Returns the text, or `None` if it has more than the maximum number of bytes.
    pub(super) fn finish(mut self) -> Option<String> {
        self.trim_line();
        (!self.is_full).then_some(self.text)
    }

    fn push(&mut self, placed: GlyphPlace, glyph: &str) {
        if let Some(pen) = self.pen {
            match gap(&pen, &placed) {
                GlyphGap::None => {}
                // The font's own spaces are glyphs.
                GlyphGap::Space if self.text.ends_with(char::is_whitespace) || glyph.starts_with(' ') => {}
                GlyphGap::Space => self.text.push(' '),
                GlyphGap::Line => self.break_line("\n"),
                GlyphGap::Paragraph => self.break_line("\n\n"),
            }
        }
        self.pen = Some(placed);
        for character in glyph.chars().filter(|character| !character.is_control()) {
            match ligature(character) {
                Some(letters) => self.text.push_str(letters),
                None => self.text.push(character),
            }
        }
        self.is_full |= self.text.len() > self.max_bytes;
    }

    fn break_line(&mut self, with: &str) {
        self.trim_line();
        if !self.text.is_empty() {
            self.text.push_str(with);
        }
    }

    fn trim_line(&mut self) {
        self.text.truncate(self.text.trim_end().len());
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GlyphGap {
    None,
    Space,
    Line,
    Paragraph,
}

/// Returns what stands between two glyphs that are drawn one after the other.
fn gap(pen: &GlyphPlace, next: &GlyphPlace) -> GlyphGap {
    let size = pen.size.max(next.size);
    let moved = next.start - pen.end;
    let along = moved.dot(pen.along) / size;
    let across = moved.cross(pen.along).abs() / size;
    let is_turned = pen.along.dot(next.along) < 0.9;
    match () {
        () if !along.is_finite() || !across.is_finite() => GlyphGap::None,
        () if across > PARAGRAPH || is_turned => GlyphGap::Paragraph,
        () if across > LINE || along < -BACK => GlyphGap::Line,
        () if along > SPACE => GlyphGap::Space,
        () => GlyphGap::None,
    }
}

/// Returns the letters that a ligature stands for.
fn ligature(character: char) -> Option<&'static str> {
    Some(match character {
        'ﬀ' => "ff",
        'ﬁ' => "fi",
        'ﬂ' => "fl",
        'ﬃ' => "ffi",
        'ﬄ' => "ffl",
        _ => return None,
    })
}

fn place(glyph: &Glyph<'_>, transform: Affine, mode: WritingMode) -> GlyphPlace {
    let at = |x: f64, y: f64| transform * Point::new(x, y);
    let width = match glyph {
        Glyph::Outline(outline) => outline.advance_width(),
        Glyph::Type3(drawn) => drawn.advance_width(),
    };
    let start = at(0.0, 0.0);
    let (one, size) = match mode {
        WritingMode::Horizontal => (at(EM, 0.0), (at(0.0, EM) - start).hypot()),
        WritingMode::Vertical => (at(0.0, -EM), (at(EM, 0.0) - start).hypot()),
    };
    let em = one - start;
    let advance = match mode {
        WritingMode::Horizontal => f64::from(width.unwrap_or(500.0)) / EM,
        WritingMode::Vertical => 1.0,
    };
    GlyphPlace { start, end: start + em * advance, along: em / em.hypot(), size }
}

impl Device<'_> for TextDevice {
    fn draw_glyph_run(&mut self, run: &GlyphRun<'_, '_>, props: DrawProps<'_>, _: &DrawMode) {
        if self.is_full {
            return;
        }
        let glyphs: Vec<(GlyphPlace, String)> = run
            .glyphs()
            .iter()
            .map(|glyph| {
                let text = match glyph.as_unicode() {
                    Some(BfString::Char(character)) => character.to_string(),
                    Some(BfString::String(text)) => text,
                    None => char::REPLACEMENT_CHARACTER.to_string(),
                };
                (place(glyph, props.transform * glyph.transform(), run.writing_mode()), text)
            })
            .collect();
        let Some((first, _)) = glyphs.first() else { return };
        let text: String = glyphs.iter().map(|(_, text)| text.as_str()).collect();
        let is_again = self.last_run.as_ref().is_some_and(|(start, last)| {
            *last == text && (*start - first.start).hypot() <= BOLD * first.size
        });
        if !is_again {
            self.last_run = Some((first.start, text));
            for (placed, text) in &glyphs {
                self.push(*placed, text);
            }
        }
    }

    fn draw_path(&mut self, _: &BezPath, _: DrawProps<'_>, _: &DrawMode) {}
    fn push_clip_path(&mut self, _: &ClipPath) {}
    fn push_transparency_group(&mut self, _: f32, _: Option<SoftMask<'_>>, _: BlendMode) {}
    fn draw_image(&mut self, _: Image<'_, '_>, _: ImageDrawProps<'_>) {}
    fn pop_clip(&mut self) {}
    fn pop_transparency_group(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(glyphs: &[(f64, f64, &str)]) -> String {
        let mut text = TextDevice::new(100);
        for (x, y, glyph) in glyphs {
            let start = Point::new(*x, *y);
            let end = start + Vec2::new(5.0, 0.0);
            text.push(GlyphPlace { start, end, along: Vec2::new(1.0, 0.0), size: 10.0 }, glyph);
        }
        text.finish().unwrap()
    }

    #[test]
    fn where_glyphs_stand_decides_about_spaces_and_lines() {
        let line = [(0.0, 100.0, "a"), (5.0, 100.0, "b"), (12.0, 100.0, "c"), (17.0, 103.0, "2")];
        assert_eq!(drawn(&line), "ab c2");
        assert_eq!(drawn(&[(0.0, 100.0, "a"), (0.0, 88.0, "b"), (0.0, 60.0, "c")]), "a\nb\n\nc");
        assert_eq!(drawn(&[(0.0, 100.0, "a"), (5.0, 100.0, " "), (12.0, 100.0, "b")]), "a b");
        assert_eq!(drawn(&[(0.0, 100.0, "a"), (5.0, 100.0, " "), (0.0, 88.0, "b")]), "a\nb");
        assert_eq!(drawn(&[(50.0, 100.0, "a"), (0.0, 100.0, "b")]), "a\nb");
        assert_eq!(drawn(&[(0.0, 100.0, "ﬁ"), (5.0, 100.0, "\u{0}n")]), "fin");
        assert_eq!(drawn(&[(0.0, f64::NAN, "a"), (f64::INFINITY, 0.0, "b")]), "ab");
    }

    #[test]
    fn text_beyond_the_maximum_is_none() {
        let mut text = TextDevice::new(3);
        let placed =
            GlyphPlace { start: Point::ZERO, end: Point::ZERO, along: Vec2::new(1.0, 0.0), size: 1.0 };
        text.push(placed, "abcd");
        assert_eq!(text.finish(), None);
    }
}
