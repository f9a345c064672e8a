//! Named places at which a test can kill the process or make a write fail.
//!
//! Compiled to nothing without the feature `fault-points`, which only this crate's own tests enable.
//! `ENRICH_FAULT=journal-append.before=kill@3` kills the process with SIGKILL the third time that it is about to
//! append to a journal; `=stop` stops it with SIGSTOP until it receives SIGCONT; `=io`, `=full` and `=readonly`
//! return the matching error once.

use std::io;

/// Side of an action on which a fault point lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The action has not begun.
    Before,
    /// The action has succeeded.
    After,
}

/// Actions with a fault point on each side.
pub const ACTIONS: &[&str] = &[
    "plan",
    "checkpoint",
    "first-call",
    "journal-append",
    "metrics",
    "parquet-file",
    "delta-commit",
    "metrics-commit",
    "journal-removal",
];

/// Actions with a fault point on each side that only jobs with a checkpoint in an object store take.
pub const STORE_ACTIONS: &[&str] = &["lease", "journal-copy"];

/// Actions with a fault point on each side that only jobs take whose source is staged.
pub const STAGING_ACTIONS: &[&str] = &["stage"];

/// Actions with a fault point on each side that only jobs take whose source is a query.
pub const QUERY_ACTIONS: &[&str] = &["query-result"];

/// Actions with a fault point on each side that only jobs take which go through a provider's Batch API.
pub const BATCH_ACTIONS: &[&str] =
    &["spool", "submission-save", "upload", "batch-create", "batch-look", "download", "collect"];

/// Actions with a fault point on each side that only an export takes.
pub const EXPORT_ACTIONS: &[&str] = &["export-write", "export-finish"];

/// Passes a fault point.
///
/// # Errors
/// With the error that `ENRICH_FAULT` sets for this point; never without the feature.
#[cfg(not(feature = "fault-points"))]
#[inline(always)]
pub fn pass(_action: &'static str, _side: Side) -> io::Result<()> {
    Ok(())
}

/// Passes a fault point, and applies the effect that `ENRICH_FAULT` sets for it.
///
/// # Errors
/// With the error that `ENRICH_FAULT` sets for this point.
#[cfg(feature = "fault-points")]
pub fn pass(action: &'static str, side: Side) -> io::Result<()> {
    armed::pass(action, side)
}

#[cfg(feature = "fault-points")]
mod armed {
    use std::io;
    use std::process::Command;
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::{
        ACTIONS, BATCH_ACTIONS, EXPORT_ACTIONS, QUERY_ACTIONS, STAGING_ACTIONS, STORE_ACTIONS, Side,
    };

    struct Armed {
        action: String,
        side: Side,
        effect: String,
        hit: u64,
        seen: AtomicU64,
    }

    static ARMED: LazyLock<Option<Armed>> = LazyLock::new(|| {
        let text = std::env::var("ENRICH_FAULT").ok()?;
        let parsed = parse(&text);
        assert!(parsed.is_some(), "ENRICH_FAULT={text} does not name a fault point");
        parsed
    });

    fn parse(text: &str) -> Option<Armed> {
        let (point, effect) = text.split_once('=')?;
        let (action, side) = point.split_once('.')?;
        let (effect, hit) = effect.split_once('@').unwrap_or((effect, "1"));
        let side = match side {
            "before" => Side::Before,
            "after" => Side::After,
            _ => return None,
        };
        let known = is_action(action) && ["kill", "stop", "io", "full", "readonly"].contains(&effect);
        known.then_some(Armed {
            action: action.to_owned(),
            side,
            effect: effect.to_owned(),
            hit: hit.parse().ok()?,
            seen: AtomicU64::new(0),
        })
    }

    fn is_action(name: &str) -> bool {
        [ACTIONS, STORE_ACTIONS, BATCH_ACTIONS, EXPORT_ACTIONS, STAGING_ACTIONS, QUERY_ACTIONS]
            .concat()
            .contains(&name)
    }

    /// Sends this process a signal with kill(1), since the crate forbids the unsafe code to raise one. The calling
    /// thread waits for it.
    fn send(signal: &str) {
        let _ = Command::new("kill").args([signal, &std::process::id().to_string()]).status();
    }

    /// Whether no thread has taken a SIGSTOP yet that was sent to this process (`ShdPnd` of proc(5), a mask of signals).
    fn is_stop_pending() -> bool {
        const SIGSTOP: u64 = 1 << 18;
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:"));
        pending.is_some_and(|mask| u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask & SIGSTOP != 0))
    }

    pub(super) fn pass(action: &'static str, side: Side) -> io::Result<()> {
        debug_assert!(is_action(action));
        let Some(armed) = ARMED.as_ref() else { return Ok(()) };
        if armed.action != action || armed.side != side {
            return Ok(());
        }
        if armed.seen.fetch_add(1, Ordering::SeqCst) + 1 != armed.hit {
            return Ok(());
        }
        match armed.effect.as_str() {
            "kill" => {
                send("-KILL");
                loop {
                    std::thread::park();
                }
            }
            "stop" => {
                send("-STOP");
                // The signal stops all threads once one of them has taken it, which takes a while on a busy machine.
                while is_stop_pending() {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
                Ok(())
            }
            "full" => Err(io::Error::new(io::ErrorKind::StorageFull, "no space left on device")),
            "readonly" => Err(io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "read-only file system")),
            _ => Err(io::Error::other(format!("fault injected at {action}"))),
        }
    }
}
