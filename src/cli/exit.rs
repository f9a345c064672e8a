//! Exit statuses.

use std::process::ExitCode;

use crate::run::EndKind;

/// Exit status of a command, for scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done; rows with errors are counted in the last line.
    Done = 0,
    /// A fault on the way: of a disk, a table, or this program.
    Internal = 1,
    /// Wrong arguments, job file, source or target.
    Usage = 2,
    /// Too many rows failed for `max_error_rate` or `--fail-on-errors`, no row was answered, or the answers show an
    /// anomaly.
    Errors = 3,
    /// Stopped by the provider: key, quota, model, or no success for too long.
    Provider = 4,
    /// Stopped by the job's own budget.
    Budget = 5,
    /// Another run holds the job.
    Running = 6,
    /// Interrupted; all answers received so far are kept.
    Interrupted = 130,
}

/// The same statuses, for `--help`.
pub(super) const HELP: &str = "\
Exit status:
  0    done; rows with errors are counted in the last line
  1    trouble on the way: a disk, a table, or this program
  2    wrong arguments, job file, source or target
  3    too many error rows (max_error_rate, --fail-on-errors, no row answered), or an anomaly, which
       pauses the job
  4    stopped by the provider: key, quota, model, or no success for too long
  5    stopped by the job's own budget
  6    another run holds the job (0 with --if-running skip)
  130  interrupted; everything that was answered is kept";

/// Arguments that do not fit together, or do not fit the files or the machine that they are used on.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Misuse(pub(super) String);

/// Returns from a command whose arguments do not fit.
macro_rules! misuse {
    ($($text:tt)*) => { return Err(crate::cli::exit::Misuse(format!($($text)*)).into()) };
}
pub(super) use misuse;

impl Exit {
    /// Returns the status of a run that came to this end.
    pub(super) fn of(end: EndKind) -> Self {
        match end {
            EndKind::Complete | EndKind::Limited => Exit::Done,
            EndKind::Interrupted => Exit::Interrupted,
            EndKind::Errors => Exit::Errors,
            EndKind::Budget => Exit::Budget,
            EndKind::Template => Exit::Usage,
            EndKind::Provider => Exit::Provider,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}
