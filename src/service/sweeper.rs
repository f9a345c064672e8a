//! Lets go of batches for which nobody waits any more.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::register::BatchRegister;

/// Sweeps a register until it is dropped. A batch for which nobody has waited for `keep` is dropped within a second.
pub(super) async fn sweep(register: Arc<BatchRegister>, keep: Duration) {
    let pause = (keep / 4).clamp(Duration::from_millis(10), Duration::from_secs(1));
    loop {
        sleep(pause).await;
        register.sweep(keep);
    }
}
