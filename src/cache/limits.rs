//! The bounds of a cache.

use std::time::Duration;

use crate::clock;
use crate::config::CacheSpec;

/// An answer is marked as used when the mark is older than this.
pub(super) const TOUCH_AFTER_SECONDS: i64 = 24 * 60 * 60;

/// How much a cache keeps and for how long. Where processes that share a file differ in it, the strictest counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheLimits {
    /// Bytes that the file may fill. It grows past them by no more than one commit, some MB; beside it stands a
    /// write-ahead log of some MB.
    pub max_bytes: u64,
    /// For how long an answer is given after it came, in whole seconds.
    pub max_age: Duration,
    /// Answers that came before are not given to this user, and give way to newer ones; in Unix seconds.
    pub not_before: i64,
}

impl From<&CacheSpec> for CacheLimits {
    fn from(spec: &CacheSpec) -> Self {
        CacheLimits { max_bytes: spec.max_bytes, max_age: spec.max_age, not_before: i64::MIN }
    }
}

impl CacheLimits {
    /// Bytes of a body at most; a larger one would push out too many others.
    pub(super) const fn most_body_bytes(&self) -> u64 {
        self.max_bytes / 10
    }

    /// The time before which an answer came that is not given, at this time; both in Unix seconds.
    pub(super) fn oldest_given(&self, now: i64) -> i64 {
        self.oldest_kept(now).max(self.not_before)
    }

    /// The time before which an answer came that is too old for anybody, at this time; both in Unix seconds.
    pub(super) fn oldest_kept(&self, now: i64) -> i64 {
        now.saturating_sub(i64::try_from(self.max_age.as_secs()).unwrap_or(i64::MAX))
    }
}

/// The present time in Unix seconds.
pub(super) fn unix_seconds() -> i64 {
    clock::wall().timestamp()
}
