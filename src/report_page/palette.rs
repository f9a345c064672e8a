//! The colours that charts are drawn in.
//!
//! A chart is drawn once, in the light colours. The stylesheet selects these values by attribute and replaces them with
//! the colours of light, dark or print, so each of them occurs in `page.css` too. The hues are those of Okabe and Ito
//! (2008), which people with any common colour blindness can distinguish.

use plotters::style::RGBColor;

/// Colour of text on a chart.
pub(super) const INK: RGBColor = RGBColor(0x3A, 0x3F, 0x45);
/// Colour of the line at the foot of a chart.
pub(super) const AXIS: RGBColor = RGBColor(0x8A, 0x90, 0x99);
/// Colour of lines across a chart, and of the background of bars.
pub(super) const RULE: RGBColor = RGBColor(0xE3, 0xE6, 0xE9);
/// Colour of the lines where idle time is cut out.
pub(super) const CUT: RGBColor = RGBColor(0xB4, 0xB9, 0xBF);

/// The colour of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hue {
    /// The first or only series.
    Blue,
    /// The second series.
    Vermilion,
    /// The third series.
    Green,
    /// The fourth series.
    Purple,
    /// All other series together.
    Grey,
}

impl Hue {
    /// The hues of single series, in the order of use.
    pub(super) const NAMED: [Hue; 4] = [Hue::Blue, Hue::Vermilion, Hue::Green, Hue::Purple];

    /// Returns the colour as it is drawn.
    pub(super) const fn colour(self) -> RGBColor {
        match self {
            Hue::Blue => RGBColor(0x00, 0x72, 0xB2),
            Hue::Vermilion => RGBColor(0xD5, 0x5E, 0x00),
            Hue::Green => RGBColor(0x00, 0x9E, 0x73),
            Hue::Purple => RGBColor(0xB0, 0x5C, 0x8B),
            Hue::Grey => RGBColor(0x77, 0x7B, 0x80),
        }
    }

    /// Returns the class of the hue's mark in a legend.
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
