//! Signals that ask a run to stop.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use super::output::Console;
use crate::run::StopRequest;

/// Watches for SIGINT, SIGTERM and SIGHUP until the process ends. The first signal requests a gentle stop, the second
/// an immediate one. The watch has a thread of its own, so that no work delays it.
pub(super) fn watch_signals(console: &Console) -> std::io::Result<watch::Receiver<StopRequest>> {
    let console = console.clone();
    let (sender, receiver) = watch::channel(StopRequest::None);
    let (listens, started) = std::sync::mpsc::sync_channel(1);
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
        let watched = runtime.map(|runtime| {
            runtime.block_on(async {
                match Signals::new() {
                    Ok(signals) => {
                        // The receiver may be gone.
                        let _ = listens.send(Ok(()));
                        signals.watch(&sender, &console).await;
                    }
                    Err(error) => {
                        let _ = listens.send(Err(error));
                    }
                }
            });
        });
        if let Err(error) = watched {
            let _ = listens.send(Err(error));
        }
    })?;
    started.recv().map_err(std::io::Error::other)??;
    Ok(receiver)
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Option<Signal>,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            // A run under nohup must not be stopped by SIGHUP, which nohup makes it ignore.
            hangup: if is_hangup_ignored() { None } else { Some(signal(SignalKind::hangup())?) },
        })
    }

    async fn watch(mut self, sender: &watch::Sender<StopRequest>, console: &Console) {
        for request in [StopRequest::Gently, StopRequest::Now] {
            tokio::select! {
                _ = self.interrupt.recv() => {}
                _ = self.terminate.recv() => {}
                () = next(&mut self.hangup) => {}
            }
            // Before the command knows, and may end.
            if request == StopRequest::Gently {
                console.talk("stopping: waiting for what is in flight; once more to stop at once");
            }
            sender.send_replace(request);
        }
        std::future::pending::<()>().await;
    }
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
