//! The bounds of a cache.

use std::time::Duration;

use crate::clock;
use crate::config::CacheSpec;

/// Age in seconds beyond which a use renews the mark of an answer's last use.
pub(super) const TOUCH_AFTER_SECONDS: i64 = 24 * 60 * 60;

/// How much a cache keeps and for how long. If processes that share a file differ, the strictest limits apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheLimits {
    /// Number of bytes that the file may use. It exceeds them by no more than one commit, some MB. A write-ahead
    /// log of some MB comes in addition.
    pub max_bytes: u64,
    /// How long an answer is returned after it was stored, in whole seconds.
    pub max_age: Duration,
    /// Answers stored before this time are not returned to this user and give way to newer ones; in Unix seconds.
    pub not_before: i64,
}

impl From<&CacheSpec> for CacheLimits {
    fn from(spec: &CacheSpec) -> Self {
        CacheLimits { max_bytes: spec.max_bytes, max_age: spec.max_age, not_before: i64::MIN }
    }
}

impl CacheLimits {
    /// Maximum size of a body in bytes; a larger one would push out too many others.
    pub(super) const fn most_body_bytes(&self) -> u64 {
        self.max_bytes / 10
    }

    /// Returns the earliest time at which an answer that is returned at `now` was stored; both in Unix seconds.
    pub(super) fn oldest_returned(&self, now: i64) -> i64 {
        self.oldest_kept(now).max(self.not_before)
    }

    /// Returns the earliest time at which an answer that is kept at `now` was stored; both in Unix seconds.
    pub(super) fn oldest_kept(&self, now: i64) -> i64 {
        now.saturating_sub(i64::try_from(self.max_age.as_secs()).unwrap_or(i64::MAX))
    }
}

/// Returns the current time in Unix seconds.
pub(super) fn unix_seconds() -> i64 {
    clock::wall().timestamp()
}
