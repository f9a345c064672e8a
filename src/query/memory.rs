//! The memory of a query, of which each sort and each group has a small share from the beginning.
//!
//! DataFusion's own pools give a sort that comes first what it asks for. It keeps that until its rows are read, and the
//! sorts behind it, which could spill, fail for want of memory to begin with.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};

use datafusion::common::{DataFusionError, Result, resources_datafusion_err};
use datafusion::execution::memory_pool::{MemoryLimit, MemoryPool, MemoryReservation};

/// Number of sorts and groups for which there is memory.
const SHARES: usize = 12;

/// Memory of so many bytes, of which one that can spill has at most a twelfth.
#[derive(Debug)]
pub(super) struct QueryMemory {
    bytes: usize,
    used: AtomicUsize,
}

impl QueryMemory {
    pub(super) fn new(bytes: usize) -> Self {
        QueryMemory { bytes, used: AtomicUsize::new(0) }
    }
}

impl fmt::Display for QueryMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({} bytes)", self.name(), self.bytes)
    }
}

impl MemoryPool for QueryMemory {
    fn name(&self) -> &str {
        "query"
    }

    fn grow(&self, _: &MemoryReservation, additional: usize) {
        self.used.fetch_add(additional, Ordering::Relaxed);
    }

    fn shrink(&self, _: &MemoryReservation, shrink: usize) {
        self.used.fetch_sub(shrink, Ordering::Relaxed);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        let short = || -> DataFusionError {
            let megabytes = self.bytes / 1_000_000;
            let name = reservation.consumer().name();
            resources_datafusion_err!("it takes more than {megabytes} MB of memory ({name})")
        };
        if reservation.consumer().can_spill() && reservation.size() + additional > self.bytes / SHARES {
            return Err(short());
        }
        let grown = |used: usize| Some(used + additional).filter(|used| *used <= self.bytes);
        let grown = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown);
        grown.map(|_| ()).map_err(|_| short())
    }

    fn reserved(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.bytes)
    }
}
