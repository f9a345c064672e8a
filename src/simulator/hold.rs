//! The gate at which tests hold requests.

/// Whether a simulator holds requests or breaks their connections. A test changes it while the simulator runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Gate {
    /// Nothing.
    #[default]
    Open,
    /// The requests from this one on wait until the gate opens. They count from 1, in the order of their api.
    ShutFrom(u64),
    /// The requests with this text in them wait until the gate opens.
    ShutFor(String),
    /// The connections of all requests break.
    Broken,
}

impl Gate {
    /// Whether a request with this number and these texts need not wait.
    pub(super) fn lets_through(&self, number: u64, texts: &[&str]) -> bool {
        match self {
            Gate::Open | Gate::Broken => true,
            Gate::ShutFrom(first) => number < *first,
            Gate::ShutFor(text) => !texts.iter().any(|own| own.contains(text)),
        }
    }
}
