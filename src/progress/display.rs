//! A few lines on a terminal that say how far a run has come.

use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle, TermLike};

use super::layout;
use super::run_progress::ProgressGauge;
use super::screen::Screen;
use crate::clock;
use crate::tally::Tally;

const DRAWS_A_SECOND: u8 = 8;
const EVERY: Duration = Duration::from_millis(200);

/// The lines, which are drawn again some times a second. Clones are the same display.
#[derive(Clone, Debug)]
pub struct Display(ProgressBar);

impl Display {
    /// Begins to show a tally on standard error; none where that is no terminal that can move its cursor.
    #[must_use]
    pub fn start(tally: Tally) -> Option<Self> {
        let screen = Screen::stderr()?;
        let size = screen.clone();
        let gauge = Arc::new(Mutex::new(ProgressGauge::new(tally)));
        let draw = move |_: &ProgressState, out: &mut dyn Write| {
            let figures = gauge.lock().unwrap_or_else(PoisonError::into_inner).read(clock::now());
            if let Some(figures) = figures {
                let lines = layout::lines(&figures, size.width().into(), size.height().into());
                let _ = out.write_str(&lines.join("\n"));
            }
        };
        let style = ProgressStyle::with_template("{figures}").ok()?.with_key("figures", draw);
        let target = ProgressDrawTarget::term_like_with_hz(Box::new(screen), DRAWS_A_SECOND);
        let bar = ProgressBar::with_draw_target(None, target).with_style(style);
        bar.enable_steady_tick(EVERY);
        Some(Display(bar))
    }

    /// Takes the lines away, writes above them, and draws them again.
    pub fn above<T>(&self, write: impl FnOnce() -> T) -> T {
        self.0.suspend(write)
    }

    /// Takes the lines away for good.
    pub fn end(&self) {
        self.0.finish_and_clear();
    }
}
