//! A few lines on a terminal that show the progress of a run.

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

/// The lines on the terminal, redrawn several times a second. Clones are the same display.
#[derive(Clone, Debug)]
pub struct Display(ProgressBar);

impl Display {
    /// Starts to show a tally on standard error. Returns `None` if that is not a terminal that can move its cursor.
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

    /// Removes the lines, calls `write`, and draws them again below its output.
    pub fn above<T>(&self, write: impl FnOnce() -> T) -> T {
        self.0.suspend(write)
    }

    /// Removes the lines for good.
    pub fn end(&self) {
        self.0.finish_and_clear();
    }
}
