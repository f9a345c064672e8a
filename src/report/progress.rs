//! One line on a terminal that says how far a run has come.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::event::{Ending, Event, Listener};

/// A progress line on standard error; nothing where that is no terminal.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    errors: ProgressBar,
}

impl Progress {
    /// Begins the line.
    #[must_use]
    pub fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(8));
        bar.set_style(style("{spinner} {human_pos} rows, {per_sec}, {elapsed}{msg}"));
        bar.enable_steady_tick(Duration::from_millis(250));
        Progress { bar, errors: ProgressBar::hidden() }
    }

    /// A handle that takes the line away again.
    #[must_use]
    pub fn bar(&self) -> ProgressBar {
        self.bar.clone()
    }
}

impl Default for Progress {
    fn default() -> Self {
        Progress::new()
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

impl Listener for Progress {
    fn on(&self, event: &Event<'_>) {
        match event {
            Event::Outstanding { rows, .. } => {
                self.bar.set_length(*rows);
                self.bar
                    .set_style(style("{wide_bar} {human_pos}/{human_len} rows, {per_sec}, {eta} left{msg}"));
            }
            Event::Settled { ending, .. } => {
                self.bar.inc(1);
                if let Ending::Failed(_) = ending {
                    self.errors.inc(1);
                    self.bar.set_message(format!(", {} errors", self.errors.position()));
                }
            }
            _ => {}
        }
    }
}
