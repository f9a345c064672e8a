//! Signals that ask a run to stop.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::output::Console;
use crate::engine::StopRequest;

/// Watches for SIGINT, SIGTERM and SIGHUP: the first asks gently, the second at once. The watch ends when
/// the set is dropped.
pub(super) fn watch_signals(
    tasks: &mut JoinSet<()>,
    console: &Console,
) -> std::io::Result<watch::Receiver<StopRequest>> {
    let console = console.clone();
    let (sender, receiver) = watch::channel(StopRequest::None);
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    // A run under nohup must not be stopped by what nohup keeps from it.
    let mut hangup = if is_hangup_ignored() { None } else { Some(signal(SignalKind::hangup())?) };
    tasks.spawn(async move {
        for request in [StopRequest::Gently, StopRequest::Now] {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                () = next(&mut hangup) => {}
            }
            if request == StopRequest::Gently {
                console.talk("stopping: waiting for what is in flight; once more to stop at once");
            }
            sender.send_replace(request);
        }
        std::future::pending::<()>().await;
    });
    Ok(receiver)
}

async fn next(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

/// Whether the process was started with SIGHUP ignored (proc(5), `SigIgn`).
fn is_hangup_ignored() -> bool {
    const HANGUP_BIT: u64 = 1;
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
            u64::from_str_radix(mask.trim(), 16).ok()
        })
        .is_some_and(|mask| mask & HANGUP_BIT != 0)
}
