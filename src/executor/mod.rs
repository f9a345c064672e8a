//! What the enricher and its executors share: requests, replies, the health of providers, and the billing of requests.
//!
//! An executor takes requests from its inbox and returns each of them exactly once: paid and in the journal, failed, or
//! unsent. `dispatch` is the online executor. An executor does not judge answers, and knows neither
//! batches nor the table.

mod billing;
mod io;
mod provider_health;
mod request;

pub use billing::Billing;
pub use io::ExecutorIo;
pub use provider_health::{HealthChange, ProviderHealth};
pub use request::{Earlier, Mode, Receipt, Reply, Request, Verdict};
